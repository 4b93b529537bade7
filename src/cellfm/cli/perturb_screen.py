"""The command ``cellfm perturb screen``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cellfm.cli.progress import Advance

N_SHOWN = 12
"""Rows of the table that are printed."""
LEVEL = 0.05


def screen(  # noqa: PLR0913 - the parameters of tl.screen
    source: Path,
    target: Path,
    *,
    model: str | None = None,
    genes: str = "500",
    mode: Literal["knockout", "overexpression"] = "knockout",
    fold: float = 4.0,
    groupby: str | None = None,
    group: list[str] | None = None,
    towards: str | None = None,
    readout: str | None = None,
    n_cells: int = 100,
    n_null: int = 100,
    missing: Literal["error", "skip"] = "error",
    pool: Literal["cls", "whitened"] | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    figure: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Delete or raise genes in the input of real cells, one at a time, and write how the state of the cell moves.

    No perturbation data is needed, and none stands behind the numbers: they show what the model goes by. TARGET is tab-separated, a row for each
    gene with its effect, that of genes expressed like it (the null), p and q; with --towards also how far the edit moves the cells to the goal state.

    Parameters
    ----------
    source
        h5ad file with raw counts.
    target
        Table to write.
    model
        Weights; without it the small model that comes with the package.
    genes
        Names with commas between them, a text file with one name a line, a number for so many of the most expressed genes, or "all" for
        every gene that enough cells express.
    mode
        Delete genes, or raise them.
    fold
        Factor of over-expression.
    groupby
        Column of obs with the groups of cells.
    group
        Entry of it whose cells are edited; may be repeated. All cells without.
    towards
        Goal state: an entry of that column, or a boolean column.
    readout
        Genes whose predicted change is reported, names with commas between them or a text file.
    n_cells
        Cells of the state, and of the goal.
    n_null
        Genes of the null of each gene.
    missing
        Refuse genes that are unknown or not expressed, or skip them.
    pool
        Where states are compared; whitened if the weights have a whitening.
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
    figure
        Also draw the effects against the expression, as png, pdf or svg.
    overwrite
        Replace an existing TARGET or figure.

    Examples
    --------
    cellfm perturb screen pbmc.h5ad screen.tsv --groupby cell_type --group "CD4 T cells" --figure screen.png

    cellfm perturb screen pbmc.h5ad goal.tsv --genes factors.txt --missing skip --groupby cell_type --group "CD4 T cells" --towards "CD8 T cells"
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.optional import require
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    if figure is not None:
        refuse_existing(figure, overwrite=overwrite)
        require("matplotlib")
    adata = read_h5ad(source, "cells to edit", backed=True)
    meter = _Meter()
    try:
        with progress_bar("editing", unit="cells·genes") as bar:
            table = tl.screen(
                adata,
                model,
                genes=_genes(genes),
                mode=mode,
                fold=fold,
                groupby=groupby,
                group=group,
                towards=towards,
                readout=() if readout is None else _names(readout),
                n_cells=n_cells,
                n_null=n_null,
                null_rows=True,
                missing=missing,
                pool=pool,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                scale=scale,
                device=device,
                min_matched=min_matched,
                seed=seed,
                progress=meter.beside(bar),
            )
    finally:
        adata.file.close()
    own = table[table["screened"]].drop(columns="screened")
    with replacing(target) as new:
        own.to_csv(new, sep="\t", index=False, float_format="%.6g")
    if figure is not None:
        _draw(table, figure)
    _report(own, target, figure, meter)


class _Meter:
    """Edits and seconds from the first report on: reading the file is not what is measured."""

    def __init__(self) -> None:
        self.start, self.first, self.now, self.done = 0.0, 0, 0.0, 0

    def beside(self, bar: "Advance") -> "Advance":
        """Return what notes each report and hands it on."""

        def report(done: int, total: int) -> None:
            self.now, self.done = time.perf_counter(), done
            if not self.start:
                self.start, self.first = self.now, done
            bar(done, total)

        return report

    @property
    def speed(self) -> float | None:
        """Edits a second; None of one report alone."""
        seconds = self.now - self.start
        return (self.done - self.first) / seconds if seconds > 0 else None


def _genes(genes: str) -> list[str] | int | None:
    if genes == "all":
        return None
    return int(genes) if genes.lstrip("-").isdigit() else _names(genes)


def _names(genes: str) -> list[str]:
    """Return names with commas between them, or those of a file."""
    path = Path(genes)
    parts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else genes.split(",")
    return [part.strip() for part in parts if part.strip()]


def _draw(table: "pd.DataFrame", figure: Path) -> None:
    from cellfm import pl
    from cellfm.weights.atomic import replacing

    axes = pl.screen(table)
    kind = figure.suffix.lstrip(".") or "png"
    with replacing(figure) as new:
        cast("Figure", axes.figure).savefig(new, dpi=150, format=kind)


def _report(own: "pd.DataFrame", target: Path, figure: Path | None, meter: _Meter) -> None:
    from cellfm.cli.console import print_table, say, wrote

    prefix = "goal_" if "goal" in own else ""
    columns = ["n_cells", "mean_expression", "effect", "null_effect", "z"]
    columns += ["goal", "goal_null", "goal_z"] if prefix else []
    columns += [prefix + name for name in ("p", "q", "tail_p", "tail_q")]
    top = own.set_index("gene")[columns].head(N_SHOWN)
    print_table("by rank among genes expressed like them", top.map("{:.3g}".format))
    q, tail = own[prefix + "q"], own[prefix + "tail_q"]
    moves = "lead towards the goal" if prefix else "move the state"
    say(
        f"{(q <= LEVEL).sum():,} of {len(own):,} genes {moves} more than genes expressed like them at q ≤ {LEVEL} by rank (smallest q {q.min():.3g}), "
        f"{(tail <= LEVEL).sum():,} by the tail of a bell curve"
    )
    speed = "" if meter.speed is None else f", {meter.speed:,.0f} cells·genes/s"
    about = f"{len(own):,} genes, {meter.done:,} edited cells{speed}"
    wrote(target, *([] if figure is None else [figure]), about=about)
