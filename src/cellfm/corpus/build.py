"""Making a corpus from sources, and adding to one: whatever is interrupted goes on where it was."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from cellfm.corpus.commit import (
    ADDITION,
    Outcome,
    commit_addition,
    commit_build,
    discard,
    stage_addition,
    stage_build,
)
from cellfm.corpus.curate import Rules
from cellfm.corpus.executors import executor
from cellfm.corpus.job import JOB, Job
from cellfm.corpus.manifest import GENES, MANIFEST, partial_of
from cellfm.corpus.plan import (
    Curated,
    Merging,
    Progress,
    curate_all,
    forget_changed,
    merge_all,
)
from cellfm.corpus.record import writing
from cellfm.corpus.sources import SourceEntry
from cellfm.corpus.store import Store
from cellfm.corpus.summary import BuildResult
from cellfm.errors import ConfigError, CorpusError, OutputExistsError, ResumeError
from cellfm.genes import Vocabulary


def build(
    sources: Sequence[SourceEntry],
    store: Path | str,
    *,
    rules: Rules | None = None,
    vocabulary: Vocabulary | None = None,
    n_workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Make a corpus of sources; their order does not matter.

    The store appears when it is complete. What is done until then is in ``STORE.partial``: after any interruption the same
    call goes on with it. If the store is there and was made of the same, nothing is done.

    Parameters
    ----------
    sources
        What it is made of; see `cellfm.corpus.sources.read_sources`.
    store
        Folder to make.
    rules
        Which cells are kept.
    vocabulary
        Genes of the corpus; all of HGNC's by default.
    n_workers
        Processes on this machine; by default one for each core.
    scheduler
        Address of a Dask scheduler whose workers do the work instead.
    progress
        Told of the work.

    Raises
    ------
    OutputExistsError
        The store was made of something else.
    ResumeError
        The partial store is of something else.
    CorpusError
        No cell is left, a worker died, or the disk is full or must not be written.
    """
    store = Path(store).absolute()
    rules = Rules() if rules is None else rules
    vocabulary = Vocabulary.from_hgnc() if vocabulary is None else vocabulary
    entries = _ordered(sources)
    job = Job.of(entries, rules=rules, vocabulary=vocabulary.hash)
    if _is_built(store, job, entries):
        return BuildResult.of(store)
    began, partial = time.perf_counter(), partial_of(store)
    _begin(partial, job, vocabulary, hint="give another STORE")
    if not (partial / MANIFEST).is_file():
        with executor(n_workers=n_workers, scheduler=scheduler) as pool:
            work = _Work(pool=pool, folder=partial, rules=rules, progress=progress)
            curated, merging = work.do(entries)
        outcome = Outcome(
            job=job,
            vocabulary=vocabulary,
            curated=curated,
            merging=merging,
            seconds=time.perf_counter() - began,
        )
        stage_build(partial, outcome)
    commit_build(partial, store)
    return BuildResult.of(store)


