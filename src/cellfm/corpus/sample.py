"""The order, batches and masks in which a network sees cells."""

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.absent import absent_genes
from cellfm.corpus.cells import InMemoryCells, gene_means, lowest_numbers
from cellfm.corpus.lanes import LaneOptions, Lanes, WindowPlan
from cellfm.corpus.mask import check_fraction, draw_genes, mask_cells, thin_counts
from cellfm.corpus.ragged import boundaries, cell_totals, cut, log_values
from cellfm.corpus.tokens import depth_features
from cellfm.corpus.window import Window
from cellfm.errors import ConfigError, CountsError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.source import CellSource

__all__ = ["EpochSampler", "InMemoryCells", "evaluation_batches", "gene_means"]

BLOCK_ROWS = 1024
"""Neighbours on disk that are read, and shuffled, together."""
SLAB = 1 << 18
"""Genes of the batches that are made at one go: enough to hide the cost of the calls, and still small beside a window."""

_EVALUATION = -2  # in the place of an epoch: never one of training
_HELD_ROWS = 8192  # held-out cells that are read at a time


class EpochSampler:
    """Training batches as a pure function of the step.

    *What is promised.* Every epoch of a lane visits each of the lane's cells once, and the lanes of an epoch share all
    cells out between them: every cell once an epoch (or as often as its weight says). Batch *t* of lane *l* is a function
    of (seed, *l*, *t*) and of the cells, and of nothing else: not of the number of processes, of what was asked before or
    of other batches. To resume a run, on any number of processes, ask for the next step. Finding a step reads no cells:
    the lengths of the lane's cells up to it are cut into batches, about 10 million cells a second.

    *The shuffle.* Blocks of 1,024 neighbouring rows are permuted and dealt to windows, the windows to lanes; the rows of
    a window are shuffled and cut into batches of at most `token_budget` genes (a longer cell is a batch of its own).
    A window of W rows in b blocks is a cluster sample: if the rows of the source are in random order, as a store's are, a
    batch is a simple random sample of all cells. If they are sorted by origin, the share p of one origin in a batch
    of n cells has the variance p(1 - p)(1/n + 1/b), not p(1 - p)/n: blocks of fewer rows (`block_rows`) are then better.
    Cells in memory have blocks of one row: a full shuffle. Rows of a block always meet in the same window, and a window's last
    batch (of each bucket) may be short.

    Nothing is kept between steps but caches: a window of each lane that is asked for, and the number of batches of each window
    met. A lane that has ended its epoch goes on with its next one, so that lanes never wait for each other. Batches may be
    asked for from several threads, one at a time.

    Parameters
    ----------
    cells
        The cells to train on.
    rows
        Rows of them that take part, ascending; None for all.
    weight
        Visits of each of these an epoch: w visits are floor(w), and one more with probability w - floor(w), drawn by hash
        of the cell's number. Each visit has masks of its own. None for one each.
    token_budget
        Genes in a batch.
    seed
        Of order, masks and thinning.
    lanes
        Micro-batches of a step, which the processes share out between them.
    window_rows
        Cells that are held, and shuffled, together for each lane.
    block_rows
        Neighbours that are read together; None: 1,024, and 1 of cells in memory.
    length_buckets
        Parts of a window, by length, that batches are cut from: cells of a batch are then about as long as each other.
    scored_fraction, hidden_fraction
        See :func:`cellfm.corpus.mask.mask_cells`; None as `scored_fraction`: no masks, only values.
    thin
        Thin the counts of half of the cells; see :func:`cellfm.corpus.mask.thin_counts`.
    genes_per_cell
        Genes drawn from a longer cell, anew each epoch; values and depth stay those of the whole cell. None for all.
    absent
        Draw a gene that the cell lacks beside each scored one; see :func:`cellfm.corpus.absent.absent_genes`. Which cells
        may name it depends on what is made at one go, not on the process.

    Raises
    ------
    ConfigError
        A number is below 1, a fraction outside [0, 1], or there are more lanes than cells.
    DataError
        There are no cells.
    CountsError
        `thin` is set and the counts are no integers.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each choice of a run
        self,
        cells: "CellSource",
        *,
        token_budget: int,
        seed: int,
        rows: "NDArray[np.integer] | None" = None,
        weight: "NDArray[np.floating] | None" = None,
        lanes: int = 1,
        window_rows: int = 8192,
        block_rows: int | None = None,
        length_buckets: int = 1,
        scored_fraction: float | None = 0.2,
        hidden_fraction: float = 0.8,
        thin: bool = False,
        genes_per_cell: int | None = None,
        absent: bool = False,
    ) -> None:
        if genes_per_cell is not None and genes_per_cell < 1:
            msg = f"genes_per_cell is {genes_per_cell}; it must be at least 1, or None for all. Give a number in that range."
            raise ConfigError(msg)
        in_memory = isinstance(cells, InMemoryCells)
        options = LaneOptions(
            token_budget=token_budget,
            seed=seed,
            n_lanes=lanes,
            window_rows=window_rows,
            block_rows=(1 if in_memory else BLOCK_ROWS) if block_rows is None else block_rows,
            length_buckets=length_buckets,
        )
        lengths = cells.lengths
        if genes_per_cell is not None:
            # lengths of a store are narrow, and stay so
            lengths = np.minimum(lengths, min(genes_per_cell, np.iinfo(lengths.dtype).max))
        self._lanes = Lanes(
            lengths, rows, weight, number=lambda at: cells.number[at], options=options
        )
        draw = _Draw(
            seed=seed,
            fractions=_fractions(scored_fraction, hidden_fraction),
            whole=not isinstance(cells, InMemoryCells) or _whole(cells.count),
            genes_per_cell=genes_per_cell,
            absent=absent,
        )
        self._maker = _Maker(cells, draw, thin=thin)
        self.n_lanes = lanes
        self._plans: dict[int, tuple[int, WindowPlan]] = {}
        self._made: dict[int, _Held] = {}
        self._lock = RLock()

    def n_batches(self, epoch: int, *, lane: int = 0) -> int:
        """Batches of an epoch of a lane; epochs differ a little, as their orders do."""
        _check_position("epoch", epoch)
        windows = self._lanes.windows_per_epoch
        with self._lock:
            first, last = (self._lanes.first_step(lane, e * windows) for e in (epoch, epoch + 1))
        return last - first

    def locate(self, step: int, *, lane: int = 0) -> tuple[int, int]:
        """Epoch of a step of a lane and its position in it."""
        _check_position("step", step)
        with self._lock:
            epoch = self._lanes.locate(lane, step)[0] // self._lanes.windows_per_epoch
            return epoch, step - self._lanes.first_step(lane, epoch * self._lanes.windows_per_epoch)

    def rows(self, step: int, *, lane: int = 0) -> "NDArray[np.int64]":
        """Rows of the cells that are in the batch of a step."""
        _check_position("step", step)
        with self._lock:
            window, index = self._lanes.locate(lane, step)
            plan = self._plan(lane, window)
        return plan.rows[plan.edges[index] : plan.edges[index + 1]]

    def batch(self, step: int) -> CellBatch:
        """Batch of a step with `hidden`, `scored` and `target` filled; it may have no scored gene if its cells are tiny.

        Raises
        ------
        ConfigError
            There are several lanes, or the step is negative.
        """
        if self.n_lanes != 1:
            msg = (
                f"batch(step) is for one lane, but there are {self.n_lanes}; ask for batches(step)."
            )
            raise ConfigError(msg)
        return self.batches(step)[0]

    def batches(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[CellBatch]:
        """Batches of a step for one of several processes: those of the lanes rank, rank + world_size, and so on.

        Raises
        ------
        ConfigError
            There are more processes than lanes, no such process, or the step is negative.
        CorpusError
            The cells cannot be read.
        """
        _check_position("step", step)
        if not 0 <= rank < world_size <= self.n_lanes:
            msg = (
                f"rank {rank} of world_size {world_size} has no part in {self.n_lanes} lanes; expected "
                f"0 ≤ rank < world_size ≤ {self.n_lanes}. Raise lanes to a multiple of the number of processes."
            )
            raise ConfigError(msg)
        with self._lock:
            return [self._batch(lane, step) for lane in range(rank, self.n_lanes, world_size)]

    def _batch(self, lane: int, step: int) -> CellBatch:
        window, index = self._lanes.locate(lane, step)
        held = self._made.get(lane)
        if held is None or held.number != window:
            self._made.pop(lane, None)  # never two windows of a lane in memory
            plan = self._plan(lane, window)
            held = self._made[lane] = _Held(window, plan, self._maker)
        return held.batch(index)

    def _plan(self, lane: int, window: int) -> WindowPlan:
        if lane not in self._plans or self._plans[lane][0] != window:
            self._plans[lane] = (window, self._lanes.plan(lane, window))
        return self._plans[lane][1]


class _Maker:
    """Makes batches of held cells."""

    def __init__(self, source: "CellSource", draw: "_Draw", *, thin: bool) -> None:
        if thin and not draw.whole:
            msg = 'thin=True was asked for, but the counts are no integers (made with scale="log1p"?); give raw counts, or thin=False.'
            raise CountsError(msg)
        self.source, self._draw, self._thin = source, draw, thin

    def make(self, cells: InMemoryCells, epoch: int) -> CellBatch:
        """Make one batch of cells."""
        observed = cells.count
        if self._thin:
            observed = thin_counts(
                cells.gene,
                cells.count,
                cells.offsets,
                cells.cell,
                seed=self._draw.seed,
                epoch=epoch,
            )
        return _masked_batch(cells, observed, self._draw, epoch)


class _Held:
    """Window of a lane in memory, and the slab of batches that was made last."""

    def __init__(self, number: int, plan: WindowPlan, maker: _Maker) -> None:
        self.number, self._plan, self._maker = number, plan, maker
        self._window = Window(maker.source, plan.rows)
        # slabs begin where they would if all were made in order
        self._slabs = cut(plan.offsets[plan.edges], SLAB)
        self._slab: tuple[int, list[CellBatch]] | None = None

    def batch(self, index: int) -> CellBatch:
        """Return a batch of the window."""
        number = int(np.searchsorted(self._slabs, index, side="right")) - 1
        if self._slab is None or self._slab[0] != number:
            self._slab = None  # its memory serves the next one
            self._slab = (number, self._make(number))
        return self._slab[1][index - int(self._slabs[number])]

    def _make(self, number: int) -> list[CellBatch]:
        """Make the batches of a slab."""
        plan = self._plan
        first, last = self._slabs[number : number + 2].tolist()
        edges = plan.edges[first : last + 1]
        part = slice(int(edges[0]), int(edges[-1]))
        visit = None if plan.visit is None else plan.visit[part]
        cells = self._window.take(plan.rows[part], visit)
        return _pieces(self._maker.make(cells, plan.epoch), (edges - edges[0]).tolist())


def _pieces(slab: CellBatch, edges: list[int]) -> list[CellBatch]:
    """Cut a batch at some cells, as `CellBatch.cells` does, in one call for each field: views, no copies."""
    offsets = slab.offsets.numpy()
    ends = offsets[edges]
    n_cells, n_tokens = np.diff(edges).tolist(), np.diff(ends).tolist()
    by_token = {
        field.name: values.split(n_tokens)
        for field in fields(slab)
        if field.name not in ("offsets", "depth")
        and (values := getattr(slab, field.name)) is not None
    }
    return [
        CellBatch(
            offsets=torch.from_numpy(offsets[edges[i] : edges[i + 1] + 1] - ends[i]),
            depth=depth,
            **{name: pieces[i] for name, pieces in by_token.items()},
        )
        for i, depth in enumerate(slab.depth.split(n_cells))
    ]


def evaluation_batches(
    cells: "CellSource",
    *,
    token_budget: int,
    seed: int,
    scored_fraction: float = 0.2,
    hidden_fraction: float = 0.8,
    rows: "NDArray[np.integer] | None" = None,
    max_cells: int | None = None,
) -> Iterator[CellBatch]:
    """Yield cells in their order with masks that depend on the seed alone, never thinned.

    Parameters
    ----------
    cells
        Where the cells are.
    token_budget
        Genes in a batch.
    seed
        Of the masks and of the choice of `max_cells`.
    scored_fraction, hidden_fraction
        See :func:`cellfm.corpus.mask.mask_cells`.
    rows
        Rows to take, ascending; None for all.
    max_cells
        Of more cells, those whose numbers hash lowest are taken.

    Raises
    ------
    ConfigError
        The token budget or `max_cells` is below 1, or a fraction outside [0, 1].
    DataError
        There are no cells.
    CorpusError
        The cells cannot be read.
    """
    chosen = np.arange(len(cells)) if rows is None else rows
    _check_evaluation(len(chosen), token_budget, max_cells)
    check_fraction("scored_fraction", scored_fraction)
    check_fraction("hidden_fraction", hidden_fraction)
    if max_cells is not None and len(chosen) > max_cells:
        chosen = chosen[lowest_numbers(cells.number[chosen], max_cells, seed=seed)]
    edges = cut(boundaries(cells.lengths[chosen].astype(np.int64)), token_budget)
    draw = _Draw(seed=seed, fractions=(scored_fraction, hidden_fraction), whole=False)
    # batches are made from windows that end with a batch
    for first, last in pairwise(cut(edges, _HELD_ROWS).tolist()):
        window = Window(cells, chosen[edges[first] : edges[last]])
        for start, stop in pairwise(edges[first : last + 1].tolist()):
            part = window.take(chosen[start:stop])
            yield _masked_batch(part, part.count, draw, _EVALUATION)


class _Draw(NamedTuple):
    """What masks are drawn with, but for the epoch."""

    seed: int
    fractions: tuple[float, float] | None
    whole: bool
    """Whether all counts are integers, whose sums are exact in any order."""
    genes_per_cell: int | None = None
    absent: bool = False


def _masked_batch(
    cells: InMemoryCells, observed: "NDArray[np.number]", draw: _Draw, epoch: int
) -> CellBatch:
    """Make the batch in which `observed` counts are shown and the cells' own are the truth."""
    total = cell_totals(cells.count, cells.offsets, whole=draw.whole)
    shown = total
    if observed is not cells.count:
        shown = cell_totals(observed, cells.offsets, whole=draw.whole)
    part, seen = _drawn(cells, observed, draw, epoch)
    target = log_values(part.count, total, part.lengths)
    value = target if seen is part.count else log_values(seen, shown, part.lengths)
    batch = CellBatch(
        gene=torch.from_numpy(part.gene),
        value=torch.from_numpy(value),
        offsets=torch.from_numpy(part.offsets),
        depth=depth_features(shown, total),
        target=torch.from_numpy(target),
    )
    if draw.fractions is None:
        return batch
    mask = mask_cells(
        part.gene,
        part.offsets,
        part.cell,
        seed=draw.seed,
        epoch=epoch,
        scored_fraction=draw.fractions[0],
        hidden_fraction=draw.fractions[1],
    )
    hidden, scored = torch.from_numpy(mask.hidden), torch.from_numpy(mask.scored)
    absent = _absent(cells, part, mask.scored, key=(draw.seed, epoch)) if draw.absent else None
    return replace(batch, hidden=hidden, scored=scored, absent=absent)


