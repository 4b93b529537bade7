"""The files of the demo."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.bench.demo_cells import DemoCells
from cellfm.bench.probe import Difference, Estimate, ProbeTable
from cellfm.pl import embedding, learning_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cellfm.train import HeldOutScore

TABLE = "table.json"
PACKAGES = ("cellfm", "torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn", "umap-learn")

_README = """\
# CellFM demo

{origin}.

- `embedded.h5ad`: all cells; `obs["split"]` says which ones probes, PCA and baselines were fitted on; `obsm`: X_cellfm,
  X_random (a random network of the same shape), X_pca, and of the held-out cells X_umap_cellfm and X_umap_pca
- `umap.png`: held-out cells, CellFM beside PCA
- `table.md`, `table.json`: what probes read off each embedding, with intervals
"""
_TRAINED = """\
- `curve.png`, `metrics.jsonl`: how training went
- `model/`: the trained weights; `cellfm embed YOUR.h5ad OUT.h5ad --model model` (in this folder) uses them
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the files are made of."""

    cells: DemoCells
    table: ProbeTable | None
    held_out: "HeldOutScore"
    n_steps: int
    """Steps trained here; 0 for the weights of the package."""
    seed: int
    seconds: Mapping[str, float]

    @property
    def weights(self) -> str:
        """Whose weights were used."""
        return f"mini, {self.n_steps:,} steps" if self.n_steps else "mini, as it comes"


def write_report(folder: Path, report: Report) -> None:
    """Write data, pictures, tables and the explanation.

    Parameters
    ----------
    folder
        Existing folder.
    report
        What to write.
    """
    cells = report.cells
    cells.adata.write_h5ad(folder / "embedded.h5ad", compression="gzip")
    _save(_umap_figure(cells, report.weights), folder / "umap.png")
    if report.n_steps:
        _save(_curve_figure(folder / "metrics.jsonl"), folder / "curve.png")
    (folder / TABLE).write_text(json.dumps(_facts(report), indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(_markdown(report), encoding="utf-8")
    readme = _README.format(origin=cells.origin) + (_TRAINED if report.n_steps else "")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def verdict(table: ProbeTable | None, held_out: "HeldOutScore") -> tuple[str, ...]:
    """Say what was found, a sentence each.

    Parameters
    ----------
    table
        Scores; None without labels.
    held_out
        Loss of the network and of the simple predictors.
    """
    line = held_out.gene_mean_loss
    loss = (
        f"Hidden values of held-out cells, mean squared error: gene-wise decoder {_against(held_out.gene_loss, line)}; "
        f"cell-wise decoder {_against(held_out.cell_loss, line)}.{_others(held_out)}"
    )
    if table is None:
        return (
            loss,
            "No labels were given, so nothing was probed and no method can be said to win.",
        )
    return (loss, *_ranking(table), *(_difference(difference) for difference in table.differences))


def _against(loss: float, line: float) -> str:
    comparison = "below" if loss < line else "not below"
    return f"{loss:.3f}, {comparison} the {line:.3f} of predicting each gene's mean"


def _others(held_out: "HeldOutScore") -> str:
    names = {"pca": "PCA", "ridge": "ridge regression on its scores"}
    there = [f"{names[k]} {x:.3f}" for k, x in held_out.baselines.items() if k in names]
    return f" Also: {', '.join(there)}." if there else ""


def _ranking(table: ProbeTable) -> list[str]:
    lines = []
    for probe in dict.fromkeys(row.probe for row in table.rows):
        rows = sorted(
            (row for row in table.rows if row.probe == probe), key=lambda row: -row.macro_f1.value
        )
        scores = ", then ".join(f"{row.method} ({row.macro_f1.value:.3f})" for row in rows)
        lines.append(f"{probe} probe, highest macro-F1 first: {scores}.")
    return lines


def _difference(difference: Difference) -> str:
    score = difference.macro_f1
    which = "better" if score.value > 0 else "worse"
    finding = (
        f"{difference.method} is {which}: the interval excludes 0."
        if score.excludes_zero
        else "the interval includes 0, so neither is shown to be better."
    )
    return (
        f"{difference.probe} probe, {difference.method} minus {difference.against}: {score.value:+.3f} "
        f"(95 % interval {score.low:+.3f} to {score.high:+.3f}); {finding}"
    )


def _facts(report: Report) -> dict[str, object]:
    table = report.table
    return {
        "format": 1,
        "cells": report.cells.origin,
        "scale": report.cells.scale,
        "label": report.cells.label,
        "split": "intra: cells of the same donors on both sides",
        "split_sha256": report.cells.split_hash,
        "n_train": int(report.cells.train.sum()),
        "n_test": int((~report.cells.train).sum()),
        "n_steps": report.n_steps,
        "seed": report.seed,
        "probes": None if table is None else asdict(table),
        "held_out": asdict(report.held_out),
        "verdict": list(verdict(table, report.held_out)),
        "seconds": dict(report.seconds),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def _markdown(report: Report) -> str:
    lines = ["# CellFM demo", "", f"{report.cells.origin}.", ""]
    if report.table is not None:
        lines += [
            "| method | probe | macro-F1 | 95 % interval | chosen on training cells |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.method} | {row.probe} | {row.macro_f1.value:.3f} | {_interval(row.macro_f1)} | {row.chosen} |"
            for row in report.table.rows
        ]
        lines += [
            "",
            _about_probes(report.table),
            "",
        ]
    lines += [f"- {sentence}" for sentence in verdict(report.table, report.held_out)]
    seconds = ", ".join(f"{stage} {time:.0f} s" for stage, time in report.seconds.items())
    lines += [
        "",
        f"Weights: {report.weights}; seed {report.seed}, split {report.cells.split_hash[:12]}; {seconds}.",
    ]
    return "\n".join(lines) + "\n"


def _about_probes(table: ProbeTable) -> str:
    row = table.rows[0]
    return (
        f"Probes: {row.n_train} cells to fit, {row.n_test} to score, {table.n_classes} classes. The cells of both parts come "
        "from the same donors, so the intervals say nothing about other donors."
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _umap_figure(cells: DemoCells, weights: str) -> "Figure":
    from matplotlib.figure import Figure

    color = cells.label or "split"
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"X_umap_cellfm": f"CellFM ({weights})", "X_umap_pca": "PCA"}
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        embedding(cells.adata, key, color=color, ax=panel)
        panel.set(title=title, xlabel="UMAP 1", ylabel="UMAP 2")
    panels[0].get_legend().remove()  # the same as that of the other panel
    figure.suptitle(f"{int((~cells.train).sum())} held-out cells", fontsize=11)
    return figure


def _curve_figure(metrics: Path) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    learning_curve(metrics, ax=figure.subplots())
    figure.suptitle("Recovering hidden expression values", fontsize=11)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=150)
