"""Differences between methods on the same cells, in the same bootstrap resamples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.bench.outcomes import read_draws, read_extra
from cellfm.bench.resample import interval
from cellfm.bench.result import Result, ResultTable, read_results
from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["better", "worse", "not shown", "no interval"]
"""`not shown`: the interval of the difference includes 0."""
Question = tuple[str, str, str, "int | None", str]
"""Task, dataset, split, labels per class and metric: what methods can be compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One method's score minus another's, over all seeds that both were run with.

    Attributes
    ----------
    task, dataset, split, k, metric
        What they were scored on; `k` labels per class in few-shot cases.
    higher
        Whether more is better.
    method, against
        Names.
    weights
        SHA-256 of the weights of `method`.
    value, other
        Mean scores over the seeds.
    difference, low, high
        ``value - other`` and its 95 % interval; None without draws.
    n_seeds
        Seeds that both were run with.
    n_units, unit
        How many of what were resampled.
    """

    task: str
    dataset: str
    split: str
    k: int | None
    metric: str
    higher: bool
    method: str
    against: str
    weights: str
    value: float
    other: float
    difference: float
    low: float | None
    high: float | None
    n_seeds: int
    n_units: int
    unit: str

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the method."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low <= 0 <= self.high:
            return "not shown"
        return "better" if (self.difference > 0) == self.higher else "worse"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        text = f"{self.method} minus {self.against}: {self.difference:+.3f}"
        if self.low is None or self.high is None:
            return f"{text}, without an interval."
        text += f" (95 % interval {self.low:+.3f} to {self.high:+.3f})"
        words = {
            "better": "better: the interval excludes 0.",
            "worse": "worse: the interval excludes 0.",
        }
        return f"{text}; {words.get(self.verdict, 'the interval includes 0, so neither is shown to be better.')}"


class Run:
    """A folder of results with the bootstrap draws behind them.

    Parameters
    ----------
    folder
        What ``cellfm bench run`` wrote.

    Raises
    ------
    EvidenceError
        There are no results, or results lack their controls.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.results: ResultTable = read_results(self.folder)
        self._draws: dict[str, dict[str, list[float]]] = {}

    @cached_property
    def by_question(self) -> dict[Question, list[Result]]:
        """Results by what they can be compared on, failed ones among them."""
        found: dict[Question, list[Result]] = {}
        for row in self.results:
            found.setdefault(question_of(row), []).append(row)
        return found

    def draws(self, row: Result) -> "NDArray[np.float64]":
        """Return the bootstrap draws of a result, shape (draw,); none where there are none.

        Raises
        ------
        EvidenceError
            The file behind the result is gone or damaged.
        """
        if row.outcome not in self._draws:
            self._draws[row.outcome] = read_draws(self.folder, row)
        return np.asarray(self._draws[row.outcome].get(row.metric, ()), dtype=np.float64)

    def extra(self, row: Result) -> Mapping[str, object]:
        """Return the details of a result: curves, confusion.

        Raises
        ------
        EvidenceError
            The file behind the result is gone or damaged.
        """
        return read_extra(self.folder, row)


def question_of(row: Result) -> Question:
    """Return what a result can be compared on."""
    return (row.task, row.dataset, row.split, row.k, row.metric)


def compare(
    out: Path | str,
    other: Path | str | None = None,
    *,
    method: str,
    against: str,
    task: str | None = None,
    dataset: str | None = None,
    metric: str | None = None,
) -> tuple[Comparison, ...]:
    """Compare two methods wherever both were scored on the same cells.

    Parameters
    ----------
    out
        Folder of results with `method`.
    other
        Folder of results with `against`, such as those of other weights; the same by default.
    method, against
        Names of methods.
    task, dataset
        Only this one; all by default.
    metric
        Only this one; the primary metric of each task by default.

    Returns
    -------
    One entry for each task, dataset, split, number of labels and metric.

    Raises
    ------
    DataError
        There is no such method, nothing that both were scored on, or they were scored on different cells.
    EvidenceError
        There are no results, or results lack their controls.
    """
    first = Run(out)
    second = first if other is None else Run(other)
    for run, name in ((first, method), (second, against)):
        there = sorted({row.method for row in run.results})
        if name not in there:
            msg = f"{run.folder} has no results of {name!r}; it has those of {', '.join(there)}. Choose one of these."
            raise DataError(msg)
    found = []
    for question, rows in first.by_question.items():
        if not _asked(question, rows, task=task, dataset=dataset, metric=metric):
            continue
        ours = [row for row in rows if row.method == method]
        theirs = [row for row in second.by_question.get(question, []) if row.method == against]
        for mine, others in _pairs_of_weights(ours, theirs, second.folder, same=other is None):
            result = paired(first, mine, second, others)
            if result is not None:
                found.append(result)
    if not found:
        msg = f"There is no case that {method!r} and {against!r} were both scored on; try without the task, dataset and metric that you gave."
        raise DataError(msg)
    return tuple(found)


