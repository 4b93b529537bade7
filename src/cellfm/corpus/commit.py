"""The last steps of a build or an addition: what stands beside the cells, and the one step that makes it valid."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cellfm.corpus.job import JOB, Job
from cellfm.corpus.manifest import (
    CELLS,
    MANIFEST,
    REPORT,
    REPORTS,
    Dataset,
    Manifest,
    SetAside,
    read_json,
    write_json,
)
from cellfm.corpus.plan import GROUPED, RUNS, Curated, Merging
from cellfm.corpus.record import writing
from cellfm.corpus.report import FileReport
from cellfm.corpus.store import Store
from cellfm.corpus.summary import CorpusReport, corpus_report, n_bytes_of, read_reports
from cellfm.genes import Vocabulary

ADDITION, STAGED = ".add.partial", "staged"
"""Folder of an addition within the store; what stands beside the cells waits in the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a build or an addition came to.

    Attributes
    ----------
    job
        What it was made of.
    vocabulary
        The gene list.
    curated, merging
        What its two halves gave.
    seconds
        Wall time.
    before
        Corpus that was added to.
    """

    job: Job
    vocabulary: Vocabulary
    curated: Curated
    merging: Merging
    seconds: float
    before: Store | None = None

    def reports(self) -> list[FileReport]:
        """Return the reports of the sources, with their duplicates."""
        merging = self.merging
        reports = [
            replace(
                report,
                n_duplicates_within=merging.within.get(report.name, 0),
                n_duplicates_across=merging.across.get(report.name, 0),
            )
            for report in self.curated.curated
        ]
        return [*reports, *self.curated.set_aside]

    def manifest(self) -> Manifest:
        """Return what the corpus holds now."""
        from cellfm._version import __version__

        cells, curated = self.merging.cells, self.curated
        datasets = [_dataset(report, cells.get(report.name, 0)) for report in curated.curated]
        aside = [SetAside(name=r.name, path=r.path, reason=r.reason) for r in curated.set_aside]
        parts, content = self.merging.parts, _hex(self.merging.content)
        if self.before is not None:
            old = self.before.manifest
            new = {report.name for report in (*curated.curated, *curated.set_aside)}
            datasets += old.datasets
            aside += [source for source in old.set_aside if source.name not in new]
            parts, content = (*old.parts, *parts), _sum_of(old.content, content)
        return Manifest(
            cellfm=__version__,
            vocabulary=self.vocabulary.hash,
            n_genes=len(self.vocabulary),
            content=content,
            rules=self.job.rules,
            datasets=tuple(sorted(datasets, key=lambda dataset: dataset.name)),
            set_aside=tuple(sorted(aside, key=lambda source: source.name)),
            parts=parts,
        )


def stage_build(partial: Path, outcome: Outcome) -> None:
    """Write all that is missing of a store into the folder it is built in, the manifest last."""
    reports, manifest = outcome.reports(), outcome.manifest()
    with writing(partial):
        _write_reports(partial, reports)
        n_bytes = n_bytes_of(partial, manifest)
        corpus_report(reports, manifest, n_bytes=n_bytes, seconds=outcome.seconds).write(partial)
        replace(outcome.job, files=outcome.curated.files).write(partial)
        manifest.write(partial)


def commit_build(partial: Path, store: Path) -> None:
    """Put a complete store in its place."""
    with writing(store):
        (partial / GROUPED).unlink(missing_ok=True)
        for path in (partial / RUNS, *partial.glob("merge-*"), *partial.rglob(".*.partial")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        partial.rename(store)


def stage_addition(partial: Path, outcome: Outcome, store: Store) -> None:
    """Write all that changes in a store beside its new cells, the manifest last."""
    staged, manifest, reports = partial / STAGED, outcome.manifest(), outcome.reports()
    job = replace(outcome.job, files=outcome.curated.files)
    with writing(partial):
        shutil.rmtree(staged, ignore_errors=True)
        _write_reports(staged, reports)
        new = {report.name for report in reports}
        reports += [report for report in read_reports(store.path) if report.name not in new]
        reports.sort(key=lambda report: report.name)
        n_bytes = n_bytes_of(partial, manifest) + n_bytes_of(store.path, store.manifest)
        seconds = outcome.seconds + CorpusReport.read(store.path).seconds
        corpus_report(reports, manifest, n_bytes=n_bytes, seconds=seconds).write(staged)
        Job.read(store.path).joined(job).write(staged)
        manifest.write(staged)


def commit_addition(store: Path) -> None:
    """Put a complete addition into its corpus, or end doing so; the new manifest makes it valid.

    Every step can be done twice, so that it does not matter where the last attempt was interrupted.
    """
    partial = store / ADDITION
    staged = partial / STAGED
    if not (staged / MANIFEST).is_file():
        return
    with writing(store):
        for path in sorted((partial / CELLS).glob("part-*")):
            target = store / CELLS / path.name
            if path.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            path.replace(target)
        for path in (staged / REPORTS).glob("*.json"):
            write_json(store / REPORTS / path.name, read_json(path))
        for name in (REPORT, JOB):
            write_json(store / name, read_json(staged / name))
        Manifest.read(staged).write(store)
    discard(partial)


def discard(partial: Path) -> None:
    """Remove the folder of work that is over: first its name, so that half of it is never taken for unfinished work."""
    over = partial.with_name(f"{partial.name}.over")
    with writing(partial):
        shutil.rmtree(over, ignore_errors=True)
        partial.rename(over)
        shutil.rmtree(over)


def _write_reports(folder: Path, reports: list[FileReport]) -> None:
    """Write the report of each source."""
    (folder / REPORTS).mkdir(parents=True, exist_ok=True)
    for report in reports:
        write_json(folder / REPORTS / f"{report.name}.json", report.to_dict())


def _dataset(report: FileReport, n_cells: int) -> Dataset:
    """Make the entry of a source."""
    return Dataset(
        name=report.name,
        path=report.path,
        sha256=report.sha256,
        n_bytes=report.n_bytes,
        format=report.format,
        licence=report.licence,
        url=report.url,
        n_cells=n_cells,
    )


def _hex(content: tuple[int, int]) -> str:
    """Write a content hash as the manifest has it."""
    return "".join(f"{word:016x}" for word in content)


def _sum_of(first: str, second: str) -> str:
    """Content hash of the union of two sets of cells that share none."""
    pairs = [(int(first[i : i + 16], 16), int(second[i : i + 16], 16)) for i in (0, 16)]
    return "".join(f"{(one + other) % (1 << 64):016x}" for one, other in pairs)
