"""How near a predicted response of the mean cell is to the measured one.

A *delta* is the response of a condition: difference of the means of log1p(counts per 10⁴) over its cells and over control
cells, shape (condition, gene). Every function returns a number for each condition, from δ̂, the prediction, and δ, the truth; what
each is good for is in :data:`cellfm.tl._response.scores.METRICS`, what goes by single genes in :mod:`cellfm.tl._response.genewise`.
"""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]

NO_CALL = 1e-6
"""A predicted delta nearer to 0 has no direction: it would be that of rounding errors."""
MOST_EXPRESSED = 1000
"""Genes of :func:`l2_top` (Ahlmann-Eltze, Huber & Anders 2025, doi:10.1038/s41592-025-02772-6)."""


def pearson_delta(predicted: "Values", true: "Values") -> "Values":
    """Return the correlation over genes, ``corr(δ̂_p, δ_p)``: legacy.

    Systematic differences between perturbed and control cells, the same for all perturbations, make it high for a predictor
    that knows nothing of the single perturbation (Viñas Torné et al. 2025, doi:10.1038/s41587-025-02777-8). A constant
    prediction has 0, a constant truth NaN.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    """
    x = predicted - predicted.mean(axis=1, keepdims=True)
    y = true - true.mean(axis=1, keepdims=True)
    # Rounding leaves something of a constant row.
    flat = np.ptp(predicted, axis=1) <= NO_CALL
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(flat, 0.0, (x * y).sum(axis=1) / length)
    return np.where(np.ptp(true, axis=1) == 0, np.nan, r)


def pearson_delta_ref(
    predicted: "Values", true: "Values", reference: "Values", true_reference: "Values"
) -> "Values":
    """Return Systema's ``corr(δ̂_p − r, δ_p − t)`` (Viñas Torné et al. 2025, doi:10.1038/s41587-025-02777-8).

    Systema takes one reference, r = t. Where the prediction may be the mean of the training conditions, r must be of these:
    the mean over all conditions less the mean over all but one points just away from that one, and a predictor of the mean
    would have −1. If t were of the training conditions too, its noise would be on both sides, and no change would have a
    positive correlation in a world where nothing happens. With t the mean of the judged conditions, a prediction that is
    the same for all of them has a mean covariance of 0, and r itself 0.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    reference
        r, the mean delta of the training conditions, shape (gene,) or (condition, gene).
    true_reference
        t, the mean delta of the conditions that are judged together, same shapes.
    """
    return pearson_delta(predicted - reference, true - true_reference)


def group_mean(true: "Values", group: "NDArray[np.integer] | None" = None) -> "Values":
    """Return the mean delta of the group of each condition, shape (condition, gene).

    Parameters
    ----------
    true
        Deltas, shape (condition, gene).
    group
        As in :func:`centroid_accuracy`.
    """
    code = np.zeros(len(true), np.int64) if group is None else np.asarray(group)
    mean = np.empty_like(true)
    for number in np.unique(code):
        mean[code == number] = true[code == number].mean(axis=0)
    return mean


def centroid_accuracy(
    predicted: "Values", true: "Values", group: "NDArray[np.integer] | None" = None
) -> "Values":
    """Return Systema's ``#{q ≠ p: d(δ̂_p, δ_q) > d(δ̂_p, δ_p)} / (n − 1)``, d Euclidean, ties counting half.

    A predictor that says the same of all conditions of a group has the mean 0.5 over the group, the truth 1 (Viñas Torné et
    al. 2025, doi:10.1038/s41587-025-02777-8).

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    group
        Conditions that are told apart, shape (condition,): those of a fold, as the truth of conditions that a method was
        fitted on is no fair alternative. None for all.
    """
    from scipy.spatial.distance import cdist

    return _share_further(cdist(predicted, true), group)


def pds(
    predicted: "Values",
    true: "Values",
    targets: "Flags | None" = None,
    group: "NDArray[np.integer] | None" = None,
) -> "Values":
    """Return the perturbation discrimination score ``1 − rank / (n − 1)``.

    The rank is that of the own truth among all, from 0, by the cosine distance of deltas; ties are averaged; the
    targets of all conditions are left out, so that nothing is won by saying that a knocked-down gene is down (cell-eval2's
    ``discrimination_score``). A prediction of nought is at distance 1 from all, and has 0.5.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    targets
        Perturbed genes of each condition, shape (condition, gene).
    group
        As in :func:`centroid_accuracy`.
    """
    kept = slice(None) if targets is None else ~targets.any(axis=0)
    return _share_further(_cosine(predicted[:, kept], true[:, kept]), group)


