"""Genes in the plane."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.optional import require
from cellfm.pl._axes import new_axes
from cellfm.pl._embedding import _palette, _points, _size, embedding

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

OTHERS = "lightgray"
LONGEST_BESIDE = 24
"""Letters of the name of a set up to which the legend stands beside the map."""


def genes(
    adata: "AnnData",
    basis: str = "umap",
    *,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    color: str = "locus_group",
    ax: "Axes | None" = None,
) -> "Axes":
    """Scatter genes by the first two columns of a layout, coloured by a column of ``obs`` or by sets of genes.

    Parameters
    ----------
    adata
        Genes from `cellfm.tl.gene_embeddings`, with a layout in ``obsm``, such as ``genes.obsm["X_umap"] = umap.UMAP(metric="cosine").fit_transform(genes.X)``.
    basis
        Key of ``obsm``, with or without ``X_``.
    gene_sets
        Names of the genes of each set, drawn over all others in grey; a gene of several is of the last one. Genes that are not there are passed over; the
        legend says how many of a set are drawn.
    color
        Column of ``obs``, without sets.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("genes.png")``.

    Raises
    ------
    DataError
        There is no such layout or column, or none of the genes of a set is there.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.genes(genes, gene_sets={"CD3": ["CD3D", "CD3E", "CD3G"]})  # doctest: +SKIP
    """
    require("matplotlib")
    if gene_sets is None:
        return embedding(adata, basis, color=color, ax=ax)
    key, points = _points(adata, basis)
    inside = _members(adata, gene_sets)
    ax = new_axes(6.4, 4.4) if ax is None else ax
    shown = np.logical_or.reduce(list(inside.values()))
    x, y = points[~shown].T
    ax.scatter(x, y, s=_size(len(points)), linewidths=0, color=OTHERS)
    # Few genes among thousands: larger, or they would not be seen.
    size = max(10.0, _size(int(shown.sum())))
    for (name, member), style in zip(inside.items(), _palette(len(inside)), strict=True):
        n_drawn = len(set(adata.obs["symbol"][member]))
        label = f"{name} ({n_drawn:,} of {len(set(gene_sets[name])):,})"
        x, y = points[member].T
        ax.scatter(x, y, s=size, linewidths=0, color=style, label=label)
    # Long names beside the map would leave no room for it.
    if max(map(len, inside)) > LONGEST_BESIDE:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False, fontsize=8)
    else:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    name = key.removeprefix("X_")
    ax.set(xlabel=f"{name} 1", ylabel=f"{name} 2", xticks=[], yticks=[])
    return ax


def _members(
    adata: "AnnData", gene_sets: Mapping[str, Sequence[str]]
) -> "dict[str, NDArray[np.bool_]]":
    """Return which rows are of each set, under any names the sets use."""
    if "symbol" not in adata.obs:
        msg = f"There is no column 'symbol' in obs; it has {list(map(str, adata.obs.columns)) or 'no columns'}. Give what cellfm.tl.gene_embeddings returns."
        raise DataError(msg)
    symbols = adata.obs["symbol"].astype(str).to_numpy()
    vocabulary = Vocabulary.from_symbols(tuple(dict.fromkeys(symbols)))
    lookup = Lookup(vocabulary, GeneTable.load())
    inside = {}
    for name, members in gene_sets.items():
        tokens = {lookup.find(gene).token for gene in members} - {0}
        inside[name] = np.isin(symbols, [vocabulary.symbols[token - 1] for token in tokens])
    if empty := [name for name, member in inside.items() if not member.any()]:
        msg = f"None of the {len(gene_sets[empty[0]]):,} genes of the set {empty[0]!r} is among the {adata.n_obs:,} genes drawn. Leave the set out, or check its species."
        raise DataError(msg)
    if not inside:
        msg = "There are no gene sets to draw; expected at least one. Leave gene_sets out to colour by a column of obs."
        raise DataError(msg)
    return inside
