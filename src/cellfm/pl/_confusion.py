"""Which types are taken for which."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_NUMBERS = 20
"""Columns up to which the fractions are written into the cells."""


def confusion(table: "pd.DataFrame", *, ax: "Axes | None" = None) -> "Axes":
    """Draw the fractions of the cells of each true type that got each label.

    Parameters
    ----------
    table
        Numbers of cells, true types (rows) × labels (columns). A row without cells stays empty.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("confusion.png")``.

    Raises
    ------
    DataError
        The table is empty or holds something else than numbers of cells.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.confusion(result.confusion)  # doctest: +SKIP
    """
    require("matplotlib")
    counts = _counts(table)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    n_rows, n_columns = counts.shape
    if ax is None:
        longest = max(len(str(name)) for name in table.index)
        ax = new_axes(2.6 + 0.42 * n_columns + 0.07 * longest, 1.8 + 0.36 * n_rows)
    drawn = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [f"{name} ({int(n):,})" for name, n in zip(table.index, total[:, 0], strict=True)]
    ax.set_yticks(range(n_rows), names, fontsize=8)
    columns = [str(name) for name in table.columns]
    ax.set_xticks(range(n_columns), columns, fontsize=8, rotation=45, ha="right")
    ax.set(xlabel="label", ylabel="true type (cells)", title="share of the cells of each type")
    if n_columns <= MOST_NUMBERS:
        _write_shares(ax, share)
    ax.figure.colorbar(drawn, ax=ax, fraction=0.04)
    return ax


def _counts(table: "pd.DataFrame") -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    if not table.size:
        msg = f"The confusion table has {table.shape[0]} rows and {table.shape[1]} columns; at least one of each is needed. Give a table with labels."
        raise DataError(msg)
    try:
        counts = table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"The confusion table holds something else than numbers: {error}. Give numbers of cells, true types × labels."
        raise DataError(msg) from error
    if not np.isfinite(counts).all() or (counts < 0).any():
        msg = "The confusion table holds negative or missing numbers. Give numbers of cells, true types × labels."
        raise DataError(msg)
    return counts


def _write_shares(ax: "Axes", share: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> None:
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            color = "white" if value > 0.55 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
