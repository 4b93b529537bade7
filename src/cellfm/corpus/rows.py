"""Blocks of rows of any count matrix, as they are stored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from cellfm.corpus.columns import ColumnRows
from cellfm.corpus.counts import refuse_float16
from cellfm.errors import DataError

if TYPE_CHECKING:
    import h5py
    import pandas as pd


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


class DenseRows:
    """Rows of anything that slices into dense rows."""

    def __init__(self, matrix: Any) -> None:  # noqa: ANN401
        self.n_rows, self.n_cols = matrix.shape
        self._matrix = matrix

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop`` without their zeros."""
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
    return ColumnRows(group, shape, scratch=scratch, progress=progress)


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
    if not path.is_file():
        msg = f"There is no file {path}; expected an h5ad file. Check the path."
        raise DataError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{path} cannot be opened as HDF5 ({error}); expected an h5ad file. It may be damaged or of another format."
        raise DataError(msg) from error
    with file, TemporaryDirectory(prefix="cellfm-", dir=scratch) as folder:
        obs, var = _table(file, "obs", path), _table(file, "raw/var" if use_raw else "var", path)
        matrix = _matrix(file, layer=layer, use_raw=use_raw, path=path)
        rows = _Guarded(row_source(matrix, scratch=Path(folder), progress=progress), path)
        if (rows.n_rows, rows.n_cols) != (len(obs), len(var)):
            msg = (
                f"The matrix in {path} is {rows.n_rows:,} × {rows.n_cols:,}, but its tables name {len(obs):,} cells and "
                f"{len(var):,} genes; expected the same. The file is damaged: write it again."
            )
            raise DataError(msg)
        yield H5adSource(rows, obs, var)


class _Guarded:
    """Rows of a file; what HDF5 says of a damaged one is put into words."""

    def __init__(self, source: RowSource, path: Path) -> None:
        self.n_rows, self.n_cols = source.n_rows, source.n_cols
        self._source, self._path = source, path

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the rows ``start:stop``."""
        try:
            block = self._source.read(start, stop)
            block.check_format(full_check=True)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            msg = f"Rows {start}:{stop} of {self._path} cannot be read ({error}); the file is damaged or the scratch disk full. Copy or write it again."
            raise DataError(msg) from error
        return block


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
    table = read_elem(file[key]) if "encoding-type" in file[key].attrs else None
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
    is_sparse = isinstance(node, h5py.Group) and {"data", "indices", "indptr"} <= set(node)
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
