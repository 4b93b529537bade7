"""Effects of knocked-out genes beside those of genes expressed like them."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

NEEDED = ("gene", "mean_expression", "effect", "tail_q")
N_NAMED = 15
"""Genes that are named, at most."""
N_AWAY = 5
"""Genes that lead away from a goal most, which are named too."""
LETTER, LINE, POINT = 6.0, 9.0, 0.72
"""Width and height of a letter of a name in pixels, and points a pixel, on a figure of its own."""


def screen(
    table: "pd.DataFrame",
    *,
    score: str | None = None,
    level: float = 0.05,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the effect of each gene of a screen against its expression, with the cloud of the null and names.

    Parameters
    ----------
    table
        From `cellfm.tl.screen`; with ``null_rows=True`` the matched genes that were not asked for are drawn too.
    score
        ``"effect"``, on a logarithmic axis, or ``"goal"``; None takes the goal where the table has one.
    level
        Genes with at most this ``tail_q`` are coloured. Where there are none, those of the largest z are named, and the title says so.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("screen.png")``.

    Raises
    ------
    DataError
        The table is empty or not one of a screen.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.screen(cellfm.tl.screen(adata, null_rows=True))  # doctest: +SKIP
    """
    require("matplotlib")
    score = score or ("goal" if "goal" in table else "effect")
    _check(table, score)
    prefix, null = ("", "null_effect") if score == "effect" else ("goal_", "goal_null")
    q, z = prefix + "tail_q", prefix + "z"
    asked = table["screened"].astype(bool) if "screened" in table else np.ones(len(table), bool)
    own, others = table[asked], table[~np.asarray(asked)]
    ax = new_axes(6.4, 4.6) if ax is None else ax
    if len(others):
        ax.scatter(
            others["mean_expression"],
            others[score],
            s=8,
            c="0.8",
            lw=0,
            label=f"matched genes ({len(others):,})",
        )
    hit = (own[q] <= level).to_numpy()
    for mask, colour, label in (
        (~hit, "tab:blue", "screened"),
        (hit, "tab:red", f"tail q ≤ {level:g}"),
    ):
        part = own[mask]
        ax.scatter(
            part["mean_expression"],
            part[score],
            s=12,
            c=colour,
            lw=0,
            label=f"{label} ({len(part):,})",
        )
    line = own.sort_values("mean_expression")
    ax.plot(
        line["mean_expression"], line[null], c="black", lw=0.8, label="median of the matched genes"
    )
    if score == "effect":
        ax.set_yscale("log")
    by_z = own[hit | ~hit.any()].sort_values(z, ascending=False)
    _name(ax, by_z.head(N_NAMED), score)
    if score == "goal":
        _name(ax, own.sort_values(z).head(N_AWAY), score)
    ax.set(xlabel="mean expression, log1p(counts per 10⁴)", ylabel=_LABELS[score])
    ax.set_title(_title(len(own), int(hit.sum()), level), fontsize=9)
    ax.legend(fontsize=7, frameon=False)
    return ax


_LABELS = {
    "effect": "mean shift of the cell state",
    "goal": "mean part of the way to the goal state",
}


def _title(n: int, n_hits: int, level: float) -> str:
    if n_hits:
        return f"{n_hits:,} of {n:,} genes beyond their matched genes at tail q ≤ {level:g}"
    return f"none of {n:,} genes beyond its matched genes at tail q ≤ {level:g}; named: largest z"


def _name(ax: "Axes", rows: "pd.DataFrame", score: str) -> None:
    """Write names beside dots, each at the first place around its dot where no other name is; without one, not at all."""
    ax.autoscale_view()
    taken: list[tuple[float, float, float]] = []
    for x, y, gene in zip(rows["mean_expression"], rows[score], rows["gene"], strict=True):
        at, width = ax.transData.transform((x, y)), LETTER * len(str(gene))
        for dx, dy in (
            (4, 2),
            (-4 - width, 2),
            (4, -9),
            (-4 - width, -9),
            (4, 11),
            (-4 - width, 11),
        ):
            left, low = at[0] + dx, at[1] + dy
            if all(
                abs(low - other_low) > LINE or left > other_right or left + width < other_left
                for other_left, other_right, other_low in taken
            ):
                taken.append((left, left + width, low))
                points = (dx * POINT, dy * POINT)
                ax.annotate(str(gene), (x, y), points, textcoords="offset points", fontsize=7)
                break


def _check(table: "pd.DataFrame", score: str) -> None:
    if score not in _LABELS:
        msg = f"score is {score!r}; it must be one of {', '.join(map(repr, _LABELS))}. Choose one of these."
        raise DataError(msg)
    needed = NEEDED if score == "effect" else (*NEEDED, "goal", "goal_tail_q")
    if missing := [name for name in needed if name not in table]:
        msg = f"The table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns)) or 'none'}. Give the table of cellfm.tl.screen."
        raise DataError(msg)
    if not len(table):
        msg = "The table of the screen has no rows; there is nothing to draw. Run the screen with more genes."
        raise DataError(msg)