def wmse(predicted: "Values", true: "Values", weight: "Values") -> "Values":
    """Return ``Σ_g w_pg (δ̂_pg − δ_pg)²`` (Miller et al. 2025, doi:10.1101/2025.10.20.683304).

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    weight
        Of :func:`cellfm.tl._response.genewise.de_weights`.
    """
    return (weight * np.square(predicted - true)).sum(axis=1)


def r2_weighted(
    predicted: "Values", true: "Values", weight: "Values", reference: "Values"
) -> "Values":
    """Return ``1 − Σ w (δ̂ − δ)² / Σ w (δ − r)²``: 0 for the prediction r.

    The weighted R² of deltas from the mean of perturbations (Miller et al. 2025, doi:10.1101/2025.10.20.683304). The
    denominator is not centred over genes, so that the mean has 0 and not less.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    weight
        Of :func:`cellfm.tl._response.genewise.de_weights`.
    reference
        r, the mean delta of the training conditions, shape (gene,) or (condition, gene).
    """
    return _one_minus(
        wmse(predicted, true, weight), wmse(np.broadcast_to(reference, true.shape), true, weight)
    )


def l2_top(
    predicted: "Values", true: "Values", control: "Values", *, n_genes: int = MOST_EXPRESSED
) -> "Values":
    """Return ``‖δ̂ − δ‖₂`` over the genes most expressed in control cells.

    (Ahlmann-Eltze, Huber & Anders 2025, doi:10.1038/s41592-025-02772-6.)

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    control
        Means of control cells, shape (gene,).
    n_genes
        How many genes; all where there are fewer.
    """
    top = np.argsort(-control, kind="stable")[:n_genes]
    return np.linalg.norm(predicted[:, top] - true[:, top], axis=1)


def mse(predicted: "Values", true: "Values") -> "Values":
    """Return ``mean_g (δ̂ − δ)²``: legacy, as most genes do not respond and no change is hard to beat.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    """
    return np.square(predicted - true).mean(axis=1)


def r2_delta(predicted: "Values", true: "Values") -> "Values":
    """Return ``1 − Σ (δ̂ − δ)² / Σ (δ − δ̄)²`` over genes; no change has at most 0.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).
    """
    centred = true - true.mean(axis=1, keepdims=True)
    return _one_minus(np.square(predicted - true).sum(axis=1), np.square(centred).sum(axis=1))


def check_deltas(predicted: "Values", true: "Values") -> None:
    """Refuse predictions that cannot be scored.

    Parameters
    ----------
    predicted, true
        Deltas, shape (condition, gene).

    Raises
    ------
    DataError
        They are of another shape than the truth, or not finite.
    """
    if predicted.shape != true.shape or not np.isfinite(predicted).all():
        what = "finite values" if predicted.shape == true.shape else f"shape {true.shape}"
        found = f"shape {predicted.shape}, {int((~np.isfinite(predicted)).sum())} values not finite"
        msg = f"Predicted deltas must have {what}, one row a condition and one column a gene; found {found}. Predict every condition of the truth on its genes, in its order."
        raise DataError(msg)


def _share_further(distance: "Values", group: "NDArray[np.integer] | None") -> "Values":
    """Share of the other conditions of a group that are further off than the own one; NaN where there is no other."""
    code = np.zeros(len(distance), np.int64) if group is None else np.asarray(group)
    own = np.diagonal(distance)[:, None]
    rival = (code[:, None] == code) & ~np.eye(len(distance), dtype=np.bool_)
    won = ((distance > own) + 0.5 * (distance == own)) * rival
    n = rival.sum(axis=1)
    return np.where(n > 0, won.sum(axis=1) / np.maximum(n, 1), np.nan)


def _cosine(x: "Values", y: "Values") -> "Values":
    """Cosine distances; 1 where a row is nought."""

    def unit(rows: "Values") -> "Values":
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(length > 0, length, 1.0)

    return 1.0 - unit(x) @ unit(y).T


def _one_minus(error: "Values", total: "Values") -> "Values":
    good = total > 0
    return np.where(good, 1.0 - error / np.where(good, total, 1.0), np.nan)
