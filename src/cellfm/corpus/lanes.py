"""Which cells come in which batch, from their lengths alone."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.draw import (
    ORDER_HIGH,
    ORDER_LOW,
    VISIT,
    WINDOW_HIGH,
    WINDOW_LOW,
    child,
    generator,
    key_of,
    uniform,
)
from cellfm.corpus.ragged import boundaries, cut
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_FEWEST_BLOCKS = 4
"""Blocks of a window at the least: smaller ones are cut where a corpus is small for its lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """How the cells of an epoch are dealt out; see :class:`cellfm.corpus.sample.EpochSampler`."""

    token_budget: int
    seed: int
    n_lanes: int
    window_rows: int
    block_rows: int
    length_buckets: int

    def __post_init__(self) -> None:
        """Refuse numbers below 1."""
        for name, usual in (
            ("token_budget", "usually some thousands"),
            ("n_lanes", "the micro-batches of a step"),
            ("window_rows", "usually 8192"),
            ("block_rows", "usually 1024"),
            ("length_buckets", "1 for none"),
        ):
            if getattr(self, name) < 1:
                said = {"n_lanes": "lanes"}.get(name, name)
                msg = f"{said} is {getattr(self, name)}; it must be at least 1, {usual}. Give a number in that range."
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowPlan:
    """Cells that are held at the same time, in the order of their batches.

    Attributes
    ----------
    epoch
        Epoch it belongs to.
    rows
        Row of each cell in the source.
    visit
        0 where a cell is seen for the first time in the epoch, 1 where for the second, and so on; None: all 0.
    offsets
        Genes of cell *i* are ``offsets[i]:offsets[i + 1]`` of the window's.
    edges
        Cells of batch *i* are ``edges[i]:edges[i + 1]``.
    """

    epoch: int
    rows: "NDArray[np.int64]"
    visit: "NDArray[np.int64] | None"
    offsets: "NDArray[np.int64]"
    edges: "NDArray[np.int64]"

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.edges) - 1


