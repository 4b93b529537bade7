"""Programs of a model's genes in the cells at hand, named by known sets, beside co-expression of the same cells."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.genes import Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.sets import GeneSets, read_gene_sets
from cellfm.genes.table import GeneTable
from cellfm.tl._genes.embeddings import Kind, gene_embeddings
from cellfm.tl._genes.program_compare import N_RANDOM, RANDOM, compare_programs
from cellfm.tl._genes.programs import (
    LEVEL,
    Programs,
    enrich,
    find_programs,
    score_programs,
)
from cellfm.tl._perturb.data import PerturbOptions, read_counts
from cellfm.tl._response.gene_features import coexpression
from cellfm.tl._states import as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

CANDIDATE, TWIN, COEXPRESSION = "cellfm", "random weights", "coexpression"
LEAST_GENES = 50
RESOLUTIONS = (1.0, 0.5, 2.0)
"""Times the one asked for: methods are compared at several numbers of programs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenePrograms:
    """Programs, and how they compare.

    Attributes
    ----------
    programs
        Modules of the expressed genes, under vocabulary symbols.
    enrichment
        From :func:`~cellfm.tl._genes.programs.enrich`.
    comparison
        From :func:`~cellfm.tl._genes.program_compare.compare_programs`: the model, co-expression of the same cells, random weights, and random programs.
    clusterings
        From the same: what each clustering found.
    n_cells
        Cells that said which genes are expressed.
    """

    programs: Programs
    enrichment: "pd.DataFrame"
    comparison: "pd.DataFrame"
    clusterings: "pd.DataFrame"
    n_cells: int

    @property
    def verdict(self) -> str:
        """What the comparison shows and what it does not."""
        table = self.comparison
        own, other, random = (table.loc[name] for name in (CANDIDATE, COEXPRESSION, RANDOM))
        if other["difference_low"] > 0:
            shown = "more significant sets than co-expression at equal number of programs: shown for these cells"
        elif other["difference_high"] < 0:
            shown = "fewer significant sets than co-expression at equal number of programs"
        else:
            shown = (
                "more significant sets than co-expression at equal number of programs: not shown"
            )
        n = len(self.clusterings) // len(table)
        return (
            f"Over {n} clusterings {own['sets']:.0f} gene sets (sd {own['sd']:.0f}) are significant in a program of the model, {other['sets']:.0f} (sd {other['sd']:.0f}) in one of co-expression "
            f"in these cells, {random['sets']:.1f} (sd {random['sd']:.1f}) in random ones of the same sizes. The model is ahead of co-expression in {other['ahead']:.0%} of the clusterings (difference {other['least']:+.0f} to {other['most']:+.0f}), on average by {other['difference']:+.0f} "
            f"[{other['difference_low']:+.0f}, {other['difference_high']:+.0f}; programs resampled]: {shown}."
        )

    def scores(self, adata: "AnnData", *, seed: int = 0) -> "NDArray[np.float32]":
        """Return the score of each program in each cell, shape (cell, program); see :func:`~cellfm.tl._genes.programs.score_programs`.

        Parameters
        ----------
        adata
            Cells × genes with log-normalised values in ``X`` under vocabulary symbols.
        seed
            Of the genes that are compared with.
        """
        return score_programs(adata, self.programs, seed=seed)

    def best_sets(self) -> "dict[int, str]":
        """Return the most significant set of each program that has one (q ≤ 0.05)."""
        found = self.enrichment[self.enrichment["q"] <= LEVEL].drop_duplicates("program")
        return dict(zip(found["program"].tolist(), found["set"].tolist(), strict=True))

    def table(self) -> "pd.DataFrame":
        """Return the program of each gene, those in none left out, and the set that is most significant in it."""
        import pandas as pd

        best = self.best_sets()
        rows = np.flatnonzero(self.programs.code >= 0)
        code = self.programs.code[rows]
        return pd.DataFrame(
            {
                "gene": [self.programs.genes[i] for i in rows],
                "program": code,
                "set": [best.get(int(number), "") for number in code],
            }
        ).sort_values(["program", "gene"], ignore_index=True)


