"""Masked cells with sampled zero genes: what a network is fine-tuned on by `integrate`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.draw import child, key_of
from cellfm.corpus.mask import draw_genes, mask_cells
from cellfm.corpus.ragged import boundaries, cell_totals, cut, log_values
from cellfm.corpus.tokens import depth_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORED, HIDDEN = 0.5, 0.8
"""Share of the genes that are scored in the published integration, and of these that are hidden (as in pretraining)."""
VALIDATION_EPOCH = -3
"""In the place of an epoch: never one of training, nor of another evaluation."""
_ORDER, _ZERO = 0x1E, 0x1E60  # streams: no two purposes share one


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """How many genes a cell shows while it is fine-tuned on, and how many of them it does not express.

    The published rows have 2,048 places: a longer cell is sampled, a shorter one filled with zero genes. Here the two numbers
    are apart, so that deep cells have zero genes as well, and small: other genes are drawn in each epoch.
    """

    n_expressed: int = 256
    n_zero: int = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskedBatches:
    """Batches of masked cells, a function of (seed, epoch): every row once an epoch.

    Attributes
    ----------
    cells
        All cells of the data set; zero genes are drawn from those that one of them expresses.
    rows
        Rows that take part.
    token_budget
        Genes in a batch, zero genes included.
    """

    cells: InMemoryCells
    rows: "NDArray[np.int64]"
    options: MaskOptions
    token_budget: int
    seed: int

    def n_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""
        return len(self._edges(self._order(epoch))) - 1

    def epoch(self, epoch: int) -> Iterator[tuple[CellBatch, torch.Tensor]]:
        """Yield the batches of an epoch, each with the rows of its cells."""
        yield from self._batches(self._order(epoch), epoch)

    def validation(self) -> Iterator[tuple[CellBatch, torch.Tensor]]:
        """Yield the rows in their order, with masks and zero genes that depend on the seed alone."""
        yield from self._batches(self.rows, VALIDATION_EPOCH)

    def _batches(
        self, rows: "NDArray[np.int64]", epoch: int
    ) -> Iterator[tuple[CellBatch, torch.Tensor]]:
        universe = np.unique(self.cells.gene)
        for start, stop in pairwise(self._edges(rows).tolist()):
            part = rows[start:stop]
            batch = masked_batch(
                self.cells.select(part), universe, self.options, seed=self.seed, epoch=epoch
            )
            yield batch, torch.from_numpy(part)

    def _order(self, epoch: int) -> "NDArray[np.int64]":
        """Return the rows in the order of an epoch."""
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.rows)

    def _edges(self, rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Cut rows into batches within the budget."""
        lengths = np.minimum(self.cells.lengths[rows], self.options.n_expressed)
        return cut(boundaries(lengths + self.options.n_zero), self.token_budget)


def masked_batch(
    cells: InMemoryCells,
    universe: "NDArray[np.integer]",
    options: MaskOptions,
    *,
    seed: int,
    epoch: int,
) -> CellBatch:
    """Draw genes, mask them, and put zero genes behind them.

    Of the genes a cell expresses half are scored and 80 % of these hidden; of its zero genes half are hidden and 80 % of
    these scored, with the target 0, as published. Zero genes that are not hidden carry the embedding of zero. Values and
    depths are those of the whole cell.

    Parameters
    ----------
    cells
        Cells of the batch.
    universe
        Tokens that zero genes are drawn from.
    options
        How many genes.
    seed, epoch
        Another pair draws anew; a cell's draws do not depend on the batch it is in.

    Returns
    -------
    Batch with `hidden`, `scored`, `target` and `zero`.
    """
    value, total = _values(cells)
    shown = _drawn(cells, options.n_expressed, seed=seed, epoch=epoch)
    mask = mask_cells(
        cells.gene[shown],
        np.searchsorted(shown, cells.offsets),
        cells.cell,
        seed=seed,
        epoch=epoch,
        scored_fraction=SCORED,
        hidden_fraction=HIDDEN,
    )
    zero, zero_offsets, hidden, scored = _zero_genes(
        cells, universe, options.n_zero, seed=seed, epoch=epoch
    )
    offsets = np.searchsorted(shown, cells.offsets)
    order, joined = _interleaved(offsets, zero_offsets)

    def both(first: "NDArray[np.generic]", second: "NDArray[np.generic]") -> torch.Tensor:
        return torch.from_numpy(np.concatenate([first, second])[order])

    nothing = np.zeros(len(zero), np.float32)
    expressed = value[shown]
    batch = CellBatch(
        gene=both(cells.gene[shown].astype(np.int64), zero),
        value=both(expressed, nothing),
        offsets=torch.from_numpy(joined),
        depth=depth_features(total, total),
    )
    return replace(
        batch,
        target=batch.value,
        hidden=both(mask.hidden, hidden),
        scored=both(mask.scored, scored),
        zero=both(np.zeros(len(shown), np.bool_), ~hidden),
    )


def _values(cells: InMemoryCells) -> "tuple[NDArray[np.float32], NDArray[np.float64]]":
    total = cell_totals(cells.count, cells.offsets)
    return log_values(cells.count, total, cells.lengths), total


def _drawn(cells: InMemoryCells, n_genes: int, *, seed: int, epoch: int) -> "NDArray[np.int64]":
    flags = draw_genes(
        cells.gene, cells.offsets, cells.cell, n_genes=n_genes, seed=seed, epoch=epoch
    )
    return np.flatnonzero(flags)


def _zero_genes(
    cells: InMemoryCells, universe: "NDArray[np.integer]", n_zero: int, *, seed: int, epoch: int
) -> "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]":
    """Draw genes that each cell lacks, uniformly and without repeats: tokens, offsets, hidden, scored."""
    tokens, hidden, scored = [], [], []
    seeds = child(key_of(seed, epoch, _ZERO), cells.cell)
    for i, word in enumerate(seeds.tolist()):
        mine = cells.gene[cells.offsets[i] : cells.offsets[i + 1]]
        lacking = np.setdiff1d(universe, mine, assume_unique=True)
        number = min(n_zero, len(lacking))
        drawn = np.random.default_rng(word).choice(lacking, number, replace=False)
        place = np.arange(number)  # the draw is in random order: the first half are hidden
        n_hidden = number // 2
        tokens.append(drawn.astype(np.int64))
        hidden.append(place < n_hidden)
        scored.append(place < int(HIDDEN * n_hidden))
    lengths = np.array([len(part) for part in tokens], dtype=np.int64)
    if not tokens:
        return np.zeros(0, np.int64), boundaries(lengths), *(np.zeros(0, np.bool_),) * 2
    return (
        np.concatenate(tokens),
        boundaries(lengths),
        np.concatenate(hidden),
        np.concatenate(scored),
    )


def _interleaved(
    first: "NDArray[np.int64]", second: "NDArray[np.int64]"
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Order that puts the second segment of each cell behind its first, and the offsets of the result."""
    n_cells = len(first) - 1
    cell = np.concatenate(
        [np.repeat(np.arange(n_cells), np.diff(offsets)) for offsets in (first, second)]
    )
    return np.argsort(cell, kind="stable"), first + second
