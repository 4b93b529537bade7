"""How far a label can be trusted: calibrated probabilities, and scores of cells that are like none of the reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Novelty = Literal["mahalanobis", "knn", "energy"]
NOVELTIES: tuple[Novelty, ...] = ("mahalanobis", "knn", "energy")

N_BINS = 15
"""Of the expected calibration error; as in Guo et al. 2017."""
TEMPERATURES = (0.05, 20.0)
"""Between which the temperature is looked for."""
QUANTILE = 0.95
"""Share of the validation cells whose novelty may be below the threshold."""
ACCURACY = 0.95
"""That the validation cells which keep their label shall have."""
MOST_UNCERTAIN = 0.5
"""Largest share of validation cells that may be given up to reach it."""
RIDGE = 1e-2
"""Share of the mean variance added to the covariance of the Mahalanobis distance."""
BLOCK = 1024  # query cells whose distances to all reference cells are in memory


def softmax(logits: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return class probabilities, shape (cell, class)."""
    from scipy.special import softmax as of_rows

    return np.asarray(of_rows(np.asarray(logits, np.float64), axis=1), np.float64)


def sigmoid(logits: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return independent probabilities, shape (cell, class)."""
    from scipy.special import expit

    return np.asarray(expit(np.asarray(logits, np.float64)), np.float64)


def fit_temperature(logits: "NDArray[np.floating]", truth: "NDArray[np.integer]") -> float:
    """Return the temperature T > 0 under which softmax(logits / T) is most likely (Guo et al. 2017, eq. 9).

    Parameters
    ----------
    logits
        Cell × class, of cells the classifier was not fitted on.
    truth
        Class of each cell, shape (cell,); or whether it has each label, shape (cell, class), for independent sigmoids.

    Raises
    ------
    DataError
        There are no cells.
    """
    from scipy.optimize import minimize_scalar

    if not len(logits):
        msg = "There are 0 validation cells to calibrate the probabilities with; at least one is needed. Use more labelled cells."
        raise DataError(msg)
    values = np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        if truth.ndim == 2:
            return float((np.logaddexp(0, scaled) - truth * scaled).mean())
        right = np.take_along_axis(scaled, truth[:, None], axis=1)[:, 0]
        return float((_logsumexp(scaled) - right).mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(
    probability: "NDArray[np.floating]", correct: "NDArray[np.bool_]", *, n_bins: int = N_BINS
) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017, eq. 3).

    Parameters
    ----------
    probability
        Of the label given, one for each cell.
    correct
        Whether that label is the true one.
    n_bins
        Number of bins between 0 and 1.

    Raises
    ------
    DataError
        There are no cells.
    """
    counts, mean, accuracy = reliability(probability, correct, n_bins=n_bins)
    if not counts.sum():
        msg = "There are 0 cells, so there is no calibration error; give at least one."
        raise DataError(msg)
    return float((counts * np.abs(mean - accuracy)).sum() / counts.sum())


def reliability(
    probability: "NDArray[np.floating]", correct: "NDArray[np.bool_]", *, n_bins: int = N_BINS
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]":
    """Return number of cells, mean probability and accuracy of each bin; 0 where a bin is empty.

    Parameters
    ----------
    probability
        Of the label given, one for each cell.
    correct
        Whether that label is the true one.
    n_bins
        Number of bins between 0 and 1.
    """
    place = np.clip(np.ceil(np.asarray(probability) * n_bins).astype(int) - 1, 0, n_bins - 1)
    counts = np.bincount(place, minlength=n_bins).astype(np.float64)
    total = np.bincount(place, weights=probability, minlength=n_bins)
    right = np.bincount(place, weights=np.asarray(correct, np.float64), minlength=n_bins)
    some = np.maximum(counts, 1)
    return counts, total / some, right / some


def energy(logits: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return the energy −log Σ exp(logit) of each cell, higher for cells like none of the reference (Liu et al. 2020, eq. 4, T = 1).

    Parameters
    ----------
    logits
        Cell × class, without temperature.
    """
    return -_logsumexp(np.asarray(logits, np.float64))


def label_energy(logits: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return −Σ log(1 + exp(logit)), the joint energy of independent labels (Wang et al. 2021, eq. 6).

    Parameters
    ----------
    logits
        Cell × class, without temperature.
    """
    return -np.logaddexp(0, np.asarray(logits, np.float64)).sum(axis=1)


def knn_distance(
    reference: "NDArray[np.floating]", query: "NDArray[np.floating]", *, k: int
) -> "NDArray[np.float64]":
    """Return the mean Euclidean distance of each query cell to its k nearest reference cells.

    Parameters
    ----------
    reference, query
        Cell × dim.
    k
        Neighbours; fewer if there are fewer reference cells.

    Raises
    ------
    DataError
        There are no reference cells.
    """
    if not len(reference):
        msg = "There are 0 reference cells, so there are no distances to them; give at least one."
        raise DataError(msg)
    k = min(k, len(reference))
    known = np.asarray(reference, np.float64)
    square = (known**2).sum(axis=1)
    out = np.empty(len(query))
    for start in range(0, len(query), BLOCK):
        block = np.asarray(query[start : start + BLOCK], np.float64)
        squared = (block**2).sum(axis=1)[:, None] + square - 2 * block @ known.T
        nearest = np.partition(squared, k - 1, axis=1)[:, :k]
        out[start : start + len(block)] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mahalanobis:
    """Distance to the nearest class mean under the covariance that the classes share (Lee et al. 2018, eq. 2)."""

    mean: "NDArray[np.float64]"
    """Class × dim."""
    whiten: "NDArray[np.float64]"
    """Dim × dim; its product with its transpose is the inverse covariance."""

    @classmethod
    def fit(cls, x: "NDArray[np.floating]", code: "NDArray[np.integer]") -> Self:
        """Take means and shared covariance of training cells; a small ridge keeps the latter invertible.

        Parameters
        ----------
        x
            Cell × dim.
        code
            Class of each cell, from 0, without gaps.
        """
        x = np.asarray(x, np.float64)
        n_classes = int(code.max()) + 1
        one = np.eye(n_classes)[code]
        mean = one.T @ x / np.maximum(one.sum(axis=0), 1)[:, None]
        residual = x - mean[code]
        covariance = residual.T @ residual / len(x)
        size = max(float(np.trace(covariance)) / len(covariance), np.finfo(np.float64).tiny)
        values, vectors = np.linalg.eigh(covariance + RIDGE * size * np.eye(len(covariance)))
        return cls(mean=mean, whiten=vectors / np.sqrt(values))

    def distance(self, x: "NDArray[np.floating]") -> "NDArray[np.float64]":
        """Return the distance of each cell to the nearest class mean."""
        return knn_distance(self.mean @ self.whiten, np.asarray(x, np.float64) @ self.whiten, k=1)


def novelty_threshold(score: "NDArray[np.floating]", *, quantile: float = QUANTILE) -> float:
    """Return the novelty that this share of the validation cells does not exceed.

    Parameters
    ----------
    score
        Of validation cells, higher for stranger ones.
    quantile
        Share of them that keep their labels.

    Raises
    ------
    ConfigError
        The share is outside (0, 1].
    """
    if not 0 < quantile <= 1:
        msg = f"quantile is {quantile}; it must be above 0 and at most 1, such as {QUANTILE}. Give a number in that range."
        raise ConfigError(msg)
    return float(np.quantile(score, quantile, method="higher"))


def probability_threshold(
    probability: "NDArray[np.floating]",
    correct: "NDArray[np.bool_]",
    *,
    accuracy: float = ACCURACY,
    most_uncertain: float = MOST_UNCERTAIN,
) -> float:
    """Return the smallest probability such that the validation cells at or above it are labelled this accurately.

    0 when all cells together are. When even the surest cells are not, or too many had to be given up, it is the value
    below which `most_uncertain` of the cells lie.

    Parameters
    ----------
    probability
        Calibrated, of the label given.
    correct
        Whether that label is the true one.
    accuracy
        Wanted among the cells that keep their label.
    most_uncertain
        Largest share of cells to give up for it.
    """
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order]
    accurate = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    # Cells with the same probability are kept or given up together.
    last = np.r_[sorted_probability[1:] < sorted_probability[:-1], True]
    good = np.flatnonzero((accurate >= accuracy) & last)
    kept = int(good[-1]) + 1 if len(good) else 0
    if kept == len(order):
        return 0.0
    least = int(np.ceil((1 - most_uncertain) * len(order)))
    return float(sorted_probability[max(kept, least, 1) - 1])


def _logsumexp(logits: "NDArray[np.float64]") -> "NDArray[np.float64]":
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)), np.float64)
