"""Results in the forms of two other benchmarks, so that they can be laid beside theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.bench.compare import Run
from cellfm.bench.report_tables import Summary, methods_of, questions, summarise
from cellfm.weights.atomic import refuse_existing, replacing

if TYPE_CHECKING:
    from cellfm.bench.result import Result

Form = Literal["open-problems", "cz-benchmarks"]
UNKNOWN = "NA"
"""How Open Problems writes what is not there."""
METRIC_TYPES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "accuracy": ("accuracy", {}),
    "macro_f1": ("f1", {"average": "macro"}),
    "auroc": ("auroc", {}),
    "kmeans_ari": ("adjusted_rand_index", {"clustering": "k-means"}),
    "kmeans_nmi": ("normalized_mutual_info", {"clustering": "k-means"}),
    "mse": ("mean_squared_error", {}),
}
"""Our metrics that mean the same as a `MetricType` of cz-benchmarks, its value, and what must be said with it."""


def export(
    out: Path | str, to: Path | str, *, form: Form, overwrite: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """Write the results of a run in the form of another benchmark.

    **Open Problems** (``form="open-problems"``): a list with one entry for each data set and method, as in the
    ``results.json`` of its task pages (openproblems-bio/website, results of January 2025): `dataset_id`, `method_id`,
    `metric_values`, `scaled_scores`, `mean_score`, `resources`. Known of the format are names and types, and that a missing
    value is ``"NA"``; there is no written schema. Different on purpose: a scaled score that is missing is ``"NA"`` here, where
    theirs is 0, so that what failed does not look like what is bad. Our data sets have several protocols, which theirs have
    not: `dataset_id` is ``data set/split``, with ``/k`` labels per type for few-shot cases. Values are means over seeds. Of the
    resources only time, memory and exit code are known. `task_id` is added, as their files are one for each task.

    **cz-benchmarks** (``form="cz-benchmarks"``): what each method scored as a list of its `MetricResult`: `metric_type`, `value`,
    `params` (0.15, ``model_dump(mode="json")``). Metrics for which it has no type of the same meaning are left out. Its
    tasks return such lists and have no file format for several models: the entries around the lists (task, data set,
    method, seed) are ours. Failed runs have an empty list and say why.

    Parameters
    ----------
    out
        Folder that ``cellfm bench run`` wrote.
    to
        File to write.
    form
        Which form.
    overwrite
        Replace an existing file.

    Returns
    -------
    The file, and the metrics that have no place in it.

    Raises
    ------
    EvidenceError
        There are no results, or results lack their controls.
    OutputExistsError
        The file exists and `overwrite` is false.
    """
    to = Path(to)
    refuse_existing(to, overwrite=overwrite)
    run = Run(out)
    content = open_problems(run) if form == "open-problems" else cz_benchmarks(run)
    with replacing(to) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    metrics = dict.fromkeys(row.metric for row in run.results)
    lost = [name for name in metrics if name not in METRIC_TYPES] if form == "cz-benchmarks" else []
    return to, tuple(lost)


def open_problems(run: Run) -> list[dict[str, object]]:
    """Return the entries of Open Problems' results.

    Parameters
    ----------
    run
        Results.
    """
    entries: list[dict[str, object]] = []
    many = len({row.weights for row in run.results}) > 1
    for question, rows in questions(run).items():
        for (k, method), group in methods_of(rows).items():
            scores = {
                metric: summarise(run, [row for row in group if row.metric == metric])
                for metric in dict.fromkeys(row.metric for row in group)
            }
            few = "" if k is None else f"/{k}"
            weights = f"/{question.weights[:12]}" if many else ""
            entries.append(
                {
                    "task_id": question.task,
                    "dataset_id": f"{question.dataset}/{question.split}{few}",
                    "method_id": f"{method}{weights}",
                    "metric_values": {name: _or_na(each.value) for name, each in scores.items()},
                    "scaled_scores": {
                        name: _or_na(each.normalised) for name, each in scores.items()
                    },
                    "mean_score": _mean_scaled(list(scores.values())),
                    "resources": _resources(group),
                }
            )
    return entries


def cz_benchmarks(run: Run) -> list[dict[str, object]]:
    """Return lists of cz-benchmarks' metric results, one for each method, case and seed.

    Parameters
    ----------
    run
        Results.
    """
    cases: dict[tuple[object, ...], list[Result]] = {}
    for row in run.results:
        cases.setdefault((*row.group, row.method), []).append(row)
    entries: list[dict[str, object]] = []
    for rows in cases.values():
        one = rows[0]
        metrics = [
            {
                "metric_type": METRIC_TYPES[row.metric][0],
                "value": row.value,
                "params": dict(METRIC_TYPES[row.metric][1]),
            }
            for row in rows
            if row.value is not None and row.metric in METRIC_TYPES
        ]
        entries.append(
            {
                "task": one.task,
                "dataset": one.dataset,
                "split": one.split,
                "n_labels": one.k,
                "method": one.method,
                "setting": one.setting,
                "weights": one.weights,
                "seed": one.seed,
                "failed": next((row.failed for row in rows if row.failed), None),
                "metrics": metrics,
            }
        )
    return entries


def _or_na(value: float | None) -> float | str:
    return UNKNOWN if value is None else value


def _mean_scaled(scores: Sequence[Summary]) -> float | str:
    """Mean over the metrics; of a method that lacks one there is none."""
    found = [each.normalised for each in scores if each.normalised is not None]
    return sum(found) / len(found) if found and len(found) == len(scores) else UNKNOWN


def _resources(group: "Sequence[Result]") -> dict[str, float | str]:
    failed = any(row.failed is not None for row in group)
    return {
        "submit": UNKNOWN,
        "exit_code": int(failed),
        "duration_sec": round(sum(row.seconds for row in group) / len(group), 3),
        "cpu_pct": UNKNOWN,
        "peak_memory_mb": round(max(row.peak_memory for row in group) / 2**20),
        "disk_read_mb": UNKNOWN,
        "disk_write_mb": UNKNOWN,
    }
