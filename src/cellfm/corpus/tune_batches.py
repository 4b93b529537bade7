"""Batches without masks for fine-tuning: every cell once an epoch."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.draw import generator, key_of
from cellfm.corpus.ragged import (
    RaggedCounts,
    boundaries,
    cell_totals,
    cut,
    highest,
    log_values,
)
from cellfm.corpus.tokens import depth_features
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells

MAX_GENES = 2048
"""Genes of a cell that are trained on: its highest."""
_SHUFFLE = -3  # beside the epochs and streams of pretraining


class ShuffledBatches:
    """Batches of cells in an order that is a function of (seed, epoch) alone; every row once an epoch.

    Values and depth are those of :func:`cellfm.corpus.tokens.tokenize`: what a cell is when it is embedded.

    Parameters
    ----------
    cells
        Where the cells are.
    rows
        Rows of them that take part; None for all.
    token_budget
        Genes in a batch; a longer cell is a batch of its own.
    seed
        Of the order.
    max_genes
        Highest genes of a longer cell that are shown; None for all.

    Raises
    ------
    ConfigError
        The budget or `max_genes` is below 1.
    DataError
        There are no rows.
    """

    def __init__(
        self,
        cells: "InMemoryCells",
        rows: "NDArray[np.integer] | None" = None,
        *,
        token_budget: int,
        seed: int,
        max_genes: int | None = MAX_GENES,
    ) -> None:
        self._cells, self._rows = cells, _checked(cells, rows, token_budget, max_genes)
        self._budget, self._seed, self._max_genes = token_budget, seed, max_genes

    def n_batches(self, epoch: int) -> int:
        """Return the batches of an epoch; epochs differ a little, as their orders do."""
        return len(self._order(epoch)[1]) - 1

    def epoch(self, epoch: int) -> Iterator[tuple[CellBatch, torch.Tensor]]:
        """Yield the batches of an epoch, each with the rows of its cells.

        Parameters
        ----------
        epoch
            From 0.
        """
        order, edges = self._order(epoch)
        yield from _batches(self._cells, order, edges, self._max_genes)

    def _order(self, epoch: int) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        draw = generator(key_of(self._seed, _SHUFFLE), key_of(epoch))
        order = draw.permutation(self._rows)
        return order, _edges(self._cells, order, self._budget, self._max_genes)


def ordered_batches(
    cells: "InMemoryCells",
    rows: "NDArray[np.integer] | None" = None,
    *,
    token_budget: int,
    max_genes: int | None = None,
) -> Iterator[tuple[CellBatch, torch.Tensor]]:
    """Yield the cells in the order of their rows, each batch with these: to predict, not to train.

    Parameters
    ----------
    cells
        Where the cells are.
    rows
        Rows to take, in this order; None for all.
    token_budget
        Genes in a batch; a longer cell is a batch of its own.
    max_genes
        Highest genes of a longer cell that are shown; None for all.

    Raises
    ------
    ConfigError
        The budget or `max_genes` is below 1.
    DataError
        There are no rows.
    """
    chosen = _checked(cells, rows, token_budget, max_genes)
    yield from _batches(cells, chosen, _edges(cells, chosen, token_budget, max_genes), max_genes)


def plain_batch(cells: "InMemoryCells", *, max_genes: int | None = None) -> CellBatch:
    """Turn cells into a batch as :func:`cellfm.corpus.tokens.tokenize` does; no masks.

    Parameters
    ----------
    cells
        Some cells.
    max_genes
        Highest genes of a longer cell that are shown, of equal counts the lower token; depth and values stay those of
        the whole cell.
    """
    total = cell_totals(cells.count, cells.offsets)
    counts = RaggedCounts(
        gene=cells.gene.astype(np.int32, copy=False),
        count=cells.count.astype(np.float32, copy=False),
        offsets=cells.offsets,
    )
    if max_genes is not None:
        counts = highest(counts, max_genes)
    return CellBatch(
        gene=torch.from_numpy(counts.gene.astype(np.int64)),
        value=torch.from_numpy(log_values(counts.count, total, counts.lengths)),
        offsets=torch.from_numpy(counts.offsets.astype(np.int64)),
        depth=depth_features(total, total),
    )


def _batches(
    cells: "InMemoryCells",
    order: "NDArray[np.int64]",
    edges: "NDArray[np.int64]",
    max_genes: int | None,
) -> Iterator[tuple[CellBatch, torch.Tensor]]:
    for start, stop in pairwise(edges.tolist()):
        rows = order[start:stop]
        yield plain_batch(cells.select(rows), max_genes=max_genes), torch.from_numpy(rows)


def _edges(
    cells: "InMemoryCells", order: "NDArray[np.int64]", budget: int, max_genes: int | None
) -> "NDArray[np.int64]":
    lengths = cells.lengths[order].astype(np.int64)
    shown = lengths if max_genes is None else np.minimum(lengths, max_genes)
    return cut(boundaries(shown), budget)


def _checked(
    cells: "InMemoryCells",
    rows: "NDArray[np.integer] | None",
    token_budget: int,
    max_genes: int | None,
) -> "NDArray[np.int64]":
    for name, number in (("token_budget", token_budget), ("max_genes", max_genes)):
        if number is not None and number < 1:
            msg = f"{name} is {number}; it must be at least 1, usually some thousands. Give a number in that range."
            raise ConfigError(msg)
    chosen = np.arange(len(cells)) if rows is None else np.asarray(rows, dtype=np.int64)
    if not len(chosen):
        msg = "There are 0 cells to make batches of; at least one is needed. Check the split and the labels."
        raise DataError(msg)
    return chosen
