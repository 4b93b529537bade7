"""Rows of a source that are held in memory, and how they are fetched."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.cells import InMemoryCells, joined
from cellfm.corpus.draw import child
from cellfm.corpus.ragged import boundaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.source import CellSource

GAP_ROWS = 128
"""Rows between two wanted ones that are read through: about a chunk of a store."""
_GENE, _COUNT = np.dtype(np.int32), np.dtype(np.float32)
READ_ROWS = 4096
"""Rows read at a time at most."""


class Window:
    """Some cells of a source, to be taken in any order.

    Parameters
    ----------
    source
        Where they come from. Cells in memory are not copied.
    rows
        The rows that will be asked for, in any order.
    """

    def __init__(self, source: "CellSource", rows: "NDArray[np.integer]") -> None:
        self._parts: list[InMemoryCells] = []
        self._rows = np.unique(rows)
        self._memory = source if isinstance(source, InMemoryCells) else None
        if self._memory is not None:
            return
        first, last, number = (np.empty(len(self._rows), dtype=np.int64) for _ in range(3))
        lengths: list[int] = []
        done = 0
        for run in _runs(self._rows):
            start, stop = int(run[0]), int(run[-1]) + 1
            part, at = source.read(start, stop), run - start
            if 2 * len(run) < stop - start:  # mostly others: do not hold these
                part, at = part.select(at, narrow=True), np.arange(len(run))
            here = slice(done, done + len(run))
            first[here], last[here] = part.offsets[at], part.offsets[at + 1]
            number[here] = part.cell[at]
            self._parts.append(part)
            lengths.append(len(run))
            done += len(run)
        self._first, self._last, self._number = first, last, number
        self._part = np.repeat(np.arange(len(lengths)), lengths)

    def take(
        self, rows: "NDArray[np.integer]", visit: "NDArray[np.integer] | None" = None
    ) -> InMemoryCells:
        """Return cells with int32 genes and float32 counts.

        Parameters
        ----------
        rows
            Rows of the source.
        visit
            Folded into the lasting numbers, so that another visit draws other masks; the numbers of visit 0 stay.
        """
        if self._memory is not None:
            return _renumbered(self._memory.select(rows), visit)
        place = np.searchsorted(self._rows, rows)
        first, last = self._first[place], self._last[place]
        ends = list(zip(self._part[place].tolist(), first.tolist(), last.tolist(), strict=True))
        gene, count = [p.gene for p in self._parts], [p.count for p in self._parts]
        cells = InMemoryCells(
            gene=joined([gene[i][a:b] for i, a, b in ends], _GENE),
            count=joined([count[i][a:b] for i, a, b in ends], _COUNT),
            offsets=boundaries(last - first),
            cell=self._number[place],
        )
        return _renumbered(cells, visit)


def _runs(rows: "NDArray[np.integer]") -> "list[NDArray[np.integer]]":
    """Cut ascending rows where it does not pay to read through, and after `READ_ROWS` rows of the source."""
    if not len(rows):
        return []
    runs: list[NDArray[np.integer]] = []
    for near in np.split(rows, np.flatnonzero(np.diff(rows) > GAP_ROWS) + 1):
        turn = (near - near[0]) // READ_ROWS
        runs += np.split(near, np.flatnonzero(np.diff(turn)) + 1)
    return runs


def _renumbered(cells: InMemoryCells, visit: "NDArray[np.integer] | None") -> InMemoryCells:
    """Give the cells of later visits numbers of their own."""
    if visit is None or not visit.any():
        return cells
    other = child(cells.cell.astype(np.uint64), visit).view(np.int64)
    return InMemoryCells(
        gene=cells.gene,
        count=cells.count,
        offsets=cells.offsets,
        cell=np.where(visit > 0, other, cells.cell),
    )
