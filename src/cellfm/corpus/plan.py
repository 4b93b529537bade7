"""The two halves of a build as tasks: sources → runs, runs → parts."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cellfm.corpus.curate import Rules
from cellfm.corpus.executors import run_all
from cellfm.corpus.manifest import CELLS, GENES, PartEntry, read_json, write_json
from cellfm.corpus.merge import FAN_IN, Merged, MergeJob, grouped, merge
from cellfm.corpus.part import WHOLE_RANGE
from cellfm.corpus.record import PartRecord, file_digest, record_path, writing
from cellfm.corpus.report import FileReport
from cellfm.corpus.runs import CuratedSource, CurateJob, Signature, curate_source
from cellfm.corpus.sources import SourceEntry
from cellfm.corpus.store import Store

PART_CELLS = 1 << 17
"""Most cells of a part, but for chance."""
RUNS, RANKS, GROUPED = "runs", "ranks.json", "grouped.json"
CURATE, GROUP, MERGE = "curate", "group", "merge"
"""Stages of a build, as told to its progress."""

_SLACK = 1.02  # hashes fall evenly but for a few standard deviations

Progress = Callable[[str, int, int], None]
"""Told the stage, what of it is done and how much it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What became of all sources.

    Attributes
    ----------
    curated
        Reports of sources that were read, by name.
    set_aside
        Reports of the others, by name.
    skipped
        Sources that are in the corpus already, with their names there.
    files
        Signature and digest of each source.
    runs
        Folder and cells of each run, by the name of the source.
    """

    curated: tuple[FileReport, ...]
    set_aside: tuple[FileReport, ...]
    skipped: tuple[tuple[str, str], ...]
    files: Mapping[str, tuple[Signature, str]]
    runs: tuple[tuple[Path, int], ...]

    @property
    def n_cells(self) -> int:
        """Cells in all runs."""
        return sum(n_cells for _, n_cells in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """What the merges gave.

    Attributes
    ----------
    parts
        The new parts.
    content
        Both words of the hash of their cells.
    cells, within, across
        Cells of each dataset in the parts, and those left out as copies.
    """

    parts: tuple[PartEntry, ...]
    content: tuple[int, int]
    cells: Mapping[str, int]
    within: Mapping[str, int]
    across: Mapping[str, int]


def curate_all(
    pool: Executor,
    entries: Sequence[SourceEntry],
    folder: Path,
    *,
    rules: Rules,
    store: Path | None,
    progress: Progress | None,
) -> Curated:
    """Curate each source; of several with the same content the one with the first name counts."""
    jobs = [
        CurateJob(
            entry=entry,
            folder=folder / RUNS / entry.name,
            vocabulary=folder / GENES,
            rules=rules,
            store=store,
        )
        for entry in entries
    ]
    results = run_all(pool, curate_source, jobs, progress=_stage(progress, CURATE))
    first: dict[str, str] = {}
    sorted_out = [_same_file_aside(result, first) for result in results]
    pairs = list(zip(entries, sorted_out, strict=True))
    return Curated(
        curated=tuple(r.report for r in sorted_out if r.report.status == "curated"),
        set_aside=tuple(
            r.report for r in sorted_out if r.report.status != "curated" and not r.in_corpus_as
        ),
        skipped=tuple((entry.name, r.in_corpus_as) for entry, r in pairs if r.in_corpus_as),
        files={
            entry.name: (r.signature, r.report.sha256) for entry, r in pairs if not r.in_corpus_as
        },
        runs=tuple(
            run for job, r in zip(jobs, sorted_out, strict=True) for run in r.paths(job.folder)
        ),
    )


def merge_all(
    pool: Executor,
    curated: Curated,
    folder: Path,
    *,
    store: Store | None,
    progress: Progress | None,
) -> Merging:
    """Merge all runs into parts, in several rounds where there are many.

    Parameters
    ----------
    pool
        Where the work is done.
    curated
        The runs.
    folder
        Where everything is.
    store
        Corpus that the cells are added to.
    progress
        Told of the work.
    """
    work = folder / f"merge-{_key(curated)}"
    with writing(work):
        _forget_others(folder, work)
        work.mkdir(exist_ok=True)
        # by digest, which a change of name does not change
        by_digest = sorted(curated.curated, key=lambda report: report.sha256)
        write_json(work / RANKS, {report.name: rank for rank, report in enumerate(by_digest)})
    inputs, merged = _grouped(pool, curated.runs, work, progress)
    jobs, entries = _part_jobs([path for path, _ in inputs], curated.n_cells, work, store)
    merged += run_all(pool, merge, jobs, progress=_stage(progress, MERGE))
    parts, records = [], []
    for job, entry in zip(jobs, entries, strict=True):
        if record_path(job.output).is_file():
            record = PartRecord.read(job.output)
            digest = file_digest(record_path(job.output))
            parts.append(
                replace(entry, n_cells=record.n_cells, n_values=record.n_values, sha256=digest)
            )
            records.append(record)
    content = np.array([record.content for record in records], dtype=np.uint64).reshape(-1, 2)
    total = content.sum(axis=0, dtype=np.uint64)
    return Merging(
        parts=tuple(parts),
        content=(int(total[0]), int(total[1])),
        cells=_sum([record.cells for record in records]),
        within=_sum([done.within for done in merged]),
        across=_sum([done.across for done in merged]),
    )


def forget_changed(folder: Path, curated: Curated) -> bool:
    """Whether runs are gone that are needed again, as a source changed after they were merged; then all is forgotten."""
    note = folder / GROUPED
    if not note.is_file() or read_json(note)["key"] == _key(curated):
        return False
    with writing(folder):
        for path in folder.glob("merge-*"):
            shutil.rmtree(path)
        shutil.rmtree(folder / RUNS)
        note.unlink()
    return True


def _forget_others(folder: Path, work: Path) -> None:
    """Remove what was merged before a source changed."""
    others = [path for path in folder.glob("merge-*") if path != work]
    for path in (*others, folder / CELLS) if others else ():
        shutil.rmtree(path, ignore_errors=True)


def _same_file_aside(result: CuratedSource, first: dict[str, str]) -> CuratedSource:
    """Set a source aside whose content another has, with a name before its own."""
    report = result.report
    if report.status != "curated":
        return result
    other = first.setdefault(report.sha256, report.name)
    if other == report.name:
        return result
    reason = f"Its content is that of {other}, byte for byte (sha256 {report.sha256[:12]}…)."
    return replace(result, report=replace(report, status="set aside", reason=reason), runs=())


def _grouped(
    pool: Executor,
    runs: Sequence[tuple[Path, int]],
    work: Path,
    progress: Progress | None,
) -> tuple[list[tuple[Path, int]], list[Merged]]:
    """Merge neighbouring runs into longer ones until there are few; what they were made of is removed."""
    merged: list[Merged] = []
    current, level = list(runs), 0
    while len(current) > FAN_IN:
        groups = grouped(current)
        if len(groups) == len(current):
            break
        jobs = [
            _job(group, work / f"level-{level}" / f"run-{i:05d}.zarr", work)
            for i, group in enumerate(groups)
        ]
        done = run_all(pool, merge, jobs, progress=_stage(progress, GROUP))
        with writing(work):
            write_json(work.parent / GROUPED, {"key": work.name.removeprefix("merge-")})
            for path, _ in current:
                shutil.rmtree(path, ignore_errors=True)
        pairs = zip(jobs, done, strict=True)
        current = [(job.output, result.n_cells) for job, result in pairs if result.n_cells]
        merged += done
        level += 1
    return current, merged


def _part_jobs(
    inputs: Sequence[Path], n_cells: int, work: Path, store: Store | None
) -> tuple[list[MergeJob], list[PartEntry]]:
    """Cut the range of fingerprints into parts."""
    n_parts = 1
    while n_cells * _SLACK > n_parts * PART_CELLS:
        n_parts *= 2
    known = () if store is None else store.manifest.parts
    first = max((int(Path(part.path).stem.partition("-")[2]) + 1 for part in known), default=0)
    segment = max((part.segment + 1 for part in known), default=0)
    existing = () if store is None else tuple(store.path / part.path for part in known)
    jobs, entries = [], []
    for i in range(n_parts):
        path = f"{CELLS}/part-{first + i:05d}.zarr"
        job = _job(inputs, work.parent / path, work)
        low, high = (WHOLE_RANGE // n_parts * edge for edge in (i, i + 1))
        jobs.append(replace(job, low=low, high=high, existing=existing))
        entries.append(PartEntry(path=path, segment=segment, n_cells=0, n_values=0, sha256=""))
    return jobs, entries


def _job(inputs: Sequence[Path], output: Path, work: Path) -> MergeJob:
    """Merge the whole range of some runs."""
    return MergeJob(
        inputs=tuple(inputs),
        output=output,
        done=work / f"{output.parent.name}-{output.stem}.json",
        ranks=work / RANKS,
        vocabulary=work.parent / GENES,
    )


def _key(curated: Curated) -> str:
    """Short name of what is merged."""
    said = [[report.name, report.sha256] for report in curated.curated]
    return hashlib.sha256(json.dumps([said, len(curated.runs)]).encode()).hexdigest()[:16]


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Add counts by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    """Progress of one stage."""
    if progress is None:
        return None
    return lambda done, total: progress(stage, done, total)
