"""Where the tables of commands go."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
