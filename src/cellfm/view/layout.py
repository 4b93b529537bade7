"""Cells in the plane: coordinates of the file, or a UMAP of an embedding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

Advance = Callable[[str, int, int], None]

N_NEIGHBOURS = 15
LEAST_CELLS = 30
"""Fewer are shown by their two first principal components."""
MOST_FITTED = 30_000
"""Cells that UMAP places; others are put beside the nearest of these."""
N_BESIDE = 5
CHUNK = 1000
SPREAD, MIN_DIST = 1.0, 0.5
"""As in scanpy."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Coordinates of all cells, float32 (cell, 2), NaN for cells without a state."""

    points: "NDArray[np.float32]"
    note: str


def umap_layout(states: "NDArray[np.float32]", advance: Advance, *, seed: int = 0) -> Layout:
    """Lay cells out by UMAP (McInnes et al. 2018) with exact neighbours.

    Parameters
    ----------
    states
        (cell, dim); rows with NaN are left out.
    advance
        Called with stage, done, in all.
    seed
        Of the sample and the optimisation.

    Raises
    ------
    MissingDependencyError
        umap-learn or scikit-learn is not installed.
    DataError
        No cell has a state.
    """
    points, there = _empty(states)
    if len(there) < LEAST_CELLS:
        return pca_layout(states)
    require("sklearn", "umap")
    rng = np.random.default_rng(seed)
    fitted = np.sort(rng.permutation(there)[:MOST_FITTED])
    points[fitted] = _fit(states[fitted], advance, seed=seed)
    others = np.setdiff1d(there, fitted)
    if not len(others):
        return Layout(points=points, note=f"UMAP by {N_NEIGHBOURS} exact neighbours")
    points[others] = _beside(states[others], states[fitted], points[fitted], advance)
    note = f"UMAP of {len(fitted):,} cells drawn at random; each other cell stands amid its {N_BESIDE} nearest of these"
    return Layout(points=points, note=note)


def pca_layout(states: "NDArray[np.float32]") -> Layout:
    """Lay cells out by the two first principal components of their states.

    Parameters
    ----------
    states
        (cell, dim); rows with NaN are left out.

    Raises
    ------
    DataError
        No cell has a state.
    """
    points, there = _empty(states)
    points[there] = _components(states[there])
    few = f"; UMAP needs at least {LEAST_CELLS} cells" if len(there) < LEAST_CELLS else ""
    return Layout(points=points, note=f"The two first principal components{few}")


def _empty(states: "NDArray[np.float32]") -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
    """Return points without a place, and the cells that have a state."""
    there = np.flatnonzero(np.isfinite(states).all(axis=1))
    if not len(there):
        msg = "No cell has a state in this embedding: all rows hold NaN. Choose another, or embed the file again."
        raise DataError(msg)
    return np.full((len(states), 2), np.nan, np.float32), there


def _neighbours(
    queries: "NDArray[np.float32]",
    cells: "NDArray[np.float32]",
    n: int,
    advance: Callable[[int, int], None],
) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """Return the nearest cells of each query and their distances, exact."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(cells)
    index = np.empty((len(queries), n), np.int64)
    distance = np.empty((len(queries), n), np.float32)
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        advance(start, len(queries))
        distance[part], index[part] = search.kneighbors(queries[part])
    return index, distance


def _fit(states: "NDArray[np.float32]", advance: Advance, *, seed: int) -> "NDArray[np.float32]":
    advance("loading UMAP", 0, 0)
    from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

    n = min(N_NEIGHBOURS, len(states) - 1)
    index, distance = _neighbours(
        states, states, n, lambda done, total: advance("finding neighbours", done, total)
    )
    advance("preparing the layout", 0, 0)
    random = np.random.RandomState(seed)
    graph, _, _ = fuzzy_simplicial_set(
        states, n, random, "euclidean", knn_indices=index.astype(np.int32), knn_dists=distance
    )
    start = _components(states)
    start = 10 * start / max(float(np.abs(start).max()), 1e-9)
    start += random.normal(scale=1e-4, size=start.shape)
    a, b = find_ab_params(SPREAD, MIN_DIST)
    n_epochs = 500 if len(states) <= 10_000 else 200
    points, _ = simplicial_set_embedding(
        states,
        graph.tocoo(),
        2,
        1.0,
        a,
        b,
        1.0,
        5,
        n_epochs,
        start.astype(np.float32),
        random,
        "euclidean",
        {},
        False,  # noqa: FBT003 - densMAP
        {},
        False,  # noqa: FBT003 - densities
        tqdm_kwds={
            "disable": False,
            "file": _Bar(advance),
            "bar_format": "{n_fmt}/{total_fmt}",
            "mininterval": 0.3,
        },
    )
    return np.asarray(points, np.float32)


def _components(states: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Return the two first principal components by the covariance of the dimensions."""
    centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :2])


def _beside(
    states: "NDArray[np.float32]",
    fitted: "NDArray[np.float32]",
    points: "NDArray[np.float32]",
    advance: Advance,
) -> "NDArray[np.float32]":
    """Return the means of the nearest fitted cells' places, weighted by inverse distance."""
    index, distance = _neighbours(
        states, fitted, N_BESIDE, lambda done, total: advance("placing other cells", done, total)
    )
    weight = 1.0 / (distance + 1e-6)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.asarray((points[index] * weight[:, :, None]).sum(axis=1), np.float32)


class _Bar:
    """Reads how far UMAP is from the text of its progress bar."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def write(self, text: str) -> None:
        """Take what would be printed."""
        done, slash, total = text.strip().partition("/")
        if slash and done.isdigit() and total.isdigit():
            self._advance("laying out by UMAP", int(done), int(total))

    def flush(self) -> None:
        """Have nothing to do."""
