"""What the commands ``cellfm corpus …`` print and draw."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cellfm.cli.console import complain, counted, next_step, say, say_some, show_table, tell, wrote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from rich.table import Table

    from cellfm.corpus.check import CheckResult
    from cellfm.corpus.contains import ContainsResult
    from cellfm.corpus.describe import Description
    from cellfm.corpus.sources import SourceEntry
    from cellfm.corpus.summary import BuildResult

MOST_ROWS = 20
"""Labels of a table that are printed; `describe --json` has all."""
MOST_LINES = 10
"""Lines of one kind that are printed; ``--json`` and the reports have all."""


def show_sources(entries: "Sequence[SourceEntry]") -> int:
    """Print what would be read; the exit code says whether all of it can be found."""
    from rich.table import Table

    from cellfm.cli import SET_ASIDE
    from cellfm.corpus.readers.registry import find_reader
    from cellfm.errors import SourceError

    rows, problems, formats = [], [], Counter[str]()
    for entry in entries:
        try:
            reader = find_reader(entry.path, entry.format)
            size = sum(file.stat().st_size for file in reader.files(entry.path))
        except (SourceError, OSError) as error:
            problems.append(f"{entry.name} would be set aside: {error}")
            rows.append((entry.name, entry.format or "?", "?", str(entry.path)))
            continue
        formats[reader.name] += size
        rows.append((entry.name, reader.name, f"{size:,}", str(entry.path)))
    tell(
        "sources",
        [dict(zip(("name", "format", "bytes", "path"), row, strict=True)) for row in rows],
    )
    table = Table("source", "format", "bytes", "path")
    for row in rows[:MOST_ROWS]:
        table.add_row(*row)
    if rest := len(rows) - MOST_ROWS if len(rows) > MOST_ROWS else 0:
        table.add_row(f"{rest:,} more", "", "", "")
    show_table(table)
    say_some(problems, most=MOST_LINES, rest="--json has them all")
    n_of = Counter(row[1] for row in rows)
    kinds = ", ".join(f"{n_of[name]:,} {name}" for name in sorted(formats))
    said = (
        f"{counted(len(entries), 'source')} ({kinds})" if kinds else counted(len(entries), "source")
    )
    say(f"{said}, {formats.total():,} bytes; nothing was read or written")
    return SET_ASIDE if problems else 0


def show_result(result: "BuildResult", names: "Sequence[str]") -> int:
    """Print what a build or an addition did; `names` are the sources it was given."""
    from rich.table import Table

    from cellfm.cli import SET_ASIDE

    report, table = result.report, Table(show_header=False)
    table.add_row("sources in the corpus", f"{report.n_curated:,} of {report.n_sources:,}")
    table.add_row("cells in these", f"{report.n_cells_in:,}")
    for rule, n_cells in report.dropped.items():
        if n_cells:
            table.add_row(f"  dropped: {rule}", f"{n_cells:,}")
    table.add_row("  duplicates within a source", f"{report.n_duplicates_within:,}")
    table.add_row("  duplicates across sources", f"{report.n_duplicates_across:,}")
    table.add_row("cells in the corpus", f"{report.n_cells:,}")
    table.add_row("genes of a cell", f"{report.n_genes_per_cell:,.0f} in the mean")
    table.add_row("counts on known genes", f"{report.coverage:.1%}")
    table.add_row("size", f"{report.n_bytes:,} bytes, {report.n_bytes_per_cell:,.0f} a cell")
    table.add_row("time", f"{report.seconds:.1f} s")
    show_table(table)
    aside = [source for source in result.set_aside if source.name in set(names)]
    tell("set_aside", [{"name": source.name, "reason": source.reason} for source in aside])
    rest = f"see {result.store / 'report.json'}"
    say_some(
        [f"set aside {each.name}: {each.reason}" for each in aside], most=MOST_LINES, rest=rest
    )
    empty = [name for name in names if _kept_nothing(report.sources.get(name, {}))]
    say_some(
        [f"no cell of {name} is kept: all were dropped or duplicates" for name in empty],
        most=MOST_LINES,
        rest=rest,
    )
    skipped = [
        f"passed over {name}: it is in the corpus as {known}" for name, known in result.skipped
    ]
    say_some(skipped, most=MOST_LINES, rest="--json has them all")
    if aside:
        complain(f"{counted(len(aside), 'source')} of {len(names):,} set aside: {rest}")
        say(
            "To put in what was set aside: correct it or its line in the list, then 'cellfm corpus add'."
        )
    wrote(result.store, about=f"hash {result.manifest.hash[:16]}")
    say(f"reports are in {result.store / 'report.json'} and {result.store / 'reports'}")
    next_step("corpus", "describe", result.store)
    return SET_ASIDE if aside else 0


def _kept_nothing(told: "Mapping[str, object]") -> bool:
    return told.get("status") == "curated" and not told.get("n_cells")


def show_check(result: "CheckResult", store: Path, *, json: bool) -> int:
    """Print what is wrong; the exit code says whether anything is."""
    from dataclasses import asdict

    from cellfm.cli import FAILED

    if json:
        print_json({"is_good": result.is_good, **asdict(result)})
    else:
        for problem in result.problems:
            say(str(problem))
        n = len(result.problems)
        verdict = "is whole" if not n else "has 1 problem" if n == 1 else f"has {n:,} problems"
        say(
            f"{store} {verdict}: {counted(result.n_parts, 'part')}, {counted(result.n_files, 'file')} and {counted(result.n_cells, 'cell')} are right"
        )
    return 0 if result.is_good else FAILED


def show_contained(results: "Sequence[ContainsResult]", problems: "Sequence[str]") -> None:
    """Print what was found of each source."""
    from rich.table import Table

    table = Table("source", "same file as", "cells", "in the corpus", "share")
    for result in results:
        known = result.known_as or "none"
        numbers = (f"{result.n_cells:,}", f"{result.n_found:,}", f"{result.fraction:.1%}")
        table.add_row(result.name, known, *numbers)
    show_table(table)
    for result in results:
        found = sorted(result.by_dataset.items(), key=lambda item: (-item[1], item[0]))
        say_some(
            [
                f"{result.name}: {counted(n, 'cell')} found in the dataset {name}"
                for name, n in found
            ],
            most=MOST_LINES,
            rest="--json has them all",
        )
        say_some(
            [
                f"{result.name}: the donor {donor} has {counted(n, 'cell')} in the corpus"
                for donor, n in result.donors.items()
            ],
            most=MOST_LINES,
            rest="--json has them all",
        )
        if result.is_free:
            say(f"{result.name}: nothing of it was found in the corpus")
    for problem in problems:
        say(problem)


def show_description(said: "Description", files: "Sequence[Path]") -> None:
    """Print tables."""
    from rich.table import Table

    from cellfm.corpus.describe import QUANTILES

    table = Table(title=said.store, show_header=False, title_justify="left")
    table.add_row("cells", f"{said.n_cells:,} in {counted(said.n_parts, 'part')}")
    table.add_row("size", f"{said.n_bytes:,} bytes, {said.bytes_per_cell:,.0f} a cell")
    seen = "" if said.n_genes_seen is None else f", {said.n_genes_seen:,} with a count"
    table.add_row("genes", f"{said.n_genes:,} in the vocabulary{seen}")
    table.add_row("hash", said.hash[:16])
    show_table(table)
    quantiles = Table("of a cell", *(f"{100 * quantile:g} %" for quantile in QUANTILES))
    for name, values in (("genes", said.genes_per_cell), ("counts", said.counts_per_cell)):
        quantiles.add_row(name, *(f"{value:,.0f}" for value in values))
    show_table(quantiles)
    for name, groups in said.groups.items():
        if any(group.label for group in groups):
            show_table(_group_table(said, name))
        else:
            say(f"{name}: not known of any cell")
    aside = [f"set aside {source.name}: {source.reason}" for source in said.set_aside]
    say_some(aside, most=MOST_LINES, rest=f"see {Path(said.store) / 'report.json'}")
    for file in files:
        wrote(file)


def _group_table(said: "Description", name: str) -> "Table":
    """Cells by one column, those with most first; datasets with their licence."""
    from rich.table import Table

    groups, is_dataset = said.groups[name], name == "dataset"
    licences = {dataset.name: dataset.licence or "not said" for dataset in said.datasets}
    title = name.replace("_", " ")
    table = Table(title, "cells", "share", *(["licence"] if is_dataset else []))
    for group in groups[:MOST_ROWS]:
        label, share = group.label or "not known", group.n_cells / max(said.n_cells, 1)
        more = [licences.get(group.label, "not said")] if is_dataset else []
        table.add_row(label, f"{group.n_cells:,}", f"{share:.1%}", *more)
    if rest := groups[MOST_ROWS:]:
        n_cells = sum(group.n_cells for group in rest)
        share = n_cells / max(said.n_cells, 1)
        table.add_row(f"{len(rest):,} others", f"{n_cells:,}", f"{share:.1%}")
    return table


def draw(said: "Description", out: Path) -> list[Path]:
    """Write a picture of the genes per cell and one for each column of which something is known."""
    from cellfm import pl

    out.mkdir(parents=True, exist_ok=True)
    known = [name for name, groups in said.groups.items() if any(group.label for group in groups)]
    files = []
    for name in ("n_genes", *known):
        axes = pl.corpus(said, by=name)
        files.append(out / f"{name}.png")
        cast("Figure", axes.figure).savefig(files[-1], dpi=150)
    return files


def print_json(said: object) -> None:
    """Print for machines."""
    import json
    import sys

    # Not by rich, which would wrap lines and turn :text: into pictures.
    sys.stdout.write(json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
