"""Programs of genes in groups of cells."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    Values = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LONGEST = 48
"""Letters of a program's name that are drawn."""
MARK = "*"


def programs(
    adata: "AnnData",
    groupby: str,
    *,
    key: str = "X_programs",
    changes: "pd.DataFrame | None" = None,
    level: float = 0.05,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the mean score of each program in each group of cells, less its mean and by its standard deviation over all cells drawn.

    Programs differ much in the level of their scores; so standardised, what differs between groups is seen of each.

    Parameters
    ----------
    adata
        Cells with scores from `cellfm.tl.program_scores`.
    groupby
        Column of ``obs`` with the groups. Cells without an entry are left out.
    key
        Of ``obsm`` and ``uns["cellfm"]``.
    changes
        Table of `cellfm.tl.program_changes`: a star marks programs that differ between the group and what it was compared with.
    level
        Of q, for a star.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("programs.png")``.

    Raises
    ------
    DataError
        There are no such scores, or no such column.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.programs(adata, "cell_type")  # doctest: +SKIP
    """
    require("matplotlib")
    scores, names = _scores(adata, key)
    groups, n_cells, means = _means(adata, groupby, scores)
    labels = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    if ax is None:
        longest = max(map(len, labels))
        ax = new_axes(2.6 + 0.45 * len(groups) + 0.075 * longest, 1.8 + 0.28 * len(names))
    most = float(np.nanmax(np.abs(means), initial=0.0)) or 1.0  # white: as in all cells
    drawn = ax.imshow(means, cmap=_colours(), vmin=-most, vmax=most, aspect="auto")
    ax.set_yticks(range(len(names)), labels, fontsize=8)
    columns = [f"{name} ({n:,})" for name, n in zip(groups, n_cells, strict=True)]
    ax.set_xticks(range(len(groups)), columns, fontsize=8, rotation=45, ha="right")
    ax.set(xlabel=f"{groupby} (cells)", title="score of programs")
    ax.figure.colorbar(drawn, ax=ax, fraction=0.04, label="mean, in standard deviations of cells")
    if changes is not None:
        _mark(ax, changes[changes["q"] <= level], groups)
        ax.set_title(f"score of programs ({MARK} q ≤ {level})")
    return ax


def _scores(adata: "AnnData", key: str) -> "tuple[Values, list[str]]":
    note = adata.uns.get("cellfm", {}).get(key, {})
    if key not in adata.obsm or "names" not in note:
        msg = f"There are no scores of programs in obsm[{key!r}]; obsm has {list(adata.obsm) or 'nothing'}. Make them by cellfm.tl.program_scores."
        raise DataError(msg)
    return np.asarray(adata.obsm[key], np.float64), [str(name) for name in note["names"]]


def _means(
    adata: "AnnData", groupby: str, scores: "Values"
) -> "tuple[list[str], list[int], Values]":
    """Return the groups, their numbers of cells, and the standardised mean score of each program in each, shape (program, group)."""
    if groupby not in adata.obs.columns:
        msg = f"There is no column {groupby!r} in obs; it has {list(map(str, adata.obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    column = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    code = column.cat.codes.to_numpy()
    groups = [str(name) for name in column.cat.categories]
    if not groups:
        msg = f"obs[{groupby!r}] has no entries. Name a column with groups."
        raise DataError(msg)
    inside = [code == number for number in range(len(groups))]
    known = scores[code >= 0]
    spread = known.std(axis=0)
    scores = (scores - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    means = np.stack([scores[flags].mean(axis=0) for flags in inside], axis=1)
    return groups, [int(flags.sum()) for flags in inside], means


def _colours() -> "Colormap":
    """White is the mean of all cells; grey, no gene of the program."""
    from matplotlib import colormaps

    return colormaps["RdBu_r"].with_extremes(bad="lightgray")


def _mark(ax: "Axes", changes: "pd.DataFrame", groups: list[str]) -> None:
    for name, program in zip(changes["group"], changes["program"], strict=True):
        if str(name) in groups:
            at = groups.index(str(name)), int(program)
            ax.text(*at, MARK, ha="center", va="center_baseline", fontsize=9)
