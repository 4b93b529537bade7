"""What an annotation found, as a page to read before its labels are used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._calibration import calibration
from cellfm.pl._confusion import confusion
from cellfm.pl._embedding import _palette, _size
from cellfm.pl._page import Cell, Page, Section, Table, write_page

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_CELLS = 20_000
"""Cells that are laid out in the plane; of more a random sample is."""
UNKNOWN = "unknown"
STRENGTHS = {
    "knn": "nearest neighbours on frozen states",
    "linear": "a linear probe on frozen states",
    "lora": "a fine-tuned adapter (LoRA)",
    "finetune": "a fine-tuned network",
}
_COLUMNS = {
    "data": "cells",
    "method": "method",
    "n_cells": "n",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ece_before": "calibration error, raw",
    "ece": "calibrated",
    "unknown": "share unknown",
    "accuracy_kept": "accuracy of the others",
    "auroc_unknown": "AUROC of unknown types",
}
"""Headings of the table of metrics."""


class Column(Protocol):
    """One annotated label column; see ``cellfm.tl.AnnotationResult``."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def metrics(self) -> "pd.DataFrame": ...
    @property
    def confusion(self) -> "pd.DataFrame | None": ...
    @property
    def reference_confusion(self) -> "pd.DataFrame": ...
    @property
    def abstentions(self) -> "pd.DataFrame": ...
    @property
    def calibration(self) -> "pd.DataFrame": ...


