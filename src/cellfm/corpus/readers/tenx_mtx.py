"""Folders of Cell Ranger: matrix.mtx with the names of features and barcodes beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.features import GENE_IDS, Features, select_genes
from cellfm.corpus.readers.reader import GeneFinder, OpenedSource, only_matrix
from cellfm.corpus.readers.text import open_text, plain_name
from cellfm.corpus.rows import row_source
from cellfm.errors import SourceError

if TYPE_CHECKING:
    from scipy import sparse

    from cellfm.corpus.sources import SourceEntry

SUFFIX = "matrix.mtx"
FEATURES = ("features.tsv", "genes.tsv")
BARCODES = "barcodes.tsv"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Files of one source."""

    matrix: Path
    features: Path
    barcodes: Path


class TenxMtxReader:
    """A folder with one matrix, or a matrix file ``PREFIXmatrix.mtx`` among several; gzipped or not."""

    name = "10x_mtx"

    def accepts(self, path: Path) -> bool:
        """Whether it is a matrix file or a folder with one."""
        if path.is_dir():
            return len(matrix_files(path)) == 1
        return plain_name(path).endswith(SUFFIX)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return matrix, features and barcodes."""
        parts = _parts(path)
        return (parts.matrix, parts.features, parts.barcodes)

    def matrices(self, entry: "SourceEntry") -> tuple[str, ...]:
        """Return the only matrix."""
        return only_matrix(entry, self.name)

    @contextmanager
    def open(
        self, entry: "SourceEntry", matrix: str, find_genes: GeneFinder
    ) -> Iterator[OpenedSource]:
        """Load the matrix; barcodes are the rows."""
        del matrix, find_genes
        import pandas as pd

        parts = _parts(entry.path)
        features, n_features = _features(parts.features)
        barcodes = [line[0] for line in _fields(parts.barcodes)]
        cells = _load(parts.matrix, n_features=n_features, n_cells=len(barcodes))
        has_ids = GENE_IDS in features.var.columns
        yield OpenedSource(
            rows=row_source(cells),
            obs=pd.DataFrame(index=pd.Index(barcodes)),
            var=features.var,
            other_names=GENE_IDS if has_ids else None,
            columns=features.columns,
            notes=features.notes,
        )


def matrix_files(folder: Path) -> list[Path]:
    """Matrix files of a folder."""
    return sorted(path for path in folder.iterdir() if plain_name(path).endswith(SUFFIX))


def _parts(path: Path) -> _Parts:
    """Find the three files."""
    with reading(path):
        matrices = matrix_files(path) if path.is_dir() else [path]
    if len(matrices) != 1:
        names = ", ".join(matrix.name for matrix in matrices) or "none"
        msg = f"{path} has {len(matrices)} matrix files ({names}); expected one {SUFFIX} or {SUFFIX}.gz. If there are several, give each by its path."
        raise SourceError(msg)
    matrix = matrices[0]
    prefix = matrix.name[: plain_name(matrix).rindex(SUFFIX)]
    return _Parts(
        matrix=matrix,
        features=_beside(matrix, prefix, FEATURES),
        barcodes=_beside(matrix, prefix, (BARCODES,)),
    )


def _beside(matrix: Path, prefix: str, names: tuple[str, ...]) -> Path:
    """Find a file with one of the names, gzipped or not."""
    wanted = [f"{prefix}{name}{end}" for name in names for end in (".gz", "")]
    found = [matrix.with_name(name) for name in wanted if matrix.with_name(name).is_file()]
    if not found:
        msg = f"{matrix} has no {' or '.join(wanted)} beside it. A 10x folder has matrix, features (or genes) and barcodes: get the missing file."
        raise SourceError(msg)
    return found[0]


def _fields(path: Path) -> list[list[str]]:
    """Read tab-separated lines."""
    with reading(path), open_text(path) as file:
        return [
            line.rstrip("\r").split("\t") for line in file.read().removesuffix("\n").split("\n")
        ]


def _features(path: Path) -> tuple[Features, int]:
    """Genes of either version, and the number of all features."""
    lines = _fields(path)
    width = min(len(line) for line in lines)
    ids, symbols = [line[0] for line in lines], [line[min(width, 2) - 1] for line in lines]
    kinds = [line[2] for line in lines] if width > 2 else None
    features = select_genes(symbols, ids, kinds=kinds, genomes=None, path=path)
    if width == 1:
        del features.var[GENE_IDS]
    return features, len(lines)


def _load(path: Path, *, n_features: int, n_cells: int) -> "sparse.csr_matrix":
    """Read features × cells and turn it round."""
    from scipy import io, sparse

    with reading(path):
        n_rows, n_columns, _, _, field, _ = io.mminfo(path)
        if field not in ("integer", "real", "unsigned-integer"):
            msg = f"{path} holds values of the kind {field!r}; expected integer or real counts. Export the counts themselves."
            raise SourceError(msg)
        if (n_rows, n_columns) != (n_features, n_cells):
            raise SourceError(_misfit(path, (n_rows, n_columns), (n_features, n_cells)))
        matrix = sparse.coo_matrix(io.mmread(path)).T
        cells = matrix.tocsr()
    if cells.nnz != matrix.nnz:
        msg = f"{path} names {matrix.nnz - cells.nnz:,} entries twice; expected one value for each feature and cell. The file is damaged: get it again."
        raise SourceError(msg)
    return cells


def _misfit(path: Path, shape: tuple[int, int], named: tuple[int, int]) -> str:
    """Say how the matrix and the names differ."""
    turned = " It is turned round: write it as features × cells." if shape == named[::-1] else ""
    return (
        f"{path} is {shape[0]:,} × {shape[1]:,}, but {named[0]:,} features and {named[1]:,} barcodes are named; expected features × "
        f"barcodes.{turned} The three files must be of one run, complete and without a header: get them again if they are not."
    )
