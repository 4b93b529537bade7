"""What a network has to beat: correlations in the same cells, how much genes are expressed, and tree ensembles."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.cells import InMemoryCells
from cellfm.tl._response.log_counts import log_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

PEARSON, SPEARMAN = "|Pearson|", "|Spearman|"
TARGET_LEVEL, BOTH_LEVELS = "level of the target", "level of both"
GENIE3 = "GENIE3"
CHUNK = 1024
"""Targets at a time."""
N_TREES, MOST_CELLS = 100, 1000


def expression(cells: InMemoryCells, n_genes: int) -> "csr_matrix":
    """Return log1p of counts per 10⁴ of the cell's vocabulary genes, shape (cell, token), token 0 empty.

    Parameters
    ----------
    cells
        Counts.
    n_genes
        Of the vocabulary.
    """
    from scipy import sparse

    counts = sparse.csr_matrix(
        (cells.count, cells.gene, cells.offsets), shape=(len(cells), n_genes + 1)
    )
    return log_values(counts)


def correlations(
    values: "csr_matrix",
    sources: "NDArray[np.int64]",
    targets: "NDArray[np.int64]",
    *,
    ranks: bool = False,
) -> "NDArray[np.float32]":
    """Return the correlation of each source with each target over cells, shape (source, target); NaN where one is constant.

    Parameters
    ----------
    values
        From `expression`.
    sources, targets
        Tokens.
    ranks
        Spearman's instead of Pearson's: of the ranks of cells, means at ties.
    """
    own = _standard(values, sources, ranks=ranks)
    found = np.empty((len(sources), len(targets)), np.float32)
    for at in range(0, len(targets), CHUNK):
        part = targets[at : at + CHUNK]
        found[:, at : at + CHUNK] = own.T @ _standard(values, part, ranks=ranks)
    return found.clip(-1.0, 1.0)


def _standard(
    values: "csr_matrix", tokens: "NDArray[np.int64]", *, ranks: bool
) -> "NDArray[np.float32]":
    """Columns of mean 0 and length 1."""
    columns = values[:, tokens].toarray()
    if ranks:
        from scipy.stats import rankdata

        columns = rankdata(columns, axis=0)
    columns -= columns.mean(axis=0)
    length = np.linalg.norm(columns, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 1e-9, columns / length, np.nan).astype(np.float32)


def levels(values: "csr_matrix", tokens: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Return the mean of each gene over cells.

    Parameters
    ----------
    values
        From `expression`.
    tokens
        Of the genes.
    """
    return np.asarray(values.mean(axis=0)).ravel()[tokens]


def level_scores(
    values: "csr_matrix", sources: "NDArray[np.int64]", targets: "NDArray[np.int64]"
) -> "dict[str, NDArray[np.float32]]":
    """Return scores that know no pair: how much the target is expressed, and the product of what both are.

    Parameters
    ----------
    values
        From `expression`.
    sources, targets
        Tokens.
    """
    own, other = levels(values, sources), levels(values, targets)
    return {
        TARGET_LEVEL: np.broadcast_to(other, (len(own), len(other))).astype(np.float32),
        BOTH_LEVELS: np.outer(own, other).astype(np.float32),
    }


def genie3(
    values: "csr_matrix",
    sources: "NDArray[np.int64]",
    targets: "NDArray[np.int64]",
    *,
    seed: int,
    progress: "Callable[[int, int], None] | None" = None,
) -> "NDArray[np.float32]":
    """Return how much each source helps to predict each target in a forest of randomised trees, shape (source, target), NaN for a gene and itself.

    As GENIE3 (Huynh-Thu et al. 2010): each target, standardised, is regressed on all other sources, by extremely randomised trees that look at a square root of their number at each
    split; the score is the mean decrease of the variance. At most :data:`MOST_CELLS` cells, drawn at random, :data:`N_TREES` trees, and at least five
    cells in a leaf.

    Parameters
    ----------
    values
        From `expression`.
    sources, targets
        Tokens.
    seed
        Of the trees and of the cells.
    progress
        Called with (targets done, targets).

    References
    ----------
    Huynh-Thu VA, Irrthum A, Wehenkel L, Geurts P (2010) Inferring regulatory networks from expression data using tree-based methods, PLoS ONE 5:e12776.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    rows = np.random.default_rng(seed).permutation(values.shape[0])[:MOST_CELLS]
    x = values[:, sources][rows].toarray().astype(np.float32)
    y = values[:, targets][rows].toarray()
    y = (y - y.mean(axis=0)) / np.maximum(y.std(axis=0), 1e-9)
    found = np.full((len(sources), len(targets)), np.nan, np.float32)
    for place, token in enumerate(targets.tolist()):
        others = np.flatnonzero(sources != token)
        forest = ExtraTreesRegressor(
            N_TREES, max_features="sqrt", min_samples_leaf=5, random_state=seed
        )
        forest.fit(x[:, others], y[:, place])
        found[others, place] = forest.feature_importances_
        if progress is not None:
            progress(place + 1, len(targets))
    return found
