"""Results of the benchmark: one JSON line each, and only together with their controls."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cellfm.bench.task import MINIMUM
from cellfm.errors import EvidenceError

FORMAT = 1
Group = tuple[str, str, str, str, "int | None", int, str]
"""Task, hash of the dataset, split, its hash, labels per class, seed, weights: what stands or falls together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Value of one metric for one method on one case.

    Attributes
    ----------
    task, metric, method
        Names.
    primary
        Whether the metric is the task's first.
    higher
        Whether more is better.
    dataset, dataset_hash
        Name, and SHA-256 of its contents.
    split, split_hash, k
        Protocol, SHA-256 of what is held out, labels per class of few-shot cases.
    setting
        ``zero_shot``, ``frozen_probe``, ``few_shot(5)``, ``finetune``, ``from_scratch`` or ``fitted``.
    roles, required
        What the method is to the task, and what a group of results must have.
    against
        Methods to compare it with in pairs.
    seed
        Of the case.
    weights
        SHA-256 of the weights.
    value, low, high
        Value and its 95 % bootstrap interval; None where there is none.
    n_units, unit
        How many of what were resampled.
    negative, positive
        Values of the uninformative baseline *b* and of the ceiling *r*.
    normalised
        ``(value - b) / (r - b)``, never clipped; None where *r* is *b*.
    failed
        Why there is no value; None where there is one.
    seconds, peak_memory
        Of the method on the case; memory in bytes.
    gene_coverage
        Share of the dataset's genes that the model knows.
    n_seen
        Cells of the dataset that the weights were trained on; None where that is not known.
    versions
        Packages.
    outcome
        Path, relative to the results, of the file with bootstrap draws and details.
    notes
        For a reader.
    """

    task: str
    metric: str
    method: str
    primary: bool
    higher: bool
    dataset: str
    dataset_hash: str
    split: str
    split_hash: str
    k: int | None = None
    setting: str
    roles: tuple[str, ...]
    required: tuple[str, ...]
    against: tuple[str, ...] = ()
    seed: int
    weights: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n_units: int = 0
    unit: str = ""
    negative: float | None = None
    positive: float | None = None
    normalised: float | None = None
    failed: str | None = None
    seconds: float
    peak_memory: int
    gene_coverage: float
    n_seen: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    outcome: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.value is None) == (self.failed is None):
            msg = f"The result of {self.method} on {self.dataset} has value {self.value} and failed={self.failed!r}; it must have one of the two. Give the value, or say failed=True."
            raise EvidenceError(msg)
        if self.value is not None and not math.isfinite(self.value):
            msg = f"The value of {self.metric} of {self.method} on {self.dataset} is {self.value}; a method without a finite value has failed. Write it as failed."
            raise EvidenceError(msg)

    @property
    def group(self) -> Group:
        """What it stands or falls with."""
        return (
            self.task,
            self.dataset_hash,
            self.split,
            self.split_hash,
            self.k,
            self.seed,
            self.weights,
        )

    @property
    def text(self) -> str:
        """The value, or `failed`: never 0 for what did not run."""
        return "failed" if self.value is None else f"{self.value:.3f}"


class ResultTable:
    """Results that are evidence: each group has its controls.

    Parameters
    ----------
    rows
        Results.

    Raises
    ------
    EvidenceError
        A group lacks a control, a control has failed, or one method occurs twice.
    """

    def __init__(self, rows: Sequence[Result]) -> None:
        self.rows = tuple(rows)
        for group in self.groups().values():
            missing = lacking(group)
            if missing:
                msg = (
                    f"The results of the task {group[0].task!r} on {group[0].dataset!r} ({group[0].split} split, seed {group[0].seed}) "
                    f"have no {' and no '.join(missing)}. Without these controls they are no evidence and are neither written nor read; "
                    "run `cellfm bench run`, which always runs the controls."
                )
                raise EvidenceError(msg)
            _refuse_twins(group)

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Result]:
        """Iterate over the results."""
        return iter(self.rows)

    def groups(self) -> dict[Group, list[Result]]:
        """Results by what they stand or fall with."""
        groups: dict[Group, list[Result]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    def to_lines(self) -> str:
        """One JSON line a result."""
        lines = (
            json.dumps({"format": FORMAT, **asdict(row)}, allow_nan=False) for row in self.rows
        )
        return "".join(f"{line}\n" for line in lines)


def lacking(rows: Sequence[Result]) -> list[str]:
    """Say which controls of a group of results are missing or failed, by metric; empty when all are there.

    Parameters
    ----------
    rows
        Results of one group.
    """
    required = set(MINIMUM).union(*(row.required for row in rows))
    found: dict[str, set[str]] = {row.metric: set() for row in rows}
    failed: dict[str, str] = {}
    for row in rows:
        if row.failed is None:
            found[row.metric].update(row.roles)
        else:
            failed |= dict.fromkeys(row.roles, f" ({row.method} failed: {row.failed})")
    return sorted(
        {f"{role}{failed.get(role, '')}" for there in found.values() for role in required - there}
    )


def read_results(path: Path) -> ResultTable:
    """Read results.

    Parameters
    ----------
    path
        ``results.jsonl``, or the folder that holds it.

    Raises
    ------
    EvidenceError
        The file is none of results, or results lack their controls.
    """
    path = path / "results.jsonl" if path.is_dir() else path
    if not path.is_file():
        msg = f"There are no results at {path}. Run `cellfm bench run --out {path.parent}` first."
        raise EvidenceError(msg)
    lines = path.read_text(encoding="utf-8").splitlines()
    return ResultTable([_read(path, i, line) for i, line in enumerate(lines, start=1)])


def normalised(value: float | None, negative: float | None, positive: float | None) -> float | None:
    """Return ``(value - b) / (r - b)``, never clipped; None where it means nothing.

    Parameters
    ----------
    value
        Of the method.
    negative, positive
        The uninformative baseline *b* and the ceiling *r*.
    """
    if value is None or negative is None or positive is None or positive == negative:
        return None
    return (value - negative) / (positive - negative)


def _read(path: Path, number: int, line: str) -> Result:
    names = {each.name for each in fields(Result)}
    try:
        entry = json.loads(line)
        if entry.pop("format") != FORMAT or not set(entry) <= names:
            raise ValueError(sorted(set(entry) - names) or "another format")
        tuples = {key: tuple(entry[key]) for key in ("roles", "required", "against", "notes")}
        return Result(**{**entry, **tuples})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"Line {number} of {path} is no result of format {FORMAT}: {error}. Expected a file that `cellfm bench run` wrote."
        raise EvidenceError(msg) from error


def _refuse_twins(group: Sequence[Result]) -> None:
    seen = set()
    for row in group:
        if (row.method, row.metric) in seen:
            msg = f"{row.method} has {row.metric} twice on {row.dataset}; one result a method is evidence, the better of two is not. Remove one of the two, or give the second another name."
            raise EvidenceError(msg)
        seen.add((row.method, row.metric))
