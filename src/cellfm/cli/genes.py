"""The commands ``cellfm genes …``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cellfm.pp import FileCheck


def embed(model: str, target: Path, *, overwrite: bool = False) -> None:
    """Write the static gene embeddings of a model as an h5ad file.

    Genes are the observations, with symbol, HGNC id, Ensembl id and locus group in obs; the embeddings are X.

    Parameters
    ----------
    model
        Weights folder, or name of one in the cache folder.
    target
        h5ad file to write.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm genes embed weights/cellfm-80m genes.h5ad
    """
    from rich.console import Console

    from cellfm import tl
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    adata = tl.gene_embeddings(model)
    with replacing(target) as partial:
        adata.write_h5ad(partial)
    Console(highlight=False).print(
        f"wrote {target}: {adata.n_obs:,} genes × {adata.n_vars}", soft_wrap=True, markup=False
    )


def check(
    source: Path,
    *,
    model: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
) -> None:
    """Report whether a file's genes and counts fit a model.

    Parameters
    ----------
    source
        h5ad file; only read.
    model
        Weights folder, or name of one in the cache folder; without it, the genes of models trained from scratch are taken.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are said to be.
    min_matched
        Least fraction of the file's genes that the model must know.

    Examples
    --------
    cellfm genes check pbmc.h5ad --model weights/cellfm-80m

    cellfm genes check pbmc.h5ad --layer counts
    """
    from cellfm import pp
    from cellfm.cli.progress import progress_bar

    with progress_bar("reading", unit="cells") as progress:
        found = pp.check_file(
            source,
            model,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            min_matched=min_matched,
            progress=progress,
        )
    _show(found, scale=scale)
    if found.problem is not None:
        raise found.problem


def _show(found: "FileCheck", *, scale: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(found.report.to_text())
    if found.problem is None:
        console.print(
            f"values: {found.n_cells:,} cells × {found.report.n_input:,} genes are on the scale {scale!r}"
        )
        console.print(
            f"totals of the cells on matched genes: median {found.median_total:,.0f}, {found.n_empty:,} cells without any"
        )
