"""Rows of a matrix that is stored by columns on disk, in constant memory."""

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from scipy import sparse

from cellfm.corpus.ragged import cut

if TYPE_CHECKING:
    import h5py

BUCKET_VALUES = 1 << 23
"""Stored values in a bucket of rows, on average; one bucket is in memory at a time."""
BLOCK_VALUES = 1 << 22
"""Stored values in a block of columns, as long as no single column has more."""


class ColumnRows:
    """Row blocks of a compressed-column group.

    The columns are read once, in blocks, and every block is dealt out to one scratch file per bucket of rows. Rows
    are then served from the bucket they are in. Nothing is summed or cast. The scratch files are made at the
    first read and go with this object.

    Parameters
    ----------
    group
        HDF5 group with `data`, `indices` and `indptr`.
    shape
        Rows and columns.
    scratch
        Where the scratch folder is made; the system's place for temporary files by default. It takes about as much
        space as the uncompressed matrix.
    progress
        Called with the number of stored values just dealt out.
    """

    def __init__(
        self,
        group: "h5py.Group",
        shape: tuple[int, int],
        *,
        scratch: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.n_rows, self.n_cols = shape
        self._group = group
        self._scratch = scratch
        self._progress = progress
        self._folder: Path | None = None
        n_buckets = max(1, math.ceil(group["indices"].shape[0] / BUCKET_VALUES))
        self._bucket_rows = max(1, math.ceil(self.n_rows / n_buckets))
        self._bucket: tuple[int, sparse.csr_matrix] | None = None

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop``."""
        if start >= stop:
            return sparse.csr_matrix((0, self.n_cols), dtype=self._group["data"].dtype)
        if self._folder is None:
            self._deal_out()
        parts = []
        for bucket in range(start // self._bucket_rows, (stop - 1) // self._bucket_rows + 1):
            first = bucket * self._bucket_rows
            rows = self._load(bucket)
            parts.append(rows[max(start - first, 0) : stop - first])
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _deal_out(self) -> None:
        """Read all columns once and append every bucket's share to its file."""
        folder = Path(tempfile.mkdtemp(prefix="cellfm-rows-", dir=self._scratch))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for block in self._column_blocks():
            for bucket, first in enumerate(range(0, self.n_rows, self._bucket_rows)):
                indptr = block.indptr[first : first + self._bucket_rows + 1]
                values = slice(indptr[0], indptr[-1])
                with (folder / str(bucket)).open("ab") as file:
                    np.save(file, np.array([block.shape[1]]), allow_pickle=False)
                    np.save(file, indptr - indptr[0], allow_pickle=False)
                    np.save(file, block.indices[values], allow_pickle=False)
                    np.save(file, block.data[values], allow_pickle=False)
            if self._progress is not None:
                self._progress(block.nnz)
        self._folder = folder

    def _column_blocks(self) -> Iterator[sparse.csr_matrix]:
        """Yield the columns in blocks of a bounded number of values, turned into rows."""
        indptr = np.asarray(self._group["indptr"][:], dtype=np.int64)
        edges = cut(indptr, BLOCK_VALUES)
        for start, stop in pairwise(edges):
            values = slice(indptr[start], indptr[stop])
            columns = sparse.csc_matrix(
                (
                    self._group["data"][values],
                    self._group["indices"][values],
                    indptr[start : stop + 1] - indptr[start],
                ),
                shape=(self.n_rows, stop - start),
            )
            yield columns.tocsr()

    def _load(self, bucket: int) -> sparse.csr_matrix:
        """Read a bucket back; the last one is kept, as rows are mostly read in order."""
        if self._bucket is None or self._bucket[0] != bucket:
            self._bucket = None  # two buckets at once would double the memory
            path = _existing(self._folder) / str(bucket)
            with path.open("rb") as file:
                parts = list(_segments(file, path.stat().st_size))
            self._bucket = (bucket, sparse.hstack(parts, format="csr"))
        return self._bucket[1]


def _segments(file: BinaryIO, size: int) -> Iterator[sparse.csr_matrix]:
    """Yield the segments of a bucket file, one per block of columns."""
    while file.tell() < size:
        width, indptr, indices, data = (np.load(file, allow_pickle=False) for _ in range(4))
        yield sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, int(width[0])))


def _existing(folder: Path | None) -> Path:
    """Scratch folder, which the first read has made."""
    assert folder is not None
    return folder
