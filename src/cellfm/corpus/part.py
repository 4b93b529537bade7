"""Part of a corpus on disk: an AnnData zarr folder of cells in the order of their fingerprints."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.metadata import METADATA
from cellfm.corpus.shards import Buffers, ShardedVector
from cellfm.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
LABELS = ("dataset", *METADATA)
"""Columns of strings; an empty one is not known."""
NUMBERS = {
    "row": "int64",
    "fingerprint_0": "uint64",
    "fingerprint_1": "uint64",
    "total_counts": "int64",
    "n_genes": "int32",
}
"""Columns of numbers and their types."""
WHOLE_RANGE = 1 << 64
"""One more than the largest first word of a fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawRows:
    """Counts of some cells as they are stored, genes in ascending token order.

    Attributes
    ----------
    gene
        Tokens of at least 1, in the type they are stored in.
    count
        Counts of at least 1, in the type they are stored in.
    offsets
        Genes of cell *i* are ``offsets[i]:offsets[i + 1]``.
    """

    gene: "NDArray[np.integer]"
    count: "NDArray[np.integer]"
    offsets: "NDArray[np.int64]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """A label of each cell: ``categories[codes]``."""

    codes: "NDArray[np.int32]"
    categories: tuple[str, ...]

    def taken(self, cells: "NDArray[np.int64] | slice") -> "Labels":
        """Return the labels of some cells."""
        return Labels(codes=self.codes[cells], categories=self.categories)

    def strings(self) -> "NDArray[np.object_]":
        """Return the label of each cell."""
        return np.array(self.categories, dtype=object)[self.codes]


class Part:
    """Cells of one part.

    Attributes
    ----------
    path
        The folder.
    n_cells, n_values, n_genes
        Cells, stored counts, and genes of the vocabulary.
    vocabulary_hash
        Hash of the vocabulary its tokens belong to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_cells, self.n_genes, self.vocabulary_hash = _header(path)
        self._indices, self._data = (
            ShardedVector(path / "X/indices"),
            ShardedVector(path / "X/data"),
        )
        self.n_values = len(self._data)
        self._indptr: NDArray[np.int64] | None = None
        if len(self._indices) != self.n_values:
            msg = f"{path} has {len(self._indices):,} genes for {self.n_values:,} counts. The corpus is damaged; {_CHECK}"
            raise CorpusError(msg)

    @classmethod
    def open(cls, path: Path | str) -> "Part":
        """Open a part without reading its cells.

        Raises
        ------
        CorpusError
            There is none, or it is damaged.
        """
        return cls(Path(path))

    @property
    def indptr(self) -> "NDArray[np.int64]":
        """Boundaries of the cells among the stored counts; kept once it was read."""
        if self._indptr is None:
            self._indptr = self._boundaries(0, self.n_cells)
            if self._indptr[0] != 0 or self._indptr[-1] != self.n_values:
                msg = (
                    f"The cell boundaries of {self.path} are wrong. The corpus is damaged; {_CHECK}"
                )
                raise CorpusError(msg)
        return self._indptr

    def _boundaries(self, start: int, stop: int) -> "NDArray[np.int64]":
        """Boundaries of the cells ``start:stop``."""
        path = self.path / "X/indptr"
        indptr = _long_enough(path, self.n_cells + 1).read(start, stop + 1).astype(np.int64)
        if indptr[0] < 0 or indptr[-1] > self.n_values or (np.diff(indptr) < 0).any():
            msg = f"The cell boundaries in {path} are wrong. The corpus is damaged; {_CHECK}"
            raise CorpusError(msg)
        return indptr

    def read(
        self, start: int, stop: int, *, once: bool = False, buffers: Buffers | None = None
    ) -> RawRows:
        """Return the cells ``start:stop``.

        Parameters
        ----------
        start, stop
            Cells of the part.
        once
            Do not keep the boundaries of all cells in memory for the next time.
        buffers
            Where the memory of genes and counts comes from; None for new memory.

        Raises
        ------
        CorpusError
            The files are damaged or gone.
        """
        offsets = self._boundaries(start, stop) if once else self.indptr[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        gene = self._indices.read(first, last, buffers=buffers)
        gene = gene.view(f"u{gene.itemsize}")  # never negative
        gene += 1
        count = self._data.read(first, last, buffers=buffers)
        return RawRows(gene=gene, count=count, offsets=offsets - first)

    def numbers(self, name: str, start: int = 0, stop: int | None = None) -> "NDArray[np.integer]":
        """Return a column of `NUMBERS`, or the cells ``start:stop`` of it."""
        vector = _long_enough(self.path / "obs" / name, self.n_cells)
        return vector.read(start, self.n_cells if stop is None else stop)

    def labels(self, name: str, start: int = 0, stop: int | None = None) -> Labels:
        """Return a column of `LABELS`, or the cells ``start:stop`` of it."""
        path = self.path / "obs" / name
        vector = _long_enough(path / "codes", self.n_cells)
        codes = vector.read(start, self.n_cells if stop is None else stop).astype(np.int32)
        categories = _strings(path / "categories/c/0")
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(categories):
            msg = f"The column {path} has codes without a category. The corpus is damaged; {_CHECK}"
            raise CorpusError(msg)
        return Labels(codes=codes, categories=categories)

    def fingerprints(self, start: int = 0, stop: int | None = None) -> "NDArray[np.uint64]":
        """Return both words of each cell's fingerprint, or of the cells ``start:stop``."""
        lanes = [self.numbers(f"fingerprint_{lane}", start, stop) for lane in range(2)]
        return np.stack(lanes, axis=1).astype(np.uint64, copy=False)

    def place(self, edge: int) -> int:
        """Return how many cells have fingerprints whose first word is below `edge`; the cells must be in order."""
        vector = _long_enough(self.path / "obs/fingerprint_0", self.n_cells)
        return _place(vector, edge) if self.n_cells else 0


def positions(wanted: "NDArray[np.uint64]", ordered: "NDArray[np.uint64]") -> "NDArray[np.int64]":
    """Find fingerprints among those of a part, which ascend.

    Returns
    -------
    Place of each, -1 where it is not there.
    """
    place = np.searchsorted(ordered[:, 0], wanted[:, 0])
    result = np.full(len(wanted), -1, dtype=np.int64)
    left = np.arange(len(wanted))
    while len(left):  # once, but for fingerprints that agree in the first word only
        left = left[place[left] < len(ordered)]
        found = ordered[place[left]]
        left, found = left[found[:, 0] == wanted[left, 0]], found[found[:, 0] == wanted[left, 0]]
        same = found[:, 1] == wanted[left, 1]
        result[left[same]] = place[left[same]]
        left = left[~same]
        place[left] += 1
    return result


def _place(words: ShardedVector, edge: int) -> int:
    """Values below `edge` in ascending hashes: looked for where hashes, which are spread evenly, have it."""
    n = len(words)
    first, last = int(words.read(0, 1)[0]), int(words.read(n - 1, n)[0])
    if edge <= first:
        return 0
    if edge > last:
        return n
    expected = n * (edge - first) // (last - first + 1)
    margin = 8 * math.isqrt(n) + 64
    for low, high in ((expected - margin, expected + margin), (0, n)):
        low, high = max(low, 0), min(high, n)  # noqa: PLW2901
        near = words.read(low, high).astype(np.uint64, copy=False)
        place = int(np.searchsorted(near, np.uint64(edge)))
        if 0 < place < len(near):
            break
    return low + place


_CHECK = (
    "run `cellfm corpus check` to see what else is, and build it again or restore it from a copy."
)


def _header(path: Path) -> tuple[int, int, str]:
    """Cells and genes of a part, and the hash of its vocabulary."""
    try:
        shape = json.loads((path / "X/zarr.json").read_bytes())["attributes"]["shape"]
        told = json.loads((path / "uns/cellfm/zarr.json").read_bytes())["attributes"]
        version, vocabulary = told["format"], told["vocabulary"]
        n_cells, n_genes = map(int, shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no part of a corpus, or damaged ({error!r}); {_CHECK}"
        raise CorpusError(msg) from error
    if version != FORMAT:
        msg = f"{path} is of format {version!r}; this version reads format {FORMAT}. Install the version of cellfm that wrote it."
        raise CorpusError(msg)
    return n_cells, n_genes, str(vocabulary)


def _long_enough(path: Path, length: int) -> ShardedVector:
    """Open a vector that must have this length."""
    vector = ShardedVector(path)
    if len(vector) != length:
        msg = f"{path} has {len(vector):,} entries; {length:,} were expected. The corpus is damaged; {_CHECK}"
        raise CorpusError(msg)
    return vector


def _strings(path: Path) -> tuple[str, ...]:
    """Read the one chunk of an array of strings."""
    from numcodecs.vlen import VLenUTF8

    try:
        return tuple(VLenUTF8().decode(path.read_bytes()))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}). The corpus is damaged; {_CHECK}"
        raise CorpusError(msg) from error
