"""The command ``cellfm pretrain``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import next_step, say, show_table, wrote

if TYPE_CHECKING:
    from rich.table import Table

    from cellfm.train import HeldOutScore, RunResult


def pretrain(  # noqa: PLR0913 - the parameters of tl.pretrain_file
    recipe: str,
    data: str | None = None,
    *overrides: str,
    out: Path | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    resume: bool = False,
    plan: bool = False,
    device: str | None = None,
) -> None:
    """Pretrain a model on a corpus store or on the counts of an h5ad file.

    Learns to recover hidden expression values. The run folder OUT gets the resolved config, the metrics, checkpoints and,
    at the end, a weights folder OUT/model that `cellfm embed --model` takes. Under torchrun, all processes train one model.

    Parameters
    ----------
    recipe
        Packaged recipe (debug, mini, small, 80m, 800m or 3b), or a YAML file.
    data
        Store made by `cellfm corpus build`, or an h5ad file with raw counts, whose genes are matched to the human genes of HGNC.
    overrides
        Changes to the recipe as key=value, such as optim.lr=1e-3.
    out
        Run folder to make; runs/RECIPE-DATA by default.
    layer
        Of an h5ad file: layer with the counts, instead of X.
    use_raw
        Of an h5ad file: take the counts of .raw.
    gene_names
        Of an h5ad file: column of var with symbols or Ensembl ids, instead of the index.
    scale
        Of an h5ad file: what the values are; log1p accepts log-normalised data and loses the read depth.
    resume
        Go on from the newest checkpoint in OUT, bit for bit; begin if there is nothing yet.
    plan
        Train nothing: print what a run takes in parameters, operations, memory and days. Needs cells= and gpu= (and gpus=, mfu=, …).
    device
        Kind of device to compute on, such as cpu or cuda.

    Examples
    --------
    cellfm pretrain mini corpus/

    cellfm pretrain mini pbmc.h5ad schedule.n_steps=500 optim.lr=5e-4 --out runs/short

    torchrun --nproc_per_node 8 --no-python cellfm pretrain 800m corpus/ run.parallel=fsdp --resume

    cellfm pretrain --plan 800m cells=100e6 gpus=32 gpu=h200
    """
    words = [word for word in (data, *overrides) if word is not None]
    if plan:
        _plan(recipe, words)
        return
    from cellfm.config import PretrainConfig, load

    source = _source(words)
    config = load(PretrainConfig, recipe, words[1:])  # before torch: mistakes show at once
    from cellfm.cli.progress import training_line
    from cellfm.tl import pretrain_file

    with training_line() as progress:
        result = pretrain_file(
            source,
            config,
            Path("runs") / f"{Path(recipe).stem}-{source.stem}" if out is None else out,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            resume=resume,
            device=device,
            progress=progress,
        )
    if result.network is not None:  # under torchrun one process prints
        _show(result)


def _source(words: Sequence[str]) -> Path:
    """Return the data, the first word; a change to the recipe in its place means they were forgotten."""
    from cellfm.errors import ConfigError

    if not words or ("=" in words[0] and not Path(words[0]).exists()):
        found = f"{words[0]!r} is a change to the recipe" if words else "there is none"
        msg = f"The data come after the recipe, but {found}: cellfm pretrain RECIPE DATA [key=value …], DATA a store or an h5ad file."
        raise ConfigError(msg)
    source = Path(words[0])
    if not source.exists():
        msg = f"There is no {source}: give a store made by 'cellfm corpus build', or an h5ad file."
        raise ConfigError(msg)
    return source.resolve() if source.name in ("", ".", "..") else source


def _plan(recipe: str, words: Sequence[str]) -> None:
    """Print the plan; a store in the place of the data tells its number of cells."""
    from cellfm.cli.plan import show_plan

    if words and Path(words[0]).is_dir():
        from cellfm.corpus.manifest import Manifest

        manifest = Manifest.read(Path(words[0]))
        genes = manifest.n_values / max(manifest.n_cells, 1)
        words = [f"cells={manifest.n_cells}", f"genes={genes:.0f}", *words[1:]]
    show_plan(recipe, words)


def _show(result: "RunResult") -> None:

    skipped = f", {result.skipped:,} of them skipped" if result.skipped else ""
    say(f"{result.step:,} steps done{skipped}; run folder {result.folder}")
    if not result.held_out:
        say("No cells were held out, so nothing says how good the weights are.")
    else:
        show_table(_table(result.held_out))
    wrote(result.folder / "model", result.folder / "metrics.jsonl")
    next_step("embed", "YOUR.h5ad", "OUT.h5ad", "--model", result.folder / "model")


def _table(scores: "Sequence[HeldOutScore]") -> "Table":
    """Return a row for each held-out set: the decoders, and the lines to beat."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Mean squared error on hidden values of held-out cells; R² of genes against their mean",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    baselines = list(scores[0].baselines)
    short = [{"gene_mean": "gene's mean"}.get(name, name) for name in baselines]
    table.add_column("held out", overflow="fold")
    for name in ("values", "gene-wise", "cell-wise", "untrained", *short, "R²"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        numbers = [score.gene_loss, score.cell_loss, score.untrained_gene_loss]
        numbers += [score.baselines[name] for name in baselines]
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        r2 = "" if score.gene_r2 is None else f"{score.gene_r2:.3f}"
        table.add_row(score.name, f"{score.n_scored:,}", *cells, r2)
    return table
