"""Scores of pairs by in-silico knock-out: how much the predicted expression of a target changes when a source is taken out of the cell."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.nn.kernels.knockout import EditedStates, Edits
from cellfm.nn.kernels.workers import workers
from cellfm.tl._network.cells import (
    TOKEN_BUDGET,
    Held,
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

Progress = Callable[[int, int], None]

N_CELLS = 200
"""Cells whose genes are knocked out: each gene of each cell needs half a pass of the network over that cell."""


def knockout_scores(
    model: Pretrained,
    cells: InMemoryCells,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    n_cells: int | None = N_CELLS,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairScores:
    """Score pairs by the size of the change in a target's predicted expression when a source is knocked out.

    The score is the first result of `knockout_effects`.

    Parameters
    ----------
    model, cells, sources, targets, n_cells, seed, progress
        As in `knockout_effects`.
    """
    return knockout_effects(
        model, cells, sources, targets, n_cells=n_cells, seed=seed, progress=progress
    )[0]


def knockout_effects(
    model: Pretrained,
    cells: InMemoryCells,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    n_cells: int | None = N_CELLS,
    seed: int = 0,
    progress: Progress | None = None,
) -> "tuple[PairScores, NDArray[np.float32]]":
    r"""Return how much, and in which direction, each source moves the predicted expression of each target.

    The source is taken out of a cell as if it were not expressed, all other values and the depth unchanged, and the state of [CLS] is computed anew
    (:class:`~cellfm.nn.kernels.knockout.EditedStates`, exact). With the cell-wise decoder :math:`\hat y_i = \langle \sigma(W g_i), h \rangle` the
    effect of the source on target i in a cell is

    .. math:: \hat y_i - \hat y_i^{-j} = \langle \sigma(W g_i),\, h - h^{-j} \rangle,

    in units of ``log1p(counts per 10⁴)``: positive where the source raises the target. It is averaged over the cells that express both. It is not
    ranked: highly expressed sources move more, and all targets share a part of what the state loses. Computed in float32, where the difference of
    two states is good to about 1e-6: random weights, in which single genes move the state less than that, give rounding noise here; their gradients
    are exact.

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
    The mean absolute effect as scores, and the mean effect with its sign, shape (source, target), NaN where the scores are.

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
    sums = PairSums(genes, 2)
    for done, (held, effect) in enumerate(_effects(model, cells, genes, queries), start=1):
        if held is not None:
            sums.add(held, np.stack([np.abs(effect), effect]))
        if progress is not None:
            progress(done, len(cells))
    size, signed = sums.means()
    names, others = genes.symbols(model)
    scores = PairScores(
        sources=names, targets=others, score=size, n_cells=sums.n_cells, method="knock-out"
    )
    return scores, signed


def _effects(
    model: Pretrained, cells: InMemoryCells, genes: PairGenes, queries: "Tensor"
) -> "Iterator[tuple[Held | None, NDArray[np.floating]]]":
    """Yield the effects of each cell's pairs, shape (source, target); None for a cell without pairs."""
    edited, device = EditedStates(model.network), model.network.cls.device
    nothing = np.zeros((0, 0), np.float32)

    def effect(cell: CellBatch) -> "tuple[Held | None, NDArray[np.floating]]":
        held = genes.held(cell.gene.cpu().numpy())
        if not len(held.source) or not len(held.target):
            return None, nothing
        with torch.inference_mode():
            gone = torch.from_numpy(np.append(held.source, -1)).to(device)
            states = edited(cell, Edits(removed=gone))
            column = torch.from_numpy(held.column).to(device)
            return held, ((states[-1] - states[:-1]) @ queries[column].T).cpu().numpy()

    with workers(device) as pool:
        for batch in batches(cells, token_budget=TOKEN_BUDGET):
            there = batch.to(device)
            yield from pool.map(effect, [there.cells(i, i + 1) for i in range(batch.n_cells)])
