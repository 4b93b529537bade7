"""The genes around a gene."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NEEDED = ("source", "target", "score", "gene")
SOURCE, TARGET, GENE = "#4477aa", "#cc6677", "black"


def network(table: "pd.DataFrame", *, ax: "Axes | None" = None) -> "Axes":
    """Draw a gene between its sources, to the left, and its targets, to the right; the strongest are at the top.

    Parameters
    ----------
    table
        From `GeneNetwork.neighbourhood`. The width of a line is the score, within the table; it is solid where the correlation is positive, and dashed where it is negative.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("network.png")``.

    Raises
    ------
    DataError
        The table is empty or not one of a neighbourhood.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.network(network.neighbourhood("SPI1"))  # doctest: +SKIP
    """
    require("matplotlib")
    _check(table)
    gene = str(table["gene"].iloc[0])
    sides = (
        (table[table["target"] == gene], "source", -1.0, SOURCE),
        (table[table["source"] == gene], "target", 1.0, TARGET),
    )
    tallest = max(len(part) for part, *_ in sides)
    ax = new_axes(6.4, 1.2 + 0.26 * tallest) if ax is None else ax
    low, high = float(table["score"].min()), float(table["score"].max())
    for part, column, side, colour in sides:
        _side(ax, part, column, side=side, colour=colour, span=(low, high))
    ax.text(0.0, 0.0, gene, ha="center", va="center", fontsize=11, weight="bold", color="white",
            bbox={"boxstyle": "round", "facecolor": GENE, "edgecolor": GENE}, zorder=3)  # fmt: skip
    ax.set(xlim=(-1.75, 1.75), ylim=(-1.15, 1.15), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    n_sources, n_targets = (len(part) for part, *_ in sides)
    ax.set_title(f"{n_sources} sources → {gene} → {n_targets} targets", fontsize=9)
    dashed = " · dashed: negative correlation" if "pearson" in table else ""
    ax.set_xlabel(f"width: score, {low:.3g} to {high:.3g}{dashed}", fontsize=8)
    return ax


def _side(
    ax: "Axes",
    part: "pd.DataFrame",
    column: str,
    *,
    side: float,
    colour: str,
    span: tuple[float, float],
) -> None:
    """Draw the genes of one side along an arc, and lines to the middle."""
    height = np.linspace(1.0, -1.0, len(part)) if len(part) > 1 else np.zeros(len(part))
    place = side * (0.75 + 0.35 * np.sqrt(1.0 - 0.9 * height**2))
    low, high = span
    names, scores = part[column].to_numpy(), part["score"].to_numpy()
    signs = part["pearson"].to_numpy() if "pearson" in part else np.ones(len(part))
    for name, score, sign, x, y in zip(names, scores, signs, place, height, strict=True):
        width = 0.6 + 3.0 * (score - low) / (high - low) if high > low else 1.5
        # The arrow ends at what is acted on.
        ends = ((x, y), (0.16, 0.0)) if side > 0 else ((-0.16, 0.0), (x, y))
        style = {"arrowstyle": "-|>", "lw": width, "color": colour, "ls": "--" if sign < 0 else "-", "alpha": 0.75}  # fmt: skip
        ax.annotate("", xy=ends[0], xytext=ends[1], arrowprops=style | {"shrinkA": 2, "shrinkB": 2})
        ax.text(x + side * 0.04, y, str(name), va="center", ha="left" if side > 0 else "right", fontsize=8)  # fmt: skip


def _check(table: "pd.DataFrame") -> None:
    if missing := [name for name in NEEDED if name not in table]:
        msg = f"The table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns)) or 'none'}. Give what GeneNetwork.neighbourhood returns."
        raise DataError(msg)
    if not len(table):
        msg = "The neighbourhood has no pairs: the gene was seen together with no other. Choose another gene, or take more cells."
        raise DataError(msg)
