"""The report of a run: one HTML page that says first what was found, in words that follow from the numbers alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.bench.compare import Comparison, Run, Verdict
from cellfm.bench.registry import TASKS, load_task
from cellfm.bench.report_figures import bio_batch_figure, few_shot_figure
from cellfm.bench.report_tables import (
    CONTROLS,
    FEW_UNITS,
    ROLES,
    Question,
    comparisons,
    difference_table,
    questions,
    score_table,
    shared_notes,
    words,
)
from cellfm.errors import DataError
from cellfm.pl._page import Cell, Page, Section, Shown, Table, write_page

if TYPE_CHECKING:
    from cellfm.bench.result import Result

    Found = Mapping[Question, Sequence[Comparison]]
    Rows = Mapping[Question, Sequence[Result]]

PAGE = "report.html"
SPLITS = {
    "intra": "cells of the same donors are on both sides, so nothing is shown of other donors: no headline",
    "donor": "whole donors are held out",
    "batch": "whole batches are held out",
}
"""Protocols in words."""
_VERDICTS: tuple[Verdict, ...] = ("better", "worse", "not shown", "no interval")


def write_report(out: Path | str, to: Path | str | None = None) -> Path:
    """Write the results of a run as one self-contained HTML page.

    Parameters
    ----------
    out
        Folder that ``cellfm bench run`` wrote.
    to
        File to write; ``report.html`` in that folder by default. One that exists is replaced.

    Returns
    -------
    The file.

    Raises
    ------
    EvidenceError
        There are no results, or results lack their controls.
    DataError
        There are results, but none at all that say anything.
    MissingDependencyError
        plotly or jinja2 is not installed.
    """
    run = Run(out)
    rows = questions(run)
    if not rows:
        msg = f"{run.folder} has an empty list of results, so there is nothing to report. Run `cellfm bench run --out {run.folder}`."
        raise DataError(msg)
    found = {question: comparisons(run, group) for question, group in rows.items()}
    page = Page(
        title="CellFM benchmark",
        lead=lead(rows, found),
        sections=[_glance(rows, found), *_tasks(run, rows, found), _data(rows), _facts(rows)],
        footer=f"Made of `{run.folder.name}/results.jsonl` by cellfm.",
    )
    return write_page(page, Path(to) if to is not None else run.folder / PAGE)


def lead(rows: "Rows", found: "Found") -> str:
    """Say what was run, and how the candidates stand to their controls.

    Only what may be a headline is counted: whole units held out, and no cell seen in pretraining.

    Parameters
    ----------
    rows
        Results by question.
    found
        Comparisons by question.
    """
    everything = [row for group in rows.values() for row in group]
    datasets = sorted({row.dataset for row in everything})
    seeds = len({row.seed for row in everything})
    weights = sorted({row.weights[:12] for row in everything})
    tasks = list(dict.fromkeys(row.task for row in everything))
    what = (
        f"{_n(len({(row.task, row.method) for row in everything}), 'method')} in {_n(len(tasks), 'task')} "
        f"({', '.join(map(words, tasks))}) on {_n(len(datasets), 'data set')} ({', '.join(datasets)}), {_n(seeds, 'seed')}, "
        f"with the weights {', '.join(f'`{name}`' for name in weights)}. "
        "A candidate is better or worse than a control only where the 95 % interval of their paired difference excludes 0; else the two "
        "are not told apart. In brackets: the differences."
    )
    lines = [_task_sentence(task, rows, found) for task in tasks]
    failed = sorted({(row.task, row.method, row.dataset) for row in everything if row.failed})
    parts = [what, "\n".join(f"- {line}" for line in lines)]
    parts.append(_set_aside(rows))
    few = [each for group in found.values() for each in group if 0 < each.n_units < FEW_UNITS]
    if few:
        n = sum(map(len, found.values()))
        parts.append(
            f"{len(few):,} of {n:,} intervals rest on fewer than {FEW_UNITS} units (donors, batches), and are rough."
        )
    if failed:
        names = ", ".join(
            f"{method} ({words(task)}, {dataset})" for task, method, dataset in failed
        )
        parts.append(f"**Failed**, and counted nowhere: {names}.")
    return "\n\n".join(part for part in parts if part)


def _task_sentence(task: str, rows: "Rows", found: "Found") -> str:
    head = [
        each
        for question, group in found.items()
        if question.task == task and _is_headline(question, rows[question])
        for each in group
    ]
    if not head:
        return f"**{words(task)}**: nothing that may be a headline; see the tables."
    parts = []
    for role in CONTROLS:
        against = [each for each in head if role in _roles(rows, each)]
        if against:
            parts.append(f"against {_ROLE_NAMES[role]}, {_tally(against)}")
    better = "" if head[0].higher else ", lower is better"
    return f"**{words(task)}** ({words(head[0].metric)}{better}): {'; '.join(parts)}."


_ROLE_NAMES = {
    "pca": "PCA",
    "classical": "classical methods",
    "random_weights": "random weights",
    "shuffled_labels": "shuffled labels",
    "negative": "the uninformative baseline",
}


def _tally(found: Sequence[Comparison]) -> str:
    """Say how many comparisons ended how, losses as plainly as wins, and how large the differences are."""
    n = Counter(each.verdict for each in found)
    said = {"not shown": "not told apart", "no interval": "without an interval"}
    parts = [f"{n[verdict]} {said.get(verdict, verdict)}" for verdict in _VERDICTS if n[verdict]]
    ends = sorted({f"{each.difference:+.3f}" for each in found}, key=float)
    size = ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
    return f"{', '.join(parts)} of {len(found)} ({size.replace('-', '−')})"


def _set_aside(rows: "Rows") -> str:
    """Say which questions are kept out of the counts, and why."""
    intra = sorted({f"{words(q.task)} on {q.dataset}" for q in rows if not q.headline})
    seen = sorted({q.dataset for q, group in rows.items() if _n_seen(group)})
    unknown = sorted({q.dataset for q, group in rows.items() if group[0].n_seen is None})
    parts = []
    if seen:
        parts.append(f"cells of {', '.join(seen)} were in the pretraining data")
    if intra:
        parts.append(f"cells of one donor on both sides of the split ({', '.join(intra)})")
    text = f"Not in these counts: {'; '.join(parts)}." if parts else ""
    if unknown:
        text += (
            f" For {', '.join(unknown)} it is not known whether the weights have seen the cells."
        )
    return text.strip()


def _is_headline(question: Question, rows: "Sequence[Result]") -> bool:
    return question.headline and not _n_seen(rows)


def _n_seen(rows: "Sequence[Result]") -> int:
    return max((row.n_seen or 0 for row in rows), default=0)


def _roles(rows: "Rows", each: Comparison) -> set[str]:
    """Roles of the method that a comparison is against."""
    return {
        role
        for question, group in rows.items()
        if question.task == each.task
        for row in group
        if row.method == each.against
        for role in row.roles
    }


def _glance(rows: "Rows", found: "Found") -> Section:
    """Return a row for each question with the outcome against each control."""
    lines: list[list[Cell]] = []
    looks = {}
    roles = [r for r in CONTROLS if any(r in row.roles for group in rows.values() for row in group)]
    for question, group in found.items():
        if not _is_headline(question, rows[question]):
            looks[len(lines)] = "quiet"
        split = f"{question.split}{'' if question.headline else ' (no headline)'}"
        cells = [
            _tally_cell([each for each in group if role in _roles(rows, each)]) for role in roles
        ]
        seen = _seen_cell(rows[question])
        lines.append([words(question.task), question.dataset, split, *cells, seen])
    names = [f"against {_ROLE_NAMES[role]}" for role in roles]
    return Section(
        title="At a glance",
        text=(
            "How many comparisons of a candidate with a control ended how, on the first metric of each task: better, worse, or not "
            "shown, because the interval of the difference includes 0. Grey rows carry no headline."
        ),
        tables=[
            Table(
                columns=("task", "data set", "split", *names, "cells seen in pretraining"),
                rows=lines,
                looks=looks,  # type: ignore[arg-type]
            )
        ],
    )


def _tally_cell(found: Sequence[Comparison]) -> Cell:
    n = Counter(each.verdict for each in found)
    parts = [
        f"{n[verdict]} {verdict}".replace(" ", "\N{NO-BREAK SPACE}")
        for verdict in _VERDICTS
        if n[verdict]
    ]
    order = f"{500 + n['better'] - n['worse']:03d}"
    return Shown(text=", ".join(parts), sort=order) if parts else None


def _seen_cell(rows: "Sequence[Result]") -> Shown:
    n_seen = rows[0].n_seen
    return (
        Shown(text="not known", sort=None)
        if n_seen is None
        else Shown(text=f"{n_seen:,}", sort=n_seen)
    )


def _tasks(run: Run, rows: "Rows", found: "Found") -> list[Section]:
    sections = []
    many = len({question.weights for question in rows}) > 1
    for task in dict.fromkeys(question.task for question in rows):
        sections.append(Section(title=words(task).capitalize(), text=_about(task)))
        sections += [
            _question(run, question, rows[question], found[question], many=many)
            for question in rows
            if question.task == task
        ]
    return sections


def _about(task: str) -> str:
    """Say what a task asks; of one this version does not know, nothing."""
    if task not in TASKS:
        return ""
    known = load_task(task)
    metrics = "\n".join(f"- **{words(metric.name)}**: {metric.summary}" for metric in known.metrics)
    return f"{_sentence(known.summary)}\n\n{metrics}"


def _question(
    run: Run,
    question: Question,
    rows: "Sequence[Result]",
    found: Sequence[Comparison],
    *,
    many: bool,
) -> Section:
    weights = f", weights {question.weights[:12]}" if many else ""
    roles = {
        row.method: ", ".join(ROLES.get(role, role) for role in row.roles if role != "candidate")
        for row in rows
    }
    tables = [score_table(run, rows)]
    if found:
        tables.append(difference_table(found, roles))
    figures = [bio_batch_figure(run, rows), few_shot_figure(run, rows)]
    return Section(
        title=f"{question.dataset}, {question.split} split{weights}",
        depth=3,
        text=_about_question(question, rows),
        tables=tables,
        figures=[figure for figure in figures if figure is not None],
    )


def _about_question(question: Question, rows: "Sequence[Result]") -> str:
    """Protocol, leakage, and what was noted of every method alike."""
    parts = []
    if question.split in SPLITS:
        parts.append(f"Split: {SPLITS[question.split]}.")
    if _n_seen(rows):
        parts.append(
            f"**No headline**: the weights were trained on {_n_seen(rows):,} of these cells."
        )
    parts += [_sentence(note) for note in shared_notes(rows)]
    return " ".join(parts)


def _data(rows: "Rows") -> Section:
    lines: dict[str, list[Cell]] = {}
    for group in rows.values():
        row = group[0]
        digest = Shown(text=row.dataset_hash[:12], sort=row.dataset_hash)
        coverage = Shown(text=f"{row.gene_coverage:.1%}", sort=row.gene_coverage)
        lines[row.dataset + row.weights] = [row.dataset, coverage, _seen_cell(group), digest]
    return Section(
        title="Data and leakage",
        text=(
            "Genes of the data set that the model knows, and cells with the very counts of a cell it was pretrained on. A cell with "
            "fewer genes or corrected counts is not recognised: 0 says that these counts were not seen."
        ),
        tables=[
            Table(
                columns=("data set", "genes known", "cells seen in pretraining", "SHA-256"),
                rows=list(lines.values()),
            )
        ],
    )


def _facts(rows: "Rows") -> Section:
    """Versions, seeds and hashes."""
    everything = [row for group in rows.values() for row in group]
    versions: dict[str, set[str]] = {}
    for row in everything:
        for name, version in row.versions.items():
            versions.setdefault(name, set()).add(version)
    splits = sorted(
        {(row.task, row.dataset, row.split, row.seed, row.split_hash) for row in everything}
    )
    weights = "\n".join(f"- `{name}`" for name in sorted({row.weights for row in everything}))
    return Section(
        title="Versions, seeds and hashes",
        folded=True,
        text=f"SHA-256 of the weights:\n\n{weights}",
        tables=[
            Table(
                columns=("package", "version"),
                rows=[(name, ", ".join(sorted(each))) for name, each in sorted(versions.items())],
            ),
            Table(
                columns=("task", "data set", "split", "seed", "SHA-256 of what is held out"),
                rows=splits,
            ),
        ],
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _n(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
