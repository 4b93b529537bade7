"""One self-contained HTML page: text, sortable tables and figures, with nothing to load from anywhere."""

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.weights.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure
    from plotly.graph_objects import Figure as PlotlyFigure

    Figure: TypeAlias = MatplotlibFigure | PlotlyFigure

TEMPLATE = "page.html.j2"
DPI = 150
DIGITS = 3
"""Decimals of a number in a table."""

Look = Literal["mark", "failed", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A cell of a table that is shown in another way than it is sorted."""

    text: str
    sort: float | str | None = None
    """What the column is sorted by; None comes last."""
    note: str = ""
    """Small print below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A number with its interval, written and drawn on an axis from `left` to `right`."""

    value: float
    low: float | None = None
    high: float | None = None
    left: float = 0.0
    right: float = 1.0
    lines: tuple[float, ...] = ()
    """Where thin lines stand, such as at 0."""
    signed: bool = False
    """Write a plus sign."""


Cell = str | float | int | Shown | Bar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; numbers stand right, and a click on a heading sorts."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """Rows that look different, by number."""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                msg = f"Row {number} of the table {self.caption!r} has {len(row)} cells for {len(self.columns)} columns; give one for each."
                raise DataError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Section:
    """A heading with what belongs below it."""

    title: str
    text: str = ""
    """Paragraphs, separated by empty lines; lines that begin with ``- `` are a list, backquotes mark code, ``**`` bold."""
    tables: "Sequence[Table | pd.DataFrame]" = ()
    figures: "Sequence[Figure]" = ()
    folded: bool = False
    """Shown after a click only."""
    depth: Literal[2, 3] = 2
    """Level of the heading; a section of level 3 is not in the table of contents."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Page:
    """What is to be written."""

    title: str
    lead: str
    """First paragraphs: what the reader takes away; same marks as the text of a section."""
    sections: Sequence[Section]
    footer: str = ""


def write_page(page: Page, path: Path | str) -> Path:
    """Write a page as one HTML file, complete or not at all.

    Interactive figures bring plotly.js with them (5 MB); pictures of matplotlib are put in as PNG. The file asks nothing of
    the network.

    Parameters
    ----------
    page
        Text, tables and figures.
    path
        File to write; one that exists is replaced.

    Returns
    -------
    The path.

    Raises
    ------
    MissingDependencyError
        jinja2, or plotly for a figure of it, is not installed.
    """
    require("jinja2", extra="report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(TEMPLATE).render(**_context(page))
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def paragraphs(text: str) -> str:
    """Return HTML of a text with the marks of `Section.text`; everything else is escaped.

    Parameters
    ----------
    text
        Paragraphs, separated by empty lines.
    """
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if not lines:
            continue
        if all(line.lstrip().startswith("- ") for line in lines):
            items = "".join(f"<li>{_inline(line.lstrip()[2:])}</li>" for line in lines)
            found.append(f"<ul>{items}</ul>")
        else:
            found.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(found)


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _context(page: Page) -> dict[str, object]:
    from markupsafe import Markup

    sections, n_figures, interactive = [], 0, False
    for number, section in enumerate(page.sections, start=1):
        drawn = []
        for figure in section.figures:
            n_figures += 1
            interactive |= _is_plotly(figure)
            drawn.append(Markup(_drawn(figure, n_figures)))  # noqa: S704 - made here
        sections.append(
            {
                "id": f"section-{number}",
                "title": section.title,
                "depth": section.depth,
                "folded": section.folded,
                "text": Markup(paragraphs(section.text)),  # noqa: S704 - escaped there
                "tables": [_table(_as_table(table)) for table in section.tables],
                "figures": drawn,
            }
        )
    return {
        "title": page.title,
        "lead": Markup(paragraphs(page.lead)),  # noqa: S704 - escaped there
        "footer": Markup(paragraphs(page.footer)),  # noqa: S704 - escaped there
        "sections": sections,
        "plotly": Markup(_plotly_script()) if interactive else "",  # noqa: S704 - of the package
    }


def _plotly_script() -> str:
    require("plotly", extra="report")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _is_plotly(figure: "Figure") -> "TypeGuard[PlotlyFigure]":
    # by name: a page without such a figure needs no plotly
    return type(figure).__module__.partition(".")[0] == "plotly"


def _drawn(figure: "Figure", number: int) -> str:
    if _is_plotly(figure):
        return str(
            figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                div_id=f"figure-{number}",
                config={"displaylogo": False, "responsive": True},
            )
        )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    coded = base64.b64encode(stream.getvalue()).decode("ascii")
    title = html.escape(_title_of(figure))
    width = round(96 * figure.get_figwidth())
    return f'<img id="figure-{number}" alt="{title}" width="{width}" src="data:image/png;base64,{coded}">'


def _title_of(figure: "MatplotlibFigure") -> str:
    titles = [axes.get_title() for axes in figure.axes]
    return ", ".join(title for title in titles if title) or "figure"


def _as_table(table: "Table | pd.DataFrame") -> Table:
    if isinstance(table, Table):
        return table
    has_names = table.index.name is not None or table.index.dtype.kind not in "iu"
    names = [str(table.index.name or "")] if has_names else []
    rows = []
    for name, values in zip(table.index, table.itertuples(index=False), strict=True):
        cells = [x.item() if hasattr(x, "item") else x for x in values]
        rows.append([*([str(name)] if has_names else []), *cells])
    return Table(columns=(*names, *map(str, table.columns)), rows=rows)


def _table(table: Table) -> dict[str, object]:
    rows = []
    for number, row in enumerate(table.rows):
        rows.append({"look": table.looks.get(number, ""), "cells": [_cell(cell) for cell in row]})
    numeric = [
        any(_is_number(row[i]) for row in table.rows)
        and not any(_is_words(row[i]) for row in table.rows)
        for i in range(len(table.columns))
    ]
    return {
        "caption": table.caption,
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": rows,
    }


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, Shown):
        return isinstance(cell.sort, float | int)
    return isinstance(cell, float | int | Bar)


