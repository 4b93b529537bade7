"""How well predicted labels of genes are: AUROC, AUPRC, MCC and CAFA's Fmax."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

THRESHOLDS = np.arange(1, 101) / 100
"""Of Fmax."""


def pairs_won(
    true: "Flags", score: "Values", weights: "Values | None" = None
) -> "tuple[Values, Values]":
    """Return Σ w⁺w⁻ [s⁺ > s⁻] + ½ Σ w⁺w⁻ [s⁺ = s⁻] and Σ w⁺w⁻ over pairs of a positive and a negative gene, of each weighting.

    The quotient is the AUROC (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747); sums of both over folds give that of the pairs
    within folds, in which the offset of a fold's model does not matter.

    Parameters
    ----------
    true
        Shape (gene,).
    score
        Shape (gene,).
    weights
        Shape (weighting, gene); None is one of 1.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    order = np.argsort(score, kind="stable")
    ranked = weights[:, order]
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    positive = np.add.reduceat(ranked * true[order], starts, axis=1)
    negative = np.add.reduceat(ranked * ~true[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)


def fold_auroc(
    true: "Flags", score: "Values", fold: "Numbers", weights: "Values | None" = None
) -> "Values":
    """Return the share of pairs of a positive and a negative gene of the same fold that are in the right order, of each weighting.

    Parameters
    ----------
    true, score, fold
        Of each gene, shape (gene,).
    weights
        Shape (weighting, gene); None is one of 1.

    Returns
    -------
    Shape (weighting,); NaN where no fold has a pair.
    """
    n = 1 if weights is None else len(weights)
    won, pairs = np.zeros(n), np.zeros(n)
    for number in np.unique(fold):
        rows = fold == number
        one, other = pairs_won(true[rows], score[rows], None if weights is None else weights[:, rows])  # fmt: skip
        won, pairs = won + one, pairs + other
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)


def auprc(true: "Flags", score: "Values") -> float:
    """Return the average precision, Σₖ (Rₖ − Rₖ₋₁) Pₖ over distinct scores from the highest (Davis & Goadrich 2006); NaN without positives.

    Parameters
    ----------
    true, score
        Of each gene, shape (gene,).
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true, score)) if true.any() else float("nan")


def mcc(true: "NDArray[np.generic]", called: "NDArray[np.generic]") -> float:
    """Return Matthews' correlation (1975, doi:10.1016/0005-2795(75)90109-9), for two classes (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)).

    For more classes it is Gorodkin's R_K (2004). 0 where one class alone is called.

    Parameters
    ----------
    true, called
        Class of each gene, shape (gene,).
    """
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, called))


def fmax_curves(true: "Flags", probability: "Values") -> "tuple[Values, Flags, Values]":
    """Return precision of each gene at each threshold, whether it has predictions there, and its recall; shape (gene, threshold) each.

    Parameters
    ----------
    true
        Shape (gene, term); every gene has a term.
    probability
        Shape (gene, term).
    """
    shape = (len(true), len(THRESHOLDS))
    precision, recall, any_called = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    size = true.sum(axis=1)
    for column, threshold in enumerate(THRESHOLDS):
        called = probability >= threshold
        n_called, right = called.sum(axis=1), (called & true).sum(axis=1)
        any_called[:, column] = n_called > 0
        precision[:, column] = right / np.maximum(n_called, 1)
        recall[:, column] = right / size
    return precision, any_called, recall


def fmax(true: "Flags", probability: "Values", weights: "Values | None" = None) -> "Values":
    """Return CAFA's Fmax, maxₜ 2 pr(t) rc(t) / (pr(t) + rc(t)), of each weighting (Radivojac et al. 2013, doi:10.1038/nmeth.2340).

    pr(t) is the mean precision over genes with at least one term of probability ≥ t, rc(t) the mean recall over all genes; t = 0.01, 0.02, …, 1.

    Parameters
    ----------
    true, probability
        Shape (gene, term); every gene has a term.
    weights
        Shape (weighting, gene); None is one of 1.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    precision, any_called, recall = fmax_curves(true, probability)
    pr = (weights @ precision) / np.maximum(weights @ any_called, 1e-12)
    rc = (weights @ recall) / weights.sum(axis=1, keepdims=True)
    return (2 * pr * rc / np.maximum(pr + rc, 1e-12)).max(axis=1)
