"""Classifiers on points: the same for every embedding."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.bench.task import Answer, Case, Context
from cellfm.tl._classical import Penalty, fit_knn, fit_linear
from cellfm.tl._confidence import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.bench.methods.embeddings import Embedding

Head = Literal["knn", "l2", "l1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """Take an embedding, fit a head on the labels of a view, and give each cell the probability of each class.

    Attributes
    ----------
    embedding
        Makes the points.
    head
        ``"knn"``: vote of 15 or 5 neighbours, chosen on the training cells; ``"l2"``, ``"l1"``: logistic regression.
    shuffle
        Permute the labels first: the control that tells what leaks.
    """

    embedding: "Embedding"
    head: Head
    shuffle: bool = False

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view with ``probability``, shape (cell, class)."""
        points = self.embedding.of(case, context)
        known = case.known
        code = case.code[known]
        if self.shuffle:
            code = np.random.default_rng([case.seed, 1]).permutation(code)
        group = None if case.group is None else case.group[known]
        fit = fit_by_votes if self.head == "knn" else partial(fit_by_regression, penalty=self.head)
        probability, note = fit(points, known, code, n_classes=len(case.classes), group=group, seed=case.seed)  # fmt: skip
        return Answer(arrays={"probability": probability}, notes=(note,))


def fit_by_votes(
    points: "NDArray[np.float32]",
    known: "NDArray[np.bool_]",
    code: "NDArray[np.int64]",
    *,
    n_classes: int,
    group: "NDArray[np.str_] | None",
    seed: int,
) -> "tuple[NDArray[np.float32], str]":
    """Return votes of neighbours among the known cells, shape (cell, class), and what was chosen.

    Parameters
    ----------
    points
        Of all cells.
    known
        Cells to fit on.
    code
        Their classes.
    n_classes
        Number of classes.
    group
        Their donors, for the folds.
    seed
        Of the folds.
    """
    knn = fit_knn(points[known], code, n_classes=n_classes, group=group, seed=seed)
    note = "standardised" if knn.standardised else "as it is"
    return knn.probabilities(points), f"{knn.k} neighbours, {note}"


def fit_by_regression(
    points: "NDArray[np.float32]",
    known: "NDArray[np.bool_]",
    code: "NDArray[np.int64]",
    *,
    n_classes: int,
    group: "NDArray[np.str_] | None",
    seed: int,
    penalty: Penalty = "l2",
) -> "tuple[NDArray[np.float32], str]":
    """Return probabilities of a regression on the known cells, shape (cell, class), and what was chosen.

    Parameters
    ----------
    points
        Of all cells.
    known
        Cells to fit on.
    code
        Their classes.
    n_classes
        Number of classes.
    group
        Their donors, for the folds.
    seed
        Of the folds.
    penalty
        ``"l2"`` or ``"l1"``.
    """
    linear = fit_linear(
        points[known], code, n_classes=n_classes, seed=seed, penalty=penalty, group=group
    )
    probabilities = softmax(linear.logits(points)).astype(np.float32)
    return probabilities, f"C={linear.strength}, scaled by {linear.scaling}"


def majority(case: Case, context: Context) -> Answer:
    """Give every cell the shares of the classes among the known cells: the most frequent one wins.

    Parameters
    ----------
    case
        A view.
    context
        Not used.
    """
    count = np.bincount(case.code[case.known], minlength=len(case.classes))
    share = (count / max(count.sum(), 1)).astype(np.float32)
    return Answer(arrays={"probability": np.tile(share, (len(case.part), 1))})


Run = Callable[[Case, Context], Answer]
