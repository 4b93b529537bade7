"""The command ``cellfm denoise``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cellfm.cli.console import say, show_table, wrote

if TYPE_CHECKING:
    from cellfm.tl import DenoiseSummary


def denoise(  # noqa: PLR0913 - the parameters of tl.denoise_file
    source: Path,
    target: Path,
    *,
    genes: str | None = None,
    model: str | None = None,
    key_added: str = "cellfm_denoised",
    output: Literal["counts", "log1p_cp10k", "mean_log1p_cp10k"] = "counts",
    calibrate: Annotated[bool, Parameter(negative="--no-calibrate")] = True,
    own_counts: Annotated[bool, Parameter(negative="--no-own-counts")] = True,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    empty: Literal["error", "nan"] = "error",
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
) -> None:
    """Estimate the expected expression of genes in every cell of an h5ad file.

    Writes a copy of SOURCE with the estimates: in a layer for all genes, in obsm for chosen ones; the provenance is in
    uns["cellfm"]. SOURCE is never changed; a run that is stopped writes nothing. Levels are fitted on the file's own cells.

    Parameters
    ----------
    source
        h5ad file with raw counts, of any size.
    target
        h5ad file to write.
    genes
        Names with commas between them, or a text file with one name a line; all genes that the model knows without it.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package: a
        demonstration.
    key_added
        Key of the result, and of uns["cellfm"] for the provenance.
    output
        Expected counts at the cell's depth; the logarithm of what these are in 10,000; or the expected log-normalised value at that depth.
    calibrate
        Fit level and frequency of each gene on the cells; --no-calibrate takes the network at its word.
    own_counts
        Blend with the cell's own counts; --no-own-counts gives what the network expects of its state alone.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw; with --genes only.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    empty
        What to do about cells without a count on any gene of the model.
    seed
        Of everything that is drawn.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm denoise pbmc.h5ad denoised.h5ad

    cellfm denoise pbmc.h5ad markers.h5ad --genes CD3E,MS4A1,LYZ --output log1p_cp10k

    cellfm denoise pbmc.h5ad out.h5ad --genes genes.txt --model weights/cellfm-80m --device cuda
    """
    from cellfm import tl
    from cellfm.cli.progress import stage_bars

    names = None if genes is None else _names(genes)
    with stage_bars() as progress:
        summary = tl.denoise_file(
            source,
            target,
            model,
            genes=names,
            key_added=key_added,
            output=output,
            calibrate=calibrate,
            own_counts=own_counts,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            empty=empty,
            seed=seed,
            device=device,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
    _show(summary, key=key_added)


def _names(genes: str) -> list[str]:
    """Read names from a file, or take them apart at commas."""
    path = Path(genes)
    parts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else genes.split(",")
    return [part.strip() for part in parts if part.strip()]


def _show(summary: "DenoiseSummary", *, key: str) -> None:
    import math

    from rich.table import Table

    say(summary.report.to_text())
    table = Table(show_header=False)
    table.add_row("cells", f"{summary.n_cells:,}")
    table.add_row("genes", f"{summary.n_genes:,}")
    blend = f"shape {summary.shape:g}" if math.isfinite(summary.shape) else "do not enter"
    table.add_row("the cells' own counts", blend)
    table.add_row("time", f"{summary.seconds:.1f} s")
    show_table(table)
    wrote(summary.target, about=f'{summary.where}["{key}"]')
