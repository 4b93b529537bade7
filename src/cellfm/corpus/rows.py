"""Blocks of rows of any count matrix, as they are stored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from cellfm.corpus.columns import ColumnRows
from cellfm.corpus.counts import refuse_float16
from cellfm.corpus.missing import refuse_no_file
from cellfm.errors import DataError

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from numpy.typing import NDArray


class RowSource(Protocol):
    """Cells × genes, read in blocks of rows."""

    @property
    def n_rows(self) -> int:
        """Number of cells."""

    @property
    def n_cols(self) -> int:
        """Number of input genes."""

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop`` with their stored type; it may share memory with the source."""


class CompressedRows:
    """Rows of compressed-row arrays: in memory without a copy, or on disk."""

    def __init__(self, arrays: Any, shape: tuple[int, int]) -> None:  # noqa: ANN401
        self.n_rows, self.n_cols = shape
        self._data, self._indices, self._indptr = arrays

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop``."""
        indptr = np.asarray(self._indptr[start : stop + 1], dtype=np.int64)
        values = slice(indptr[0], indptr[-1])
        indices = self._indices[values]
        wide = indices.dtype.itemsize > 4 or len(indices) > np.iinfo(np.int32).max
        # the constructor would copy arrays that are a small part of larger ones
        block = sparse.csr_matrix((stop - start, self.n_cols))
        block.data = self._data[values]
        block.indices = indices.astype(np.int64 if wide else np.int32, copy=False)
        block.indptr = (indptr - indptr[0]).astype(block.indices.dtype)
        return block


PIECE_VALUES = 1 << 24
"""Dense values in memory at a time."""


class DenseRows:
    """Rows of anything that slices into dense rows."""

    def __init__(self, matrix: Any) -> None:  # noqa: ANN401
        self.n_rows, self.n_cols = matrix.shape
        self._matrix = matrix

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop`` without their zeros."""
        piece = max(1, PIECE_VALUES // max(1, self.n_cols))
        if stop - start <= piece:
            return self._read_piece(start, stop)
        edges = [*range(start, stop, piece), stop]
        return sparse.vstack(
            [self._read_piece(first, last) for first, last in pairwise(edges)], format="csr"
        )

    def _read_piece(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return a few rows."""
        block = np.asarray(self._matrix[start:stop])
        row, column = np.nonzero(block)
        indptr = np.searchsorted(row, np.arange(len(block) + 1))
        # not csr_matrix(block): it refuses float16, which the count check explains better
        return sparse.csr_matrix((block[row, column], column, indptr), shape=block.shape)


def row_source(
    matrix: Any,  # noqa: ANN401
    *,
    scratch: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> RowSource:
    """Make a row source of a matrix.

    Parameters
    ----------
    matrix
        Dense array or HDF5 dataset, scipy sparse matrix, or AnnData's sparse dataset on disk.
    scratch
        Folder for the scratch files that a matrix stored by columns on disk needs.
    progress
        Called with the number of stored values just put into scratch files.

    Raises
    ------
    DataError
        It is no such matrix, or holds no numbers.
    CountsError
        It is stored by columns as float16.
    """
    shape, dtype = getattr(matrix, "shape", ()), getattr(matrix, "dtype", None)
    if dtype is None or len(shape) != 2:
        msg = (
            f"The matrix is a {type(matrix).__name__} of shape {tuple(shape)}; expected cells × genes as a numpy array, a scipy "
            "sparse matrix, an HDF5 dataset or a backed AnnData matrix. Pass adata.X or a layer."
        )
        raise DataError(msg)
    if np.dtype(dtype).kind not in "buif":
        msg = f"The matrix holds values of type {dtype}; expected counts as integers or floats. Convert it first."
        raise DataError(msg)
    if hasattr(matrix, "group"):
        return _backed_source(matrix, scratch, progress)
    if not sparse.issparse(matrix):
        return DenseRows(matrix)
    if matrix.format != "csr":
        refuse_float16(matrix.dtype)  # its conversion would hide it
        matrix = matrix.tocsr()
    return CompressedRows((matrix.data, matrix.indices, matrix.indptr), matrix.shape)


def _backed_source(
    matrix: Any,  # noqa: ANN401
    scratch: Path | None,
    progress: Callable[[int], None] | None,
) -> RowSource:
    """Make a row source of a sparse matrix on disk."""
    group, shape = matrix.group, tuple(matrix.shape)
    if matrix.format == "csr":
        return CompressedRows((group["data"], group["indices"], group["indptr"]), shape)
    refuse_float16(group["data"].dtype)
    return ColumnRows(_checked_columns(group, shape), shape, scratch=scratch, progress=progress)


class _CheckedIndices:
    """Row numbers on disk that are looked at before scipy, which does not, turns columns into rows by them."""

    def __init__(self, indices: "h5py.Dataset", n_rows: int) -> None:
        self.shape = indices.shape
        self._indices, self._n_rows = indices, n_rows

    def __getitem__(self, where: slice) -> "NDArray[np.integer]":
        """Read some; ValueError if one is no row."""
        part = self._indices[where]
        if part.size and (part.min() < 0 or part.max() >= self._n_rows):
            msg = (
                f"row numbers from {part.min()} to {part.max()} in a matrix of {self._n_rows} rows"
            )
            raise ValueError(msg)
        return part


def _checked_columns(group: "h5py.Group", shape: tuple[int, int]) -> Any:  # noqa: ANN401
    """Parts of a matrix stored by columns, whose bounds are checked; a wrong one would read outside the memory."""
    indptr = np.asarray(group["indptr"][:], dtype=np.int64)
    n_values = group["indices"].shape[0]
    ordered = (
        len(indptr) == shape[1] + 1 and indptr[0] == 0 and not (indptr[1:] < indptr[:-1]).any()
    )
    if not ordered or indptr[-1] > n_values or group["data"].shape[0] != n_values:
        msg = (
            f"The columns of {group.name} in {group.file.filename} begin at places that are out of order or outside its "
            f"{n_values:,} values. The file is damaged: copy or write it again."
        )
        raise DataError(msg)
    return {
        "data": group["data"],
        "indices": _CheckedIndices(group["indices"], shape[0]),
        "indptr": indptr,
    }


class H5adSource(NamedTuple):
    """Rows of a count matrix in an h5ad file, and its two tables."""

    rows: RowSource
    obs: "pd.DataFrame"
    var: "pd.DataFrame"


@contextmanager
def h5ad_source(
    path: Path | str,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scratch: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[H5adSource]:
    """Open an h5ad file and load its tables, but no matrix.

    Parameters
    ----------
    path
        The file.
    layer
        Layer to read instead of `X`.
    use_raw
        Read ``raw/X``, with the genes of ``raw/var``.
    scratch
        Folder for the scratch files that a matrix stored by columns needs; they are gone at the end.
    progress
        Called with the number of stored values just put into scratch files.

    Raises
    ------
    DataError
        The file is missing or no h5ad, or lacks what was asked for.
    """
    import h5py

    if layer is not None and use_raw:
        msg = f"Both layer={layer!r} and use_raw=True were given; choose one of the two."
        raise DataError(msg)
    path = Path(path)
    refuse_no_file(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path} cannot be opened as HDF5 ({error}); expected an h5ad file. If it is of another format, make one of it: cellfm convert {path} {path.stem}.h5ad; else it may be damaged."
        raise DataError(msg) from error
    with file, TemporaryDirectory(prefix="cellfm-", dir=scratch) as folder:
        obs, var = _table(file, "obs", path), _table(file, "raw/var" if use_raw else "var", path)
        matrix = _matrix(file, layer=layer, use_raw=use_raw, path=path)
        rows = GuardedRows(row_source(matrix, scratch=Path(folder), progress=progress), path)
        if (rows.n_rows, rows.n_cols) != (len(obs), len(var)):
            msg = (
                f"The matrix in {path} is {rows.n_rows:,} × {rows.n_cols:,}, but its tables name {len(obs):,} cells and "
                f"{len(var):,} genes; expected the same. The file is damaged: write it again."
            )
            raise DataError(msg)
        yield H5adSource(rows, obs, var)


class GuardedRows:
    """Rows of a file; what HDF5 says of a damaged one is put into words.

    Parameters
    ----------
    source
        Rows as they are in the file.
    path
        The file; used in messages.
    """

    def __init__(self, source: RowSource, path: Path) -> None:
        self.n_rows, self.n_cols = source.n_rows, source.n_cols
        self._source, self._path = source, path

    @property
    def by_columns(self) -> bool:
        """Whether the matrix is stored by columns: the first read then writes all of it to scratch files."""
        return isinstance(self._source, ColumnRows)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop``.

        Raises
        ------
        DataError
            They cannot be read.
        """
        return self._guarded(lambda: self._source.read(start, stop), f"Rows {start}:{stop}")

    def sample(self, n_blocks: int, n_rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield a few blocks to look at, each with the row that it begins at, without reading all.

        Rows are taken from places spread over the matrix; of a matrix stored by columns all rows of the first columns.

        Raises
        ------
        DataError
            They cannot be read.
        """
        if isinstance(self._source, ColumnRows):
            columns = self._source._column_blocks()
            yield 0, self._guarded(lambda: next(columns), "The first columns")
            return
        for start, stop in spread_blocks(self.n_rows, n_blocks, n_rows):
            yield start, self.read(start, stop)

    def _guarded(self, read: Callable[[], sparse.csr_matrix], what: str) -> sparse.csr_matrix:
        """Read and check a block."""
        try:
            block = read()
            block.check_format(full_check=True)
        except (OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
            if isinstance(error, DataError):
                raise
            msg = f"{what} of {self._path} cannot be read ({error}); the file is damaged or the scratch disk full. Copy or write it again."
            raise DataError(msg) from error
        return block


def spread_blocks(n: int, n_blocks: int, n_rows: int) -> list[tuple[int, int]]:
    """First and last row of disjoint blocks spread over all rows, the first and the last rows among them."""
    if n <= n_blocks * n_rows:
        return [(0, n)] if n else []
    starts = np.linspace(0, n - n_rows, n_blocks).astype(np.int64).tolist()
    return [(start, start + n_rows) for start in starts]


def h5ad_matrices(path: Path | str) -> tuple[str, ...]:
    """Names of the matrices in an h5ad file, sorted: ``X``, ``layers/NAME`` and ``raw/X``.

    Raises
    ------
    OSError
        It cannot be opened as HDF5.
    """
    import h5py

    with h5py.File(path, "r") as file:
        names = [name for name in ("X", "raw/X") if name in file]
        names += [f"layers/{name}" for name in file.get("layers", {})]
    return tuple(sorted(names))


def _table(file: "h5py.File", key: str, path: Path) -> "pd.DataFrame":
    """Load `obs` or `var`."""
    import pandas as pd
    from anndata.io import read_elem

    if key not in file:
        hint = "use_raw=True needs .raw" if key.startswith("raw/") else "expected an h5ad file"
        msg = (
            f"{path} has no {key}; found {_names(file)}, {hint}. Check that this is the right file."
        )
        raise DataError(msg)
    try:
        table = read_elem(file[key]) if "encoding-type" in file[key].attrs else None
    except (
        Exception
    ) as error:  # anndata has errors of its own for what it does not know, in no public place
        said = str(error).partition("\n")[0]
        msg = f"{key} of {path} cannot be read ({type(error).__name__}: {said}); the file is damaged or of a newer anndata. Copy or write it again."
        raise DataError(msg) from error
    if not isinstance(table, pd.DataFrame):
        msg = f"{key} of {path} is in a form that anndata no longer reads; expected an h5ad file of anndata 0.7 or later. Open and write it again with anndata.read_h5ad."
        raise DataError(msg)
    return table


def _matrix(file: "h5py.File", *, layer: str | None, use_raw: bool, path: Path) -> Any:  # noqa: ANN401
    """Find the matrix that was asked for, without loading it."""
    import h5py
    from anndata.io import sparse_dataset

    layers = file.get("layers", {})
    if layer is not None and layer not in layers:
        msg = f"{path} has no layer {layer!r}; it has {_names(layers)}. Give one of these, or none for X."
        raise DataError(msg)
    key = f"layers/{layer}" if layer is not None else "raw/X" if use_raw else "X"
    node = file.get(key)
    is_sparse = isinstance(node, h5py.Group) and all(
        isinstance(node.get(part), h5py.Dataset) for part in ("data", "indices", "indptr")
    )
    if not is_sparse and not (isinstance(node, h5py.Dataset) and node.ndim == 2):
        msg = (
            f"{path} has no matrix {key}; it has the layers {_names(layers)}{' and raw' if 'raw' in file else ''}. "
            "Give the counts by layer=NAME or use_raw=True."
        )
        raise DataError(msg)
    return sparse_dataset(node) if is_sparse else node


def _names(keys: Sequence[str] | Any) -> str:  # noqa: ANN401
    """Names for a message."""
    return ", ".join(keys) or "none"
