"""Scores over seeds, and the tables of the report that are made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.compare import Comparison, Run, over_seeds, paired
from cellfm.bench.resample import interval
from cellfm.pl._page import Bar, Cell, Shown, Table

if TYPE_CHECKING:
    from cellfm.bench.result import Result

ROLES = {
    "candidate": "candidate",
    "random_weights": "random weights",
    "pca": "PCA",
    "classical": "classical",
    "shuffled_labels": "shuffled labels",
    "negative": "negative control",
    "positive": "positive control",
}
"""What a method is to its task, in words."""
CONTROLS = ("pca", "classical", "random_weights", "shuffled_labels", "negative")
"""Roles that a candidate is compared with."""


FEW_UNITS = 30
"""Below so many units a bootstrap interval is rough."""

_PLURALS = {"batch": "batches"}
_SPELT = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "macro_f1_nan": "macro-F1 (predicted types)", "ece": "ECE", "auroc": "AUROC", "mse": "MSE", "clisi": "cLISI", "ilisi": "iLISI", "kbet": "kBET", "bras": "BRAS"}  # fmt: skip


def words(name: str) -> str:
    """Return the name of a task or a metric as people write it."""
    return _SPELT.get(name, name.replace("_", " "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What methods answer alike: one table of the report."""

    task: str
    dataset: str
    split: str
    weights: str

    @property
    def headline(self) -> bool:
        """Whether whole units were held out: where cells of one donor are on both sides, nothing is shown of others."""
        return self.split != "intra"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Score of one method by one metric, over seeds.

    Attributes
    ----------
    value, low, high
        Mean over seeds, and its 95 % interval; None without.
    normalised
        Mean over seeds; None where one has none.
    failed
        Why a seed has no value; empty where all have one.
    n_seeds
        Seeds with a value.
    """

    value: float | None
    low: float | None
    high: float | None
    normalised: float | None
    failed: str
    n_seeds: int


def questions(run: Run) -> "dict[Question, list[Result]]":
    """Return the results of a run by table."""
    found: dict[Question, list[Result]] = {}
    for row in run.results:
        key = Question(task=row.task, dataset=row.dataset, split=row.split, weights=row.weights)
        found.setdefault(key, []).append(row)
    return found


def methods_of(rows: "Iterable[Result]") -> "dict[tuple[int | None, str], list[Result]]":
    """Return results by labels per class and method, in their order."""
    found: dict[tuple[int | None, str], list[Result]] = {}
    for row in rows:
        found.setdefault((row.k, row.method), []).append(row)
    return found


def summarise(run: Run, rows: "Sequence[Result]") -> Summary:
    """Return the mean of one method's results by one metric over seeds.

    Parameters
    ----------
    run
        Where the bootstrap draws are.
    rows
        A result for each seed.
    """
    scored = [row for row in rows if row.value is not None]
    reasons = sorted({row.failed for row in rows if row.failed is not None})
    failed = "; ".join(reasons)
    if failed and scored:
        failed = f"failed with {len(rows) - len(scored)} of {len(rows)} seeds: {failed}"
    if not scored:
        return Summary(value=None, low=None, high=None, normalised=None, failed=failed, n_seeds=0)
    draws = [run.draws(row) for row in scored]
    bounds = None
    if len({len(each) for each in draws}) == 1:
        bounds = interval(over_seeds(np.stack(draws)))
    normed = [row.normalised for row in scored if row.normalised is not None]
    return Summary(
        value=float(np.mean([row.value for row in scored if row.value is not None])),
        low=None if bounds is None else bounds[0],
        high=None if bounds is None else bounds[1],
        normalised=float(np.mean(normed)) if len(normed) == len(scored) else None,
        failed=failed,
        n_seeds=len(scored),
    )


def primary_of(rows: "Iterable[Result]") -> str:
    """Return the name of the task's first metric."""
    return next(row.metric for row in rows if row.primary)


def score_table(run: Run, rows: "Sequence[Result]") -> Table:
    """Return methods × metrics, sorted by the normalised score of the first metric; what failed comes last.

    Parameters
    ----------
    run
        Where the bootstrap draws are.
    rows
        Results of one question.
    """
    primary = primary_of(rows)
    metrics = [primary, *(m for m in dict.fromkeys(row.metric for row in rows) if m != primary)]
    few_shot = any(row.k is not None for row in rows)
    lines = []
    for (k, _), group in methods_of(rows).items():
        scores = {
            metric: summarise(run, [row for row in group if row.metric == metric])
            for metric in metrics
        }
        lines.append((k, group, scores))
    lines.sort(key=lambda line: _rank(line[0], line[2][primary]))
    scale = _scale([line[2][primary] for line in lines])
    cells, looks, notes = [], {}, shared_notes(rows)
    for number, (k, group, scores) in enumerate(lines):
        cells.append(_score_row(group, scores, k=k, scale=scale, few_shot=few_shot, notes=notes))
        if scores[primary].value is None:
            looks[number] = "failed"
        elif "candidate" in group[0].roles:
            looks[number] = "mark"
    k_columns = ("labels per type",) if few_shot else ()
    names = [_heading(rows, metric) for metric in metrics]
    return Table(
        columns=("method", "role", *k_columns, names[0], "normalised", *names[1:], "seconds", "GB"),
        rows=cells,
        caption=_caption(rows),
        looks=looks,  # type: ignore[arg-type]
    )