def add(
    sources: Sequence[SourceEntry],
    store: Path | str,
    *,
    n_workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Add sources to a corpus, by its own rules; only they are read.

    Cells that are in the corpus already are left out, and so are sources. Until all is done the corpus stays as it was; after an
    interruption the same call goes on.

    Parameters
    ----------
    sources
        What to add.
    store
        The corpus.
    n_workers, scheduler, progress
        As for `build`.

    Raises
    ------
    CorpusError
        There is no corpus, none of the sources can be used, or the disk is full or must not be written.
    ResumeError
        Another addition was not finished.
    ConfigError
        A source has the name of another that is in the corpus.
    """
    store = Path(store).absolute()
    partial = store / ADDITION
    commit_addition(store)  # of an addition that was interrupted at its very end
    opened = Store.open(store)
    rules = _rules_of(opened)
    entries, vocabulary = _ordered(sources), opened.vocabulary
    job = Job.of(entries, rules=rules, vocabulary=vocabulary.hash)
    began = time.perf_counter()
    _begin(partial, job, vocabulary, hint=f"finish that one, or remove {partial}")
    with executor(n_workers=n_workers, scheduler=scheduler) as pool:
        work = _Work(pool=pool, folder=partial, rules=rules, progress=progress, store=opened)
        curated, merging = work.do(entries)
    known = {(source.name, source.reason) for source in opened.manifest.set_aside}
    if not curated.curated and known >= {(r.name, r.reason) for r in curated.set_aside}:
        discard(partial)
        return BuildResult.of(store, skipped=curated.skipped)
    outcome = Outcome(
        job=job,
        vocabulary=vocabulary,
        curated=curated,
        merging=merging,
        seconds=time.perf_counter() - began,
        before=opened,
    )
    stage_addition(partial, outcome, opened)
    commit_addition(store)
    return BuildResult.of(store, skipped=curated.skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The two halves of a build: curate, then merge."""

    pool: Executor
    folder: Path
    rules: Rules
    progress: Progress | None
    store: Store | None = None

    def do(self, entries: Sequence[SourceEntry]) -> tuple[Curated, Merging]:
        """Curate and merge."""
        curated = self._curate(entries)
        if forget_changed(self.folder, curated):
            curated = self._curate(entries)
        if curated.n_cells:
            merging = merge_all(
                self.pool, curated, self.folder, store=self.store, progress=self.progress
            )
            return curated, merging
        if not curated.skipped:
            _give_up(self.folder, curated)
        return curated, Merging(parts=(), content=(0, 0), cells={}, within={}, across={})

    def _curate(self, entries: Sequence[SourceEntry]) -> Curated:
        return curate_all(
            self.pool,
            entries,
            self.folder,
            rules=self.rules,
            store=None if self.store is None else self.store.path,
            progress=self.progress,
        )


def _ordered(sources: Sequence[SourceEntry]) -> list[SourceEntry]:
    """Sort sources by name; names must differ."""
    entries = sorted(sources, key=lambda entry: entry.name)
    twice = [name for name, n in Counter(entry.name for entry in entries).items() if n > 1]
    if twice or not entries:
        msg = f"{len(entries)} sources were given{f', several named {twice[0]!r}' if twice else ''}; at least one is needed, each with a name of its own. Give more of them."
        raise ConfigError(msg)
    return entries


def _is_built(store: Path, job: Job, entries: Sequence[SourceEntry]) -> bool:
    """Whether the store is there and made of this; anything else there is refused."""
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return False
    if not (store / MANIFEST).is_file():
        msg = f"{store} exists and is no corpus, so it is not replaced. Give another STORE."
        raise OutputExistsError(msg)
    known = Job.read(store)
    changed = known.differing_file(entries) if known.is_same(job) else ""
    if known.is_same(job) and not changed:
        return True
    what = f"another version of the source {changed}" if changed else _difference(known, job)
    msg = f"{store} is a corpus made of {what}. Add sources to it by `cellfm corpus add`, or give another STORE."
    raise OutputExistsError(msg)


def _difference(known: Job, job: Job) -> str:
    """Say what a corpus is made of instead."""
    if known.vocabulary != job.vocabulary:
        return "another gene list"
    if known.rules != job.rules:
        return f"other rules ({known.rules})"
    return f"other sources ({len(known.sources):,} of them)"


def _begin(partial: Path, job: Job, vocabulary: Vocabulary, *, hint: str) -> None:
    """Make the folder of a build, or go on with one of the same job."""
    if (partial / JOB).is_file():
        known = Job.read(partial)
        if not known.is_same(job):
            msg = f"{partial} holds an unfinished build of {_difference(known, job)}. Run that one to its end, remove the folder, or {hint}."
            raise ResumeError(msg)
        return
    with writing(partial):
        shutil.rmtree(partial, ignore_errors=True)  # killed before it knew what it is
        partial.mkdir(parents=True)
        vocabulary.write(partial / GENES)
        job.write(partial)


def _give_up(folder: Path, curated: Curated) -> None:
    """Leave nothing behind and say why nothing is left."""
    discard(folder)
    reasons = [f"{report.name}: {report.reason}" for report in curated.set_aside]
    reasons += [f"{report.name}: no cell passes the rules." for report in curated.curated]
    more = f" … and {len(reasons) - 3:,} more." if len(reasons) > 3 else ""
    msg = f"No cell is left of {len(reasons):,} sources, so nothing was written. {' '.join(reasons[:3])}{more} Correct the sources or loosen the rules."
    raise CorpusError(msg)


def _rules_of(store: Store) -> Rules:
    """Rules by which a corpus was built."""
    try:
        return Rules(**store.manifest.rules)  # type: ignore[arg-type]
    except TypeError as error:
        msg = f"{store.path} was built by rules that this version of cellfm does not know ({error}). Install version {store.manifest.cellfm}."
        raise CorpusError(msg) from error
