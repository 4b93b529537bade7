"""The command ``cellfm doctor``."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.cli.console import complain, next_step, say, table_console, tell

if TYPE_CHECKING:
    from cellfm.tl._doctor.commands import Advice
    from cellfm.tl._doctor.finding import Finding

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}
FIRST_LINE = "cellfm demo"
"""What to do next where all is well and no file was given."""


def doctor(
    source: Path | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    n_cells: int = 256,
    min_matched: float = 0.3,
) -> int:
    """Say whether this machine, and a file, are ready, and what to do next.

    Without SOURCE: Python and packages, extras, devices, memory, disk, weights, the cache folder, and a self-test that embeds made-up cells. With it:
    where its counts are and what the other values are, how its genes match, columns of obs that look like labels, batches, donors or perturbations,
    which commands would work and which not, and the time and memory that embedding takes here, measured on some of its cells. Nothing is written.
    Each line is ok, a note, or a problem with what to do about it. The exit code is 0, or 2 where there is a problem.

    Parameters
    ----------
    source
        Counts: h5ad, 10x h5, folder of Cell Ranger, csv or tsv; only read.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    device
        Device to measure on, such as cpu or cuda.
    n_cells
        Cells to embed for the estimate.
    min_matched
        Least fraction of the file's genes that the model must know.

    Examples
    --------
    cellfm doctor

    cellfm doctor pbmc.h5ad

    cellfm doctor filtered_feature_bc_matrix/ --json
    """
    if source is None:
        return _machine(device)
    from cellfm.cli.progress import progress_bar
    from cellfm.tl._doctor.file import Question, examine_file
    from cellfm.tl._doctor.report import fit_for_json

    with progress_bar("looking", unit="steps"):
        asked = Question(model=model, device=device, n_sample=n_cells, min_matched=min_matched)
        found = examine_file(source, asked)
    tell("file", fit_for_json(found))
    _show(found.findings)
    _show_commands(found.commands)
    return _end(found.findings, found.next)


def _machine(device: str | None) -> int:
    from cellfm.tl._doctor.machine import facts_of
    from cellfm.tl._doctor.machine_findings import machine_findings
    from cellfm.tl._doctor.report import fit_for_json
    from cellfm.tl._doctor.self_test import self_test

    seconds, tested = self_test(device)
    machine = facts_of(seconds)
    findings = [*machine_findings(machine), tested]
    tell("machine", fit_for_json(machine))
    tell("findings", fit_for_json(findings))
    _show(findings)
    return _end(findings, FIRST_LINE)


def _show(findings: "Sequence[Finding]") -> None:
    """Print a line for each finding, and what to do below it."""
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=None, show_header=False, pad_edge=False)
    for overflow in ("ignore", "fold", "fold"):
        lines.add_column(no_wrap=overflow == "ignore", overflow=overflow)
    for each in findings:
        mark, style = MARKS[each.level]
        lines.add_row(Text(mark, style), each.topic, each.text)
        if each.todo:
            lines.add_row("", "", Text(f"→ {each.todo}", "bold"))
    table_console().print(lines)


def _show_commands(commands: "Sequence[Advice]") -> None:
    """Print the lines that would work, then what would not and why."""
    works = [each for each in commands if each.works]
    if works:
        say("\nWhat works on it:")
    for each in works:
        say(f"  {each.line}{f'  ({each.why})' if each.why else ''}")
    others: dict[str, list[str]] = {}
    for each in commands:
        if not each.works:
            others.setdefault(each.why, []).append(each.command)
    if others:
        say("\nWhat does not:")
    for why, names in others.items():
        say(f"  {', '.join(names)}: {why}")


def _end(findings: "Sequence[Finding]", line: str | None) -> int:
    """Say what is next; return the exit code."""
    from cellfm.cli import USER_ERROR

    problems = [each for each in findings if each.level == "problem"]
    for each in problems:
        complain(f"{each.topic}: {each.text}{f' → {each.todo}' if each.todo else ''}")
    if line is not None:
        say("")
        next_step(*shlex.split(line)[1:])
    elif problems:
        say("\nNext: see to the problems above, then run the same command again.")
    return USER_ERROR if problems else 0