def paired(
    first: Run, ours: Sequence[Result], second: Run, theirs: Sequence[Result]
) -> Comparison | None:
    """Compare the results of two methods on one question, seed by seed.

    The interval is that of a bootstrap over seeds and units at once: each draw takes as many seeds as there are, with
    replacement, and of each the difference in the same resample. With one seed it says nothing of the noise of training.

    Parameters
    ----------
    first, ours
        Results of one method on one question, and where they are.
    second, theirs
        Those of the other.

    Returns
    -------
    The comparison; None if they share no seed with two values.

    Raises
    ------
    DataError
        They were scored on different cells.
    """
    pairs = [(a, b) for a in ours for b in theirs if a.seed == b.seed and _both(a, b)]
    if not pairs:
        return None
    _check_same_cells(pairs)
    row = pairs[0][0]
    values = np.array([(float(a.value or 0.0), float(b.value or 0.0)) for a, b in pairs])
    draws = [_difference(first.draws(a), second.draws(b)) for a, b in pairs]
    bounds = None
    if all(len(each) for each in draws) and len({len(each) for each in draws}) == 1:
        bounds = interval(over_seeds(np.stack(draws)))
    return Comparison(
        task=row.task,
        dataset=row.dataset,
        split=row.split,
        k=row.k,
        metric=row.metric,
        higher=row.higher,
        method=row.method,
        against=pairs[0][1].method,
        weights=row.weights,
        value=float(values[:, 0].mean()),
        other=float(values[:, 1].mean()),
        difference=float((values[:, 0] - values[:, 1]).mean()),
        low=None if bounds is None else bounds[0],
        high=None if bounds is None else bounds[1],
        n_seeds=len(pairs),
        n_units=row.n_units,
        unit=row.unit,
    )


def over_seeds(draws: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Mean over seeds drawn with replacement, one for each draw.

    Parameters
    ----------
    draws
        Shape (seed, draw).

    Returns
    -------
    Shape (draw,); the draws themselves for one seed.
    """
    n_seeds, n_draws = draws.shape
    chosen = np.random.default_rng(0).integers(n_seeds, size=(n_seeds, n_draws))
    return np.take_along_axis(draws, chosen, axis=0).mean(axis=0)


def _pairs_of_weights(
    ours: Sequence[Result], theirs: Sequence[Result], folder: Path, *, same: bool
) -> Iterator[tuple[list[Result], list[Result]]]:
    """Yield results that belong together: of the same weights, or of any in another folder that holds those of one."""
    other = _by_weights(theirs)
    if not same and len(other) > 1:
        msg = f"{folder} has results of {len(other)} different weights; to compare with another folder, it must hold those of one. Give a folder with results of one model."
        raise DataError(msg)
    for weights, group in _by_weights(ours).items():
        yield group, other.get(weights, []) if same else list(theirs)


def _by_weights(rows: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for row in rows:
        found.setdefault(row.weights, []).append(row)
    return found


def _both(a: Result, b: Result) -> bool:
    return a.value is not None and b.value is not None


def _difference(a: "NDArray[np.float64]", b: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return a - b if len(a) == len(b) else np.empty(0)


def _check_same_cells(pairs: Sequence[tuple[Result, Result]]) -> None:
    for a, b in pairs:
        for what in ("dataset_hash", "split_hash"):
            x, y = getattr(a, what), getattr(b, what)
            if x != y:
                msg = (
                    f"{a.method} and {b.method} were not scored on the same cells of {a.dataset} ({a.split} split, seed {a.seed}): "
                    f"their {what.replace('_', ' ')} is {x[:12]} and {y[:12]}. Run both on the same data."
                )
                raise DataError(msg)


def _asked(
    question: Question,
    rows: Sequence[Result],
    *,
    task: str | None,
    dataset: str | None,
    metric: str | None,
) -> bool:
    if (task is not None and question[0] != task) or (
        dataset is not None and question[1] != dataset
    ):
        return False
    return rows[0].primary if metric is None else question[4] == metric


def candidates(rows: Sequence[Result]) -> Iterator[str]:
    """Yield the methods that are on trial, each once, in the order of the results.

    Parameters
    ----------
    rows
        Results of one question.
    """
    yield from dict.fromkeys(row.method for row in rows if "candidate" in row.roles)