class Annotated(Protocol):
    """What is reported of an annotation; ``cellfm.tl.AnnotationResult`` is one."""

    @property
    def adata(self) -> "AnnData": ...
    @property
    def columns(self) -> Sequence[Column]: ...
    @property
    def strength(self) -> str: ...
    @property
    def weights_hash(self) -> str: ...
    @property
    def gene_report(self) -> str: ...
    @property
    def reference_gene_report(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...


def annotation_report(
    result: Annotated, path: Path | str, *, basis: str | None = None, seed: int = 0
) -> Path:
    """Write one HTML page with labels, abstentions, gene coverage and the numbers of PCA + logistic regression.

    Parameters
    ----------
    result
        What :func:`cellfm.tl.annotate` returned.
    path
        File to write; one that exists is replaced.
    basis
        Key of ``obsm`` with the states that are laid out by UMAP; default: the states of the annotation, else ``X_cellfm``.
        A basis of two columns is drawn as it is. Without any there is no picture of the cells.
    seed
        Of the layout, and of the sample of 20,000 cells that is laid out of more.

    Returns
    -------
    The path.

    Raises
    ------
    DataError
        There is no such basis.
    MissingDependencyError
        jinja2, matplotlib or umap-learn is not installed.

    Examples
    --------
    >>> cellfm.pl.annotation_report(result, "annotation.html")  # doctest: +SKIP
    """
    require("matplotlib")
    require("jinja2", extra="report")
    layout = _layout(result, basis, seed=seed)
    sections: list[Section] = []
    for column in result.columns:
        sections += _column_sections(result.adata, column, layout, only=len(result.columns) == 1)
    sections.append(
        Section(
            title="Genes",
            text="What became of the genes of the query and of the reference; genes that the network does not know are left out.",
            tables=[_gene_table(result)],
        )
    )
    names = ", ".join(column.name for column in result.columns)
    page = Page(
        title=f"Annotation: {names}",
        lead=_lead(result),
        sections=sections,
        footer=f"Weights {result.weights_hash}; UMAP seed {seed}. Written by cellfm.",
    )
    return write_page(page, path)


def _lead(result: Annotated) -> str:
    how = STRENGTHS.get(result.strength, result.strength)
    parts = [f"{result.adata.n_obs:,} cells were annotated by {how}."]
    for column in result.columns:
        unknown = int(column.abstentions["unknown"].sum())
        total = max(int(column.abstentions["n_cells"].sum()), 1)
        share = f"{unknown:,} of {total:,} cells ({unknown / total:.1%}) are {UNKNOWN}."
        parts.append(f"**{column.name}**: {share} {_against_pca(column)}")
    parts += [f"Note: {note}" for note in result.notes]
    return "\n\n".join(parts)


def _against_pca(column: Column) -> str:
    """Say how CellFM stands to the classical method, on the query where its truth is known."""
    table = column.metrics
    where = "query" if (table["data"] == "query").any() else "reference test"
    rows = table[table["data"] == where]
    ours = rows[rows["method"].str.startswith("CellFM")]
    other = rows[~rows["method"].str.startswith("CellFM")]
    if ours.empty or other.empty:
        return "There is no truth to score the labels by."
    a, b = float(ours["macro_f1"].iloc[0]), float(other["macro_f1"].iloc[0])
    name = str(other["method"].iloc[0])
    word = "above" if a > b else "below" if a < b else "equal to"
    cells = "the query" if where == "query" else "the test part of the reference, not of the query"
    return f"On {cells}, macro-F1 is {a:.3f}, {word} the {b:.3f} of {name} ({int(ours['n_cells'].iloc[0]):,} cells; no interval)."


def _column_sections(
    adata: "AnnData",
    column: Column,
    layout: "tuple[NDArray[np.intp], NDArray[np.floating], str] | None",
    *,
    only: bool,
) -> list[Section]:
    head = "" if only else f"{column.name}: "
    return [
        Section(
            title=f"{head}Cells" if head else "Cells",
            text=_about_layout(adata, layout),
            figures=[] if layout is None else [_cells_figure(adata, column, layout)],
            tables=[_abstention_table(column)],
        ),
        Section(
            title=f"{head}Agreement" if head else "Agreement",
            text=(
                "The same cells, the same labels: CellFM beside principal components with logistic regression, both fitted on the "
                "same training cells. Scores of the query are there where its true labels are known."
            ),
            tables=[_metric_table(column.metrics)],
            figures=_agreement_figures(column),
        ),
    ]


def _about_layout(
    adata: "AnnData", layout: "tuple[NDArray[np.intp], NDArray[np.floating], str] | None"
) -> str:
    if layout is None:
        return "There is no picture of the cells: obsm holds no states of them. Ask for the states when you annotate."
    shown, _, key = layout
    part = "" if len(shown) == adata.n_obs else f"{len(shown):,} cells drawn at random of "
    return f"UMAP of `obsm[{key!r}]`, {part}{adata.n_obs:,} cells. Distances between groups mean little in such a picture."


def _layout(
    result: Annotated, basis: str | None, *, seed: int
) -> "tuple[NDArray[np.intp], NDArray[np.floating], str] | None":
    """Cells that are drawn, where, and by which states; cells without states are left out."""
    obsm = result.adata.obsm
    asked = [f"X_{column.key}" for column in result.columns] + ["X_cellfm"]
    if basis is not None and basis not in obsm:
        msg = f"There is no basis {basis!r} in obsm; it has {list(obsm) or 'nothing'}. Choose one of these."
        raise DataError(msg)
    there = [basis] if basis is not None else [key for key in asked if key in obsm]
    if not there:
        return None
    states = np.asarray(obsm[there[0]], dtype=np.float32)
    rows = np.flatnonzero(np.isfinite(states).all(axis=1))
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_CELLS, replace=False))
    if states.shape[1] == 2:
        return rows, states[rows], there[0]
    return (rows, _umap(states[rows], seed=seed), there[0]) if len(rows) > 3 else None


