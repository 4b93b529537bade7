"""How often labels of a given probability are right."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("n_cells", "probability", "accuracy")


def calibration(table: "pd.DataFrame", *, ax: "Axes | None" = None) -> "Axes":
    """Draw the accuracy of labels against their probability, a reliability diagram.

    Points on the dashed line are calibrated: of the labels with probability 0.8, 80 % are right. Below it the probabilities promise too much.

    Parameters
    ----------
    table
        A row for each bin of probabilities: ``n_cells``, mean ``probability`` and ``accuracy``; ``calibration`` of a column that
        :func:`cellfm.tl.annotate` returned. The area of a point is its number of cells.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("calibration.png")``.

    Raises
    ------
    DataError
        The table is empty, lacks a column, or holds a probability or an accuracy that is not between 0 and 1.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.calibration(result.columns[0].calibration)  # doctest: +SKIP
    """
    require("matplotlib")
    bins = _checked(table).sort_values("probability")
    if ax is None:
        ax = new_axes(4.6, 3.8)
    ax.plot([0, 1], [0, 1], "--", color="gray", linewidth=1, label="perfect")
    size = 12 + 160 * bins["n_cells"] / max(float(bins["n_cells"].max()), 1.0)
    ax.plot(bins["probability"], bins["accuracy"], color="tab:blue", linewidth=1)
    ax.scatter(bins["probability"], bins["accuracy"], s=size, color="tab:blue", alpha=0.7)
    n_cells = int(bins["n_cells"].sum())
    ax.set(
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        xlabel="probability of the label",
        ylabel="accuracy",
        title=f"reliability of the labels of {n_cells:,} cells (area: cells)",
    )
    ax.title.set_fontsize(9)
    return ax


def _checked(table: "pd.DataFrame") -> "pd.DataFrame":
    missing = [name for name in COLUMNS if name not in table]
    if missing or not len(table):
        found = f"lacks {', '.join(missing)}" if missing else "has no rows"
        msg = (
            f"The table of calibration {found}; it needs the columns {', '.join(COLUMNS)} and a row for each bin. Give calibration of a column that "
            "cellfm.tl.annotate returned; it is empty where the true labels of no cell are known."
        )
        raise DataError(msg)
    shares = table[["probability", "accuracy"]].to_numpy(dtype=np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        msg = "The table of calibration holds a probability or an accuracy that is missing or not between 0 and 1. Give shares, not percent."
        raise DataError(msg)
    return table
