"""Edges of a network as other programs read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import gene_names_of
from cellfm.errors import OutputExistsError
from cellfm.genes import Vocabulary, resolve
from cellfm.optional import require
from cellfm.tl._states import check_key
from cellfm.weights.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def write_varp(
    edges: "pd.DataFrame",
    adata: "AnnData",
    key_added: str,
    *,
    n_scored: int,
    note: Mapping[str, str | int],
    vocabulary: Vocabulary,
    gene_names: str | None,
    overwrite: bool,
) -> None:
    """Write edges to ``varp``; see `GeneNetwork.write_varp`.

    Parameters
    ----------
    edges
        With source, target and rank.
    adata, key_added, gene_names, overwrite
        As there.
    n_scored
        Pairs that were ranked.
    note
        What is written to ``uns``.
    vocabulary
        Of the model.
    """
    from scipy import sparse

    check_key(key_added)
    if key_added in adata.varp and not overwrite:
        msg = f"adata has varp[{key_added!r}] already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)
    token = resolve(gene_names_of(adata.var, gene_names), vocabulary, min_matched=0.0).token
    column: dict[str, int] = {}
    for place, number in enumerate(token.tolist()):
        if number:
            column.setdefault(vocabulary.symbols[number - 1], place)
    row, other = (edges[name].map(column).to_numpy(np.float64) for name in ("source", "target"))
    there = np.isfinite(row) & np.isfinite(other)
    value = 1.0 - (edges["rank"].to_numpy() - 1.0) / n_scored
    places = row[there].astype(np.int64), other[there].astype(np.int64)
    matrix = sparse.csr_matrix(
        (value[there].astype(np.float32), places), shape=(adata.n_vars, adata.n_vars)
    )
    adata.varp[key_added] = matrix
    adata.uns["cellfm"] = {
        **adata.uns.get("cellfm", {}),
        key_added: dict(note) | {"n_edges": int(there.sum()), "n_scored": n_scored, "cellfm_version": __version__},
    }  # fmt: skip


def write_graphml(edges: "pd.DataFrame", path: Path) -> None:
    """Write edges as GraphML by networkx, complete or not at all.

    Parameters
    ----------
    edges
        With source, target and numbers.
    path
        File to write.

    Raises
    ------
    MissingDependencyError
        networkx, which torch and scanpy bring, is not installed.
    """
    require("networkx")
    import networkx as nx

    numbers = {
        name: float for name in ("score", "rank", "p", "pearson", "n_cells") if name in edges
    }
    plain = edges.assign(**{name: edges[name].astype(float) for name in numbers})
    graph = nx.from_pandas_edgelist(plain, edge_attr=list(numbers), create_using=nx.DiGraph)
    with replacing(path) as new:
        nx.write_graphml(graph, new)
