"""Writing a part: an AnnData zarr folder that is there whole or not at all, with the digest of every file beside it."""

import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.fingerprint import content_hash
from cellfm.corpus.part import FORMAT, LABELS, NUMBERS, Labels
from cellfm.corpus.record import PartRecord, file_digests, writing
from cellfm.corpus.shards import (
    CHUNK_CELLS,
    CHUNK_VALUES,
    SHARD_CELLS,
    SHARD_VALUES,
)
from cellfm.corpus.zarr_files import (
    Attributes,
    VectorWriter,
    write_group,
    write_scalar,
    write_strings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.genes import Vocabulary

LARGEST_UINT16 = np.iinfo(np.uint16).max
_TOTALS_CELLS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SortedCells:
    """Cells in ascending order of their fingerprints.

    Attributes
    ----------
    gene, count, offsets
        Cell *i* is ``offsets[i]:offsets[i + 1]``; tokens of at least 1 in ascending order.
    fingerprint
        Two words for each cell.
    row
        Row of each cell in its source.
    labels
        The columns of :data:`cellfm.corpus.part.LABELS`.
    """

    gene: "NDArray[np.integer]"
    count: "NDArray[np.integer]"
    offsets: "NDArray[np.int64]"
    fingerprint: "NDArray[np.uint64]"
    row: "NDArray[np.int64]"
    labels: Mapping[str, Labels]

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.row)


