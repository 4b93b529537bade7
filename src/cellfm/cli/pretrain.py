"""The command ``cellfm pretrain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cellfm.train import RunResult


def pretrain(  # noqa: PLR0913 - the parameters of tl.pretrain_file
    recipe: str,
    *overrides: str,
    data: Path,
    out: Path,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    resume: bool = False,
    device: str | None = None,
) -> None:
    """Pretrain a model on the counts of an h5ad file.

    Learns to recover hidden expression values. The run folder OUT gets the resolved config, the metrics, checkpoints and,
    at the end, a weights folder OUT/model that `cellfm embed --model` takes.

    Parameters
    ----------
    recipe
        Packaged recipe (cellfm-80m, cellfm-800m, cellfm-mini or debug), or a YAML file.
    overrides
        Changes to the recipe as key=value, such as optim.lr=1e-3.
    data
        h5ad file with raw counts; its genes are matched to the human genes of HGNC (coding, RNA, immune receptors).
    out
        Run folder to make.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    resume
        Go on from the newest checkpoint in OUT, bit for bit.
    device
        Device to compute on, such as cpu or cuda.

    Examples
    --------
    cellfm pretrain cellfm-mini --data pbmc.h5ad --out runs/mini

    cellfm pretrain cellfm-mini schedule.n_steps=500 optim.lr=5e-4 --data pbmc.h5ad --out runs/short

    cellfm pretrain cellfm-mini --data pbmc.h5ad --out runs/mini --resume
    """
    from cellfm.cli.progress import progress_bar
    from cellfm.config import PretrainConfig, load

    config = load(PretrainConfig, recipe, overrides)  # before torch: mistakes show at once
    from cellfm.tl import pretrain_file

    with progress_bar("training", unit="steps") as progress:
        result = pretrain_file(
            data,
            config,
            out,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            resume=resume,
            device=device,
            progress=progress,
        )
    _show(result)


def _show(result: "RunResult") -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    score = result.held_out
    console.print(f"{result.step:,} steps done; run folder {result.folder}")
    if score is None:
        console.print("No cells were held out, so nothing says how good the weights are.")
    else:
        console.print(
            f"mean squared error on {score.n_scored:,} values of held-out cells: gene-wise decoder {score.gene_loss:.4f}, "
            f"cell-wise decoder {score.cell_loss:.4f}, each gene's mean {score.gene_mean_loss:.4f}"
        )
    console.print(f"wrote {result.folder / 'model'}")
