"""How well classes are told apart, for several weightings of the cells at once.

All functions take the class of each cell as a number, the truth and the prediction; a prediction of -1 is no class. With
`weights` of shape (weighting, cell) they return one value for each weighting: bootstrap draws cost one product each.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Weighted counts of each class, all of shape (weighting, class)."""

    hits: "NDArray[np.float64]"
    truth: "NDArray[np.float64]"
    predicted: "NDArray[np.float64]"

    @classmethod
    def of(
        cls,
        truth: "NDArray[np.integer]",
        predicted: "NDArray[np.integer]",
        n_classes: int,
        *,
        weights: "NDArray[np.floating] | None" = None,
    ) -> "Tally":
        """Count.

        Parameters
        ----------
        truth, predicted
            Class of each cell, from 0; -1 for none.
        n_classes
            Number of classes.
        weights
            How often each cell counts, weightings × cells; None counts each once.
        """
        weights = np.ones((1, len(truth))) if weights is None else weights
        one = np.concatenate([np.eye(n_classes), np.zeros((1, n_classes))])
        return cls(
            hits=weights @ (one[truth] * one[predicted]),
            truth=weights @ one[truth],
            predicted=weights @ one[predicted],
        )

    @property
    def f1(self) -> "NDArray[np.float64]":
        """F1 of each class, 0 where it is neither there nor predicted."""
        return _ratio(2 * self.hits, self.truth + self.predicted)


def macro_f1(
    truth: "NDArray[np.integer]",
    predicted: "NDArray[np.integer]",
    n_classes: int,
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Mean F1 over the classes that occur in the truth, a class that is never predicted counting 0.

    Parameters
    ----------
    truth, predicted, n_classes, weights
        As in :meth:`Tally.of`.
    """
    tally = Tally.of(truth, predicted, n_classes, weights=weights)
    there = tally.truth > 0
    return _ratio((tally.f1 * there).sum(axis=1), there.sum(axis=1))


def macro_f1_nan(
    truth: "NDArray[np.integer]",
    predicted: "NDArray[np.integer]",
    n_classes: int,
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Mean F1 over the classes that occur in the truth and are predicted: what papers that take `nanmean` report.

    It leaves out classes that are never found, so it is never below :func:`macro_f1` and rewards giving up on rare types.

    Parameters
    ----------
    truth, predicted, n_classes, weights
        As in :meth:`Tally.of`.
    """
    tally = Tally.of(truth, predicted, n_classes, weights=weights)
    there = (tally.truth > 0) & (tally.predicted > 0)
    return _ratio((tally.f1 * there).sum(axis=1), there.sum(axis=1))


def weighted_f1(
    truth: "NDArray[np.integer]",
    predicted: "NDArray[np.integer]",
    n_classes: int,
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Mean F1 over classes, each weighing as many cells as it has.

    Parameters
    ----------
    truth, predicted, n_classes, weights
        As in :meth:`Tally.of`.
    """
    tally = Tally.of(truth, predicted, n_classes, weights=weights)
    return _ratio((tally.f1 * tally.truth).sum(axis=1), tally.truth.sum(axis=1))


def accuracy(
    truth: "NDArray[np.integer]",
    predicted: "NDArray[np.integer]",
    n_classes: int,
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Share of the cells whose class is right.

    Parameters
    ----------
    truth, predicted, n_classes, weights
        As in :meth:`Tally.of`.
    """
    tally = Tally.of(truth, predicted, n_classes, weights=weights)
    return _ratio(tally.hits.sum(axis=1), tally.truth.sum(axis=1))


def balanced_accuracy(
    truth: "NDArray[np.integer]",
    predicted: "NDArray[np.integer]",
    n_classes: int,
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Mean over the classes of the truth of the share of their cells that is right.

    Parameters
    ----------
    truth, predicted, n_classes, weights
        As in :meth:`Tally.of`.
    """
    tally = Tally.of(truth, predicted, n_classes, weights=weights)
    there = (tally.truth > 0).sum(axis=1)
    return _ratio(_ratio(tally.hits, tally.truth).sum(axis=1), there)


def calibration_error(
    truth: "NDArray[np.integer]",
    probability: "NDArray[np.floating]",
    *,
    weights: "NDArray[np.floating] | None" = None,
    n_bins: int = N_BINS,
) -> "NDArray[np.float64]":
    """Return the expected calibration error: mean distance of confidence and accuracy over bins of equal width.

    Guo et al. (2017), arXiv:1706.04599, equation 3: the sum over bins of their share of the cells times
    ``|accuracy - mean confidence|``.

    Parameters
    ----------
    truth
        Class of each cell.
    probability
        Of each class, shape (cell, class).
    weights
        As in :meth:`Tally.of`.
    n_bins
        Bins of the highest probability, closed on the right.
    """
    weights = np.ones((1, len(truth))) if weights is None else weights
    confidence = probability.max(axis=1).astype(np.float64)
    right = (probability.argmax(axis=1) == truth).astype(np.float64)
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gap = np.eye(n_bins)[bins] * (right - confidence)[:, None]
    return _ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def _ratio(above: "NDArray[np.float64]", below: "NDArray[np.number]") -> "NDArray[np.float64]":
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
