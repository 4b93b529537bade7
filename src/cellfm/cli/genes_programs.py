"""The command ``cellfm genes programs``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import print_table, say

if TYPE_CHECKING:
    import pandas as pd

PROGRAMS, ENRICHMENT, COMPARISON = "programs.tsv", "enrichment.tsv", "comparison.tsv"
N_SHOWN = 15


def programs(  # noqa: PLR0913 - the parameters of tl.gene_programs
    source: Path,
    gene_sets: Path,
    out: Path,
    *,
    model: str | None = None,
    kind: Literal["static", "contextual", "query"] = "static",
    resolution: float = 1.0,
    seeds: int = 5,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Cluster the genes that cells express into programs, and name them by known sets, beside co-expression.

    Writes the folder OUT: programs.tsv (gene, program, its most significant set), enrichment.tsv (each program and set) and comparison.tsv (significant
    sets of the model, of co-expression in the same cells at the same number of programs, of random weights, and of random programs).

    Parameters
    ----------
    source
        h5ad file with raw counts.
    gene_sets
        GMT file, or table of genes and sets.
    out
        Folder to make.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    kind
        Vectors of genes: the embedding table, mean states in these cells, or the decoder's queries.
    resolution
        Of the Leiden algorithm: more makes more programs.
    seeds
        Clusterings that are compared.
    min_cells
        Genes that fewer cells express are left out.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of random weights and of the programs.
    overwrite
        Replace an existing OUT.

    Examples
    --------
    cellfm genes programs pbmc.h5ad GO_Biological_Process.gmt programs
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing, replacing_folder

    refuse_existing(out, overwrite=overwrite)
    with progress_bar("clustering", unit="clusterings") as progress:
        found = tl.gene_programs(
            read_h5ad(source, "cells"),
            model,
            gene_sets=gene_sets,
            kind=kind,
            resolution=resolution,
            n_seeds=seeds,
            min_cells=min_cells,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            min_matched=min_matched,
            device=device,
            seed=seed,
            progress=progress,
        )
    with replacing_folder(out, marker=PROGRAMS) as folder:
        _write(found.table(), folder / PROGRAMS)
        _write(found.enrichment, folder / ENRICHMENT)
        found.comparison.to_csv(folder / COMPARISON, sep="\t", float_format="%.6g")
    best = found.enrichment.drop_duplicates("program").head(N_SHOWN).set_index("program")
    shown = best[["set", "n", "program_size", "set_size", "q"]].copy()
    shown["q"] = [f"{value:.2g}" for value in shown["q"]]
    print_table(f"{found.programs.n} programs of {len(found.programs.genes):,} genes, their most significant sets", shown.astype(str))  # fmt: skip
    text = found.comparison.map(lambda value: f"{value:g}")
    print_table("gene sets significant in a program (q ≤ 0.05), over clusterings", text)
    say(found.verdict)
    say(f"wrote {out}: {PROGRAMS}, {ENRICHMENT}, {COMPARISON}")


def _write(table: "pd.DataFrame", path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, float_format="%.6g")
