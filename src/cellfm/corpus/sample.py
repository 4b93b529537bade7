"""The order, batches and masks in which a network sees cells."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells, gene_means
from cellfm.corpus.draw import ORDER_HIGH, ORDER_LOW, key_of
from cellfm.corpus.mask import check_fraction, mask_cells, thin_counts
from cellfm.corpus.tokens import boundaries, cell_totals, cut, depth_features, log_values
from cellfm.errors import ConfigError, CountsError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EpochSampler", "InMemoryCells", "evaluation_batches", "gene_means"]

_EVALUATION = -2  # in the place of an epoch: never one of training


class EpochSampler:
    """Training batches as a pure function of the step.

    Every epoch visits every cell once, in an order drawn from (seed, epoch), cut into batches of at most
    `token_budget` genes (a longer cell is a batch of its own). Nothing is kept between steps but caches: to
    resume a run, ask for the next step.

    Parameters
    ----------
    cells
        The cells to train on.
    token_budget
        Genes in a batch.
    seed
        Of order, masks and thinning.
    scored_fraction, hidden_fraction
        See :func:`cellfm.corpus.mask.mask_cells`.
    thin
        Thin the counts of half of the cells; see :func:`cellfm.corpus.mask.thin_counts`.

    Raises
    ------
    ConfigError
        The token budget is below 1 or a fraction outside [0, 1].
    DataError
        There are no cells.
    CountsError
        `thin` is set and the counts are no integers.
    """

    def __init__(
        self,
        cells: InMemoryCells,
        *,
        token_budget: int,
        seed: int,
        scored_fraction: float = 0.2,
        hidden_fraction: float = 0.8,
        thin: bool = False,
    ) -> None:
        _check_batches(cells, token_budget)
        check_fraction("scored_fraction", scored_fraction)
        check_fraction("hidden_fraction", hidden_fraction)
        if thin and (np.rint(cells.count) != cells.count).any():
            msg = 'thin=True was asked for, but the counts are no integers (made with scale="log1p"?); give raw counts, or thin=False.'
            raise CountsError(msg)
        self._cells = cells
        self._token_budget = token_budget
        self._seed = seed
        self._fractions = (scored_fraction, hidden_fraction)
        self._thin = thin
        self._first_step = [0]  # of each epoch seen so far; grows as steps are located
        self._plan: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def n_batches(self, epoch: int) -> int:
        """Batches of an epoch; epochs differ a little, as their orders do."""
        _check_position("epoch", epoch)
        if epoch + 1 < len(self._first_step):
            return self._first_step[epoch + 1] - self._first_step[epoch]
        return len(self._planned(epoch)[1]) - 1

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch of a step and its position in it."""
        _check_position("step", step)
        while self._first_step[-1] <= step:
            epoch = len(self._first_step) - 1
            self._first_step.append(self._first_step[-1] + len(self._planned(epoch)[1]) - 1)
        epoch = int(np.searchsorted(self._first_step, step, side="right")) - 1
        return epoch, step - self._first_step[epoch]

    def rows(self, step: int) -> "NDArray[np.int64]":
        """Rows of the cells that are in the batch of a step."""
        epoch, index = self.locate(step)
        order, edges = self._planned(epoch)
        return order[edges[index] : edges[index + 1]]

    def batch(self, step: int) -> CellBatch:
        """Batch of a step with `hidden`, `scored` and `target` filled; it may have no scored gene if its cells are tiny."""
        epoch, _ = self.locate(step)
        cells = self._cells.select(self.rows(step))
        observed = cells.count
        if self._thin:
            observed = thin_counts(
                cells.gene, cells.count, cells.offsets, cells.cell, seed=self._seed, epoch=epoch
            )
        return _masked_batch(
            cells, observed, seed=self._seed, epoch=epoch, fractions=self._fractions
        )

    def _planned(self, epoch: int) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
        """Order of an epoch's cells and the edges of its batches."""
        if self._plan is None or self._plan[0] != epoch:
            words = [key_of(self._seed, epoch, stream) for stream in (ORDER_LOW, ORDER_HIGH)]
            order = np.random.Generator(np.random.Philox(key=np.concatenate(words))).permutation(
                len(self._cells)
            )
            edges = cut(boundaries(self._cells.lengths[order]), self._token_budget)
            self._plan = (epoch, order, edges)
        return self._plan[1:]


def evaluation_batches(
    cells: InMemoryCells,
    *,
    token_budget: int,
    seed: int,
    scored_fraction: float = 0.2,
    hidden_fraction: float = 0.8,
) -> Iterator[CellBatch]:
    """Yield all cells in their order with masks that depend on the seed alone, never thinned.

    Raises
    ------
    ConfigError
        The token budget is below 1 or a fraction outside [0, 1].
    DataError
        There are no cells.
    """
    _check_batches(cells, token_budget)
    edges = cut(cells.offsets, token_budget)
    for start, stop in pairwise(edges):
        part = cells.select(np.arange(start, stop))
        yield _masked_batch(
            part,
            part.count,
            seed=seed,
            epoch=_EVALUATION,
            fractions=(scored_fraction, hidden_fraction),
        )


def _masked_batch(
    cells: InMemoryCells,
    observed: "NDArray[np.float32]",
    *,
    seed: int,
    epoch: int,
    fractions: tuple[float, float],
) -> CellBatch:
    """Make the batch in which `observed` counts are shown and the cells' own are the truth."""
    total = cell_totals(cells.count, cells.offsets)
    target = log_values(cells.count, total, cells.lengths)
    shown, value = total, target
    if observed is not cells.count:
        shown = cell_totals(observed, cells.offsets)
        value = log_values(observed, shown, cells.lengths)
    mask = mask_cells(
        cells.gene,
        cells.offsets,
        cells.cell,
        seed=seed,
        epoch=epoch,
        scored_fraction=fractions[0],
        hidden_fraction=fractions[1],
    )
    return CellBatch(
        gene=torch.from_numpy(cells.gene.astype(np.int64)),
        value=torch.from_numpy(value),
        offsets=torch.from_numpy(cells.offsets),
        depth=depth_features(shown, total),
        hidden=torch.from_numpy(mask.hidden),
        scored=torch.from_numpy(mask.scored),
        target=torch.from_numpy(target),
    )


def _check_batches(cells: InMemoryCells, token_budget: int) -> None:
    """Refuse what cannot be cut into batches."""
    if token_budget < 1:
        msg = f"token_budget is {token_budget}; it must be at least 1, usually some thousands."
        raise ConfigError(msg)
    if not len(cells):
        msg = "There are 0 cells to make batches of; at least one is needed. Check the split and the filters."
        raise DataError(msg)


def _check_position(name: str, position: int) -> None:
    """Refuse a negative step or epoch."""
    if position < 0:
        msg = f"{name} is {position}; it must be at least 0, the first one."
        raise ConfigError(msg)