def _drawn(
    cells: InMemoryCells, observed: "NDArray[np.number]", draw: _Draw, epoch: int
) -> tuple[InMemoryCells, "NDArray[np.number]"]:
    """Return the genes that are shown at all, and what is observed of them."""
    if draw.genes_per_cell is None or not (cells.lengths > draw.genes_per_cell).any():
        return cells, observed
    flags = draw_genes(
        cells.gene,
        cells.offsets,
        cells.cell,
        n_genes=draw.genes_per_cell,
        seed=draw.seed,
        epoch=epoch,
    )
    kept = np.flatnonzero(flags)
    part = replace(
        cells,
        gene=cells.gene[kept],
        count=cells.count[kept],
        offsets=np.searchsorted(kept, cells.offsets),
    )
    return part, part.count if observed is cells.count else observed[kept]


def _absent(
    cells: InMemoryCells,
    part: InMemoryCells,
    scored: "NDArray[np.bool_]",
    *,
    key: tuple[int, int],
) -> torch.Tensor:
    """Draw an absent gene beside each scored one; 0 beside the others."""
    absent = np.zeros(len(part.gene), dtype=np.int32)
    row = np.repeat(np.arange(len(part)), part.lengths)[scored]
    absent[scored] = absent_genes(cells, row, part.gene[scored], seed=key[0], epoch=key[1])
    return torch.from_numpy(absent)


def _fractions(scored: float | None, hidden: float) -> tuple[float, float] | None:
    check_fraction("hidden_fraction", hidden)
    if scored is None:
        return None
    check_fraction("scored_fraction", scored)
    return scored, hidden


def _whole(count: "NDArray[np.generic]") -> bool:
    """Whether all counts are integers."""
    return count.dtype.kind in "ui" or bool((np.rint(count) == count).all())


def _check_evaluation(n_cells: int, token_budget: int, max_cells: int | None) -> None:
    """Refuse what cannot be cut into batches."""
    for name, number in (("token_budget", token_budget), ("max_cells", max_cells)):
        if number is not None and number < 1:
            msg = f"{name} is {number}; it must be at least 1, usually some thousands. Give a number in that range."
            raise ConfigError(msg)
    if not n_cells:
        msg = "There are 0 cells to make batches of; at least one is needed. Check the split and the filters."
        raise DataError(msg)


def _check_position(name: str, position: int) -> None:
    """Refuse a negative step or epoch."""
    if position < 0:
        msg = f"{name} is {position}; it must be at least 0, the first one. Give a number in that range."
        raise ConfigError(msg)
