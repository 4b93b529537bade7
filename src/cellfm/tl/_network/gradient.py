"""Scores of pairs by gradients: how steeply the predicted expression of a target depends on the presence of a source."""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.nn.attribution import gene_presence
from cellfm.tl._network.cells import (
    PairGenes,
    PairSums,
    batches,
    draw,
    refuse_nothing,
    target_queries,
)
from cellfm.tl._network.pairs import PairScores
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cellfm.nn.encoder import CellFM

Progress = Callable[[int, int], None]

N_CELLS = 100
"""Cells whose gradients are taken: each needs a backward pass for every number of its state."""
GRADIENT_TOKENS = 3072
"""Genes whose activations are held at a time."""


def gradient_scores(
    model: Pretrained,
    cells: InMemoryCells,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    n_cells: int | None = N_CELLS,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairScores:
    """Score pairs by the steepness of a target's predicted expression in the presence of a source.

    The score is the first result of `gradient_effects`.

    Parameters
    ----------
    model, cells, sources, targets, n_cells, seed, progress
        As in `gradient_effects`.
    """
    return gradient_effects(
        model, cells, sources, targets, n_cells=n_cells, seed=seed, progress=progress
    )[0]


def gradient_effects(
    model: Pretrained,
    cells: InMemoryCells,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    n_cells: int | None = N_CELLS,
    seed: int = 0,
    progress: Progress | None = None,
) -> "tuple[PairScores, NDArray[np.float32]]":
    r"""Return how steeply, and in which direction, the predicted expression of each target depends on each source.

    The presence :math:`m_j` of a gene multiplies its key in every layer (`cellfm.nn.attribution.gene_presence`): 1 is the cell as it is, 0 the cell
    without the gene. With the cell-wise decoder,

    .. math:: \frac{\partial \hat y_i}{\partial m_j} = \Big\langle \sigma(W g_i),\, \frac{\partial h}{\partial m_j} \Big\rangle,

    to first order what a knock-out takes away, in units of ``log1p(counts per 10⁴)``. The Jacobian of the state takes one backward pass for each of
    its numbers (128 for ``mini``), for all genes of some cells together. The result is averaged over the cells that express both genes.

    Parameters
    ----------
    model
        Weights with decoders, on the device to compute on.
    cells
        Counts in memory.
    sources, targets
        Tokens.
    n_cells
        Cells drawn at random when there are more; None for all.
    seed
        Of the draw.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    The mean absolute derivative as scores, and the mean derivative with its sign, shape (source, target), NaN where the scores are.

    Raises
    ------
    ConfigError
        Sources or targets are none, twice there, or not the model's; no cell was asked for.
    DataError
        There are no cells.
    WeightsError
        The weights have no decoders.
    """
    genes = PairGenes.of(model, sources, targets)
    queries = target_queries(model, genes)
    cells = draw(cells, n_cells, seed=seed)
    refuse_nothing(len(cells))
    sums, done = PairSums(genes, 2), 0
    for batch in batches(cells, token_budget=GRADIENT_TOKENS):
        jacobian = state_jacobian(model.network, batch.to(queries.device))
        edges = batch.offsets.tolist()
        for start, stop in pairwise(edges):
            held = genes.held(batch.gene[start:stop].cpu().numpy())
            own = jacobian[:, start:stop][:, held.source]
            effect = (queries[held.column] @ own).T.cpu().numpy()
            sums.add(held, np.stack([np.abs(effect), effect]))
        done += batch.n_cells
        if progress is not None:
            progress(done, len(cells))
    size, signed = sums.means()
    names, others = genes.symbols(model)
    scores = PairScores(
        sources=names, targets=others, score=size, n_cells=sums.n_cells, method="gradient"
    )
    return scores, signed


def state_jacobian(network: "CellFM", batch: CellBatch) -> "Tensor":
    """Return the derivative of each number of a cell's state with respect to the presence of each of its genes, shape (dim, token).

    Parameters
    ----------
    network
        In evaluation mode.
    batch
        Cells on its device.
    """
    presence = torch.ones_like(batch.value, requires_grad=True)
    with (
        torch.enable_grad(),
        gene_presence(network, batch, presence, n_prefix=network.config.n_prefix),
    ):
        state = network.encode(batch, wanted="cell").cell
        # Cells do not meet: the gradient of their sum is that of each one for its own genes.
        rows = [
            torch.autograd.grad(total, presence, retain_graph=True)[0]
            for total in state.sum(0).unbind()
        ]
    return torch.stack(rows)
