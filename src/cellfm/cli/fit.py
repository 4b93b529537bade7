"""Tables that fit the width of a terminal without cutting an entry."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Column, Table

WIDEST_WORD = 24
"""Characters of one word that a column of names keeps on a line; longer words are folded."""
GAP = 2
"""Characters of padding that rich gives a column."""


def fitted(table: "Table", width: int) -> "list[Table]":
    """Return tables that say the same and are no wider than a terminal.

    Rich cuts entries of a table that is too wide, numbers included. Here headers and names are put on several lines first; where that does not
    do, the columns are dealt to tables one below the other, and each begins with the first column.

    Parameters
    ----------
    table
        Its entries are text.
    width
        Characters of a line.
    """
    texts = [_texts(column) for column in table.columns]
    natural = [max(_longest_line(text) for text in column) for column in texts]
    if not texts or _taken(table, natural) <= width:
        return [table]
    least = [max(_longest_word(text) for text in column) for column in texts]
    parts = []
    for places in _dealt(table, least, width):
        room = width - _taken(table, [least[place] for place in places])
        parts.append(_part(table, places, _widths(places, natural, least, room)))
    return parts


def _texts(column: "Column") -> list[str]:
    return [getattr(entry, "plain", None) or str(entry) for entry in (column.header, *column.cells)]


def _longest_line(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def _longest_word(text: str) -> int:
    from rich.cells import cell_len

    longest = max(map(cell_len, text.split()), default=0)
    return longest if any(map(str.isdigit, text)) else min(longest, WIDEST_WORD)


def _taken(table: "Table", widths: Sequence[int]) -> int:
    """Return the characters of a line of a table with columns so wide."""
    edges = 0 if table.box is None else 1 + len(widths)
    return sum(widths) + GAP * len(widths) + edges


def _dealt(table: "Table", least: Sequence[int], width: int) -> Iterator[list[int]]:
    """Deal the columns to tables that are narrow enough; the first is in all of them."""
    places = [0]
    for place in range(1, len(least)):
        if len(places) > 1 and _taken(table, [least[p] for p in (*places, place)]) > width:
            yield places
            places = [0]
        places.append(place)
    yield places


def _widths(
    places: Sequence[int], natural: Sequence[int], least: Sequence[int], room: int
) -> list[int]:
    """Widen columns beyond the least as far as there is room, the first one first."""
    widths = []
    for place in places:
        more = max(0, min(room, natural[place] - least[place]))
        widths.append(least[place] + more)
        room -= more
    if room < 0:  # a name that no line holds: it is folded
        widths[0] = max(1, widths[0] + room)
    return widths


def _part(table: "Table", places: Sequence[int], widths: Sequence[int]) -> "Table":
    from rich.table import Table

    part = Table(
        box=table.box,
        show_header=table.show_header,
        title=table.title if list(places[1:2]) in ([], [1]) else None,  # above the first
        title_justify=table.title_justify,
    )
    for place, width in zip(places, widths, strict=True):
        column = table.columns[place]
        part.add_column(column.header, justify=column.justify, width=width, overflow="fold")
    for row in zip(*(table.columns[place].cells for place in places), strict=True):
        part.add_row(*row)
    return part
