"""AnnData files, streamed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.reader import GeneFinder, OpenedSource
from cellfm.corpus.rows import h5ad_matrices, h5ad_source
from cellfm.errors import SourceError

if TYPE_CHECKING:
    from cellfm.corpus.sources import SourceEntry

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
RAW = "raw/X"
ORDER = ("layers/counts", RAW, "X")
"""Matrices that are tried for counts unless one is named."""


class H5adReader:
    """h5ad files; a matrix stored by rows is never loaded whole."""

    name = "h5ad"

    def accepts(self, path: Path) -> bool:
        """Whether the name says h5ad, or it is an HDF5 file with the tables of AnnData."""
        return path.suffix == ".h5ad" or {"obs", "var"} <= top_names(path)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file."""
        return (path,)

    def matrices(self, entry: "SourceEntry") -> tuple[str, ...]:
        """Return the matrix that was asked for, else those of the usual order that are there."""
        if entry.layer is not None and entry.use_raw:
            msg = f"Both layer={entry.layer!r} and use_raw are given for {entry.path}; choose one of the two."
            raise SourceError(msg)
        if entry.layer is not None:
            return (f"layers/{entry.layer}",)
        if entry.use_raw:
            return (RAW,)
        with reading(entry.path):
            there = h5ad_matrices(entry.path)
        found = tuple(name for name in ORDER if name in there)
        if not found:
            msg = (
                f"{entry.path} has none of the matrices {', '.join(ORDER)}; it has {', '.join(there) or 'none'}. "
                "Name the layer with the counts in the list of sources."
            )
            raise SourceError(msg)
        return found

    @contextmanager
    def open(
        self, entry: "SourceEntry", matrix: str, find_genes: GeneFinder
    ) -> Iterator[OpenedSource]:
        """Open one matrix with its tables."""
        del find_genes  # the format says what the genes are
        layer = matrix.removeprefix("layers/") if matrix.startswith("layers/") else None
        with ExitStack() as stack:
            with reading(entry.path, matrix):
                source = stack.enter_context(
                    h5ad_source(entry.path, layer=layer, use_raw=matrix == RAW)
                )
            yield OpenedSource(rows=source.rows, obs=source.obs, var=source.var)


def top_names(path: Path) -> set[str]:
    """Names at the top of an HDF5 file; none if it is no such file or does not open."""
    import h5py

    try:
        with path.open("rb") as file:
            if file.read(len(HDF5_MAGIC)) != HDF5_MAGIC:
                return set()
        with h5py.File(path, "r") as file:
            return set(file)
    except (OSError, RuntimeError):
        return set()  # the reader that is chosen by the name says what is wrong
