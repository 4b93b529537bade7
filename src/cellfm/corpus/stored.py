"""Cells of a store as the source of a sampler."""

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.cells import InMemoryCells, joined
from cellfm.corpus.fingerprint import cell_numbers
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.shards import Buffers
from cellfm.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.part import Part
    from cellfm.corpus.store import Store


class StoredCells:
    """Cells of a store, read from disk block by block.

    Held in memory is the number of genes of each cell: 2 bytes a cell, 4 if one has more than 65,535. The lasting numbers
    of all cells (8 bytes each) are read only if a sampler asks for them, as it does to draw fractions of visits.

    Parameters
    ----------
    store
        The store.

    Raises
    ------
    CorpusError
        The files are damaged or gone.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store
        lengths = store.lengths()
        narrow = int(lengths.max(initial=0)) <= np.iinfo(np.uint16).max
        self._lengths = lengths.astype(np.uint16) if narrow else lengths
        self._first = [0, *accumulate(part.n_cells for part in store.parts)]
        self._n_genes = len(store.vocabulary)
        self._number: NDArray[np.int64] | None = None
        self._buffers = Buffers()

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self._lengths)

    @property
    def lengths(self) -> "NDArray[np.integer]":
        """Expressed genes of each cell."""
        return self._lengths

    @property
    def number(self) -> "NDArray[np.int64]":
        """Lasting number of each cell."""
        if self._number is None:
            self._number = self._store.numbers()
        return self._number

    def read(self, start: int, stop: int) -> InMemoryCells:
        """Return the cells ``start:stop``, genes and counts as narrow as they are stored.

        Raises
        ------
        CorpusError
            The files are damaged or gone.
        """
        blocks = []
        number = int(np.searchsorted(self._first[1:], start, side="right"))
        while start < stop:
            end, first = min(stop, self._first[number + 1]), self._first[number]
            block = self._read(self._store.parts[number], start - first, end - first)
            if not np.array_equal(block.lengths, self._lengths[start:end]):
                raise CorpusError(_contradiction(self._store.parts[number], start - first))
            blocks.append(block)
            start, number = end, number + 1
        return blocks[0] if len(blocks) == 1 else _in_one(blocks)

    def _read(self, part: "Part", start: int, stop: int) -> InMemoryCells:
        raw = part.read(start, stop, once=True, buffers=self._buffers)
        if raw.gene.max(initial=0) > self._n_genes:
            raise CorpusError(_contradiction(part, start))
        number = cell_numbers(part.numbers("fingerprint_1", start, stop))
        return InMemoryCells(gene=raw.gene, count=raw.count, offsets=raw.offsets, cell=number)


def _in_one(blocks: list[InMemoryCells]) -> InMemoryCells:
    """Put blocks one after another; the widest type is kept."""
    genes, counts = [block.gene for block in blocks], [block.count for block in blocks]
    return InMemoryCells(
        gene=joined(genes, np.result_type(np.uint16, *genes)),
        count=joined(counts, np.result_type(np.uint16, *counts)),
        offsets=boundaries(np.concatenate([np.empty(0, np.int64), *(b.lengths for b in blocks)])),
        cell=np.concatenate([np.empty(0, np.int64), *(block.cell for block in blocks)]),
    )


def _contradiction(part: "Part", row: int) -> str:
    return (
        f"The cells of {part.path} from row {row:,} on hold other genes than the part's table says. The corpus is damaged; "
        "run `cellfm corpus check` to see what else is, and build it again or restore it from a copy."
    )
