"""Run methods on the cases of tasks; what is done is not done again."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from cellfm._version import __version__
from cellfm.bench.datasets import Dataset
from cellfm.bench.leakage import seen_cells
from cellfm.bench.meter import Meter, metered
from cellfm.bench.outcomes import (
    Controls,
    Key,
    finite,
    gather,
    is_done,
    write_outcome,
    write_results,
)
from cellfm.bench.registry import check_task
from cellfm.bench.resample import interval
from cellfm.bench.result import Result, ResultTable
from cellfm.bench.states import States
from cellfm.bench.task import Case, Context, Method, Outcome, Score, Task
from cellfm.corpus.store import Store
from cellfm.errors import ConfigError, MissingDependencyError
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

PACKAGES = ("cellfm", "torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn", "scib-metrics", "harmonypy", "scvi-tools", "magic-impute")  # fmt: skip
Progress = Callable[[str, int, int], None]
"""Called with what runs now, how many methods are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What to run.

    Attributes
    ----------
    methods
        Names; the controls of each task are always added. None for all that take no training.
    slow
        Also those that train.
    seeds
        Number of seeds; each gives splits, random weights and resamples of its own.
    store
        The corpus the model was pretrained on.
    fresh
        Run again what is done.
    """

    methods: tuple[str, ...] | None = None
    slow: bool = False
    seeds: int = 1
    store: Store | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            msg = f"seeds is {self.seeds}; it must be at least 1. Give a number in that range."
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a run left."""

    table: ResultTable
    held_back: tuple[str, ...]
    """Groups of results that are not written because controls are missing or failed."""
    refused: tuple[str, ...]
    """Datasets that a task cannot use, and why."""
    asked: frozenset[tuple[str, str]]
    """Tasks and hashes of datasets of this run; the table may hold more, from earlier ones."""
    path: Path
    """``results.jsonl``."""
    n_run: int
    n_reused: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Facts:
    """What all results of a dataset and a model share."""

    gene_coverage: float
    n_seen: int | None
    notes: tuple[str, ...]
    versions: dict[str, str]


