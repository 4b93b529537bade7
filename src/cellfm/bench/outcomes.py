"""Outcome files: one for each method on each case, complete or not there, and the results made of them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellfm.bench.result import Result, ResultTable, lacking, normalised
from cellfm.bench.task import Outcome
from cellfm.errors import EvidenceError
from cellfm.weights.atomic import replacing

FOLDER, RESULTS = "outcomes", "results.jsonl"
DIGITS = 6
"""Decimals of the stored bootstrap draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What an outcome is a function of."""

    task: str
    dataset: str
    split: str
    k: int | None
    seed: int
    weights: str
    method: str
    detail: str
    version: str
    corpus: str

    def path(self, out: Path) -> Path:
        """Where it is kept; one file for each method of a case, whatever the version."""
        entries = asdict(self)
        for name in ("detail", "version", "corpus"):
            del entries[name]
        digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]
        return out / FOLDER / self.task / f"{self.method}-{digest}.json".replace("/", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """How the scores of a case are normalised."""

    negative: str
    positive: str | None
    best: Mapping[str, float]
    """By metric: the ceiling where no method is."""


def write_outcome(
    path: Path,
    key: Key,
    rows: Sequence[Result],
    *,
    outcome: Outcome | None,
    controls: Controls,
) -> None:
    """Write an outcome file.

    Parameters
    ----------
    path
        Where.
    key
        What it is a function of.
    rows
        A result for each metric, not yet normalised.
    outcome
        None for a method that failed.
    controls
        How to normalise.
    """
    scores = {} if outcome is None else outcome.scores
    content = {
        "key": asdict(key),
        "controls": asdict(controls),
        "rows": [asdict(row) for row in rows],
        "draws": {name: np.round(score.draws, DIGITS).tolist() for name, score in scores.items()},
        "extra": {} if outcome is None else dict(outcome.extra),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def is_done(path: Path, key: Key) -> bool:
    """Whether the file holds a result of just this key; what failed is tried again.

    Parameters
    ----------
    path
        Of the outcome file.
    key
        What the outcome must be a function of.
    """
    if not path.is_file():
        return False
    content = _load(path)
    failed = any(row["failed"] is not None for row in content["rows"])
    return bool(content["key"] == asdict(key)) and not failed


def read_draws(out: Path, result: Result) -> "dict[str, list[float]]":
    """Return the bootstrap draws of the method that a result belongs to, by metric.

    Methods of one group share the resamples: differences of draws are paired.

    Parameters
    ----------
    out
        Folder of the results.
    result
        One of them.

    Raises
    ------
    EvidenceError
        The outcome file is gone or damaged.
    """
    draws: dict[str, list[float]] = _load(out / result.outcome)["draws"]
    return draws


def read_extra(out: Path, result: Result) -> dict[str, object]:
    """Return the details of the outcome that a result belongs to.

    Parameters
    ----------
    out
        Folder of the results.
    result
        One of them.

    Raises
    ------
    EvidenceError
        The outcome file is gone or damaged.
    """
    extra: dict[str, object] = _load(out / result.outcome)["extra"]
    return extra


def gather(out: Path) -> tuple[ResultTable, tuple[str, ...]]:
    """Make results of all outcome files of a folder.

    Parameters
    ----------
    out
        Folder of the results.

    Returns
    -------
    The results, normalised, and a sentence for each group that is held back because controls are missing or failed.
    """
    rows: list[Result] = []
    controls: dict[tuple[object, ...], Controls] = {}
    for path in sorted((out / FOLDER).glob("*/*.json")):
        content = _load(path)
        for entry in content["rows"]:
            tuples = {
                name: tuple(entry[name]) for name in ("roles", "required", "against", "notes")
            }
            row = Result(**{**entry, **tuples, "outcome": str(path.relative_to(out))})
            controls[row.group] = Controls(**content["controls"])
            rows.append(row)
    kept, held_back = [], []
    for group, members in _grouped(rows).items():
        if missing := lacking(members):
            one = members[0]
            held_back.append(
                f"{one.task} on {one.dataset} ({one.split} split, seed {one.seed}) is held back: no {', no '.join(missing)}"
            )
        else:
            kept += _normalised(members, controls[group])
    kept.sort(key=_order)
    return ResultTable(kept), tuple(sorted(held_back))


def write_results(out: Path, table: ResultTable) -> Path:
    """Write ``results.jsonl``, complete or not at all, and return its path.

    Parameters
    ----------
    out
        Folder.
    table
        Results.
    """
    path = out / RESULTS
    with replacing(path) as temporary:
        temporary.write_text(table.to_lines(), encoding="utf-8")
    return path


def finite(value: float) -> bool:
    """Whether a score is a number that can be written."""
    return math.isfinite(value)


def _order(row: Result) -> tuple[str, str, str, int, int, str]:
    return (row.task, row.dataset, row.split, row.k or 0, row.seed, row.weights)


def _grouped(rows: Sequence[Result]) -> dict[tuple[object, ...], list[Result]]:
    groups: dict[tuple[object, ...], list[Result]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def _normalised(rows: Sequence[Result], controls: Controls) -> list[Result]:
    value = {(row.method, row.metric): row.value for row in rows}
    done = []
    for row in rows:
        low = value.get((controls.negative, row.metric))
        high: float | None = controls.best[row.metric]
        if controls.positive is not None:
            high = value.get((controls.positive, row.metric))
        score = normalised(row.value, low, high)
        done.append(replace(row, negative=low, positive=high, normalised=score))
    return done


def _load(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as an outcome: {error}. Remove it and run `cellfm bench run` again."
        raise EvidenceError(msg) from error
    return content
