"""Which genes differ, and how far a predicted response names them, their direction and their size.

A score z is that of the truth against controls (:func:`score_against_control`) or against all other conditions
(:func:`score_against_rest`), shape (condition, gene); deltas are as in :mod:`cellfm.tl._response.metrics`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._response.metrics import NO_CALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]

TOP = 20
"""Differentially expressed genes that short lists have."""
FDR = 0.05
LEAST_GENES = 10
"""Significant genes a condition needs for :func:`nmae`, as in cell-eval2."""


def score_against_control(delta: "Values", variance: "Values") -> "Values":
    """Return ``z = δ / √Var δ``, 0 where a gene does not vary.

    Parameters
    ----------
    delta, variance
        Deltas and their sampling variances, shape (condition, gene).
    """
    good = variance > 0
    return np.where(good, delta / np.sqrt(np.where(good, variance, 1.0)), 0.0)


def score_against_rest(delta: "Values", own_variance: "Values") -> "Values":
    """Return the score of each condition against the mean of all others.

    ``(δ_p − m_p) / √(u_p + Σ_{q≠p} u_q / (n − 1)²)``, with m_p the mean delta of the others and u the variance of a
    condition's own mean. The control is in both and falls out. One condition alone is scored against the control.

    Parameters
    ----------
    delta
        Shape (condition, gene).
    own_variance
        Sampling variance of the mean over a condition's own cells, shape (condition, gene).
    """
    n = len(delta)
    if n == 1:
        return score_against_control(delta, own_variance)
    rest = (delta.sum(axis=0) - delta) / (n - 1)
    noise = own_variance + (own_variance.sum(axis=0) - own_variance) / (n - 1) ** 2
    return score_against_control(delta - rest, noise)


def significant(score: "Values", *, fdr: float = FDR) -> "Flags":
    """Return which genes differ: two-sided normal p-values, Benjamini & Hochberg (1995) within each condition.

    Parameters
    ----------
    score
        z, shape (condition, gene).
    fdr
        False-discovery rate.
    """
    from scipy.special import ndtr

    p = 2.0 * ndtr(-np.abs(score))
    order = np.argsort(p, axis=1, kind="stable")
    n = p.shape[1]
    passed = np.take_along_axis(p, order, axis=1) <= fdr * np.arange(1, n + 1) / n
    n_found = np.where(passed.any(axis=1), n - np.argmax(passed[:, ::-1], axis=1), 0)
    found = np.zeros(p.shape, np.bool_)
    np.put_along_axis(found, order, np.arange(n) < n_found[:, None], axis=1)
    return found


def de_weights(score: "Values", excluded: "Flags | None" = None) -> "Values":
    """Return ``w = m² / Σ m²``, with m the absolute scores of a condition scaled to 0 … 1.

    (Miller et al. 2025, doi:10.1101/2025.10.20.683304, who leave the perturbed gene in: a knock-down is by far the largest
    change of its own gene, has nearly all of the weight, and is known beforehand.)

    Parameters
    ----------
    score
        Score of each gene against all other perturbations (:func:`score_against_rest`), shape (condition, gene).
    excluded
        Genes of no weight, shape (condition, gene): usually the perturbed gene itself.
    """
    size = np.abs(score)
    if excluded is not None:
        size = np.where(excluded, 0.0, size)
    low, span = size.min(axis=1, keepdims=True), np.ptp(size, axis=1)[:, None]
    weight = np.square(np.where(span > 0, (size - low) / np.where(span > 0, span, 1.0), 1.0))
    if excluded is not None:
        weight = np.where(excluded, 0.0, weight)
    return weight / weight.sum(axis=1, keepdims=True)


def de_overlap(
    predicted: "Values", score: "Values", *, k: int = TOP, excluded: "Flags | None" = None
) -> "Values":
    """Return the share of the *k* truly most differential genes that are among the *k* largest ``|δ̂|``.

    The pseudobulk form of the overlap of lists in the Virtual Cell Challenge 2025. Ties at the end of the predicted list
    count as often as a random order would have them, so that a constant prediction has ``k / n_genes``.

    Parameters
    ----------
    predicted
        Deltas, shape (condition, gene).
    score
        z of the truth, shape (condition, gene): genes with the largest absolute value are on the list.
    k
        Length of the lists.
    excluded
        Genes that do not count, shape (condition, gene): usually the perturbed gene itself.
    """
    truth = _top(score, k, excluded)
    size = np.abs(predicted)
    if excluded is not None:
        size = np.where(excluded, -1.0, size)
    edge = np.sort(size, axis=1)[:, -min(k, size.shape[1])][:, None]
    above, tied = size > edge, size == edge
    share = (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    return (truth * (above + share * tied)).sum(axis=1) / truth.sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Directions:
    """Shares of the top genes of each condition, adding up to 1."""

    right: "Values"
    wrong: "Values"
    no_call: "Values"


def direction(
    predicted: "Values",
    true: "Values",
    score: "Values",
    *,
    k: int = TOP,
    excluded: "Flags | None" = None,
) -> Directions:
    """Return how often ``sign δ̂ = sign δ`` among the *k* most differential genes: legacy.

    GEARS (Roohani et al. 2024, doi:10.1038/s41587-023-01905-6) compares raw signs, so that rounding errors of a prediction of
    no change are half right. Here ``|δ̂| < 1e-6`` is no call.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    score, k, excluded
        As in :func:`de_overlap`.
    """
    top = _top(score, k, excluded)
    called = top & (np.abs(predicted) >= NO_CALL)
    n = top.sum(axis=1)
    right = (called & (np.sign(predicted) == np.sign(true))).sum(axis=1) / n
    none = (top & ~called).sum(axis=1) / n
    return Directions(right=right, wrong=1.0 - right - none, no_call=none)


def nmae(
    predicted: "Values",
    true: "Values",
    score: "Values",
    *,
    least: int = LEAST_GENES,
    excluded: "Flags | None" = None,
) -> "Values":
    """Return ``Σ |δ̂ − δ| / Σ |δ|`` over the truly significant genes (cell-eval2's ``de_lfc_nmae``, on deltas).

    No change has 1. Significant are the genes with a two-sided normal p-value of z below 5 % after the correction of
    Benjamini & Hochberg (1995); a condition with fewer than `least` of them has NaN.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    score, excluded
        As in :func:`de_overlap`.
    least
        Significant genes a condition needs.
    """
    gate = significant(score)
    if excluded is not None:
        gate &= ~excluded
    error = (np.abs(predicted - true) * gate).sum(axis=1)
    size = (np.abs(true) * gate).sum(axis=1)
    enough = gate.sum(axis=1) >= least
    return np.where(enough, error / np.where(enough, size, 1.0), np.nan)


def mse_de(predicted: "Values", true: "Values", score: "Values", *, k: int = TOP) -> "Values":
    """Return the mean squared error over the *k* most differential genes (GEARS' ``mse_de``, by |z|).

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    score, k
        As in :func:`de_overlap`.
    """
    top = _top(score, k, None)
    return (np.square(predicted - true) * top).sum(axis=1) / top.sum(axis=1)


def _top(score: "Values", k: int, excluded: "Flags | None") -> "Flags":
    """Flag the *k* largest absolute scores of each row."""
    size = np.abs(score)
    if excluded is not None:
        size = np.where(excluded, -1.0, size)
    top = np.zeros(size.shape, np.bool_)
    order = np.argsort(-size, axis=1, kind="stable")[:, :k]
    np.put_along_axis(top, order, values=True, axis=1)
    return top if excluded is None else top & ~excluded
