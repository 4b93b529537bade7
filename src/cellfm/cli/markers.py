"""The command ``cellfm markers``."""

from pathlib import Path
from typing import Literal

from cellfm.cli.console import say, wrote


def markers(  # noqa: PLR0913 - the parameters of tl.marker_genes
    source: Path,
    annotator: Path,
    target: Path,
    *,
    model: str | None = None,
    label: str | None = None,
    groupby: str | None = None,
    n_genes: int = 20,
    n_cells: int = 200,
    method: Literal["gradient", "integrated"] = "gradient",
    n_steps: int = 32,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the genes by which an annotator tells each type from the others, with their expression, as a table.

    TARGET is tab-separated: type, rank, gene, attribution, mean expression in the type and elsewhere, log2 fold change, share of cells that
    express it, and AUROC of the gene alone.

    Parameters
    ----------
    source
        h5ad file with raw counts, such as the reference of the annotator.
    annotator
        Folder from cellfm annotate train, of strength linear, lora or finetune.
    target
        Table to write.
    model
        Weights the annotator was trained with; without it, where they were then.
    label
        Label column of the annotator; without it the first.
    groupby
        Column of obs with the types of the cells; without it the annotator's own calls.
    n_genes
        Genes a type.
    n_cells
        Cells of a type that are looked at.
    method
        One gradient (gradient times input), or integrated gradients.
    n_steps
        Gradients an integral is computed of.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    seed
        Of the choice of cells.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm markers reference.h5ad annotator markers.tsv --groupby cell_type
    """
    from anndata import read_h5ad

    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.rows import h5ad_source
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    with h5ad_source(source, layer=layer, use_raw=use_raw):  # says what is wrong with a file
        pass
    adata = read_h5ad(source, backed="r")
    try:
        with progress_bar("attributing", unit="types") as progress:
            table = tl.marker_genes(
                adata,
                annotator,
                model,
                label=label,
                groupby=groupby,
                n_genes=n_genes,
                n_cells=n_cells,
                method=method,
                n_steps=n_steps,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                scale=scale,
                device=device,
                min_matched=min_matched,
                seed=seed,
                progress=progress,
            )
    finally:
        adata.file.close()
    with replacing(target) as new:
        table.to_csv(new, sep="\t", index=False, float_format="%.6g")
    for name, genes in table.groupby("type", sort=False):
        say(f"{name}: {', '.join(genes['gene'][:8])}")
    wrote(target, about=f"{len(table):,} rows")