def write_part(
    path: Path, blocks: Iterable[SortedCells], *, vocabulary: "Vocabulary"
) -> PartRecord | None:
    """Write cells as a part; memory is needed for one file of it and the columns of its cells.

    The same cells give the same bytes, however they are cut into blocks.

    Parameters
    ----------
    path
        Folder to write, ``NAME.zarr``. It appears when it is complete, its record after it.
    blocks
        Cells in ascending order of their fingerprints.
    vocabulary
        What the tokens mean.

    Returns
    -------
    The record, or None if there was no cell; then nothing is written.

    Raises
    ------
    CorpusError
        The disk is full or must not be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with writing(path):
            writer = None
            for block in blocks:
                if len(block):
                    writer = _Writer(temporary, vocabulary) if writer is None else writer
                    writer.append(block)
            if writer is None:
                return None
            record = writer.close()
            _put(temporary, path)
            record.write(path)
            return record
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, path: Path) -> None:
    """Move a complete folder to its place; what is there without a record was never completed."""
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


class _Writer:
    """A part being written."""

    def __init__(self, folder: Path, vocabulary: "Vocabulary") -> None:
        self._folder, self._vocabulary = folder, vocabulary
        write_group(folder, _encoding("anndata"))
        # signed, as scipy warns of unsigned indices; token - 1 is stored, but the token itself must fit, too
        wide = len(vocabulary) > np.iinfo(np.int16).max
        x, sizes = folder / "X", {"chunk": CHUNK_VALUES, "shard": SHARD_VALUES}
        self._indices = VectorWriter(
            x / "indices", np.dtype(np.int32 if wide else np.int16), **sizes
        )
        self._data = VectorWriter(x / "data", np.dtype(np.uint16), **sizes)
        self._numbers: dict[str, list[NDArray[np.integer]]] = {name: [] for name in NUMBERS}
        self._codes: dict[str, list[NDArray[np.int32]]] = {name: [] for name in LABELS}
        self._seen: dict[str, dict[str, int]] = {name: {} for name in LABELS}
        self._n_values = 0
        self._content = np.zeros(2, dtype=np.uint64)

    def append(self, cells: SortedCells) -> None:
        """Add cells."""
        self._indices.append(cells.gene - 1)
        self._data.append(cells.count)
        self._n_values += len(cells.gene)
        self._content += content_hash(cells.fingerprint)
        columns = {
            "row": cells.row,
            "fingerprint_0": cells.fingerprint[:, 0],
            "fingerprint_1": cells.fingerprint[:, 1],
            "total_counts": totals(cells.count, cells.offsets),
            "n_genes": np.diff(cells.offsets),
        }
        for name, values in columns.items():
            self._numbers[name].append(values.astype(NUMBERS[name]))
        for name in LABELS:
            label, seen = cells.labels[name], self._seen[name]
            known = [seen.setdefault(text, len(seen)) for text in label.categories]
            self._codes[name].append(np.array(known, dtype=np.int32)[label.codes])

    def close(self) -> PartRecord:
        """Write the columns and everything else."""
        self._indices.close()
        self._data.close()
        numbers = {name: np.concatenate(parts) for name, parts in self._numbers.items()}
        labels = {name: self._label(name) for name in LABELS}
        n_cells, x = len(numbers["row"]), self._folder / "X"
        offsets = np.concatenate([[0], np.cumsum(numbers["n_genes"], dtype=np.int64)])
        _write_vector(x / "indptr", offsets)
        write_group(x, {**_encoding("csr_matrix"), "shape": [n_cells, len(self._vocabulary)]})
        self._write_obs(numbers, labels)
        self._write_rest()
        dataset = labels["dataset"]
        cells = np.bincount(dataset.codes, minlength=len(dataset.categories)).tolist()
        return PartRecord(
            n_cells=n_cells,
            n_values=self._n_values,
            content=(int(self._content[0]), int(self._content[1])),
            cells=dict(zip(dataset.categories, cells, strict=True)),
            sha256=file_digests(self._folder),
        )

    def _label(self, name: str) -> Labels:
        """Join the codes of a column, with those categories that occur, sorted."""
        codes, seen = np.concatenate(self._codes[name]), list(self._seen[name])
        used = sorted(seen[code] for code in np.unique(codes))
        new = {text: code for code, text in enumerate(used)}
        table = np.array([new.get(text, -1) for text in seen], dtype=np.int32)
        return Labels(codes=table[codes], categories=tuple(used))

    def _write_obs(
        self, numbers: "Mapping[str, NDArray[np.integer]]", labels: Mapping[str, Labels]
    ) -> None:
        """Write the table of the cells."""
        obs, order = self._folder / "obs", [*LABELS, *NUMBERS]
        write_group(obs, {**_encoding("dataframe"), "_index": "cell", "column-order": order})
        names, rows = labels["dataset"].strings().tolist(), numbers["row"].tolist()
        cells = (f"{name}:{row}" for name, row in zip(names, rows, strict=True))
        write_strings(obs / "cell", cells, _encoding("string-array"))
        for name, values in numbers.items():
            _write_vector(obs / name, values)
        for name, label in labels.items():
            write_group(obs / name, {**_encoding("categorical"), "ordered": False})
            smallest = np.min_scalar_type(-len(label.categories))  # as anndata has them: signed
            _write_vector(obs / name / "codes", label.codes.astype(smallest))
            write_strings(
                obs / name / "categories",
                label.categories,
                _encoding("string-array"),
                compressed=False,
            )

    def _write_rest(self) -> None:
        """Write the genes, the format and the empty slots of an AnnData."""
        var, uns = self._folder / "var", self._folder / "uns"
        columns: list[str] = []
        write_group(var, {**_encoding("dataframe"), "_index": "symbol", "column-order": columns})
        write_strings(var / "symbol", self._vocabulary.symbols, _encoding("string-array"))
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_group(self._folder / name, _encoding("dict"))
        told: Attributes = {"format": FORMAT, "vocabulary": self._vocabulary.hash}
        write_group(uns / "cellfm", {**_encoding("dict"), **told})
        write_scalar(uns / "cellfm/format", FORMAT, _encoding("numeric-scalar"))
        write_scalar(uns / "cellfm/vocabulary", self._vocabulary.hash, _encoding("string"))


_VERSIONS = {"anndata": "0.1.0", "csr_matrix": "0.1.0", "dict": "0.1.0"}


def _encoding(kind: str) -> dict[str, str]:
    """Attributes by which AnnData knows an element."""
    return {"encoding-type": kind, "encoding-version": _VERSIONS.get(kind, "0.2.0")}


def _write_vector(path: Path, values: "NDArray[np.integer]") -> None:
    """Write a whole column."""
    writer = VectorWriter(path, values.dtype, chunk=CHUNK_CELLS, shard=SHARD_CELLS)
    writer.append(values)
    writer.close()


def totals(count: "NDArray[np.integer]", offsets: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Sum of the counts of each cell."""
    n_cells = len(offsets) - 1
    total = np.zeros(n_cells, dtype=np.int64)
    for first in range(0, n_cells, _TOTALS_CELLS):  # 64-bit copies of a few counts at a time
        part = slice(first, min(first + _TOTALS_CELLS, n_cells))
        start, end = offsets[part], offsets[part.stop]
        filled = offsets[first + 1 : part.stop + 1] > start  # reduceat has no empty segments
        wide = count[start[0] : end].astype(np.int64)
        total[part][filled] = np.add.reduceat(wide, start[filled] - start[0]) if len(wide) else 0
    return total
