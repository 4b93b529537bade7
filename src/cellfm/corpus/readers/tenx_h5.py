"""HDF5 files of Cell Ranger, versions 2 and 3, streamed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.features import Features, human_genomes, select_genes
from cellfm.corpus.readers.h5ad import top_names
from cellfm.corpus.readers.reader import GeneFinder, OpenedSource, only_matrix
from cellfm.corpus.rows import CompressedRows, GuardedRows
from cellfm.errors import SourceError

if TYPE_CHECKING:
    import h5py

    from cellfm.corpus.sources import SourceEntry

_PARTS = {"barcodes", "data", "indices", "indptr", "shape"}


class TenxH5Reader:
    """Feature-barcode matrices; ``matrix`` in version 3, a group per genome in version 2."""

    name = "10x_h5"

    def accepts(self, path: Path) -> bool:
        """Whether the name says so and the tables of AnnData are not there."""
        return path.suffix in (".h5", ".hdf5") and path.is_file() and "obs" not in top_names(path)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file."""
        return (path,)

    def matrices(self, entry: "SourceEntry") -> tuple[str, ...]:
        """Return the only matrix."""
        return only_matrix(entry, self.name)

    @contextmanager
    def open(
        self, entry: "SourceEntry", matrix: str, find_genes: GeneFinder
    ) -> Iterator[OpenedSource]:
        """Open it with its features; barcodes are the rows."""
        del matrix, find_genes
        import h5py

        with reading(entry.path):
            file = h5py.File(entry.path, "r")
        with file:
            with reading(entry.path):
                opened = _opened(file, entry.path)
            yield opened


def _opened(file: "h5py.File", path: Path) -> OpenedSource:
    """Find the group and read its names."""
    import pandas as pd

    group, notes = _group(file, path)
    n_features, n_cells = (int(size) for size in _node(group, "shape")[:])
    barcodes, features = _texts(_node(group, "barcodes")), _features(group, path)
    n_named = len(_node(group, "features/id" if "features" in group else "genes"))
    data, indices, indptr = (_node(group, name) for name in ("data", "indices", "indptr"))
    found = (n_named, len(barcodes), len(indptr) - 1, len(data))
    if found != (n_features, n_cells, n_cells, len(indices)):
        msg = (
            f"{path} has {n_named:,} features, {len(barcodes):,} barcodes and {found[2]:,} columns for a matrix of "
            f"{n_features:,} × {n_cells:,}; expected the same sizes. The file is damaged: get it again."
        )
        raise SourceError(msg)
    rows = CompressedRows((data, indices, indptr), (n_cells, n_features))
    return OpenedSource(
        rows=GuardedRows(rows, path),
        obs=pd.DataFrame(index=pd.Index(barcodes)),
        var=features.var,
        other_names=features.var.columns[0],
        columns=features.columns,
        notes=(*notes, *features.notes),
    )


def _group(file: "h5py.File", path: Path) -> "tuple[h5py.Group, tuple[str, ...]]":
    """Group of the matrix: ``matrix``, or the one of the human genome."""
    import h5py

    groups = [
        name for name in file if isinstance(file[name], h5py.Group) and set(file[name]) >= _PARTS
    ]
    if not groups:
        found = ", ".join(file) or "nothing"
        msg = f"{path} has no feature-barcode matrix; found {found}, expected the group matrix or one per genome. Is it a Cell Ranger file? Give the feature-barcode matrix that Cell Ranger wrote."
        raise SourceError(msg)
    if len(groups) == 1:
        return file[groups[0]], ()
    human = human_genomes(groups, path)
    if len(human) > 1:
        msg = f"{path} has several human genomes: {', '.join(human)}; expected one. Write one of them to a file of its own."
        raise SourceError(msg)
    note = f"Of the genomes {', '.join(groups)} only {human[0]} was taken."
    return file[human[0]], (note,)


def _features(group: "h5py.Group", path: Path) -> Features:
    """Genes of either version."""
    if "features" not in group:
        ids, symbols = _texts(_node(group, "genes")), _texts(_node(group, "gene_names"))
        return select_genes(symbols, ids, kinds=None, genomes=None, path=path)
    features = group["features"]
    kinds, genomes = (
        _texts(_node(features, key)) if key in features else None
        for key in ("feature_type", "genome")
    )
    symbols, ids = _texts(_node(features, "name")), _texts(_node(features, "id"))
    lengths = {len(names) for names in (symbols, ids, kinds, genomes) if names is not None}
    if len(lengths) != 1:
        msg = f"The tables of features in {path} differ in length ({sorted(lengths)}). The file is damaged: get it again."
        raise SourceError(msg)
    return select_genes(symbols, ids, kinds=kinds, genomes=genomes, path=path)


def _node(group: "h5py.Group", name: str) -> "h5py.Dataset":
    """Return a dataset; what h5py raises where there is none does not name the file."""
    import h5py

    node = group.get(name)
    if not isinstance(node, h5py.Dataset):
        msg = f"{group.file.filename} has no {group.name}/{name}; expected a Cell Ranger file. It is damaged or of another format. Get it again, or name its format."
        raise SourceError(msg)
    return node


def _texts(dataset: "h5py.Dataset") -> list[str]:
    """Read names; they must be UTF-8."""
    return [
        name.decode("utf-8") if isinstance(name, bytes) else str(name)
        for name in np.asarray(dataset[:]).tolist()
    ]
