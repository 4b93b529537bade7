"""Cells in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import check_counts
from cellfm.corpus.draw import child, key_of
from cellfm.corpus.mask import check_fraction
from cellfm.corpus.tokens import boundaries, cell_totals, log_values, vocabulary_counts
from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.counts import Scale
    from cellfm.corpus.rows import RowSource

BLOCK_ROWS = 4096
"""Rows read at a time."""

_SPLIT = -1  # in the place of an epoch: never one of training


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InMemoryCells:
    """Counts of cells on vocabulary genes, ragged, with a lasting number for each cell.

    Attributes
    ----------
    gene, count, offsets
        Genes of cell *i*, in ascending token order, are ``offsets[i]:offsets[i + 1]``.
    cell
        Row of each cell in its source; masks and splits are a function of it.
    """

    gene: "NDArray[np.int32]"
    count: "NDArray[np.float32]"
    offsets: "NDArray[np.int64]"
    cell: "NDArray[np.int64]"

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.cell)

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

    def select(self, rows: "NDArray[np.integer]") -> "InMemoryCells":
        """Return these rows in this order; cells keep their numbers."""
        lengths = self.lengths[rows]
        offsets = boundaries(lengths)
        taken = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        taken += np.arange(offsets[-1])
        return InMemoryCells(
            gene=self.gene[taken],
            count=self.count[taken],
            offsets=offsets,
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
        order = np.argsort(child(key_of(seed, _SPLIT), self.cell), kind="stable")
        n_held_out = round(held_out_fraction * len(self))
        return (
            self.select(np.sort(order[n_held_out:])),
            self.select(np.sort(order[:n_held_out])),
        )


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
