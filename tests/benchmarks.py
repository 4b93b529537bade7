"""Results as a run leaves them, with known differences."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from cellfm.bench.result import Result, ResultTable

SPREAD = 0.02
BASE = Result(
    task="annotation",
    metric="macro_f1",
    method="cellfm",
    primary=True,
    higher=True,
    dataset="islets",
    dataset_hash="d" * 64,
    split="donor",
    split_hash="s" * 64,
    setting="frozen_probe",
    roles=("candidate",),
    required=("classical", "negative", "pca", "random_weights"),
    seed=0,
    weights="w" * 64,
    value=0.8,
    n_units=4,
    unit="donor",
    seconds=1.5,
    peak_memory=2_000_000_000,
    gene_coverage=0.9,
    n_seen=0,
    versions={"python": "3.11", "cellfm": "0.4"},
)
METHODS = {
    "cellfm": (("candidate",), 0.80),
    "random": (("random_weights",), 0.60),
    "pca": (("pca",), 0.81),
    "logistic": (("classical",), 0.90),
    "majority": (("negative",), 0.10),
    "oracle": (("positive",), 1.00),
}
"""Roles and score; the interval of the difference from PCA includes 0."""


def group(**changes) -> list[Result]:
    """All methods of one question."""
    rows = []
    for name, (roles, value) in METHODS.items():
        row = replace(BASE, method=name, roles=roles, value=value, **changes)
        rows.append(replace(row, negative=0.1, positive=1.0, normalised=(value - 0.1) / 0.9))
    return rows


def write_run(folder: Path, rows: list[Result], *, n_draws: int = 200) -> Path:
    """Write results and outcomes; resample j moves all methods by the same amount, and each by a little of its own."""
    shared = np.random.default_rng(0).normal(0, 5 * SPREAD, n_draws)
    outcomes: dict[str, dict] = {}
    kept = []
    for row in rows:
        name = f"outcomes/{row.task}/{row.method}-{row.dataset}-{row.split}-{row.k}-{row.seed}-{row.weights[:4]}.json"
        content = outcomes.setdefault(name, {"draws": {}, "extra": {}})
        if row.value is not None:
            seed = [len(row.method), row.seed, len(row.metric)]
            own = np.random.default_rng(seed).normal(0, SPREAD, n_draws)
            draws = row.value + shared + own
            content["draws"][row.metric] = draws.tolist()
            low, high = np.percentile(draws, (2.5, 97.5)) if n_draws else (None, None)
            kept.append(replace(row, low=low, high=high, outcome=name))
        else:
            kept.append(replace(row, outcome=name))
    for name, content in outcomes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text(ResultTable(kept).to_lines())
    return folder


def full_run(folder: Path) -> Path:
    """A run with all that a report shows."""
    rows = group()
    rows += [
        replace(row, metric="accuracy", primary=False, value=row.value * 0.99) for row in group()
    ]
    rows += group(dataset="lines", dataset_hash="e" * 64, split="intra", unit="cell", n_units=99)
    rows += group(dataset="seen", dataset_hash="f" * 64, n_seen=171)
    for k in (1, 5, 10):
        part = group(task="few_shot", setting=f"few_shot({k})", k=k)
        rows += [replace(row, value=row.value * (1 - 0.5 / k)) for row in part]
    for metric, factor in (("total", 0.8), ("bio", 0.9), ("batch", 0.7)):
        part = group(task="integration", metric=metric, primary=metric == "total", split="batch")
        rows += [replace(row, value=row.value * factor) for row in part]
    failed = replace(
        BASE,
        method="scvi",
        roles=("classical",),
        value=None,
        failed="MissingDependencyError: scvi cannot be imported",
    )
    rows.append(failed)
    return write_run(folder, rows)


def as_json(rows: list[Result]) -> list[dict]:
    return [asdict(row) for row in rows]
