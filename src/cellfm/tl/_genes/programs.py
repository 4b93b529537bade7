r"""Gene programs: modules of genes whose representations lie together, and what known sets are in them.

A module M of the N background genes holds k genes of a set of K with the chance

.. math:: P(X \ge k), \qquad X \sim \mathrm{Hypergeometric}(N, K, |M|)

(scipy), adjusted over all modules and sets by Benjamini & Hochberg (1995). A method is measured by how many different sets are significant in at
least one of its modules, beside modules of co-expression of the same number and random modules of the same sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.genes.sets import GeneSets
from cellfm.optional import require

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

N_NEIGHBORS = 15
MIN_GENES = 5
"""Smaller modules are no programs."""
LEVEL = 0.05
MOST_SET = 500
"""Larger sets say little about a program."""
N_TRIES = 12
"""Resolutions that are tried to make as many modules as another method."""
NONE = -1
"""Program of a gene that is in none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Programs:
    """Modules of genes.

    Attributes
    ----------
    genes
        Background: the genes that were clustered.
    code
        Program of each gene, 0 for the largest, −1 for none, shape (gene,).
    """

    genes: tuple[str, ...]
    code: "NDArray[np.int64]"

    @property
    def n(self) -> int:
        """Number of programs."""
        return int(self.code.max()) + 1 if len(self.code) else 0

    def members(self, number: int) -> tuple[str, ...]:
        """Return the genes of a program.

        Parameters
        ----------
        number
            From 0.
        """
        return tuple(self.genes[i] for i in np.flatnonzero(self.code == number))


def find_programs(
    vectors: "NDArray[np.floating]",
    genes: Sequence[str],
    *,
    resolution: float = 1.0,
    n_neighbors: int = N_NEIGHBORS,
    min_genes: int = MIN_GENES,
    seed: int = 0,
) -> Programs:
    """Cluster genes by the Leiden algorithm on the graph of nearest neighbours (cosine).

    Parameters
    ----------
    vectors
        Of the genes, shape (gene, dim).
    genes
        Their names.
    resolution
        More makes more, smaller modules.
    n_neighbors
        Of the graph.
    min_genes
        Smaller modules are none.
    seed
        Of the algorithm.

    Raises
    ------
    DataError
        There are fewer genes than neighbours, or vectors are not finite.
    MissingDependencyError
        scanpy or igraph is missing.
    """
    graph = neighbour_graph(vectors, genes, n_neighbors=n_neighbors)
    return cluster(graph, resolution=resolution, min_genes=min_genes, seed=seed)


def neighbour_graph(
    vectors: "NDArray[np.floating]", genes: Sequence[str], *, n_neighbors: int = N_NEIGHBORS
) -> "AnnData":
    """Return the graph of the nearest neighbours of genes by the centred cosine.

    Parameters
    ----------
    vectors, genes, n_neighbors
        As in `find_programs`.

    Raises
    ------
    DataError, MissingDependencyError
        As in `find_programs`.
    """
    require("scanpy", extra="analysis")
    require("igraph", extra="programs")
    if len(genes) <= n_neighbors or not np.isfinite(vectors).all():
        msg = f"Programs of {len(genes)} genes with {n_neighbors} neighbours each were asked for, of finite vectors; give more genes, or only those that have vectors."
        raise DataError(msg)
    import pandas as pd
    import scanpy
    from anndata import AnnData

    centred = vectors - vectors.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = (centred / np.maximum(length, 1e-12)).astype(np.float32)
    graph = AnnData(unit, obs=pd.DataFrame(index=list(genes)))
    # Exact: the approximate search that scanpy takes for more genes breaks with scipy's sparse arrays (scanpy 1.11, scipy 1.17).
    scanpy.pp.neighbors(graph, n_neighbors=n_neighbors, use_rep="X", transformer="sklearn")
    return graph


def cluster(
    graph: "AnnData", *, resolution: float, min_genes: int = MIN_GENES, seed: int = 0
) -> Programs:
    """Cluster a graph of genes by the Leiden algorithm.

    Parameters
    ----------
    graph
        From `neighbour_graph`.
    resolution, min_genes, seed
        As in `find_programs`.
    """
    import scanpy

    scanpy.tl.leiden(
        graph,
        resolution=resolution,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )
    code = _ordered(graph.obs["leiden"].to_numpy(), min_genes)
    return Programs(genes=tuple(graph.obs_names), code=code)


