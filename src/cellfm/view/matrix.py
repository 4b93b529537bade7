"""Genes and cells of a count matrix on disk, read only as far as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from cellfm.errors import DataError

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

PIECE = 1 << 22
"""Values read at a time."""
LOADED = 1 << 26
"""Stored values up to which a matrix is held in memory once a gene was asked for: half a gigabyte."""
SCALE = 1e4
DAMAGE = (OSError, ValueError, KeyError, RuntimeError)
"""What h5py raises when a file is damaged."""


class Piece(NamedTuple):
    """Some stored values."""

    row: "NDArray[np.int64]"
    column: "NDArray[np.int64]"
    value: "NDArray[np.float32]"


class Stored(Protocol):
    """How a matrix lies in a file."""

    shape: tuple[int, int]
    n_values: int

    def pieces(self) -> Iterator[Piece]:
        """Read all values, some at a time."""

    def column(self, number: int) -> "NDArray[np.float32] | None":
        """Read one gene if that is quicker than reading all; else None."""

    def loaded(self) -> sparse.csc_matrix:
        """Read all into memory, by columns."""


class Compressed:
    """Compressed rows or columns."""

    def __init__(self, group: "h5py.Group", *, by_rows: bool) -> None:
        rows, columns = (int(n) for n in group.attrs["shape"])
        self.shape, self._by_rows = (rows, columns), by_rows
        self._data, self._indices = group["data"], group["indices"]
        self._start = np.asarray(group["indptr"][:], np.int64)
        self.n_values = int(self._data.shape[0])
        n_major, self._n_minor = (rows, columns) if by_rows else (columns, rows)
        ordered = len(self._start) == n_major + 1 and not (np.diff(self._start) < 0).any()
        if not ordered or self._start[0] != 0 or self._start[-1] != self.n_values:
            msg = f"The rows or columns of {group.name} begin at places out of order. The file is damaged: write it again."
            raise DataError(msg)

    def pieces(self) -> Iterator[Piece]:
        """Read all values, some at a time."""
        for start in range(0, self.n_values, PIECE):
            stop = min(start + PIECE, self.n_values)
            first = int(np.searchsorted(self._start, start, side="right")) - 1
            last = int(np.searchsorted(self._start, stop, side="left"))
            edges = np.clip(self._start[first : last + 1], start, stop)
            major = np.repeat(np.arange(first, last), np.diff(edges))
            minor, value = self._read(start, stop)
            yield Piece(major, minor, value) if self._by_rows else Piece(minor, major, value)

    def column(self, number: int) -> "NDArray[np.float32] | None":
        """Read one gene of compressed columns."""
        if self._by_rows:
            return None
        row, value = self._read(int(self._start[number]), int(self._start[number + 1]))
        found = np.zeros(self.shape[0], np.float32)
        np.add.at(found, row, value)
        return found

    def loaded(self) -> sparse.csc_matrix:
        """Read all into memory, by columns."""
        minor = np.empty(self.n_values, np.int32)
        value = np.empty(self.n_values, np.float32)
        for start in range(0, self.n_values, PIECE):
            part = slice(start, min(start + PIECE, self.n_values))
            minor[part], value[part] = self._read(part.start, part.stop)
        kind = sparse.csr_matrix if self._by_rows else sparse.csc_matrix
        return kind((value, minor, self._start), shape=self.shape).tocsc()

    def _read(self, start: int, stop: int) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
        minor = np.asarray(self._indices[start:stop], np.int64)
        if minor.size and (minor.min() < 0 or minor.max() >= self._n_minor):
            msg = f"The matrix has entries at {minor.max():,}, outside its {self._n_minor:,}. The file is damaged: write it again."
            raise DataError(msg)
        return minor, np.asarray(self._data[start:stop], np.float32)


class Dense:
    """Every value is stored."""

    def __init__(self, dataset: "h5py.Dataset") -> None:
        self.shape = (int(dataset.shape[0]), int(dataset.shape[1]))
        self.n_values, self._dataset = int(np.prod(self.shape)), dataset

    def pieces(self) -> Iterator[Piece]:
        """Read all values, some rows at a time, without zeros."""
        step = max(1, PIECE // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            block = np.asarray(self._dataset[start : start + step], np.float32)
            row, column = np.nonzero(block)
            yield Piece(row + start, column, block[row, column])

    def column(self, number: int) -> "NDArray[np.float32] | None":
        """Read one gene."""
        return np.asarray(self._dataset[:, number], np.float32)

    def loaded(self) -> sparse.csc_matrix:
        """Read all into memory, by columns."""
        step = max(1, PIECE // max(1, self.shape[1]))
        rows = range(0, self.shape[0], step)
        blocks = [
            sparse.csr_matrix(np.asarray(self._dataset[i : i + step], np.float32)) for i in rows
        ]
        return sparse.vstack(blocks, format="csr").tocsc()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expression:
    """Values of one gene, as they are shown."""

    value: "NDArray[np.float32]"
    scale: str
    """What the values are, in words."""


class Counts:
    """Cells × genes: single genes, sums of cells, and the rows of some cells.

    Counts are shown as log1p of counts per 10⁴; values with fractions are taken to be normalised already and shown as they are.
    """

    def __init__(self, stored: Stored, path: Path) -> None:
        self.shape, self._stored, self._path = stored.shape, stored, path
        self._loaded: sparse.csc_matrix | None = None
        self._total: NDArray[np.float64] | None = None
        self._whole: bool | None = None

    @property
    def are_counts(self) -> bool:
        """Whether all values that were looked at are whole numbers."""
        if self._whole is None:
            piece = next(self._pieces(), None)
            self._whole = piece is None or bool((np.rint(piece.value) == piece.value).all())
        return self._whole

    def gene(self, number: int) -> Expression:
        """Return one gene in all cells.

        Parameters
        ----------
        number
            Its column.
        """
        if not self.are_counts:
            return Expression(value=self._column(number), scale="as stored in the file")
        total = np.maximum(self.totals(), 1.0)
        value = np.log1p(self._column(number) * (SCALE / total))
        return Expression(value=value.astype(np.float32), scale="log1p of counts per 10⁴")

    def totals(self) -> "NDArray[np.float64]":
        """Sum of each cell, over all genes of the file."""
        if self._total is None:
            self._load()
            self._total = self._sum() if self._loaded is None else _sums(self._loaded)
        return self._total

    def cells(self, rows: "NDArray[np.int64]") -> sparse.csr_matrix:
        """Return some cells, log1p of counts per 10⁴ or as they are stored.

        Parameters
        ----------
        rows
            Without repeats; the result is in their order.
        """
        self._load()
        block = self._rows(rows)
        if self.are_counts:
            total = np.maximum(self.totals()[rows], 1.0)
            block = sparse.csr_matrix(sparse.diags(SCALE / total) @ block).log1p()
        return block.astype(np.float32)

    def _sum(self) -> "NDArray[np.float64]":
        total = np.zeros(self.shape[0])
        for piece in self._pieces():
            total += np.bincount(piece.row, weights=piece.value, minlength=self.shape[0])
        return total

    def _rows(self, rows: "NDArray[np.int64]") -> sparse.csr_matrix:
        if self._loaded is not None:
            return sparse.csr_matrix(self._loaded[rows])
        place = np.full(self.shape[0], -1, np.int64)
        place[rows] = np.arange(len(rows))
        parts = []
        for piece in self._pieces():
            chosen = place[piece.row] >= 0
            parts.append((place[piece.row[chosen]], piece.column[chosen], piece.value[chosen]))
        if not parts:
            return sparse.csr_matrix((len(rows), self.shape[1]), dtype=np.float32)
        row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        return sparse.csr_matrix((value, (row, column)), shape=(len(rows), self.shape[1]))

    def _column(self, number: int) -> "NDArray[np.float32]":
        if self._loaded is None and (quick := self._guarded_column(number)) is not None:
            return quick
        self._load()
        if self._loaded is not None:
            return np.asarray(self._loaded[:, [number]].toarray()[:, 0], np.float32)
        found = np.zeros(self.shape[0], np.float32)
        for piece in self._pieces():
            here = piece.column == number
            np.add.at(found, piece.row[here], piece.value[here])
        return found

    def _load(self) -> None:
        """Hold a matrix that is small enough, by columns."""
        if self._loaded is not None or self._stored.n_values > LOADED:
            return
        try:
            self._loaded = self._stored.loaded()
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _pieces(self) -> Iterator[Piece]:
        try:
            yield from self._stored.pieces()
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _guarded_column(self, number: int) -> "NDArray[np.float32] | None":
        try:
            return self._stored.column(number)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        if isinstance(error, DataError):
            return error
        return DataError(
            f"The matrix of {self._path} cannot be read ({error}). The file is damaged: copy or write it again."
        )


def _sums(matrix: sparse.csc_matrix) -> "NDArray[np.float64]":
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()


def stored_matrix(element: Any, name: str) -> Stored:  # noqa: ANN401
    """Return how a matrix of an h5ad file is stored.

    Parameters
    ----------
    element
        Its HDF5 group or dataset.
    name
        Of the matrix, for messages.

    Raises
    ------
    DataError
        It is no matrix of numbers.
    """
    kind = element.attrs.get("encoding-type", "array")
    if kind in ("csr_matrix", "csc_matrix"):
        return Compressed(element, by_rows=kind == "csr_matrix")
    if len(getattr(element, "shape", ())) == 2 and element.dtype.kind in "buif":
        return Dense(element)
    msg = f"{name} is stored as {kind!r}; expected a matrix of numbers, sparse or dense. Name another by layer=… or use_raw."
    raise DataError(msg)
