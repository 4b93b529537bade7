"""From one source to sorted runs of its cells: the first half of a build."""

import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.curate import CuratedCells, Rules, curate_file
from cellfm.corpus.manifest import Manifest, read_json, write_json
from cellfm.corpus.merge import picked
from cellfm.corpus.metadata import METADATA
from cellfm.corpus.part import Labels
from cellfm.corpus.part_writer import LARGEST_UINT16, SortedCells, write_part
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.readers.registry import find_reader
from cellfm.corpus.record import writing
from cellfm.corpus.report import FileReport
from cellfm.corpus.sources import SourceEntry, digest, is_url
from cellfm.errors import CellFMError, ConfigError, CorpusError, SourceError, VocabularyError
from cellfm.genes import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_VALUES = 1 << 24
"""Counts in a run: what is sorted in memory at a time."""
DONE = "done.json"

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateJob:
    """A source and where its runs go.

    Attributes
    ----------
    entry
        The source.
    folder
        Where its runs are written.
    vocabulary
        The gene list.
    rules
        Which cells are kept.
    store
        Corpus that the source is added to: it is skipped if it is in there.
    """

    entry: SourceEntry
    folder: Path
    vocabulary: Path
    rules: Rules
    store: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratedSource:
    """What became of a source.

    Attributes
    ----------
    report
        The account.
    runs
        Cells of each run, ``run-00000.zarr`` and so on.
    signature
        Its files, to see whether they change.
    in_corpus_as
        Name under which it is in the corpus already, then there are no runs.
    """

    report: FileReport
    runs: tuple[int, ...] = ()
    signature: Signature = ()
    in_corpus_as: str = ""

    def paths(self, folder: Path) -> list[tuple[Path, int]]:
        """Folder and cells of each run."""
        return [(run_path(folder, i), n_cells) for i, n_cells in enumerate(self.runs)]


def curate_source(job: CurateJob) -> CuratedSource:
    """Curate a source, unless it was done and its files are as they were.

    Whatever is wrong with the source sets it aside; an error that is not foreseen does so with its traceback.

    Raises
    ------
    CorpusError
        The runs cannot be written.
    ConfigError
        The source is said to be of a format that does not exist, or has the name of another in the corpus.
    """
    signature = signature_of(job.entry)
    done = job.folder / DONE
    if done.is_file():
        curated = _read(done)
        if curated.signature == signature:
            return curated
    with writing(job.folder):
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True)
    curated = replace(_curate(job), signature=signature)
    with writing(done):
        said = {
            "report": curated.report.to_dict(),
            "runs": curated.runs,
            "signature": signature,
            "in_corpus_as": curated.in_corpus_as,
        }
        write_json(done, said)
    return curated


def signature_of(entry: SourceEntry) -> Signature:
    """Name, size and time of change of each file of a source; nothing if it cannot be reached."""
    try:
        stats = [(path.name, path.stat()) for path in _files(entry)]
    except (OSError, CellFMError):
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def digest_of(entry: SourceEntry) -> str:
    """SHA-256 of a source, as its report has it.

    Raises
    ------
    SourceError
        It cannot be read.
    """
    return digest(_files(entry), entry.path)[0]


def run_path(folder: Path, number: int) -> Path:
    """Folder of a run."""
    return folder / f"run-{number:05d}.zarr"


def _files(entry: SourceEntry) -> tuple[Path, ...]:
    """Files of a source."""
    if is_url(entry.path) or not entry.path.exists():
        msg = f"{entry.path} is not there. Check the path."
        raise SourceError(msg)
    return find_reader(entry.path, entry.format).files(entry.path)


def _read(done: Path) -> CuratedSource:
    """Read what became of a source that was curated before."""
    said = read_json(done)
    return CuratedSource(
        report=FileReport.from_dict(said["report"]),
        runs=tuple(said["runs"]),
        signature=tuple((name, size, time) for name, size, time in said["signature"]),
        in_corpus_as=said["in_corpus_as"],
    )