def enrich(programs: Programs, gene_sets: GeneSets) -> "pd.DataFrame":
    """Test every program for every set.

    Parameters
    ----------
    programs
        Their genes are the background.
    gene_sets
        By name, under the names of these genes; sets with fewer than two of them, or very many, are left out.

    Returns
    -------
    A row for each program and set that share a gene, lowest p first: ``program``, ``set``, ``n`` shared genes, ``program_size``, ``set_size``
    (within the background), ``expected``, ``p``, ``q`` (over all programs and sets), ``genes``.

    Raises
    ------
    DataError
        No set has two genes of the background.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control, hypergeom

    place = {name: i for i, name in enumerate(programs.genes)}
    own = {
        name: np.array(sorted({place[gene] for gene in genes if gene in place}), np.int64)
        for name, genes in gene_sets.items()
    }
    own = {name: rows for name, rows in own.items() if 2 <= len(rows) <= MOST_SET}
    if not own:
        msg = f"None of the {len(gene_sets):,} gene sets has two of the {len(place):,} genes; sets of another species, or under Ensembl ids? Give sets of human symbols."
        raise DataError(msg)
    size = np.bincount(programs.code[programs.code >= 0], minlength=programs.n)
    rows: list[tuple[int, str, int, int, int]] = []
    for name, genes in own.items():
        there = programs.code[genes][programs.code[genes] >= 0]
        shared = np.bincount(there, minlength=programs.n)
        rows += [(i, name, int(shared[i]), int(size[i]), len(genes)) for i in range(programs.n)]
    table = pd.DataFrame(rows, columns=["program", "set", "n", "program_size", "set_size"])
    total = len(place)
    table["expected"] = table["program_size"] * table["set_size"] / total
    table["p"] = hypergeom.sf(table["n"] - 1, total, table["set_size"], table["program_size"])
    table["q"] = false_discovery_control(table["p"].clip(0.0, 1.0))
    table = table[table["n"] > 0].sort_values(["p", "program", "set"]).reset_index(drop=True)
    table["genes"] = [
        " ".join(programs.genes[i] for i in own[name] if programs.code[i] == number)
        for number, name in zip(table["program"], table["set"], strict=True)
    ]
    return table


def n_significant(table: "pd.DataFrame", *, level: float = LEVEL) -> int:
    """Return how many different sets are significant in a program.

    Parameters
    ----------
    table
        From `enrich`.
    level
        Of q.
    """
    return int(table.loc[table["q"] <= level, "set"].nunique())


def random_programs(programs: Programs, *, seed: int) -> Programs:
    """Return programs of the same sizes, of genes drawn at random.

    Parameters
    ----------
    programs
        Whose sizes are taken.
    seed
        Of the permutation.
    """
    code = programs.code[np.random.default_rng(seed).permutation(len(programs.code))]
    return Programs(genes=programs.genes, code=code)


def score_programs(adata: "AnnData", programs: Programs, *, seed: int = 0) -> "NDArray[np.float32]":
    """Return the score of each program in each cell: mean expression less that of genes expressed alike (scanpy.tl.score_genes).

    Parameters
    ----------
    adata
        Cells × genes with log-normalised values in ``X`` under the names of the programs; it is not changed.
    programs
        With genes in common.
    seed
        Of the genes that are compared with.

    Returns
    -------
    Shape (cell, program); NaN for a program of which the cells have no gene.
    """
    require("scanpy", extra="analysis")
    import scanpy
    from anndata import AnnData

    copy = AnnData(adata.X, var=adata.var[[]])
    scores = np.full((adata.n_obs, programs.n), np.nan, np.float32)
    there = set(adata.var_names)
    for number in range(programs.n):
        own = [gene for gene in programs.members(number) if gene in there]
        if own:
            scanpy.tl.score_genes(copy, own, score_name="score", random_state=seed)
            scores[:, number] = copy.obs["score"]
    return scores


def _ordered(labels: "NDArray[np.object_]", min_genes: int) -> "NDArray[np.int64]":
    """Return the numbers of modules by falling size, −1 for those that are too small."""
    names, code, size = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-size, kind="stable")
    number = np.full(len(names), NONE, np.int64)
    kept = order[size[order] >= min_genes]
    number[kept] = np.arange(len(kept))
    return number[code]
