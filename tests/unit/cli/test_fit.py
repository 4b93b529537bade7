"""Tables that are too wide for a terminal lose no character."""

import io

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from cellfm.cli.fit import fitted

NUMBERS = [f"0.{place}234" for place in range(1, 10)]


def wide(n_rows: int = 2) -> Table:
    table = Table(title="scores", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for place in range(9):
        table.add_column(f"mean error {place}", justify="right")
    for row in range(n_rows):
        table.add_row(f"reference test, method {row}", *NUMBERS)
    return table


def printed(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(*fitted(table, width), sep="\n")
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_entry_is_cut(width: int) -> None:
    shown = printed(wide(), width)
    assert "…" not in shown
    for number in NUMBERS:
        assert shown.count(number) == 2
    assert max(map(len, shown.splitlines())) <= width


def test_a_table_that_fits_is_as_it_was() -> None:
    table = wide()
    assert fitted(table, 200) == [table]
    assert fitted(Table(), 10) != []


def test_headers_are_wrapped_before_columns_are_dealt() -> None:
    assert len(fitted(wide(), 120)) == 1
    parts = fitted(wide(), 60)
    assert len(parts) > 1
    assert [part.title for part in parts] == ["scores"] + [None] * (len(parts) - 1)
    assert all(part.columns[0].header == "method" for part in parts)


def test_a_long_name_is_folded() -> None:
    table = Table("name", "n")
    table.add_row("x" * 50, "12,345")
    shown = printed(table, 30)
    assert shown.count("x") == 50
    assert "12,345" in shown
