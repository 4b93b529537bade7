"""What is in a corpus."""

from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cellfm.corpus.describe import Description

GENES = "n_genes"
MOST_BARS = 25
"""Labels that get a bar; the others share the last one."""
LONGEST_LABEL = 40


def corpus(
    store: "Description | Path | str", *, by: str = GENES, ax: "Axes | None" = None
) -> "Axes":
    """Draw the genes per cell of a corpus, or its cells by a label.

    Parameters
    ----------
    store
        Folder of the corpus, or what :func:`cellfm.corpus.describe.describe` said of it.
    by
        ``"n_genes"`` for a histogram, or a column for a bar for each of its labels: dataset, cell_type, tissue, disease,
        donor, assay or batch.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("corpus.png")``.

    Raises
    ------
    DataError
        There is no such column.
    CorpusError
        There is no corpus, or it is damaged.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.corpus("corpus/", by="tissue")  # doctest: +SKIP
    """
    require("matplotlib")
    from cellfm.corpus.describe import describe

    said = describe(store, counts=False) if isinstance(store, str | Path) else store
    if by == GENES:
        return _histogram(said, new_axes(5.6, 3.4) if ax is None else ax)
    if by not in said.groups:
        msg = f"A corpus has no column {by!r}; draw it by {GENES}, {', '.join(said.groups)}."
        raise DataError(msg)
    bars = _bars(said, by)
    return _draw_bars(bars, by, new_axes(6.4, 1.0 + 0.22 * len(bars)) if ax is None else ax)


def _histogram(said: "Description", ax: "Axes") -> "Axes":
    edges = said.genes_histogram.edges
    ax.stairs(said.genes_histogram.n_cells, edges, fill=True, color="tab:blue")
    median = said.genes_per_cell[len(said.genes_per_cell) // 2]
    ax.axvline(median, color="black", linestyle="--", linewidth=1)
    ax.set(
        xlabel="expressed genes of a cell",
        ylabel="cells",
        title=f"{said.n_cells:,} cells, median {median:,.0f} genes",
    )
    return ax


def _bars(said: "Description", by: str) -> list[tuple[str, int]]:
    """Labels and cells, the smallest together in the last."""
    groups = [(group.label or "not known", group.n_cells) for group in said.groups[by]]
    if len(groups) <= MOST_BARS:
        return groups
    others = groups[MOST_BARS - 1 :]
    rest = (f"{len(others):,} others", sum(n_cells for _, n_cells in others))
    return [*groups[: MOST_BARS - 1], rest]


def _draw_bars(bars: list[tuple[str, int]], by: str, ax: "Axes") -> "Axes":
    position = range(len(bars))
    ax.barh(position, [n_cells for _, n_cells in bars], color="tab:blue")
    ax.set_yticks(position, [_short(label) for label, _ in bars], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="cells", title=f"cells by {by.replace('_', ' ')}")
    return ax


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