def gene_programs(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    gene_sets: GeneSets | str | Path,
    kind: Kind = "static",
    resolution: float = 1.0,
    n_seeds: int = 3,
    n_random: int = N_RANDOM,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> GenePrograms:
    """Cluster the genes that cells express by the model's vectors, and name the modules by known sets.

    Parameters
    ----------
    adata
        Cells × genes with raw counts: they say which genes are expressed, the background, and give the co-expression that the model is compared with.
    model
        From `cellfm.load`, or a weights folder or name; None for the model of the package.
    gene_sets
        Sets, or a file that `cellfm.genes.sets.read_gene_sets` reads.
    kind
        Vectors of genes, as in `gene_embeddings`.
    resolution
        Of the Leiden algorithm: more makes more programs.
    n_seeds
        Clusterings that are compared at each of three resolutions: the one asked for, half of it and twice as much.
    n_random
        Draws of random programs of the same sizes for each of them.
    min_cells
        Genes that fewer cells express are left out.
    layer, use_raw, gene_names, min_matched, device
        As in `embed`.
    seed
        Of random weights and of the programs that are returned.
    progress
        Called with (clusterings done, in all).

    Raises
    ------
    DataError
        Fewer than 50 genes are left, or no set has two of them.
    CountsError, GeneMatchError
        As in `embed`.
    MissingDependencyError
        igraph or scanpy is missing.

    Examples
    --------
    >>> found = cellfm.tl.gene_programs(adata, gene_sets="GO.gmt")  # doctest: +SKIP
    >>> found.comparison, found.verdict  # doctest: +SKIP
    """
    pretrained = as_model(model, device)
    options = PerturbOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, min_matched=min_matched
    )
    counts, _, match = read_counts(adata, np.arange(adata.n_obs), pretrained.vocabulary, options)
    expressed = np.asarray((counts > 0).sum(axis=0)).ravel() >= min_cells
    _, first = np.unique(match.token, return_index=True)
    once = np.isin(np.arange(len(match.token)), first)  # a gene under two names counts once
    columns = np.flatnonzero(expressed & (match.token > 0) & once)
    vectors, known = _vectors(
        pretrained, adata, match.token[columns], kind=kind, options=options, seed=seed
    )
    twin = random_twin(pretrained, seed=seed)
    other, also = _vectors(twin, adata, match.token[columns], kind=kind, options=options, seed=seed)
    kept = known & also
    columns = columns[kept]
    if len(columns) < LEAST_GENES:
        msg = f"{len(columns)} genes of the model are expressed in at least {min_cells} cells; at least {LEAST_GENES} are needed. Give more cells, or lower min_cells."
        raise DataError(msg)
    genes = [pretrained.vocabulary.symbols[token - 1] for token in match.token[columns].tolist()]
    sets = read_gene_sets(gene_sets) if isinstance(gene_sets, str | Path) else gene_sets
    sets = under_symbols(sets, pretrained.vocabulary)
    tables = {
        CANDIDATE: vectors[kept],
        COEXPRESSION: coexpression(counts, seed=seed)[columns],
        TWIN: other[kept],
    }
    programs = find_programs(tables[CANDIDATE], genes, resolution=resolution, seed=seed)
    enrichment = enrich(programs, sets)
    comparison, clusterings = compare_programs(
        tables,
        genes,
        sets,
        resolutions=[resolution * factor for factor in RESOLUTIONS],
        n_seeds=n_seeds,
        n_random=n_random,
        progress=progress,
    )
    return GenePrograms(
        programs=programs,
        enrichment=enrichment,
        comparison=comparison,
        clusterings=clusterings,
        n_cells=adata.n_obs,
    )


def under_symbols(gene_sets: GeneSets, vocabulary: Vocabulary) -> GeneSets:
    """Return sets with their genes under vocabulary symbols; genes that are not in it are left out.

    Parameters
    ----------
    gene_sets
        Under symbols, previous symbols, aliases or Ensembl ids.
    vocabulary
        Of the model.
    """
    lookup = Lookup(vocabulary, GeneTable.load())
    token = {name: lookup.find(name).token for genes in gene_sets.values() for name in genes}
    return {
        name: tuple(vocabulary.symbols[token[gene] - 1] for gene in genes if token[gene])
        for name, genes in gene_sets.items()
    }


def _vectors(
    model: Pretrained,
    adata: "AnnData",
    tokens: "NDArray[np.integer]",
    *,
    kind: Kind,
    options: PerturbOptions,
    seed: int,
) -> "tuple[NDArray[np.float32], NDArray[np.bool_]]":
    """Return the vectors of some tokens, and which there are."""
    if kind == "contextual":
        found = gene_embeddings(
            model,
            adata,
            kind=kind,
            layer=options.layer,
            use_raw=options.use_raw,
            gene_names=options.gene_names,
            min_matched=options.min_matched,
            seed=seed,
        )
    else:
        found = gene_embeddings(model, kind=kind)
    place = np.full(len(model.vocabulary) + 1, -1, np.int64)
    place[found.obs["token"].to_numpy()] = np.arange(found.n_obs)
    rows = place[tokens]
    return np.asarray(found.X)[np.maximum(rows, 0)], rows >= 0
