"""Whether a corpus is as it was written, and holds what a corpus must."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.curate import MAX_COUNT
from cellfm.corpus.fingerprint import content_hash, content_hex, fingerprint
from cellfm.corpus.manifest import MANIFEST, Manifest, PartEntry
from cellfm.corpus.part import LABELS, Part, positions
from cellfm.corpus.part_writer import totals
from cellfm.corpus.record import PartRecord, file_digest, file_digests, record_path
from cellfm.corpus.store import Store
from cellfm.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.part import RawRows

BLOCK_CELLS = 8192
"""Cells looked at together."""

_RESTORE = "Restore it from a copy, or build the corpus again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong with a corpus.

    Attributes
    ----------
    where
        File or part.
    what
        What was found, what was expected and what to do.
    """

    where: str
    what: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Outcome of a check.

    Attributes
    ----------
    n_parts, n_files, n_cells
        Parts of the corpus, files whose digest was right, and cells whose content was looked at.
    problems
        All that is wrong.
    """

    n_parts: int
    n_files: int
    n_cells: int
    problems: tuple[Problem, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(
    store: Path | str, *, content: bool = True, progress: Callable[[int, int], None] | None = None
) -> CheckResult:
    """Check every file of a corpus against its digest, and every cell against the rules of the format.

    Parameters
    ----------
    store
        The corpus.
    content
        Look at the cells, too: genes in range and in order, counts of at least 1, fingerprints that are those of the
        counts, all different and in order, columns that agree with the counts.
    progress
        Told the parts that are done, and all.

    Raises
    ------
    CorpusError
        There is no corpus at all.
    """
    path = Path(store)
    try:
        manifest = Manifest.read(path)
    except CorpusError as error:
        if not (path / MANIFEST).exists():
            raise
        problem = Problem(where=MANIFEST, what=str(error))
        return CheckResult(n_parts=0, n_files=0, n_cells=0, problems=(problem,))
    checking = _Checking(path, manifest)
    checking.genes()
    for number, entry in enumerate(manifest.parts):
        if progress is not None:
            progress(number, len(manifest.parts))
        if checking.files(entry) and content:
            checking.cells(entry)
    if content and not checking.problems:
        checking.whole()
    return CheckResult(
        n_parts=len(manifest.parts),
        n_files=checking.n_files,
        n_cells=checking.n_cells,
        problems=tuple(checking.problems),
    )


class _Checking:
    """A check at work."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.problems: list[Problem] = []
        self.n_files = self.n_cells = 0
        self._path, self._manifest = path, manifest
        self._content = np.zeros(2, dtype=np.uint64)
        self._last: dict[int, tuple[int, int]] = {}

    def genes(self) -> None:
        """Check the gene list."""
        try:
            _ = Store(self._path, self._manifest).vocabulary
        except CorpusError as error:
            self._add("genes.tsv", str(error))

    def files(self, entry: PartEntry) -> bool:
        """Check the digests of a part; return whether all are right."""
        path, before = self._path / entry.path, len(self.problems)
        try:
            record = PartRecord.read(path)
            if file_digest(record_path(path)) != entry.sha256:
                self._add(
                    entry.path, f"its record {record_path(path).name} was changed. {_RESTORE}"
                )
            found = file_digests(path)
        except (OSError, CorpusError) as error:
            self._add(
                entry.path, f"{error}" if isinstance(error, CorpusError) else f"{error}. {_RESTORE}"
            )
            return False
        for name, sha256 in record.sha256.items():
            if name not in found:
                self._add(entry.path, f"the file {name} is missing. {_RESTORE}")
            elif found[name] != sha256:
                self._add(
                    entry.path,
                    f"the file {name} is not what was written: damaged, cut short or changed. {_RESTORE}",
                )
            else:
                self.n_files += 1
        for name in sorted(set(found) - set(record.sha256)):
            self._add(entry.path, f"the file {name} does not belong there. Remove it.")
        return len(self.problems) == before

    def cells(self, entry: PartEntry) -> None:
        """Check the cells of a part."""
        try:
            for what in self._wrong(Part.open(self._path / entry.path), entry):
                self._add(
                    entry.path,
                    f"{what}. It was not written by cellfm, or by a faulty version: build the corpus again.",
                )
        except CorpusError as error:
            self._add(entry.path, str(error))

    def whole(self) -> None:
        """Check what no part shows alone: the hash of all cells, and that additions brought no copies."""
        if content_hex(self._content) != self._manifest.content:
            self._add(
                MANIFEST, f"the hash of its cells is not that of the cells in the parts. {_RESTORE}"
            )
        for part in self._manifest.parts:
            for other in self._manifest.parts:
                if part.segment > other.segment:
                    n = _n_shared(self._path / part.path, self._path / other.path)
                    if n:
                        self._add(
                            part.path,
                            f"{n:,} of its cells are in {other.path}, too. Build the corpus again.",
                        )

    def _wrong(self, part: Part, entry: PartEntry) -> Iterator[str]:
        """Say what is wrong with a part."""
        told = (part.n_cells, part.n_values, part.vocabulary_hash)
        if told != (entry.n_cells, entry.n_values, self._manifest.vocabulary):
            yield f"it holds {told[0]:,} cells with {told[1]:,} counts of the gene list {told[2][:12]}, but the manifest tells otherwise"
        ordered = part.fingerprints()
        yield from self._order(ordered, entry.segment)
        self._content += content_hash(ordered)
        known = {dataset.name for dataset in self._manifest.datasets}
        for name in LABELS:
            strange = set(part.labels(name).categories) - known
            if name == "dataset" and strange:
                yield f"its dataset {min(strange)!r} is not in the manifest"
        n_genes, total = part.numbers("n_genes"), part.numbers("total_counts")
        for start in range(0, part.n_cells, BLOCK_CELLS):
            block = slice(start, min(start + BLOCK_CELLS, part.n_cells))
            rows = part.read(block.start, block.stop)
            what = _wrong_rows(rows, part.n_genes) or _wrong_columns(
                rows, ordered[block], n_genes[block], total[block]
            )
            if what:
                yield f"in its cells {block.start:,} to {block.stop - 1:,} {what}"
                return
        self.n_cells += part.n_cells

    def _order(self, ordered: "NDArray[np.uint64]", segment: int) -> Iterator[str]:
        """Check that fingerprints ascend strictly, from part to part of a segment."""
        first, second = ordered[:-1], ordered[1:]
        ascends = (first[:, 0] < second[:, 0]) | (
            (first[:, 0] == second[:, 0]) & (first[:, 1] < second[:, 1])
        )
        if not ascends.all():
            yield f"cell {int(np.argmin(ascends)) + 1:,} does not come after the one before it"
        edge = (int(ordered[0, 0]), int(ordered[0, 1]))
        if self._last.get(segment, (-1, -1)) >= edge:
            yield "its first cell does not come after the last one of the part before it"
        self._last[segment] = (int(ordered[-1, 0]), int(ordered[-1, 1]))

    def _add(self, where: str, what: str) -> None:
        self.problems.append(Problem(where=where, what=what))


