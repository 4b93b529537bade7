"""How commands print: tables, sentences and the paths that were written; for people, for machines, or not at all."""

import io
import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.fit import fitted
from cellfm.settings import progress_bars

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

WIDE = 160
"""Characters of a line that goes to no terminal."""

Style = Literal["people", "machines", "quiet"]
"""Whom a command talks to: ``--json`` and ``--quiet`` change it."""

_NUMBER = re.compile(r"[-+−]?(0|[1-9]\d{0,2}(,\d{3})+|[1-9]\d*)(\.\d+)?(e[-+]?\d+)?", re.IGNORECASE)
"""A number as commands write it; 007 is a name."""


@dataclass(slots=True, kw_only=True)
class Output:
    """What a command has said so far.

    Attributes
    ----------
    style
        Whom it talks to.
    tables
        Each as it is written in JSON.
    written
        Files and folders.
    facts
        Other things that are said to machines, by name.
    text
        What it has printed, for all other styles than that for people.
    warnings
        What the package warned of, once each.
    """

    style: Style = "people"
    tables: list[Mapping[str, object]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    text: io.StringIO = field(default_factory=io.StringIO)
    warnings: list[str] = field(default_factory=list)

    def to_json(self, *, command: str, code: int, error: BaseException | None, message: str) -> str:
        """Return all of it as one JSON object.

        Parameters
        ----------
        command
            Words that name the command.
        code
            Its exit code.
        error
            Why it ended, if it did not come to its end.
        message
            What people are told of it.
        """
        said = {
            "command": command,
            "exit_code": code,
            "error": None if error is None else {"kind": type(error).__name__, "message": message},
            **self.facts,
            "tables": self.tables,
            "written": self.written,
            "warnings": self.warnings,
            "text": self.text.getvalue().splitlines(),
        }
        return json.dumps(said, indent=1, ensure_ascii=False)


class Warner(logging.Handler):
    """Print what the package warns of to standard error, once for each command."""

    def __init__(self, said: Output) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning that was not yet given."""
        text = record.getMessage()
        if text not in self.said.warnings:
            self.said.warnings.append(text)
            sys.stderr.write(f"warning: {text}\n")


_output: ContextVar[Output | None] = ContextVar("output", default=None)


@contextmanager
def speaking(style: Style) -> Iterator[Output]:
    """Let the commands inside talk to people, to machines or to no one.

    For machines and no one nothing reaches the standard output, whatever a command prints it by.

    Parameters
    ----------
    style
        Whom to talk to.
    """
    said = Output(style=style)
    token, bars = _output.set(said), progress_bars.set(style != "quiet")
    log, warner = logging.getLogger("cellfm"), Warner(said)
    log.addHandler(warner)
    try:
        if style == "people":
            yield said
        else:
            with redirect_stdout(said.text):
                yield said
    finally:
        log.removeHandler(warner)
        _output.reset(token)
        progress_bars.reset(bars)


def _spoken() -> Output:
    """Return what collects the output: outside of a command, nothing does."""
    return _output.get() or Output()


def table_console() -> "Console":
    """Return a console for tables.

    Nothing says how wide a line of a file or a pipe may be: there it is wide enough that no number is cut.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def progress_console() -> "Console":
    """Return a console on standard error for what goes on; it is silent under ``--quiet``."""
    from rich.console import Console

    return Console(stderr=True, quiet=_spoken().style == "quiet")


def shows_progress(console: "Console") -> bool:
    """Whether bars are drawn on a console.

    Parameters
    ----------
    console
        From `progress_console`.
    """
    return console.is_terminal and not console.quiet


def print_table(title: str, table: "pd.DataFrame") -> None:
    """Print a table whose entries are text.

    Parameters
    ----------
    title
        Above it.
    table
        With an index.
    """
    from rich import box
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column(str(table.index.name or ""), no_wrap=True)
    for name in table.columns:
        shown.add_column(str(name).replace("_", " "), justify="right")
    for label, row in zip(table.index, table.to_numpy().tolist(), strict=True):
        shown.add_row(str(label), *map(str, row))
    show_table(shown, names=[str(table.index.name or "name"), *map(str, table.columns)])


def show_table(table: "Table", *, names: Sequence[str] | None = None) -> None:
    """Print a table of rich.

    Machines get a list of rows; of a table without a header, whose rows are a name and a value, an object. An entry that is written as a
    number is one, but for the first column, which names the row.

    Parameters
    ----------
    table
        Its entries are text.
    names
        Of the columns for machines, instead of the header.
    """
    said = _spoken()
    if said.style == "machines":
        said.tables.append(_table_for_machines(table, names))
    else:
        console = table_console()
        if console.is_terminal:
            console.print(*fitted(table, console.width), sep="\n")
        else:
            console.print(table, soft_wrap=True)  # a title is on one line, too


def say(text: str) -> None:
    """Print a line, however long it is.

    Parameters
    ----------
    text
        Without markup.
    """
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(text)


def wrote(*paths: Path | str, about: str = "") -> None:
    """Say what files and folders were written.

    Parameters
    ----------
    paths
        At least one.
    about
        What they hold, in a few words.
    """
    _spoken().written.extend(map(str, paths))
    say(f"wrote {', '.join(map(str, paths))}{f': {about}' if about else ''}")


def next_step(*words: Path | str) -> None:
    """Say which command goes on from here; machines are told it as ``next``.

    Parameters
    ----------
    words
        After ``cellfm``.
    """
    line = shlex.join(["cellfm", *map(str, words)])
    tell("next", line)
    say(f"Next: {line}")


def counted(n: int, word: str) -> str:
    """Return a number and the word in the singular or plural.

    Parameters
    ----------
    n
        How many.
    word
        In the singular; its plural ends in s.
    """
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def say_some(lines: Sequence[str], *, most: int, rest: str) -> None:
    """Print the first of many lines, and how many others there are; machines get them all.

    Parameters
    ----------
    lines
        One each.
    most
        Lines that people are told.
    rest
        Where the others are.
    """
    many = len(lines) > most and _spoken().style != "machines"
    for line in lines[:most] if many else lines:
        say(line)
    if many:
        say(f"and {len(lines) - most:,} more: {rest}")


def tell(name: str, fact: object) -> None:
    """Tell machines something; people are told otherwise.

    Parameters
    ----------
    name
        Its key in the JSON object.
    fact
        Fit for JSON.
    """
    _spoken().facts[name] = fact


def complain(text: str) -> None:
    """Print a line to standard error where nothing else is printed, so that ``--quiet`` hides no problem.

    Parameters
    ----------
    text
        Without markup.
    """
    if _spoken().style == "quiet":
        sys.stderr.write(f"cellfm: {text}\n")


def _table_for_machines(table: "Table", names: Sequence[str] | None) -> Mapping[str, object]:
    """Return a table of rich as objects of JSON."""
    heads = names or [
        _plain(column.header) or f"column {place}" for place, column in enumerate(table.columns)
    ]
    columns = [[_plain(entry) for entry in column.cells] for column in table.columns]
    title = _plain(table.title or "")
    if not table.show_header and len(columns) == 2:
        values = {name.strip(): _value(entry) for name, entry in zip(*columns, strict=True)}
        return {"title": title, "values": values}
    rows = [
        {head: _value(entry) if place else entry for place, (head, entry) in enumerate(zip(heads, row, strict=True))}
        for row in zip(*columns, strict=True)
    ]  # fmt: skip
    return {"title": title, "rows": rows}


def _plain(entry: object) -> str:
    """Return what a renderable says."""
    return getattr(entry, "plain", None) or str(entry)


def _value(entry: str) -> str | float:
    """Return a number where one is written."""
    if not _NUMBER.fullmatch(entry.strip()):
        return entry
    plain = entry.strip().replace(",", "").replace("−", "-")
    return int(plain) if re.fullmatch(r"[-+]?\d+", plain) else float(plain)
