"""The command ``cellfm embed``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cellfm.tl import EmbedSummary


def embed(  # noqa: PLR0913 - the parameters of tl.embed_file
    source: Path,
    target: Path,
    *,
    model: str | None = None,
    key_added: str = "X_cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    empty: Literal["error", "nan"] = "error",
    max_genes: int | None = None,
    genes: bool | str = False,
    pool: Literal["cls", "mean", "both", "whitened"] = "cls",
    precision: Literal["fp32", "mixed"] = "fp32",
    device: str | None = None,
    token_budget: int | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
) -> None:
    """Embed the cells of an h5ad file.

    Writes a copy of SOURCE with the cell states in obsm and the provenance in uns["cellfm"]; SOURCE is never changed.
    A run that was killed goes on when the same command is given again, and ends with the same result.

    Parameters
    ----------
    source
        h5ad file with raw counts, of any size.
    target
        h5ad file to write.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package: a
        demonstration.
    key_added
        Key of obsm for the cell states, and of uns["cellfm"] for the provenance.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    empty
        What to do about cells without a count on any gene of the model.
    max_genes
        Use only so many genes of a cell, the highest expressed.
    genes
        Also write gene states averaged over all cells, or with --genes=COLUMN over the groups of a column of obs.
    pool
        What stands for a cell: the state of its [CLS] token, the mean of its genes' states (slower), both side by side, or
        whitened: the state of [CLS] in units of technical noise, for weights that carry the map.
    precision
        mixed is faster on some machines, and close to but not the same as fp32.
    device
        Device to compute on, such as cpu or cuda.
    token_budget
        Expressed genes in a batch; changes the speed and the memory, not the result.
    min_matched
        Least fraction of the file's genes that the model must know.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm embed pbmc.h5ad pbmc_mini.h5ad

    cellfm embed pbmc.h5ad pbmc_embedded.h5ad --model weights/cellfm-80m

    cellfm embed pbmc.h5ad out.h5ad --model weights/cellfm-80m --layer counts --genes=cell_type
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar

    with progress_bar("embedding", unit="cells") as progress:
        summary = tl.embed_file(
            source,
            target,
            model,
            key_added=key_added,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            empty=empty,
            max_genes=max_genes,
            genes=genes,
            pool=pool,
            precision=precision,
            device=device,
            token_budget=token_budget,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
    _show(summary, key=key_added)


def _show(summary: "EmbedSummary", *, key: str) -> None:
    from rich.table import Table

    from cellfm.cli.console import next_step, say, show_table, wrote

    say(summary.report.to_text())
    table = Table(show_header=False)
    table.add_row("cells", f"{summary.n_cells:,}")
    if summary.resumed_from:
        table.add_row("of these from an earlier run", f"{summary.resumed_from:,}")
    table.add_row("time", f"{summary.seconds:.1f} s, {summary.cells_per_second:,.1f} cells/s")
    show_table(table)
    wrote(summary.target, about=f'obsm["{key}"], {summary.n_cells:,} × {summary.dim}')
    next_step("view", summary.target)