def _wrong_rows(rows: "RawRows", n_tokens: int) -> str:
    """Say what is wrong with the counts of some cells; nothing if all is right."""
    gene = rows.gene.astype(np.int64)
    ascends = np.diff(gene) > 0
    ascends[rows.offsets[1:-1] - 1] = True  # from one cell to the next it need not
    if gene.min(initial=1) < 1 or gene.max(initial=1) > n_tokens:
        return f"are genes outside the {n_tokens:,} of the gene list"
    if not ascends.all():
        return "are genes that do not ascend"
    if rows.count.min(initial=1) < 1 or rows.count.max(initial=1) > MAX_COUNT:
        return f"are counts outside 1 to {MAX_COUNT:,}"
    return ""


def _wrong_columns(
    rows: "RawRows",
    expected: "NDArray[np.uint64]",
    n_genes: "NDArray[np.integer]",
    total: "NDArray[np.integer]",
) -> str:
    """Say where the columns of some cells do not agree with their counts; nothing if all is right."""
    if (np.diff(rows.offsets) != n_genes).any():
        return "the column n_genes is not the number of genes"
    if (totals(rows.count, rows.offsets) != total).any():
        return "the column total_counts is not the sum of the counts"
    if (fingerprint(rows.gene, rows.count, rows.offsets) != expected).any():
        return "are fingerprints that are not those of the counts"
    return ""


def _n_shared(path: Path, other: Path) -> int:
    """Cells of a part that are in another, too."""
    wanted, part = Part.open(path).fingerprints(), Part.open(other)
    start, stop = part.place(int(wanted[0, 0])), part.place(int(wanted[-1, 0]) + 1)
    if start >= stop:
        return 0
    return int((positions(wanted, part.fingerprints(start, stop)) >= 0).sum())
