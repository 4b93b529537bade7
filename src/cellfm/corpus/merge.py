"""Sorted runs of cells → parts in the order of fingerprints, every cell once."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.manifest import read_json, write_json
from cellfm.corpus.part import LABELS, WHOLE_RANGE, Labels, Part, positions
from cellfm.corpus.part_writer import SortedCells, write_part
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.record import writing
from cellfm.genes import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 24
"""Counts in memory at a time, on average."""
FAN_IN = 128
"""Runs that are merged at a time."""
GROUP_CELLS = 1 << 20
"""Cells of runs that are merged into a longer run: their columns are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeJob:
    """What one merge takes and gives.

    Attributes
    ----------
    inputs
        Runs, each in the order of fingerprints; copies of a cell may be in one or in several.
    output
        Part to write.
    done
        JSON file that is written when all is done.
    low, high
        Range of first words of fingerprints to take.
    existing
        Parts of the corpus whose cells are not taken again.
    ranks
        JSON file with the rank of each dataset: of several copies the one of the lowest rank stays, then of the lowest row.
    vocabulary
        The gene list.
    """

    inputs: tuple[Path, ...]
    output: Path
    done: Path
    low: int = 0
    high: int = WHOLE_RANGE
    existing: tuple[Path, ...] = ()
    ranks: Path
    vocabulary: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What one merge did.

    Attributes
    ----------
    n_cells
        Cells in the output; without any there is no output.
    within, across
        Cells of each dataset that were left out, as a copy stays in the same or in another dataset.
    """

    n_cells: int
    within: Mapping[str, int] = field(default_factory=dict)
    across: Mapping[str, int] = field(default_factory=dict)


def merge(job: MergeJob) -> Merged:
    """Do a merge, unless it was done: memory does not grow with the size of the inputs.

    Raises
    ------
    CorpusError
        An input is damaged, or the output cannot be written.
    """
    if job.done.is_file():
        said = read_json(job.done)
        return Merged(n_cells=said["n_cells"], within=said["within"], across=said["across"])
    merging = _Merging(job)
    record = write_part(job.output, merging.blocks(), vocabulary=Vocabulary.read(job.vocabulary))
    merged = Merged(
        n_cells=0 if record is None else record.n_cells,
        within=dict(sorted(merging.within.items())),
        across=dict(sorted(merging.across.items())),
    )
    with writing(job.done):
        write_json(job.done, asdict(merged))
    return merged


def grouped(runs: Sequence[tuple[Path, int]]) -> list[list[Path]]:
    """Put neighbours into groups of bounded numbers of runs and cells.

    Parameters
    ----------
    runs
        Each with its number of cells.
    """
    groups: list[list[Path]] = []
    n_cells = 0
    for path, cells in runs:
        if not groups or len(groups[-1]) == FAN_IN or n_cells + cells > GROUP_CELLS:
            groups.append([])
            n_cells = 0
        groups[-1].append(path)
        n_cells += cells
    return groups


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Input:
    """The part of a run that is in the range: its columns, and where its cells begin in it."""

    part: Part
    start: int
    fingerprint: "NDArray[np.uint64]"
    row: "NDArray[np.int64]"
    labels: Mapping[str, Labels]
    rank: "NDArray[np.int64]"
    cuts: "NDArray[np.int64]"


class _Merging:
    """One merge at work."""

    def __init__(self, job: MergeJob) -> None:
        self.within: Counter[str] = Counter()
        self.across: Counter[str] = Counter()
        self._ranks = json.loads(job.ranks.read_bytes())
        parts = [Part.open(path) for path in job.inputs]
        self._edges = _edges(job, sum(part.n_values for part in parts))
        inputs = (self._load(part, job) for part in parts)
        self._inputs = [taken for taken in inputs if len(taken.row)]
        self._existing = [
            (part, [part.place(edge) for edge in self._edges])
            for part in (Part.open(path) for path in job.existing)
        ]

    def blocks(self) -> Iterator[SortedCells]:
        """Yield the cells of the output, range by range."""
        for number in range(len(self._edges) - 1):
            pieces = [
                taken for taken in self._inputs if taken.cuts[number] < taken.cuts[number + 1]
            ]
            if pieces:
                yield self._block(pieces, number)

    def _load(self, part: Part, job: MergeJob) -> _Input:
        """Read the columns of a run's cells that are in the range."""
        start, stop = part.place(job.low), part.place(job.high)
        fingerprint = part.fingerprints(start, stop)
        labels = {name: part.labels(name, start, stop) for name in LABELS}
        dataset = labels["dataset"]
        ranks = np.array([self._ranks[name] for name in dataset.categories], dtype=np.int64)
        inner = np.array(self._edges[1:-1], dtype=np.uint64)
        cuts = np.searchsorted(fingerprint[:, 0], inner)
        return _Input(
            part=part,
            start=start,
            fingerprint=fingerprint,
            row=part.numbers("row", start, stop).astype(np.int64),
            labels=labels,
            rank=ranks[dataset.codes],
            cuts=np.concatenate([[0], cuts, [stop - start]]),
        )

    def _block(self, inputs: Sequence[_Input], number: int) -> SortedCells:
        """Merge what the inputs have in one range."""
        slices = [slice(taken.cuts[number], taken.cuts[number + 1]) for taken in inputs]
        pairs = list(zip(inputs, slices, strict=True))
        fingerprint = np.concatenate([taken.fingerprint[part] for taken, part in pairs])
        row = np.concatenate([taken.row[part] for taken, part in pairs])
        rank = np.concatenate([taken.rank[part] for taken, part in pairs])
        labels = {
            name: joined_labels([taken.labels[name].taken(part) for taken, part in pairs])
            for name in LABELS
        }
        order = np.lexsort((row, rank, fingerprint[:, 1], fingerprint[:, 0]))
        kept = self._kept(fingerprint[order], rank[order], labels["dataset"].taken(order), number)
        order = order[kept]
        gene, count, offsets = _gathered(pairs, order)
        return SortedCells(
            gene=gene,
            count=count,
            offsets=offsets,
            fingerprint=fingerprint[order],
            row=row[order],
            labels={name: label.taken(order) for name, label in labels.items()},
        )

    def _kept(
        self,
        fingerprint: "NDArray[np.uint64]",
        rank: "NDArray[np.int64]",
        dataset: Labels,
        number: int,
    ) -> "NDArray[np.bool_]":
        """Whether each cell stays; the others are counted."""
        first = np.ones(len(rank), dtype=np.bool_)
        first[1:] = (fingerprint[1:] != fingerprint[:-1]).any(axis=1)
        keeper = np.maximum.accumulate(np.where(first, np.arange(len(rank)), 0))
        same = rank == rank[keeper]
        known = self._known(fingerprint, number)
        counts = (
            (self.within, ~first & ~known & same),
            (self.across, known | (~first & ~same)),
        )
        for counter, left_out in counts:
            codes = dataset.codes[left_out]
            for code, n in zip(*np.unique(codes, return_counts=True), strict=True):
                counter[dataset.categories[code]] += int(n)
        return first & ~known

    def _known(self, fingerprint: "NDArray[np.uint64]", number: int) -> "NDArray[np.bool_]":
        """Whether each cell is in the corpus already."""
        known = np.zeros(len(fingerprint), dtype=np.bool_)
        for part, cuts in self._existing:
            start, stop = cuts[number], cuts[number + 1]
            if start < stop:
                known |= positions(fingerprint, part.fingerprints(start, stop)) >= 0
        return known


