"""Cells in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cellfm.corpus.counts import check_counts
from cellfm.corpus.draw import child, key_of
from cellfm.corpus.mask import check_fraction
from cellfm.corpus.ragged import boundaries, cell_totals, log_values, vocabulary_counts
from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.counts import Scale
    from cellfm.corpus.rows import RowSource

Number = TypeVar("Number", bound=np.generic)

BLOCK_ROWS = 4096
"""Rows read at a time."""

_SPLIT = -1  # in the place of an epoch: never one of training


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InMemoryCells:
    """Counts of cells on vocabulary genes, ragged, with a lasting number for each cell.

    It is a :class:`~cellfm.corpus.source.CellSource` itself.

    Attributes
    ----------
    gene, count, offsets
        Genes of cell *i*, in ascending token order, are ``offsets[i]:offsets[i + 1]``. Cells that were read from a store
        keep the narrow unsigned types they have there; :meth:`select` returns int32 and float32 always.
    cell
        Lasting number of each cell, such as its row in its source; masks and splits are a function of it.
    """

    gene: "NDArray[np.integer]"
    count: "NDArray[np.number]"
    offsets: "NDArray[np.int64]"
    cell: "NDArray[np.int64]"

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.cell)

    @property
    def number(self) -> "NDArray[np.int64]":
        """Lasting number of each cell."""
        return self.cell

    @property
    def lengths(self) -> "NDArray[np.int64]":
        """Expressed genes of each cell."""
        return np.diff(self.offsets)

    @classmethod
    def from_source(
        cls,
        source: "RowSource",
        token: "NDArray[np.int32]",
        *,
        scale: "Scale" = "counts",
        progress: Callable[[int], None] | None = None,
    ) -> "InMemoryCells":
        """Read and check all rows of a source.

        Parameters
        ----------
        source
            The count matrix.
        token
            Vocabulary token of each column, 0 for none.
        scale
            What the values are.
        progress
            Called with the number of rows just read.

        Raises
        ------
        CountsError
            The values are not on the scale they are said to be on.
        DataError
            The source has no rows, or `token` has not one entry per column.
        """
        if not source.n_rows:
            msg = (
                "The matrix has 0 rows; at least one cell is needed. Check the filter that made it."
            )
            raise DataError(msg)
        parts = []
        for start in range(0, source.n_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, source.n_rows)
            block = source.read(start, stop)
            check_counts(block, first_row=start, scale=scale)
            parts.append(vocabulary_counts(block, token, scale=scale))
            if progress is not None:
                progress(stop - start)
        return cls(
            gene=np.concatenate([part.gene for part in parts]),
            count=np.concatenate([part.count for part in parts]),
            offsets=boundaries(np.concatenate([part.lengths for part in parts])),
            cell=np.arange(source.n_rows),
        )

    def read(self, start: int, stop: int) -> "InMemoryCells":
        """Return the rows ``start:stop`` without a copy."""
        part = slice(self.offsets[start], self.offsets[stop])
        return InMemoryCells(
            gene=self.gene[part],
            count=self.count[part],
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            cell=self.cell[start:stop],
        )

    def select(self, rows: "NDArray[np.integer]", *, narrow: bool = False) -> "InMemoryCells":
        """Return these rows in this order; cells keep their numbers.

        Parameters
        ----------
        rows
            Rows, in any order.
        narrow
            Keep the types as they are, instead of int32 and float32.
        """
        gene_type = self.gene.dtype if narrow else np.dtype(np.int32)
        count_type = self.count.dtype if narrow else np.dtype(np.float32)
        first, last = self.offsets[:-1][rows], self.offsets[1:][rows]
        pieces = [slice(*ends) for ends in zip(first.tolist(), last.tolist(), strict=True)]
        return InMemoryCells(
            gene=joined([self.gene[piece] for piece in pieces], gene_type),
            count=joined([self.count[piece] for piece in pieces], count_type),
            offsets=boundaries(last - first),
            cell=self.cell[rows],
        )

    def split(
        self, held_out_fraction: float, *, seed: int
    ) -> tuple["InMemoryCells", "InMemoryCells"]:
        """Split into cells to train on and cells held out.

        The held-out ones are the ``round(held_out_fraction · n)`` cells whose numbers hash lowest, whatever the order of rows.

        Raises
        ------
        ConfigError
            The fraction is outside [0, 1].
        """
        check_fraction("held_out_fraction", held_out_fraction)
        held_out = lowest_numbers(self.cell, round(held_out_fraction * len(self)), seed=seed)
        return self.select(np.delete(np.arange(len(self)), held_out)), self.select(held_out)


def lowest_numbers(number: "NDArray[np.int64]", n_chosen: int, *, seed: int) -> "NDArray[np.int64]":
    """Positions, ascending, of the cells whose numbers hash lowest, whatever their order."""
    order = np.argsort(child(key_of(seed, _SPLIT), number), kind="stable")
    return np.sort(order[:n_chosen])


def joined(pieces: "Sequence[NDArray[np.generic]]", kind: "np.dtype[Number]") -> "NDArray[Number]":
    """Put pieces one after another in an array of a type.

    Copying the slices of cells is several times as fast as taking their entries by index.
    """
    out = np.empty(sum(map(len, pieces)), dtype=kind)
    return np.concatenate(pieces, out=out, casting="same_kind") if pieces else out


def gene_means(cells: InMemoryCells, n_genes: int) -> "NDArray[np.float32]":
    """Mean value of each gene over the cells that express it: the line that a held-out loss must beat.

    Returns
    -------
    One number per token, 0 to `n_genes`. A gene that no cell expresses, and the padding token, get the mean of all values.
    """
    value = log_values(cells.count, cell_totals(cells.count, cells.offsets), cells.lengths)
    number = np.bincount(cells.gene, minlength=n_genes + 1)
    total = np.bincount(cells.gene, weights=value, minlength=n_genes + 1)
    overall = total.sum() / max(number.sum(), 1)
    mean = np.divide(total, number, out=np.full(len(number), overall), where=number > 0)
    return mean.astype(np.float32)
