"""An h5ad file as the page sees it: tables and embeddings at once, the matrix by single genes."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.missing import refuse_no_file
from cellfm.errors import DataError
from cellfm.view.matrix import Counts, Expression, stored_matrix
from cellfm.view.names import GeneNames

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cellfm.view.options import ViewOptions

SYMBOLS = ("gene_symbols", "gene_symbol", "symbol", "feature_name", "gene_name", "gene_names")
"""Columns of var that are looked for names in, beside its index."""
HDF5 = b"\x89HDF\r\n\x1a\n"


class Cells:
    """One file, open for reading.

    Parameters
    ----------
    path
        h5ad file.
    options
        Which matrix and names are shown.

    Raises
    ------
    DataError
        It is missing, no h5ad file, damaged, or lacks what was asked for.
    """

    def __init__(self, path: Path, options: "ViewOptions") -> None:
        self.path = path
        self._file = _opened(path)
        self._lock = threading.Lock()
        try:
            self.obs = _table(self._file, "obs", path)
            self.var = _table(self._file, "raw/var" if options.use_raw else "var", path)
            self.counts = _counts(self._file, path, options, (len(self.obs), len(self.var)))
            self.names = GeneNames.of(self.var, _name_column(self.var, options.gene_names))
            self.keys = _embeddings(self._file, len(self.obs))
        except BaseException:
            self._file.close()
            raise
        if not len(self.obs):
            self._file.close()
            msg = f"{path} has 0 cells; there is nothing to show. Check the filter that made it."
            raise DataError(msg)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def states(self, key: str) -> "NDArray[np.float32]":
        """Read an embedding, (cell, dim).

        Parameters
        ----------
        key
            Of obsm.

        Raises
        ------
        DataError
            There is no such key.
        """
        if key not in self.keys:
            msg = f"There is no embedding {key!r} in obsm of {self.path.name}; it has {', '.join(self.keys) or 'none'}. Choose one of these."
            raise DataError(msg)
        with self._lock:
            return np.asarray(self._file["obsm"][key][:], np.float32)

    def gene(self, number: int) -> Expression:
        """Read a gene.

        Parameters
        ----------
        number
            Its row in var.
        """
        with self._lock:
            return self.counts.gene(number)

    def rows(self, rows: "NDArray[np.int64]") -> "csr_matrix":
        """Read some cells, on the scale in which genes are shown.

        Parameters
        ----------
        rows
            Of the file.
        """
        with self._lock:
            return self.counts.cells(rows)

    def colours(self, column: str) -> list[str]:
        """Return the colours that scanpy has put beside a column; none if there are none.

        Parameters
        ----------
        column
            Of obs.
        """
        with self._lock:
            stored = self._file.get(f"uns/{column}_colors")
            values = [] if stored is None or not hasattr(stored, "shape") else stored[:].tolist()
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _opened(path: Path) -> "h5py.File":
    import h5py

    refuse_no_file(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        msg = f"{path.name} cannot be opened as HDF5 ({error}); expected an h5ad file. It may be damaged or of another format: write it by adata.write_h5ad(…)."
        raise DataError(msg) from error


def _table(file: "h5py.File", key: str, path: Path) -> "pd.DataFrame":
    from anndata.io import read_elem

    if key not in file:
        msg = f"{path.name} has no {key}; it holds {', '.join(file) or 'nothing'}. Expected an h5ad file as anndata writes it. Write the file again with adata.write_h5ad."
        raise DataError(msg)
    try:
        return read_elem(file[key])
    except Exception as error:  # anndata raises of many kinds for damaged tables
        msg = f"The table {key} of {path.name} cannot be read ({type(error).__name__}: {error}). The file is damaged or very old: read and write it again with anndata."
        raise DataError(msg) from error


def _counts(
    file: "h5py.File", path: Path, options: "ViewOptions", shape: tuple[int, int]
) -> Counts:
    if options.use_raw and options.layer is not None:
        msg = f"Both layer={options.layer!r} and use_raw were given; choose one of the two."
        raise DataError(msg)
    name = "raw/X" if options.use_raw else f"layers/{options.layer}" if options.layer else "X"
    if name not in file:
        there = [key for key in ("X", "raw/X") if key in file]
        there += [f"layers/{key}" for key in file.get("layers", {})]
        msg = f"{path.name} has no {name}; its matrices are {', '.join(there) or 'none'}. Choose one with --layer or --use-raw."
        raise DataError(msg)
    counts = Counts(stored_matrix(file[name], name), path)
    if counts.shape != shape:
        msg = f"{name} of {path.name} is {counts.shape[0]:,} × {counts.shape[1]:,}, but its tables name {shape[0]:,} cells and {shape[1]:,} genes. The file is damaged: write it again."
        raise DataError(msg)
    return counts


def _name_column(var: "pd.DataFrame", wanted: str | None) -> str | None:
    if wanted is not None and wanted not in var.columns:
        msg = f"There is no column {wanted!r} in var; it has {', '.join(map(str, var.columns)) or 'no columns'}. Name one of these by --gene-names, or none for the index."
        raise DataError(msg)
    if wanted is not None:
        return wanted
    return next((name for name in SYMBOLS if name in var.columns), None)


def _embeddings(file: "h5py.File", n_cells: int) -> dict[str, int]:
    """Return how many columns each embedding has; sparse ones and tables are left out."""
    found = {}
    for key, element in file.get("obsm", {}).items():
        shape = tuple(getattr(element, "shape", ()))
        if (
            len(shape) == 2
            and shape[0] == n_cells
            and shape[1] >= 2
            and element.dtype.kind in "fiu"
        ):
            found[str(key)] = int(shape[1])
    return found