def _curate(job: CurateJob) -> CuratedSource:
    """Curate a source or set it aside."""
    try:
        name = "" if job.store is None else _name_in(job.store, job.entry)
        if name:
            report = FileReport.of_set_aside(job.entry, f"It is in the corpus already as {name}.")
            return CuratedSource(report=report, in_corpus_as=name)
        vocabulary = Vocabulary.read(job.vocabulary)
        runs = _Runs(job, vocabulary)
        report = curate_file(job.entry, vocabulary=vocabulary, rules=job.rules, sink=runs.add)
        runs.flush()
        return CuratedSource(report=report, runs=tuple(runs.n_cells))
    except (CorpusError, ConfigError, VocabularyError):
        raise
    except CellFMError as error:
        return CuratedSource(report=FileReport.of_set_aside(job.entry, str(error)))
    except Exception as error:  # noqa: BLE001 - one source must not stop the others
        said = f"{type(error).__name__}: {error}"
        reason = f"An error that was not foreseen ({said}); the report has its traceback. Please report it."
        report = FileReport.of_set_aside(job.entry, reason)
        return CuratedSource(report=replace(report, notes=(traceback.format_exc(),)))


def _name_in(store: Path, entry: SourceEntry) -> str:
    """Name under which a source is in a corpus; empty if it is not."""
    datasets, sha256 = Manifest.read(store).datasets, digest_of(entry)
    for dataset in datasets:
        if dataset.sha256 == sha256:
            return dataset.name
        if dataset.name == entry.name:
            msg = f"A source named {entry.name!r} is in the corpus already, with other content ({dataset.path}); {entry.path} needs a name of its own. Give it one in the list of sources."
            raise ConfigError(msg)
    return ""


class _Runs:
    """Collects cells and writes them as sorted runs."""

    def __init__(self, job: CurateJob, vocabulary: Vocabulary) -> None:
        self.n_cells: list[int] = []
        self._job, self._vocabulary = job, vocabulary
        self._gene = np.uint16 if len(vocabulary) <= LARGEST_UINT16 else np.uint32
        self._blocks: list[CuratedCells] = []
        self._n_values = 0

    def add(self, cells: CuratedCells) -> None:
        """Take a block of cells."""
        count = cells.count
        if count.max(initial=0) <= LARGEST_UINT16:
            count = count.astype(np.uint16)
        self._blocks.append(replace(cells, gene=cells.gene.astype(self._gene), count=count))
        self._n_values += len(cells.gene)
        if self._n_values >= RUN_VALUES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if not self._blocks:
            return
        path = run_path(self._job.folder, len(self.n_cells))
        cells = _sorted(self._blocks, self._job.entry.name)
        self._blocks, self._n_values = [], 0
        write_part(path, [cells], vocabulary=self._vocabulary)
        self.n_cells.append(len(cells))


def _sorted(blocks: list[CuratedCells], dataset: str) -> SortedCells:
    """Put cells in the order of their fingerprints, copies in the order of their rows."""
    fingerprint = np.concatenate([block.fingerprint for block in blocks])
    row = np.concatenate([block.row for block in blocks])
    order = np.lexsort((row, fingerprint[:, 1], fingerprint[:, 0]))
    edges = boundaries(np.concatenate([np.diff(block.offsets) for block in blocks]))
    labels = {name: _labels([block.obs[name] for block in blocks], order) for name in METADATA}
    codes = np.zeros(len(row), dtype=np.int32)
    return SortedCells(
        gene=picked([block.gene for block in blocks], edges, order),
        count=picked([block.count for block in blocks], edges, order),
        offsets=boundaries(np.diff(edges)[order]),
        fingerprint=fingerprint[order],
        row=row[order],
        labels={"dataset": Labels(codes=codes, categories=(dataset,)), **labels},
    )


def _labels(columns: "list[NDArray[np.object_]]", order: "NDArray[np.int64]") -> Labels:
    """Turn strings into codes."""
    import pandas as pd

    codes, categories = pd.factorize(np.concatenate(columns))
    return Labels(codes=codes[order].astype(np.int32), categories=tuple(map(str, categories)))