def run_bench(
    tasks: Sequence[Task],
    datasets: Sequence[Dataset],
    model: Pretrained,
    out: Path,
    *,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run tasks on datasets and write the results.

    Each method on each case leaves a file in ``out/outcomes``, so that a run that was interrupted goes on where it stopped;
    ``out/results.jsonl`` is made of all these files.

    Parameters
    ----------
    tasks
        From :func:`cellfm.bench.registry.load_task`.
    datasets
        From :func:`cellfm.bench.datasets.find_datasets`.
    model
        Weights.
    out
        Folder; that of an earlier run is added to.
    options
        What to run.
    progress
        Called before each method and at the end.

    Raises
    ------
    ConfigError
        No task has a method of a name that was asked for, or two datasets have one name.
    DataError
        A dataset cannot be read.
    """
    options = options or RunOptions()
    for task in tasks:
        check_task(task)
    _check_names(tasks, datasets, options)
    out.mkdir(parents=True, exist_ok=True)
    states = States(out / "states")
    refused = [
        f"{task.name} on {dataset.name}: {why}"
        for dataset in datasets
        for task in tasks
        if (why := task.refuses(dataset))
    ]
    todo = [(dataset, task) for dataset in datasets for task in tasks if not task.refuses(dataset)]
    counts = _Counts(len(todo) * options.seeds, progress)
    for dataset, task in todo:
        facts = _facts(dataset, model)
        for seed in range(options.seeds):
            runner = _Runner(task, options, model, states, facts, out)
            for case in task.cases(dataset, seed=seed):
                runner.run_case(case, counts)
            counts.next_unit()
    table, held_back = gather(out)
    return Run(
        table=table,
        held_back=held_back,
        refused=tuple(refused),
        asked=frozenset((task.name, dataset.hash) for dataset, task in todo),
        path=write_results(out, table),
        n_run=counts.n_run,
        n_reused=counts.n_reused,
    )


def chosen_methods(task: Task, options: RunOptions) -> tuple[Method, ...]:
    """Methods of a task that a run takes: those asked for, and always the controls.

    Parameters
    ----------
    task
        The task.
    options
        What was asked for.
    """
    possible = [method for method in task.methods if options.store is not None or not method.corpus]
    controls = {method.name for method in _controls(task, possible)}
    if options.methods is None:
        wanted = {method.name for method in possible if options.slow or not method.trains}
    else:
        wanted = set(options.methods)
    return tuple(method for method in possible if method.name in wanted | controls)


def _controls(task: Task, possible: Sequence[Method]) -> Iterator[Method]:
    """Yield the controls; those that train only where no other has the role."""
    named = (task.negative, task.positive)
    for role in sorted(task.required - {"candidate"}):
        having = [
            method
            for method in possible
            if role in method.roles and "candidate" not in method.roles
        ]
        yield from [method for method in having if not method.trains] or having
    yield from (method for method in possible if method.name in named)


class _Counts:
    """How far the run is; the number of cases is known only once a task has made them."""

    def __init__(self, n_units: int, progress: Progress | None) -> None:
        self.n_units, self.unit, self.n_run, self.n_reused = n_units, 0, 0, 0
        self._tell = progress or (lambda what, done, total: None)

    def tell(self, what: str) -> None:
        self._tell(what, self.unit, self.n_units)

    def next_unit(self) -> None:
        self.unit += 1
        self._tell("", self.unit, self.n_units)


class _Runner:
    """Runs the methods of one task."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        task: Task,
        options: RunOptions,
        model: Pretrained,
        states: States,
        facts: _Facts,
        out: Path,
    ) -> None:
        self.task, self.options, self.model = task, options, model
        self.states, self.facts, self.out = states, facts, out
        self.controls = Controls(
            negative=task.negative,
            positive=task.positive,
            best={metric.name: metric.best for metric in task.metrics},
        )

    def run_case(self, case: Case, counts: _Counts) -> None:
        """Run all methods on a case that are not done."""
        views: Sequence[Case] | None = None
        for method in chosen_methods(self.task, self.options):
            key = self._key(case, method)
            path = key.path(self.out)
            counts.tell(f"{case.dataset.name} · {self.task.name} · {method.name}")
            if not self.options.fresh and is_done(path, key):
                counts.n_reused += 1
                continue
            views = self.task.views(case) if views is None else views
            outcome, failed, meter = self._attempt(case, views, method)
            rows = self._rows(case, method, (outcome, failed, meter))
            write_outcome(path, key, rows, outcome=outcome, controls=self.controls)
            counts.n_run += 1

    def _attempt(
        self, case: Case, views: Sequence[Case], method: Method
    ) -> tuple[Outcome | None, str | None, Meter]:
        context = Context(
            model=self.model,
            states=self.states,
            store=self.options.store,
            seed=case.seed,
            work=self.out / "work" / self.task.name,
        )
        self.states.restart()
        outcome, failed = None, None
        with metered() as meter:
            try:
                _refuse_missing(method)
                answers = [method.run(view, context) for view in views]
                outcome = self.task.score(case, answers)
            except Exception as error:  # noqa: BLE001 - whatever stops a method is its result
                failed = f"{type(error).__name__}: {error}"
        # A method is charged for states that an earlier one has computed.
        meter.seconds += self.states.borrowed
        return outcome, failed, meter

    def _rows(
        self, case: Case, method: Method, attempt: tuple[Outcome | None, str | None, Meter]
    ) -> list[Result]:
        outcome, failed, meter = attempt
        of_metric = partial(self._row, case, method, meter)
        notes = () if outcome is None else outcome.notes
        rows = []
        for metric in self.task.metrics:
            score = None if outcome is None else outcome.scores.get(metric.name)
            if score is None and outcome is not None:
                continue  # a metric that does not apply
            why = failed
            if score is not None and not finite(score.value):
                score, why = None, f"{metric.name} is not a number"
            rows.append(of_metric(metric.name, score, why, notes))
        return rows

    def _row(  # noqa: PLR0917 - all that a result is made of
        self,
        case: Case,
        method: Method,
        meter: Meter,
        metric: str,
        score: Score | None,
        failed: str | None,
        notes: tuple[str, ...],
    ) -> Result:
        of = {each.name: each for each in self.task.metrics}[metric]
        low, high = (interval(score.draws) if score is not None else None) or (None, None)
        return Result(
            task=self.task.name,
            metric=metric,
            method=method.name,
            primary=of is self.task.metrics[0],
            higher=of.higher,
            dataset=case.dataset.name,
            dataset_hash=case.dataset.hash,
            split=case.split,
            split_hash=case.split_hash,
            k=case.k,
            setting=f"few_shot({case.k})" if method.setting == "few_shot" else method.setting,
            roles=tuple(sorted(method.roles)),
            required=tuple(sorted(self.task.required)),
            against=method.against,
            seed=case.seed,
            weights=self.model.hash,
            value=None if score is None else score.value,
            low=low,
            high=high,
            n_units=0 if score is None else score.n_units,
            unit="" if score is None else score.unit,
            failed=failed,
            seconds=round(meter.seconds, 3),
            peak_memory=meter.peak_memory,
            gene_coverage=self.facts.gene_coverage,
            n_seen=self.facts.n_seen,
            versions=self.facts.versions,
            notes=(*case.notes, *self.facts.notes, *notes),
        )

    def _key(self, case: Case, method: Method) -> Key:
        store, whitening = self.options.store, self.model.whitening
        # The same weights may get another whitening: what was computed with the first is then not reused.
        detail = method.detail if whitening is None else f"{method.detail} {whitening.hash[:16]}"
        return Key(
            task=self.task.name,
            dataset=case.dataset.hash,
            split=f"{case.split} {case.split_hash}",
            k=case.k,
            seed=case.seed,
            weights=self.model.hash,
            method=method.name,
            detail=detail,
            version=__version__,
            corpus=corpus_id(store) if method.corpus and store is not None else "",
        )


