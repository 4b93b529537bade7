"""A count file of any readable format, matrix by matrix."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.manifest import MANIFEST
from cellfm.corpus.missing import near_names
from cellfm.corpus.readers import find_reader
from cellfm.corpus.readers.damage import reading
from cellfm.corpus.rows import RowSource, h5ad_matrices, h5ad_source
from cellfm.corpus.sources import SourceEntry
from cellfm.errors import DataError
from cellfm.genes import Vocabulary, resolve
from cellfm.weights.layout import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


H5AD = "h5ad"
RAW = "raw/X"
LAYERS = "layers/"

_FOREIGN = {
    ".rds": "an R object. In R, write the counts with DropletUtils::write10xCounts, and give the folder",
    ".rda": "an R object. In R, write the counts with DropletUtils::write10xCounts, and give the folder",
    ".h5seurat": "a Seurat file. In R, SeuratDisk::Convert(FILE, dest = 'h5ad') makes an h5ad file of it",
    ".loom": "a loom file. In Python: import anndata; anndata.io.read_loom(FILE).write_h5ad('cells.h5ad')",
    ".zip": "an archive. Unpack it, and give the count file in it",
    ".tar": "an archive. Unpack it, and give the count file in it",
    ".zarr": "a zarr store. In Python: import anndata; anndata.read_zarr(FILE).write_h5ad('cells.h5ad')",
}
"""Files that people have and no reader reads, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenMatrix:
    """A matrix of a file, not loaded, with its tables.

    Attributes
    ----------
    rows
        Cells × genes.
    obs, var
        Tables of cells and genes.
    other_names
        Column of `var` with second names, where the format has them.
    notes
        What the reader left out or decided.
    """

    rows: RowSource
    obs: "pd.DataFrame"
    var: "pd.DataFrame"
    other_names: str | None = None
    notes: tuple[str, ...] = ()


def format_of(path: Path) -> str:
    """Return the name of the format of a file or folder.

    Parameters
    ----------
    path
        Of a count file, or a folder of Cell Ranger.

    Raises
    ------
    DataError
        It is not there, or of a format that is not read; the message says which it is, where that is known.
    """
    if not path.exists():
        raise DataError(_nothing_there(path))
    if path.is_dir() and (path / MANIFEST).is_file():
        msg = f"{path} is a corpus, not a count file. See what is in it: cellfm corpus describe {path}; train on it: cellfm pretrain mini {path}."
        raise DataError(msg)
    if path.is_dir() and (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        msg = f"{path} is a weights folder, not a count file. See what it holds: cellfm weights show {path}; use it by --model {path}."
        raise DataError(msg)
    if (way := _FOREIGN.get(path.suffix.lower())) is not None:
        msg = f"{path} looks like {way}. Give what comes of it."
        raise DataError(msg)
    return find_reader(path).name


def matrix_names(path: Path, format_name: str) -> tuple[str, ...]:
    """Return the names of the matrices of a file.

    Parameters
    ----------
    path
        Of the file.
    format_name
        From `format_of`.

    Raises
    ------
    DataError
        It cannot be opened, or has none.
    """
    if format_name != H5AD:
        return find_reader(path, format_name).matrices(SourceEntry(name="file", path=path))
    with reading(path):
        names = h5ad_matrices(path)
    if not names:
        msg = f"{path} has neither X nor layers nor raw, so there are no counts in it. Write it again with the counts."
        raise DataError(msg)
    return tuple(sorted(names, key=_order))


@contextmanager
def opened(
    path: Path, format_name: str, matrix: str, vocabulary: Vocabulary
) -> Iterator[OpenMatrix]:
    """Open one matrix.

    Parameters
    ----------
    path
        Of the file.
    format_name
        From `format_of`.
    matrix
        One of `matrix_names`.
    vocabulary
        Genes that tell which side of a table of text is which.

    Raises
    ------
    DataError
        It is damaged, or not what its format wants.
    """
    if format_name == H5AD:
        layer = matrix.removeprefix(LAYERS) if matrix.startswith(LAYERS) else None
        with h5ad_source(path, layer=layer, use_raw=matrix == RAW) as source:
            yield OpenMatrix(rows=source.rows, obs=source.obs, var=source.var)
        return
    reader, entry = find_reader(path, format_name), SourceEntry(name="file", path=path)
    with reader.open(entry, matrix, partial(resolve, vocabulary=vocabulary)) as source:
        yield OpenMatrix(
            rows=source.rows if source.columns is None else _SomeColumns(source.rows, source.columns),
            obs=source.obs,
            var=source.var,
            other_names=source.other_names,
            notes=source.notes,
        )  # fmt: skip


class _SomeColumns:
    """Rows of a matrix without the columns that are no genes."""

    def __init__(self, rows: RowSource, columns: "NDArray[np.intp]") -> None:
        self._rows, self._columns = rows, columns
        self.n_rows, self.n_cols = rows.n_rows, len(columns)

    def read(self, start: int, stop: int) -> "csr_matrix":
        """Return the rows ``start:stop``."""
        return self._rows.read(start, stop)[:, self._columns]


def _order(name: str) -> tuple[int, str]:
    """X first, then the layer that is called counts, other layers, and raw, which may have other genes."""
    places = {"X": 0, f"{LAYERS}counts": 1, RAW: 3}
    return places.get(name, 2), name


def _nothing_there(path: Path) -> str:
    """Say that there is no such file, and which may be meant."""
    folder = path.parent
    if not folder.is_dir():
        return f"There is no {path}: not even the folder {folder} is there. Check the path."
    return f"There is no {path}.{near_names(path)} Check the path."
