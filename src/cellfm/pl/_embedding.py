"""Cells in the plane."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def embedding(adata: "AnnData", basis: str, *, color: str, ax: "Axes | None" = None) -> "Axes":
    """Scatter the cells by the first two columns of an embedding.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm``.
    basis
        Key of ``obsm``, with or without ``X_``. Cells whose coordinates are NaN are left out.
    color
        Column of ``obs``: numbers get a colour bar, anything else a legend.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("picture.png")``.

    Raises
    ------
    DataError
        There is no such basis or column.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.embedding(adata, "umap", color="cell_type")  # doctest: +SKIP
    """
    require("matplotlib")
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    key, points = _points(adata, basis)
    if color not in adata.obs.columns:
        msg = f"There is no column {color!r} in obs; it has {list(map(str, adata.obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    ax = new_axes(6.4, 4.4) if ax is None else ax
    there = np.isfinite(points).all(axis=1)
    values = adata.obs[color][there]
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        _scatter_numbers(ax, points[there], values)
    else:
        _scatter_groups(ax, points[there], values)
    name = key.removeprefix("X_")
    ax.set(title=color, xlabel=f"{name} 1", ylabel=f"{name} 2", xticks=[], yticks=[])
    return ax


def _points(adata: "AnnData", basis: str) -> tuple[str, "NDArray[np.float64]"]:
    keys = [key for key in (basis, f"X_{basis}") if key in adata.obsm]
    if not keys:
        msg = f"There is no basis {basis!r} in obsm; it has {list(adata.obsm) or 'nothing'}. Choose one of these."
        raise DataError(msg)
    points = np.asarray(adata.obsm[keys[0]], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"obsm[{keys[0]!r}] has the shape {points.shape}; two columns are needed. Choose another basis."
        raise DataError(msg)
    return keys[0], points[:, :2]


def _scatter_numbers(ax: "Axes", points: "NDArray[np.float64]", values: "pd.Series") -> None:
    x, y = points.T
    drawn = ax.scatter(x, y, c=values.to_numpy(float), s=_size(len(points)), linewidths=0)
    ax.figure.colorbar(drawn, ax=ax)


def _scatter_groups(ax: "Axes", points: "NDArray[np.float64]", values: "pd.Series") -> None:
    groups = values.astype("category").cat
    code = groups.codes.to_numpy()
    names = {number: str(name) for number, name in enumerate(groups.categories)}
    colors = {**dict(enumerate(_palette(len(names)))), -1: "lightgray"}
    for number, name in {**names, -1: "NA"}.items():
        x, y = points[code == number].T
        if len(x):
            style = colors[number]
            ax.scatter(x, y, color=style, s=_size(len(points)), linewidths=0, label=name)
    ax.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, markerscale=1.6
    )


def _palette(n_groups: int) -> list[str]:
    """Return as many distinct colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    name, n_colors = (
        ("tab10", 10)
        if n_groups <= 10
        else ("tab20", 20)
        if n_groups <= 20
        else ("gist_rainbow", n_groups)
    )
    # Asked by position: a map of n colours gives its i-th at (i + ½) / n.
    return [to_hex(colormaps[name]((i + 0.5) / n_colors)) for i in range(n_groups)]


def _size(n_cells: int) -> float:
    """Area of a dot: large for few cells, never so small that it disappears."""
    return float(np.clip(6000 / max(n_cells, 1), 2, 24))