def corpus_id(store: Store) -> str:
    """Return what tells a corpus from others: its cells, datasets and genes."""
    names = sorted(dataset.name for dataset in store.datasets)
    return json.dumps([store.n_cells, store.manifest.vocabulary, names])


def _refuse_missing(method: Method) -> None:
    missing = [name for name in method.needs if find_spec(name) is None]
    if missing:
        msg = f"{' and '.join(missing)} cannot be imported. Install the package with cellfm[bench], or leave the method out."
        raise MissingDependencyError(msg)


def _facts(dataset: Dataset, model: Pretrained) -> _Facts:
    report = match_genes(dataset.cells.var, model.vocabulary, EmbedOptions(min_matched=0.0)).report
    seen = seen_cells(dataset.cells, model, scale=dataset.scale)
    notes = [f"{n} cells dropped: {what}" for what, n in dataset.cells.uns["bench"]["dropped"].items() if n]  # fmt: skip
    if seen.n_seen is None:
        notes.append(f"whether the weights have seen these cells is not known: {seen.reason}")
    elif seen.n_seen:
        notes.append(f"the weights were trained on {seen.n_seen:,} of these {seen.n_cells:,} cells")
    return _Facts(
        gene_coverage=round(report.n_matched / max(report.n_input, 1), 4),
        n_seen=seen.n_seen,
        notes=tuple(notes),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_names(tasks: Sequence[Task], datasets: Sequence[Dataset], options: RunOptions) -> None:
    known = {method.name for task in tasks for method in task.methods}
    unknown = sorted(set(options.methods or ()) - known)
    if unknown:
        msg = f"No task that was asked for has the methods {unknown}; they have {', '.join(sorted(known))}. Choose one of these."
        raise ConfigError(msg)
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        msg = f"Two datasets have one name: {sorted(names)}. Rename one of them in its file."
        raise ConfigError(msg)
