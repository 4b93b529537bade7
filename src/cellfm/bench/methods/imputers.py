"""Classical estimates of expected counts, from training molecules alone."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.metrics.recovery import UNIT, log_normalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_NEIGHBOURS = 50
N_COMPONENTS = 50
RIDGE = 10.0
"""Penalty on scores of unit variance."""

if TYPE_CHECKING:
    Matrix = NDArray[np.float32]


def counts_of(log_values: "Matrix", counts: "Matrix") -> "Matrix":
    """Return expm1 of log-normalised values, scaled to the depth of each cell.

    Parameters
    ----------
    log_values
        log1p of counts per 10,000; negative ones become 0.
    counts
        Of the cells.
    """
    total = counts.sum(axis=1, keepdims=True)
    return np.expm1(np.maximum(log_values, 0)) * (total / np.float32(UNIT))


def gene_share(counts: "Matrix") -> "Matrix":
    """Each gene's share of all counts, times the depth of the cell.

    Parameters
    ----------
    counts
        Shape (cell, gene).
    """
    share = counts.sum(axis=0, dtype=np.float64) / max(counts.sum(dtype=np.float64), 1.0)
    return np.outer(counts.sum(axis=1), share).astype(np.float32)


def gene_mean(counts: "Matrix") -> "Matrix":
    """Mean log-normalised value of each gene, in every cell.

    Parameters
    ----------
    counts
        Shape (cell, gene).
    """
    mean = log_normalised(counts).mean(axis=0)
    return counts_of(np.tile(mean, (len(counts), 1)), counts)


def principal_scores(values: "Matrix", *, seed: int) -> "tuple[Matrix, Matrix, Matrix]":
    """Return the mean, the scores and the components of up to 50 principal components.

    Parameters
    ----------
    values
        Shape (cell, gene).
    seed
        Of the solver.
    """
    from sklearn.decomposition import PCA

    n = min(N_COMPONENTS, min(values.shape) - 1)
    pca = PCA(n, random_state=seed, svd_solver="randomized").fit(values)
    return pca.mean_, pca.transform(values).astype(np.float32), pca.components_


def pca(counts: "Matrix", *, seed: int) -> "Matrix":
    """Reconstruct log-normalised values from 50 principal components.

    Parameters
    ----------
    counts
        Shape (cell, gene).
    seed
        Of the solver.
    """
    mean, scores, components = principal_scores(log_normalised(counts), seed=seed)
    return counts_of(scores @ components + mean, counts)


def neighbours(scores: "Matrix", k: int = N_NEIGHBOURS) -> "NDArray[np.int64]":
    """Return the k nearest cells of each, itself among them.

    Parameters
    ----------
    scores
        Where the cells are.
    k
        How many.
    """
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(k, len(scores))).fit(scores)
    return np.asarray(found.kneighbors(scores, return_distance=False), np.int64)


def knn(counts: "Matrix", *, seed: int, logarithmic: bool = True) -> "Matrix":
    """Average over the 50 nearest cells in PCA-50.

    Parameters
    ----------
    counts
        Shape (cell, gene).
    seed
        Of the PCA.
    logarithmic
        Average log-normalised values; otherwise shares of the depth.
    """
    values = log_normalised(counts)
    near = neighbours(principal_scores(values, seed=seed)[1])
    source = values if logarithmic else np.expm1(values)
    mean = np.stack([source[row].mean(axis=0) for row in near])
    if logarithmic:
        return counts_of(mean, counts)
    return mean * (counts.sum(axis=1, keepdims=True) / np.float32(UNIT))


def ridge(counts: "Matrix", *, seed: int) -> "Matrix":
    """Regress log-normalised values on 50 principal scores and the log depth, with a ridge penalty.

    Parameters
    ----------
    counts
        Shape (cell, gene).
    seed
        Of the PCA.
    """
    values = log_normalised(counts)
    _, scores, _ = principal_scores(values, seed=seed)
    depth = np.log1p(counts.sum(axis=1, keepdims=True))
    x = np.concatenate([scores, depth], axis=1).astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    mean = values.mean(axis=0)
    weight = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (values - mean))
    return counts_of((x @ weight + mean).astype(np.float32), counts)


def magic(counts: "Matrix", *, seed: int) -> "Matrix":
    """Diffuse square roots of normalised counts (van Dijk et al. 2018; Open Problems' settings, approximate solver).

    Parameters
    ----------
    counts
        Shape (cell, gene).
    seed
        Of its PCA.
    """
    import warnings

    total = counts.sum(axis=1, keepdims=True)
    root = np.sqrt(counts / np.maximum(total, 1) * np.float32(UNIT))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies are out of date
        from magic import MAGIC

        smooth = MAGIC(solver="approximate", verbose=False, n_jobs=1, random_state=seed).fit_transform(root)  # fmt: skip
    squares = np.square(np.maximum(np.asarray(smooth), 0))
    return np.asarray(squares * (total / UNIT), np.float32)