class Lanes:
    """Endless lists of windows, one for each lane, as a pure function of the seed.

    Every epoch has the same number of windows in each lane. Only the number of batches of each window is remembered,
    and the order of the blocks of the last two epochs.

    Parameters
    ----------
    lengths
        Genes of each row of the source.
    rows
        Rows that take part, ascending; None for all.
    weight
        Visits an epoch of each of them, on average; None for one each.
    number
        Returns the lasting numbers of the cells at some rows; asked only if a weight has a fraction.
    options
        The rest.
    """

    def __init__(
        self,
        lengths: "NDArray[np.integer]",
        rows: "NDArray[np.integer] | None",
        weight: "NDArray[np.floating] | None",
        *,
        number: "Callable[[NDArray[np.integer]], NDArray[np.int64]]",
        options: LaneOptions,
    ) -> None:
        self._lengths, self._number, self._options = lengths, number, options
        self._rows, self._weight = _visited(rows, weight, len(lengths))
        self._n_cells = len(lengths) if self._rows is None else len(self._rows)
        self._fractions = self._weight is not None and bool((self._weight % 1 != 0).any())
        n_lanes = options.n_lanes
        mass = _mass(self._n_cells, self._weight, n_lanes)
        self.windows_per_epoch = max(1, -int(-mass // (n_lanes * options.window_rows)))
        n_windows = n_lanes * self.windows_per_epoch
        self._block = max(1, min(options.block_rows, self._n_cells // (_FEWEST_BLOCKS * n_windows)))
        n_blocks = -(-self._n_cells // self._block)
        # the last block may be short; all others weigh the same unless cells have weights
        first = np.arange(n_blocks) * self._block
        self._block_mass = (
            np.minimum(self._block, self._n_cells - first).astype(np.float64)
            if self._weight is None
            else np.add.reduceat(self._weight, first, dtype=np.float64)
        )
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._first_step = [[0] for _ in range(n_lanes)]  # of each window met so far

    def locate(self, lane: int, step: int) -> tuple[int, int]:
        """Window of a lane that holds a step, and the step's batch in it."""
        first = self._first_step[lane]
        while first[-1] <= step:
            self._extend(lane)
        window = bisect_right(first, step) - 1
        return window, step - first[window]

    def first_step(self, lane: int, window: int) -> int:
        """Return the step at which a window begins."""
        while len(self._first_step[lane]) <= window:
            self._extend(lane)
        return self._first_step[lane][window]

    def _extend(self, lane: int) -> None:
        first = self._first_step[lane]
        first.append(first[-1] + self.plan(lane, len(first) - 1).n_batches)

    def plan(self, lane: int, window: int) -> WindowPlan:
        """Return the cells and batches of a window; windows are numbered through all epochs of the lane."""
        epoch, turn = divmod(window, self.windows_per_epoch)
        position = self._positions(epoch, turn * self._options.n_lanes + lane)
        visits = self._visits(epoch, position)
        draw = self._generator(epoch, WINDOW_LOW, WINDOW_HIGH, turn * self._options.n_lanes + lane)
        visit = None
        if visits is not None:
            position = np.repeat(position, visits)
            visit = np.arange(len(position)) - np.repeat(np.cumsum(visits) - visits, visits)
        order = draw.permutation(len(position))
        rows = self._at(position[order])
        lengths = self._lengths[rows].astype(np.int64)
        batched, edges = self._batches(lengths, draw)
        if batched is not None:
            rows, lengths, order = rows[batched], lengths[batched], order[batched]
        return WindowPlan(
            epoch=epoch,
            rows=rows,
            visit=None if visit is None else visit[order],
            offsets=boundaries(lengths),
            edges=edges,
        )

    def _batches(
        self, lengths: "NDArray[np.int64]", draw: np.random.Generator
    ) -> tuple["NDArray[np.int64] | None", "NDArray[np.int64]"]:
        """Cut cells into batches; return their new order, if it is one, and the edges of the batches."""
        budget, n_buckets = self._options.token_budget, self._options.length_buckets
        if n_buckets == 1 or len(lengths) < 2:
            return None, cut(boundaries(lengths), budget)
        by_length = np.argsort(lengths, kind="stable")
        bounds = np.arange(n_buckets + 1) * len(lengths) // n_buckets
        batches: list[NDArray[np.int64]] = []
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            bucket = np.sort(by_length[low:high])  # back in the order of the shuffle
            edges = cut(boundaries(lengths[bucket]), budget)
            batches += np.split(bucket, edges[1:-1]) if len(bucket) else []
        turned = [batches[i] for i in draw.permutation(len(batches)).tolist()]
        return np.concatenate(turned), boundaries(np.array([len(batch) for batch in turned]))

    def _positions(self, epoch: int, window: int) -> "NDArray[np.int64]":
        """Positions, among the rows that take part, of the cells of a window of an epoch."""
        order, edges = self._blocks(epoch)
        blocks = order[edges[window] : edges[window + 1]]
        position = (blocks[:, None] * self._block + np.arange(self._block)).ravel()
        return position[position < self._n_cells]

    def _blocks(self, epoch: int) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
        """Order of an epoch's blocks, and where its windows begin among them: windows are equally heavy."""
        if epoch not in self._epochs:
            order = self._generator(epoch, ORDER_LOW, ORDER_HIGH).permutation(len(self._block_mass))
            heavy = np.cumsum(self._block_mass[order])
            n_windows = self._options.n_lanes * self.windows_per_epoch
            marks = heavy[-1] * np.arange(1, n_windows) / n_windows
            # to the nearest edge of a block; of light blocks alone no window stays empty
            inner = np.searchsorted(heavy - self._block_mass[order] / 2, marks)
            for old in [e for e in self._epochs if abs(e - epoch) > 1]:
                del self._epochs[old]
            self._epochs[epoch] = (order, np.concatenate([[0], inner, [len(order)]]))
        return self._epochs[epoch]

    def _visits(self, epoch: int, position: "NDArray[np.int64]") -> "NDArray[np.int64] | None":
        """How often each cell is visited in an epoch; None: once."""
        if self._weight is None:
            return None
        weight = self._weight[position]
        visits = np.floor(weight).astype(np.int64)
        if self._fractions:
            words = child(
                key_of(self._options.seed, epoch, VISIT), self._number(self._at(position))
            )
            visits += uniform(words) < weight - visits
        return visits

    def _at(self, position: "NDArray[np.int64]") -> "NDArray[np.int64]":
        return position if self._rows is None else self._rows[position].astype(np.int64)

    def _generator(self, epoch: int, low: int, high: int, *more: int) -> np.random.Generator:
        return generator(*(key_of(self._options.seed, epoch, word, *more) for word in (low, high)))


def _visited(
    rows: "NDArray[np.integer] | None", weight: "NDArray[np.floating] | None", n_rows: int
) -> tuple["NDArray[np.integer] | None", "NDArray[np.float32] | None"]:
    """Leave out the rows of weight 0, and the weights if all are 1."""
    n_cells = n_rows if rows is None else len(rows)
    if rows is not None and (
        (np.diff(rows) <= 0).any() or (rows[:1] < 0).any() or (rows[-1:] >= n_rows).any()
    ):
        msg = f"rows must be ascending and between 0 and {n_rows - 1:,}, the last of the source; sort them and drop duplicates."
        raise DataError(msg)
    if weight is None:
        return rows, None
    if len(weight) != n_cells or not (np.isfinite(weight).all() and (weight >= 0).all()):
        msg = f"weight has {len(weight):,} entries for {n_cells:,} cells, or some are negative or not finite. Give one finite number of at least 0 for each."
        raise ConfigError(msg)
    if weight.all():
        kept = np.asarray(weight, dtype=np.float32)
        return rows, None if (kept == 1).all() else kept
    some = np.flatnonzero(weight)
    return _visited(some if rows is None else rows[some], weight[some], n_rows)


def _mass(n_cells: int, weight: "NDArray[np.float32] | None", n_lanes: int) -> float:
    """Visits of an epoch; refuse too few."""
    mass = float(n_cells) if weight is None else float(weight.sum(dtype=np.float64))
    if not n_cells:
        msg = "There are 0 cells to make batches of; at least one is needed. Check the split, the filters and the weights."
        raise DataError(msg)
    if min(mass, n_cells) < n_lanes:
        msg = f"An epoch has {mass:,.6g} visits of {n_cells:,} cells, but there are {n_lanes} lanes; each lane needs one at least. Lower lanes, or raise the weights."
        raise ConfigError(msg)
    return mass