def joined_labels(columns: Sequence[Labels]) -> Labels:
    """Put columns of labels one after another."""
    categories: dict[str, int] = {}
    codes = []
    for column in columns:
        known = [categories.setdefault(text, len(categories)) for text in column.categories]
        codes.append(np.array(known, dtype=np.int32)[column.codes])
    return Labels(codes=np.concatenate(codes), categories=tuple(categories))


def _edges(job: MergeJob, n_values: int) -> list[int]:
    """Cut the range into pieces that fit in memory, as hashes are spread evenly."""
    width = job.high - job.low
    n_blocks = max(1, math.ceil(n_values * width / WHOLE_RANGE / BLOCK_VALUES))
    return [job.low + width * i // n_blocks for i in range(n_blocks + 1)]


def _gathered(
    pairs: "Sequence[tuple[_Input, slice]]", order: "NDArray[np.int64]"
) -> "tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int64]]":
    """Read the cells and put them in order: genes, counts, boundaries."""
    blocks = [
        taken.part.read(taken.start + int(part.start), taken.start + int(part.stop), once=True)
        for taken, part in pairs
    ]
    edges = boundaries(np.concatenate([np.diff(block.offsets) for block in blocks]))
    return (
        picked([block.gene for block in blocks], edges, order),
        picked([block.count for block in blocks], edges, order),
        boundaries(np.diff(edges)[order]),
    )


def picked(
    blocks: "Sequence[NDArray[np.integer]]",
    edges: "NDArray[np.int64]",
    order: "NDArray[np.int64]",
) -> "NDArray[np.integer]":
    """Join blocks and take the segments between edges in a new order.

    Joining slices copies whole cells; indexing would look up every count.
    """
    values = np.concatenate(blocks)
    where = zip(edges[:-1][order].tolist(), edges[1:][order].tolist(), strict=True)
    pieces = [values[start:stop] for start, stop in where]
    return np.concatenate(pieces) if pieces else values[:0]
