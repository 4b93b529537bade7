"""The commands ``cellfm bench list`` and ``cellfm bench run``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cellfm.cli.console import progress_console, say, show_table, shows_progress, wrote

if TYPE_CHECKING:
    from rich.table import Table

    from cellfm.bench.result import Result
    from cellfm.bench.run import Run
    from cellfm.bench.task import Task

DEFAULT_DATASETS = ("simulated-types", "simulated-batches")
"""What needs no file."""


def list_() -> None:
    """List the tasks with their methods and what each needs, and the datasets.

    Examples
    --------
    cellfm bench list
    """
    from cellfm.bench.datasets import BUILT_IN
    from cellfm.bench.registry import TASKS, load_task

    for name in TASKS:
        task = load_task(name)
        say(f"{name}: {task.summary}")
        metrics = ", ".join(metric.name for metric in task.metrics)
        say(f"metrics: {metrics}")
        show_table(_method_table(task))
        say("")
    say("Datasets that need no file (others: YAML files, see benchmarks/datasets):")
    for name, make in BUILT_IN.items():
        say(f"  {name}: {make().about}")


def run(  # noqa: PLR0913 - the parameters of a run
    *,
    out: Path,
    tasks: str | None = None,
    datasets: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = DEFAULT_DATASETS,
    methods: str | None = None,
    model: str | None = None,
    corpus: Path | None = None,
    seeds: int = 1,
    slow: bool = False,
    fresh: bool = False,
    device: str | None = None,
) -> None:
    """Run benchmark tasks and write their results.

    The controls of a task always run: the same network with random weights, PCA-50, a strong classical method, shuffled labels
    and an uninformative baseline. Results without them are not written. What was done by an earlier run into the same folder is
    used again; a method that fails is printed as failed.

    Parameters
    ----------
    out
        Folder of the results; that of an earlier run is added to.
    tasks
        Names, with commas between them; all by default. See cellfm bench list.
    datasets
        Names of built-in datasets, YAML files, or folders of them.
    methods
        Names, with commas between them; by default all that take no training. The controls are always added.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    corpus
        The corpus the model was pretrained on: adds PCA-50 fitted on it.
    seeds
        Number of seeds.
    slow
        Also run the methods that train for minutes.
    fresh
        Run again what an earlier run has done.
    device
        Device to compute on, such as cpu or cuda.

    Examples
    --------
    cellfm bench run --out results

    cellfm bench run --out results --tasks annotation,few_shot --datasets benchmarks/datasets/pbmc3k.yaml

    cellfm bench run --out results --datasets benchmarks/datasets simulated-types --seeds 5 --slow --model weights/cellfm-80m
    """
    from cellfm.bench.datasets import find_datasets
    from cellfm.bench.registry import TASKS, load_task
    from cellfm.bench.run import RunOptions, run_bench
    from cellfm.corpus.store import Store
    from cellfm.tl._states import as_model

    chosen = [load_task(name) for name in _names(tasks) or tuple(TASKS)]
    found = list(find_datasets(datasets))
    options = RunOptions(
        methods=_names(methods),
        slow=slow,
        seeds=seeds,
        store=None if corpus is None else Store.open(corpus),
        fresh=fresh,
    )
    weights = as_model(model, device)
    with _bar() as progress:
        done = run_bench(chosen, found, weights, out, options=options, progress=progress)
    _show(done)


def _names(words: str | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(word.strip() for word in words.split(",") if word)


def _method_table(task: "Task") -> "Table":
    from rich.table import Table

    table = Table("method", "what it is", "setting", "role", "needs", box=None, pad_edge=False)
    for method in task.methods:
        needs = [*method.needs]
        needs += ["--corpus"] if method.corpus else []
        needs += ["--slow"] if method.trains else []
        roles = ", ".join(sorted(method.roles)).replace("_", " ")
        table.add_row(method.name, method.summary, method.setting, roles, ", ".join(needs))
    return table


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show on standard error which method runs; elsewhere than on a terminal, a line for each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = progress_console()
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=console, transient=True, disable=not shows_progress(console)) as bar:  # fmt: skip
        task = bar.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=what)
            if what and not console.is_terminal:
                console.print(f"{what} …", highlight=False, markup=False, soft_wrap=True)

        yield advance


def _show(done: "Run") -> None:
    for group in done.table.groups().values():
        if (group[0].task, group[0].dataset_hash) in done.asked:
            _show_group([row for row in group if row.primary])
    for sentence in (*done.held_back, *(f"not run: {why}" for why in done.refused)):
        say(sentence)
    about = f"{len(done.table):,} results; {done.n_run} methods run, {done.n_reused} used again"
    wrote(done.path, about=about)


def _show_group(rows: "Sequence[Result]") -> None:
    """Print the primary metric of a group, the best normalised score first, failures last."""
    from rich.table import Table

    one = next(row for row in rows if row.failed is None)
    few = "" if one.k is None else f", {one.k} labelled cells of each type"
    intra = " (not of held-out donors or batches: no headline)" if one.split == "intra" else ""
    title = f"{one.task} on {one.dataset}: {one.split} split{intra}{few}, seed {one.seed}"
    say(title)
    numbers = (one.metric, "95 % interval", "normalised", "seconds")
    table = Table("method", "setting", box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right")
    for row in sorted(rows, key=_rank):
        between = "" if row.low is None else f"{row.low:.3f} to {row.high:.3f}"
        score = "" if row.normalised is None else f"{row.normalised:.3f}"
        table.add_row(row.method, row.setting, row.text, between, score, f"{row.seconds:.1f}")
    show_table(table)
    for row in rows:
        if row.failed is not None:
            say(f"{row.method} failed: {row.failed}")
    shared = [
        note for note in one.notes if all(note in row.notes for row in rows if not row.failed)
    ]
    facts = (f"intervals over units: {one.n_units} × {one.unit}", *shared)
    say("; ".join(facts))
    say("")


def _rank(row: "Result") -> tuple[bool, float]:
    return row.failed is not None, -(row.normalised if row.normalised is not None else 0.0)
