"""The command ``cellfm simulate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import show_table, wrote

if TYPE_CHECKING:
    from anndata import AnnData

    from cellfm.corpus.simulate import Reference


def simulate(  # noqa: PLR0913 - what a user may want to change of the configuration
    target: Path,
    *,
    cells: int = 2000,
    genes: int = 2000,
    types: int = 8,
    lineages: int = 3,
    programs: int = 20,
    batches: int = 2,
    donors: int = 4,
    depth: float = 3000.0,
    doublets: float = 0.0,
    empty: float = 0.0,
    perturbations: int = 0,
    doubles: int = 0,
    direction: Literal["knock-down", "over-expression"] = "knock-down",
    effect: float = 1.0,
    efficiency: float = 0.8,
    coupling: float = 0.0,
    epistasis: Literal["drawn", "redundant"] = "drawn",
    context: float = 0.0,
    tissue: str = "simulated tissue",
    name: str = "sim",
    reference: Path | None = None,
    cell_type_key: str | None = None,
    world: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write an h5ad file of simulated counts with known truth.

    Real human gene symbols; cell types in lineages, gene programs, donors, batches and, when asked for, perturbations,
    doublets and empty droplets. The truth is in obs, obsm, var, varm and uns["simulation"]: type profiles, program loadings
    and activities, batch effects, and expected log-fold changes of the perturbations.

    Parameters
    ----------
    target
        h5ad file to write.
    cells
        Cells, doublets and empty droplets included.
    genes
        Genes: protein-coding ones first.
    types
        Cell types.
    lineages
        Lineages that the types belong to.
    programs
        Gene programs, besides the mitochondrial one.
    batches
        Batches with effects on genes and depth.
    donors
        Donors; at least as many as batches.
    depth
        Median total count of a cell.
    doublets
        Share of doublets.
    empty
        Share of empty droplets.
    perturbations
        Genes that are perturbed alone.
    doubles
        Pairs of these that are perturbed together.
    direction
        What is done to the genes.
    effect
        Mean weight from a perturbed gene to a program it drives; 0 for none.
    efficiency
        Share of a gene's expression that a knock-down takes away.
    coupling
        Share of these weights that follows the gene's own programs, so that co-expression foretells them.
    epistasis
        Whether doubles interact by chance, or as their genes do the same or the opposite.
    context
        Spread over cell types of the log gain of an effect.
    tissue
        Written to obs.
    name
        Prefix of the names of cells, donors and batches.
    reference
        h5ad file with raw counts in X; genes, types, depths and variances are estimated from it.
    cell_type_key
        Column of the reference's obs with the cell types.
    world
        Seed of the biology; files of the same world have the same types and programs.
    seed
        Of donors, batches and cells.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm simulate cells.h5ad --cells 5000 --types 12

    cellfm simulate screen.h5ad --perturbations 20 --doubles 10 --direction over-expression

    cellfm simulate epistatic.h5ad --perturbations 40 --doubles 60 --coupling 0.7 --epistasis redundant

    cellfm simulate null.h5ad --perturbations 20 --effect 0 --efficiency 0

    cellfm simulate like_pbmc.h5ad --reference pbmc3k.h5ad --cell-type-key cell_type
    """
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.simulate import PerturbationConfig, SimulationConfig
    from cellfm.corpus.simulate import simulate as make
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    perturbed = None
    if perturbations or doubles:
        perturbed = PerturbationConfig(
            n_singles=perturbations,
            n_doubles=doubles,
            direction=direction,
            effect=effect,
            efficiency=efficiency,
            coupling=coupling,
            epistasis=epistasis,
            context=context,
        )
    config = SimulationConfig(
        n_cells=cells,
        n_genes=genes,
        n_types=types,
        n_lineages=lineages,
        n_programs=programs,
        n_batches=batches,
        n_donors=donors,
        depth=depth,
        doublets=doublets,
        empty=empty,
        perturbations=perturbed,
        tissue=tissue,
        name=name,
        world=world,
    )
    known = None if reference is None else _reference(reference, cell_type_key)
    with progress_bar("simulating", unit="cells") as progress:
        adata = make(config, seed=seed, reference=known, progress=progress)
    with replacing(target) as partial:
        adata.write_h5ad(partial, compression="lzf")
    _show(adata, target)


def _reference(path: Path, cell_type_key: str | None) -> "Reference":
    """Estimate the statistics of a file."""
    import anndata

    from cellfm.corpus.rows import h5ad_source
    from cellfm.corpus.simulate import Reference

    with h5ad_source(path):  # complains well about what is no h5ad file
        pass
    return Reference.of(anndata.read_h5ad(path), cell_type_key=cell_type_key)


def _show(adata: "AnnData", target: Path) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_row("cells × genes", f"{adata.n_obs:,} × {adata.n_vars:,}")
    columns = {
        "lineage": "lineages",
        "cell_type": "cell types",
        "donor": "donors",
        "batch": "batches",
        "perturbation": "perturbations",
    }
    for column, name in columns.items():
        if column in adata.obs:
            table.add_row(name, f"{adata.obs[column].nunique():,}")
    table.add_row("expressed genes of a cell", f"{adata.X.nnz / adata.n_obs:,.0f} in the mean")
    table.add_row("counts of a cell", f"{adata.X.sum() / adata.n_obs:,.0f} in the mean")
    show_table(table)
    wrote(target)
