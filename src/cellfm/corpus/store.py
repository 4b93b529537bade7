"""A corpus on disk, as one long list of cells."""

from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.fingerprint import cell_numbers
from cellfm.corpus.manifest import GENES, Dataset, Manifest
from cellfm.corpus.part import Labels, Part, RawRows
from cellfm.errors import CorpusError, VocabularyError
from cellfm.genes import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Store:
    """Cells of a corpus, in the order of its parts: any block of neighbours is a random sample of all.

    Attributes
    ----------
    path
        The folder.
    manifest
        What it holds and where that came from.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._first = [0, *accumulate(part.n_cells for part in manifest.parts)]

    @classmethod
    def open(cls, path: Path | str) -> "Store":
        """Open a store; only its manifest is read now.

        Raises
        ------
        CorpusError
            There is no corpus, or its manifest is damaged.
        """
        return cls(Path(path), Manifest.read(Path(path)))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self._first[-1]

    def __len__(self) -> int:
        """Return the number of cells."""
        return self.n_cells

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Sources that are in it."""
        return self.manifest.datasets

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Genes that its tokens mean."""
        try:
            vocabulary = Vocabulary.read(self.path / GENES)
        except VocabularyError as error:
            msg = f"The gene list of the corpus {self.path} is damaged: {error}. Restore it from a copy or build the corpus again."
            raise CorpusError(msg) from error
        if vocabulary.hash != self.manifest.vocabulary:
            msg = f"{self.path / GENES} is another gene list than the one the corpus was built with. Restore it from a copy."
            raise CorpusError(msg)
        return vocabulary

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Where the cells are."""
        parts = tuple(Part.open(self.path / entry.path) for entry in self.manifest.parts)
        for part, entry in zip(parts, self.manifest.parts, strict=True):
            found = (part.n_cells, part.n_values, part.vocabulary_hash)
            if found != (entry.n_cells, entry.n_values, self.manifest.vocabulary):
                msg = f"{part.path} holds {part.n_cells:,} cells with {part.n_values:,} counts, which is not what the corpus says. Run `cellfm corpus check`."
                raise CorpusError(msg)
        return parts

    def read(self, start: int, stop: int) -> RawRows:
        """Return the cells ``start:stop``, which may lie in several parts.

        Raises
        ------
        CorpusError
            The files are damaged or gone.
        """
        start, stop = max(start, 0), min(stop, self.n_cells)
        number = int(np.searchsorted(self._first[1:-1], start, side="right"))
        blocks: list[RawRows] = []
        while start < stop or not blocks:
            part, first = self.parts[number], self._first[number]
            end = min(stop, self._first[number + 1])
            blocks.append(part.read(start - first, end - first))
            start, number = end, number + 1
        return blocks[0] if len(blocks) == 1 else _joined(blocks)

    def numbers_of(self, name: str) -> "NDArray[np.integer]":
        """Return a column of numbers of all cells: row, fingerprint_0, fingerprint_1, total_counts or n_genes."""
        return np.concatenate([part.numbers(name) for part in self.parts])

    def column(self, name: str) -> Labels:
        """Return a column of labels of all cells: the dataset or one of the metadata."""
        columns = [part.labels(name) for part in self.parts]
        categories = tuple(sorted({label for column in columns for label in column.categories}))
        code = {label: i for i, label in enumerate(categories)}
        codes = [
            np.array([code[label] for label in column.categories], dtype=np.int32)[column.codes]
            for column in columns
        ]
        return Labels(codes=np.concatenate(codes), categories=categories)

    def lengths(self) -> "NDArray[np.int32]":
        """Return the number of expressed genes of each cell."""
        return self.numbers_of("n_genes").astype(np.int32, copy=False)

    def numbers(self) -> "NDArray[np.int64]":
        """Return the lasting number of each cell, of which masks and splits are a function."""
        return cell_numbers(self.numbers_of("fingerprint_1"))


def _joined(blocks: list[RawRows]) -> RawRows:
    """Put blocks one after another."""
    ends = accumulate((int(block.offsets[-1]) for block in blocks), initial=0)
    offsets = [block.offsets[1:] + end for block, end in zip(blocks, ends, strict=False)]
    return RawRows(
        gene=np.concatenate([block.gene for block in blocks]),
        count=np.concatenate([block.count for block in blocks]),
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), *offsets]),
    )
