"""How near a predicted population of cells is to a measured one, whatever cell is which."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

CELLOT_GAMMAS: tuple[float, ...] = tuple(np.logspace(1, -3, 50).tolist())
"""γ that CellOT's evaluation averages over (Bunne et al. 2023, doi:10.1038/s41592-023-01969-x)."""


def e_distance(x: "NDArray[np.floating]", y: "NDArray[np.floating]") -> float:
    """Return ``2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖``, Euclidean, without the pairs of a cell and itself.

    The energy distance (Székely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), proposed for perturbations by Peidli et al.
    2024 (doi:10.1038/s41592-023-02144-y). Unbiased: about 0, often below it, for two samples of one population.

    Parameters
    ----------
    x, y
        Cells of two populations, shapes (cell, feature).

    Raises
    ------
    DataError
        A population has fewer than two cells, or they have other features.
    """
    from scipy.spatial.distance import cdist, pdist

    _check(x, y)
    return float(2.0 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def mmd(
    x: "NDArray[np.floating]", y: "NDArray[np.floating]", gammas: tuple[float, ...] | None = None
) -> float:
    """Return the squared maximum mean discrepancy with the kernel ``exp(−γ ‖a − b‖²)``, the unbiased estimator.

    ``E k(X, X') + E k(Y, Y') − 2 E k(X, Y)`` without the pairs of a cell and itself (Gretton et al. 2012, JMLR 13, Lemma 6), the
    mean over `gammas`. About 0, often below it, for two samples of one population. CellOT prints the biased estimator.

    Parameters
    ----------
    x, y
        Cells of two populations, shapes (cell, feature).
    gammas
        γ; by default 1 / median of the squared distances between all cells. :data:`CELLOT_GAMMAS` are CellOT's.

    Raises
    ------
    DataError
        A population has fewer than two cells, or they have other features.
    """
    from scipy.spatial.distance import cdist, pdist

    _check(x, y)
    own_x, own_y = pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean")
    between = cdist(x, y, "sqeuclidean")
    if gammas is None:
        median = float(np.median(np.concatenate([own_x, own_y, between.ravel()])))
        gammas = (1.0 / median if median > 0 else 1.0,)
    parts = [
        np.exp(-gamma * own_x).mean()
        + np.exp(-gamma * own_y).mean()
        - 2.0 * np.exp(-gamma * between).mean()
        for gamma in gammas
    ]
    return float(np.mean(parts))


def _check(x: "NDArray[np.floating]", y: "NDArray[np.floating]") -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        msg = f"Two populations of at least two cells with the same features are needed, shapes (cell, feature); found {x.shape} and {y.shape}. Give more of them."
        raise DataError(msg)