def comparisons(run: Run, rows: "Sequence[Result]") -> list[Comparison]:
    """Compare each candidate with each control on the primary metric.

    Controls are all methods with a control's role, and what the candidate is declared to be compared with: a task cannot
    leave a control out.

    Parameters
    ----------
    run
        Where the bootstrap draws are.
    rows
        Results of one question.
    """
    primary = primary_of(rows)
    groups = methods_of(row for row in rows if row.metric == primary)
    found = []
    for (k, name), group in groups.items():
        if "candidate" not in group[0].roles:
            continue
        for (other_k, other), controls in groups.items():
            is_control = set(controls[0].roles) & set(CONTROLS) or other in group[0].against
            if other_k == k and other != name and is_control:
                result = paired(run, group, run, controls)
                if result is not None:
                    found.append(result)
    return found


def difference_table(found: Sequence[Comparison], roles: Mapping[str, str]) -> Table:
    """Return a row for each pair of candidate and control.

    Parameters
    ----------
    found
        Comparisons.
    roles
        What each method is, in words.
    """
    few_shot = any(each.k is not None for each in found)
    widest = max((abs(x) for each in found for x in _ends(each)), default=0.0) or 1.0
    rows: list[list[Cell]] = []
    for each in found:
        bar = Bar(
            value=each.difference,
            low=each.low,
            high=each.high,
            left=-widest,
            right=widest,
            lines=(0.0,),
            signed=True,
        )
        k = [each.k] if few_shot else []
        cells = [each.method, each.against, roles.get(each.against, ""), *k, bar]
        rows.append([*cells, _verdict(each)])
    k_columns = ("labels per type",) if few_shot else ()
    metric = words(found[0].metric) if found else "difference"
    better = "" if not found or found[0].higher else ", lower is better"
    return Table(
        columns=("candidate", "minus", "role", *k_columns, f"difference in {metric}", "verdict"),
        rows=rows,
        caption=f"Paired differences on the same resampled units, 95 % interval{better}",
    )


def _verdict(each: Comparison) -> Shown:
    order = {"better": 0, "not shown": 1, "no interval": 2, "worse": 3}
    said = {"not shown": "not shown: includes\N{NO-BREAK SPACE}0"}
    return Shown(
        text=said.get(each.verdict, each.verdict), sort=f"{order[each.verdict]}{each.verdict}"
    )


def _ends(each: Comparison) -> tuple[float, ...]:
    return tuple(x for x in (each.difference, each.low, each.high) if x is not None)


def _rank(k: int | None, score: Summary) -> tuple[bool, int, float]:
    """Order of a row: few labels first, then the highest normalised score, what failed at the end."""
    best = score.normalised if score.normalised is not None else -np.inf
    return (score.value is None, k or 0, -best)


def _scale(scores: Sequence[Summary]) -> tuple[float, float]:
    """Choose the ends of an axis on which all values and intervals have a place."""
    found = [x for each in scores for x in (each.value, each.low, each.high) if x is not None]
    return (min([0.0, *found]), max([1.0, *found]) if max(found, default=1.0) > 0.1 else max(found))


def _score_row(
    group: "Sequence[Result]",
    scores: Mapping[str, Summary],
    *,
    k: int | None,
    scale: tuple[float, float],
    few_shot: bool,
    notes: Sequence[str],
) -> list[Cell]:
    first, *others = scores.values()
    row = group[0]
    roles = ", ".join(ROLES.get(role, role) for role in row.roles if role != "candidate")
    own = [note for note in row.notes if note not in notes]
    note = "; ".join([_setting(row.setting), *own])
    name = Shown(text=row.method, sort=row.method, note=note)
    cells: list[Cell] = [name, "candidate" if "candidate" in row.roles else roles]
    if few_shot:
        cells.append(k)
    if first.value is None:
        cells += [Shown(text="failed", note=first.failed), None]
    else:
        left, right = scale
        bar = Bar(value=first.value, low=first.low, high=first.high, left=left, right=right)
        cells += [bar, first.normalised]
    cells += [each.value for each in others]
    seconds = float(np.mean([each.seconds for each in group]))
    memory = max(each.peak_memory for each in group) / 1e9
    return [
        *cells,
        Shown(text=f"{seconds:,.1f}", sort=seconds),
        Shown(text=f"{memory:.1f}", sort=memory),
    ]


def shared_notes(rows: "Sequence[Result]") -> list[str]:
    """Return the notes that all results have, which are about the data and not about a method.

    Parameters
    ----------
    rows
        Results of one question.
    """
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    return [note for note in notes if all(note in row.notes for row in rows)]


def _setting(setting: str) -> str:
    return setting.partition("(")[0].replace("_", " ")


def _heading(rows: "Sequence[Result]", metric: str) -> str:
    higher = next(row.higher for row in rows if row.metric == metric)
    return f"{words(metric)}{'' if higher else ' (lower is better)'}"


def _caption(rows: "Sequence[Result]") -> str:
    scored = [row for row in rows if row.primary and row.value is not None]
    seeds = len({row.seed for row in rows})
    text = f"{seeds} seed{'s' if seeds > 1 else ''}"
    if scored and scored[0].n_units:
        n, unit = scored[0].n_units, scored[0].unit
        plural = _PLURALS.get(unit, f"{unit}s") if unit.isalpha() and n > 1 else unit
        rough = ", so few that it is rough" if n < FEW_UNITS else ""
        text += f"; interval over {n:,} {plural}{rough}"
    if any(row.negative is not None for row in scored):
        low, high = _mean(row.negative for row in scored), _mean(row.positive for row in scored)
        text += f"; normalised: 0 is {low} (negative control), 1 is {high} (ceiling)"
    return text


def _mean(values: Iterable[float | None]) -> str:
    found = [x for x in values if x is not None]
    return f"{np.mean(found):.3f}" if found else "–"