def _umap(states: "NDArray[np.float32]", *, seed: int) -> "NDArray[np.floating]":
    require("umap")
    from umap import UMAP

    # A fixed seed means one thread; starting from PCA, no disconnected graph is a problem.
    layout = UMAP(
        n_neighbors=min(15, len(states) - 1),
        init="pca",
        min_dist=0.3,
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(layout.fit_transform(states))


def _cells_figure(
    adata: "AnnData",
    column: Column,
    layout: "tuple[NDArray[np.intp], NDArray[np.floating], str]",
) -> "Figure":
    from matplotlib.figure import Figure

    rows, points, _ = layout
    figure = Figure(figsize=(11.2, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    label = adata.obs[column.key].astype(str).to_numpy()[rows]
    _draw_labels(left, points, label)
    probability = adata.obs[f"{column.key}_probability"].to_numpy(dtype=float)[rows]
    size = _size(len(points))
    x, y = points.T
    drawn = right.scatter(x, y, c=probability, s=size, linewidths=0, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=right, label="probability of the best label")
    unknown = label == UNKNOWN
    if unknown.any():
        right.scatter(
            *points[unknown].T,
            marker="x",
            s=size + 6,
            linewidths=0.7,
            color="tab:red",
            label=UNKNOWN,
        )
        right.legend(loc="upper right", fontsize=8, framealpha=0.9, edgecolor="none")
    right.set(title="probability, unknown cells crossed")
    for panel in (left, right):
        panel.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    return figure


def _draw_labels(ax: "Axes", points: "NDArray[np.floating]", label: "NDArray[np.str_]") -> None:
    kinds = [kind for kind in np.unique(label) if kind != UNKNOWN]
    colors = dict(zip(kinds, _palette(len(kinds)), strict=True)) | {UNKNOWN: "lightgray"}
    for kind in [*kinds, UNKNOWN]:
        x, y = points[label == kind].T
        if len(x):
            style = colors[kind]
            ax.scatter(x, y, s=_size(len(points)), linewidths=0, color=style, label=kind)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8,
        markerscale=1.6,
        ncols=1 + len(kinds) // 24,
    )
    ax.set(title="label")


def _abstention_table(column: Column) -> Table:
    table = column.abstentions.sort_values("n_cells", ascending=False, kind="stable")
    columns = ["label", "n_cells", "unknown", "novel", "uncertain", "share_unknown"]
    rows = [[_plain(value) for value in row] for row in table[columns].itertuples(index=False)]
    names = ("nearest label", "cells", "unknown", "of these far from the reference")
    return Table(
        columns=(*names, "of these only uncertain", "share unknown"),
        rows=rows,
        caption="Cells by the label that fits best, and how many of them did not get it",
    )


def _metric_table(metrics: "pd.DataFrame") -> Table:
    names = [name for name in _COLUMNS if name in metrics.columns]
    rows = [[_plain(value) for value in row] for row in metrics[names].itertuples(index=False)]
    ours = [i for i, name in enumerate(metrics["method"]) if str(name).startswith("CellFM")]
    return Table(
        columns=tuple(_COLUMNS[name] for name in names),
        rows=rows,
        caption="Higher is better, but for the calibration error; – where it cannot be measured",
        looks=dict.fromkeys(ours, "mark"),
    )


def _plain(value: object) -> Cell:
    """Return a value of a data frame as a Python value."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | float | int) else None


def _agreement_figures(column: Column) -> "list[Figure]":
    table, where = column.confusion, "query"
    if table is None:
        table, where = column.reference_confusion, "test part of the reference"
    drawn = []
    if table.size:
        axes = confusion(table)
        axes.set_title(f"{where}: share of the cells of each type", fontsize=10)
        drawn.append(axes)
    if len(column.calibration):
        axes = calibration(column.calibration)
        axes.set_title("reliability on the test part of the reference (area: cells)", fontsize=9)
        drawn.append(axes)
    return [figure for axes in drawn if (figure := axes.get_figure(root=True)) is not None]


def _gene_table(result: Annotated) -> Table:
    reports = {"query": result.gene_report, "reference": result.reference_gene_report}
    rows = [[name, line] for name, text in reports.items() for line in text.splitlines() if line]
    return Table(columns=("genes of", "report"), rows=rows)
