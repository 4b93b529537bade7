"""How commands print: tables, and sentences."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

WIDE = 160
"""Characters of a line that goes to no terminal."""


def table_console() -> "Console":
    """Return a console for tables.

    Nothing says how wide a line of a file or a pipe may be: there it is wide enough that no number is cut.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


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
    table_console().print(shown)


def say(text: str) -> None:
    """Print a line, however long it is.

    Parameters
    ----------
    text
        Without markup.
    """
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(text)
