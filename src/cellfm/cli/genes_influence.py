"""The command ``cellfm genes influence``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import print_table, say, wrote

if TYPE_CHECKING:
    import pandas as pd


def influence(  # noqa: PLR0913 - the parameters of tl.influenced_genes
    source: Path,
    model: str,
    gene: str,
    *,
    known: Path | None = None,
    groupby: str | None = None,
    group: list[str] | None = None,
    mark: Literal["hidden", "none"] = "hidden",
    n_genes: int = 20,
    n_cells: int = 200,
    min_cells: int = 10,
    n_others: int = 20,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    target: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Rank the genes that listen to a gene that is marked as perturbed, beside its known targets.

    In cells that express GENE its value is hidden, and every other gene is ranked by the weight with which the network adds GENE to it. With --known, the number of
    known targets among the first genes is printed beside the number among as many random expressed genes, and beside controls.

    Parameters
    ----------
    source
        h5ad file with raw counts, such as control cells of a screen.
    model
        Weights folder, or name of one in the cache folder.
    gene
        Symbol, earlier symbol, alias or Ensembl id.
    known
        Known targets: table with source and target, such as TRRUST, or a list of genes near ChIP peaks.
    groupby
        Column of obs with groups of cells.
    group
        Entry of it whose cells are read; may be repeated.
    mark
        hidden hides the value of GENE; none takes cells as they are.
    n_genes
        Genes to print.
    n_cells
        Cells that express GENE which are read.
    min_cells
        Genes that fewer of these express are not ranked.
    n_others
        Other genes that are marked in turn, to see what listens to anything.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of the choice of cells and other genes, and of random weights.
    target
        Also write the table of all ranked genes, tab-separated.
    overwrite
        Replace an existing table.

    Examples
    --------
    cellfm genes influence pbmc.h5ad mini SPI1 --known trrust.tsv

    cellfm genes influence screen.h5ad mini STAT1 --groupby perturbation --group control --target stat1.tsv
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing, replacing

    if target is not None:
        refuse_existing(target, overwrite=overwrite)
    adata = read_h5ad(source, "cells", backed=True)
    try:
        with progress_bar("ranking", unit="rankings") as progress:
            found = tl.influenced_genes(
                adata,
                model,
                gene,
                groupby=groupby,
                group=group,
                known=known,
                mark=mark,
                n_cells=n_cells,
                min_cells=min_cells,
                n_others=n_others,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                scale=scale,
                min_matched=min_matched,
                device=device,
                seed=seed,
                progress=progress,
            )
    finally:
        adata.file.close()
    title = f"genes that listen to {found.gene} ({found.n_cells:,} cells express it), of {len(found.table):,}"
    print_table(title, _shown(found.table.head(n_genes)))
    if found.comparison is not None:
        title = f"known targets among the first genes ({found.n_known:,} of {len(found.table):,} are known)"
        print_table(title, found.comparison.map("{:.2g}".format))
    say(found.verdict)
    if target is not None:
        with replacing(target) as new:
            found.table.to_csv(new, sep="\t", index=False, float_format="%.6g")
        wrote(target, about=f"{len(found.table):,} rows")


def _shown(table: "pd.DataFrame") -> "pd.DataFrame":
    numbers = ("score", "background", "difference", "mean_expression", "pearson")
    text = table.assign(**{name: table[name].map("{:.3f}".format) for name in numbers})
    if "known" in text:
        text["known"] = text["known"].map({True: "yes", False: ""})
    return text.set_index("rank")
