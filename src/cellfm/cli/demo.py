"""The command ``cellfm demo``."""

from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.cli.console import next_step, say, show_table, wrote

if TYPE_CHECKING:
    from cellfm.bench.demo import DemoResult


def demo(
    out: Path = Path("demo"),
    *,
    input: Path | None = None,
    label: str | None = None,
    steps: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Show on real cells what CellFM does, offline.

    Embeds the cells with the small model that comes with the package, and compares what simple classifiers, fitted on 70 % of
    the cells, read off it in the other 30 % with a random network of the same shape and with PCA. Writes OUT with the
    embedded h5ad, a UMAP picture and a table, and says which method wins. With --steps it trains a model of its own first.

    Parameters
    ----------
    out
        Folder to make.
    input
        h5ad file with raw counts in X, instead of the 700 blood cells that come with scanpy.
    label
        Column of obs of the input with the cell types; without it there is no table.
    steps
        Steps to train the recipe mini on the 70 % first; 0 takes the weights that come with the package.
    seed
        Of split, weights, batches, masks and resamples.
    overwrite
        Replace the folder of an earlier demo.

    Examples
    --------
    cellfm demo

    cellfm demo my-demo --input pbmc3k.h5ad --label cell_type
    """
    from cellfm.bench.demo import run_demo
    from cellfm.cli.progress import stage_bars

    with stage_bars() as progress:
        result = run_demo(
            out,
            source=input,
            label=label,
            steps=steps,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    _show(result)


def _show(result: "DemoResult") -> None:
    from rich.table import Table

    if result.table is not None:
        table = Table("method", "probe", "macro-F1", "95 % interval")
        for row in result.table.rows:
            score = row.macro_f1
            table.add_row(
                row.method, row.probe, f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}"
            )
        show_table(table)
    for sentence in result.verdict:
        say(sentence)
    say(f"done in {result.seconds:.0f} s")
    wrote(*result.files)
    next_step("doctor", "YOUR.h5ad")