def _is_words(cell: Cell) -> bool:
    """Whether a cell is sorted as text; one without a value fits every column."""
    return isinstance(cell.sort if isinstance(cell, Shown) else cell, str)


def _cell(cell: Cell) -> dict[str, object]:
    from markupsafe import Markup

    shown: dict[str, object] = {"text": "", "sort": "", "note": "", "drawing": ""}
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        shown["text"] = "–"
    elif isinstance(cell, Shown):
        sort = "" if cell.sort is None else cell.sort
        shown |= {"text": cell.text, "note": cell.note, "sort": sort}
    elif isinstance(cell, Bar):
        shown |= {"text": _bar_text(cell), "sort": cell.value, "drawing": Markup(_bar(cell))}  # noqa: S704 - numbers only
    else:
        shown |= {"text": _number_text(cell), "sort": cell}
    return shown


def _number_text(value: str | float) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{DIGITS}f}".replace("-", "−")


def _bar_text(bar: Bar) -> str:
    sign = "+" if bar.signed else ""
    text = f"{bar.value:{sign}.{DIGITS}f}"
    if bar.low is not None and bar.high is not None:
        text += f"  [{bar.low:{sign}.{DIGITS}f}, {bar.high:{sign}.{DIGITS}f}]"
    return text.replace("-", "−")


def _bar(bar: Bar) -> str:
    """Draw the interval and its value, cut off at both ends of the axis."""

    def place(x: float) -> float:
        width = bar.right - bar.left or 1.0
        return round(4 + 112 * min(max((x - bar.left) / width, 0.0), 1.0), 2)

    parts = [
        f'<line x1="{place(x)}" x2="{place(x)}" y1="1" y2="15" class="rule"/>' for x in bar.lines
    ]
    if bar.low is not None and bar.high is not None:
        ends = f'x1="{place(bar.low)}" x2="{place(bar.high)}"'
        parts.append(f'<line {ends} y1="8" y2="8" class="span"/>')
    parts.append(f'<circle cx="{place(bar.value)}" cy="8" r="3.2"/>')
    return f'<svg class="bar" viewBox="0 0 120 16" aria-hidden="true">{"".join(parts)}</svg>'
