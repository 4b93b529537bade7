"""The command ``cellfm integrate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cellfm.cli.console import next_step, show_table, wrote

if TYPE_CHECKING:
    from cellfm.tl import IntegrateSummary


def integrate(  # noqa: PLR0913 - the parameters of tl.integrate_file
    source: Path,
    target: Path,
    *,
    batch_key: str,
    model: str | None = None,
    key_added: str = "X_cellfm_integrated",
    method: Literal["frozen", "centre", "finetune"] = "finetune",
    pool: Literal["cls", "mean", "both", "whitened"] = "cls",
    adversarial: float = 0.0,
    conditional: Annotated[bool, Parameter(negative="--no-conditional")] = True,
    ecs: float = 0.0,
    gene_start: Literal["weights", "pca"] = "weights",
    n_epochs: int = 30,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Embed the cells of an h5ad file so that its batches mix.

    Writes a copy of SOURCE with the integrated states in obsm and the provenance in uns["cellfm"]; SOURCE is never changed.
    Labels are never read. The file is held in memory; a run that is stopped writes nothing.

    Parameters
    ----------
    source
        h5ad file with raw counts.
    target
        h5ad file to write.
    batch_key
        Column of obs with the batch of each cell.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package: a
        demonstration.
    key_added
        Key of obsm for the states, and of uns["cellfm"] for the provenance.
    method
        frozen states; centre subtracts the mean of each batch; finetune trains on these cells, self-supervised, and centres.
    pool
        What stands for a cell: the state of its [CLS] token, the mean of its genes' states, both side by side, or the [CLS] states whitened (not
        with fine-tuning).
    adversarial
        Strength with which the network is trained against a guesser of the batch; 0 for none.
    conditional
        Give the decoders a learned vector per batch; --no-conditional does not.
    ecs
        Weight of the elastic cell similarity; 0 for none.
    gene_start
        What the gene table begins from: the weights, or a PCA of these cells, for cells far from those the weights have seen.
    n_epochs
        Epochs at most; the best on a tenth of the cells is kept.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    seed
        Of everything that is drawn.
    device
        Device to compute on, such as cpu or cuda.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm integrate pancreas.h5ad integrated.h5ad --batch-key donor

    cellfm integrate pancreas.h5ad centred.h5ad --batch-key donor --method centre

    cellfm integrate pancreas.h5ad out.h5ad --batch-key donor --model weights/cellfm-80m --n-epochs 30 --device cuda
    """
    from cellfm import tl
    from cellfm.cli.progress import stage_bars

    with stage_bars() as progress:
        summary = tl.integrate_file(
            source,
            target,
            model,
            batch_key=batch_key,
            key_added=key_added,
            method=method,
            pool=pool,
            adversarial=adversarial,
            conditional=conditional,
            ecs=ecs,
            gene_start=gene_start,
            n_epochs=n_epochs,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            seed=seed,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    _show(summary, key=key_added)


def _show(summary: "IntegrateSummary", *, key: str) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    for name, size in summary.batch_sizes.items():
        table.add_row(f"cells of batch {name}", f"{size:,}")
    if summary.validation is not None:
        before, after = summary.validation
        table.add_row("masked loss, validation cells", f"{before:.4f} before, {after:.4f} after")
        table.add_row("best epoch", f"{summary.best_epoch}")
    table.add_row("time", f"{summary.seconds:.1f} s")
    show_table(table)
    wrote(summary.target, about=f'obsm["{key}"], {summary.n_cells:,} × {summary.dim}')
    next_step("view", summary.target)
