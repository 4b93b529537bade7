"""Scores of pairs by the likeness of gene vectors: no direction, and without cells no group either."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.corpus.cells import InMemoryCells
from cellfm.tl._network.cells import TOKEN_BUDGET, Cells, PairGenes, batches, refuse_nothing
from cellfm.tl._network.pairs import PairScores
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]


def embedding_scores(
    model: Pretrained,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    cells: Cells | None = None,
    progress: Progress | None = None,
) -> PairScores:
    r"""Score pairs by the cosine of their vectors, :math:`\cos(e_i - \bar e, e_j - \bar e)`: symmetric, it knows no direction.

    Parameters
    ----------
    model
        Weights, on the device to compute on.
    sources, targets
        Tokens.
    cells
        Counts in memory or batches of cells: a gene's vector is the mean of its last-layer states over the cells that express it, centred on the mean
        vector of all genes that any cell expresses. Without them it is the row of the embedding table, centred on the mean of the table.
    progress
        Called with (cells done, cells in all, as far as known).

    Returns
    -------
    Scores; `n_cells` is that of the rarer gene of a pair, 0 without cells, where no cell was looked at. NaN for genes that no cell expresses.

    Raises
    ------
    ConfigError
        Sources or targets are none, twice there, or not the model's.
    DataError
        There are no cells.
    """
    genes = PairGenes.of(model, sources, targets)
    if cells is None:
        vectors = model.network.gene_embedding.weight.detach().double().cpu().numpy()
        vectors, number = vectors[: len(model.vocabulary) + 1], None
    else:
        vectors, number = _contextual(model, cells, progress)
    score = _cosine(vectors, genes.sources, genes.targets)
    names, others = genes.symbols(model)
    seen = np.zeros(score.shape, np.int32)
    if number is not None:
        np.minimum(number[genes.sources][:, None], number[genes.targets], out=seen)
    genes.blank_selves(score, seen)
    return PairScores(
        sources=names,
        targets=others,
        score=score,
        n_cells=seen,
        method="embedding" if cells is None else "contextual embedding",
    )


def _cosine(
    vectors: "NDArray[np.float64]", sources: "NDArray[np.int64]", targets: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """Return cosines of centred vectors by token; row 0 is padding, NaN rows are left out of the mean."""
    centre = np.nanmean(vectors[1:], axis=0)
    one, other = vectors[sources] - centre, vectors[targets] - centre
    with np.errstate(invalid="ignore"):  # a vector that is the mean itself is like nothing
        one /= np.linalg.norm(one, axis=1, keepdims=True)
        other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (one @ other.T).astype(np.float32)


def _contextual(
    model: Pretrained, cells: Cells, progress: Progress | None
) -> "tuple[NDArray[np.float64], NDArray[np.int32]]":
    """Return the mean states by token, NaN where never expressed, and in how many cells each gene is."""
    network = model.network
    total = torch.zeros(len(model.vocabulary) + 1, network.config.dim, dtype=torch.float64)
    number = torch.zeros(len(total), dtype=torch.int32)
    n_all, done = len(cells) if isinstance(cells, InMemoryCells) else 0, 0
    for batch in batches(cells, token_budget=TOKEN_BUDGET):
        with torch.inference_mode():
            states = network.encode(batch.to(network.cls.device)).gene
        gene = batch.gene.cpu()
        total.index_add_(0, gene, states.double().cpu())
        number += torch.bincount(gene, minlength=len(number)).int()
        done += batch.n_cells
        if progress is not None:
            progress(done, max(done, n_all))
    refuse_nothing(int(number.sum()))
    mean = torch.where(number[:, None] > 0, total / number[:, None].clamp(min=1), torch.nan)
    return mean.numpy(), number.numpy()
