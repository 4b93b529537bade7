"""Predicted responses to perturbations beside measured ones, and the page that says what they are worth."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes
from cellfm.pl._page import Cell, Look, Page, Section, Table, write_page
from cellfm.pl._perturbation_figure import ends_of, named_genes, responses_figure
from cellfm.pl._perturbation_table import (
    CANDIDATE,
    GROUPS,
    LISTED,
    MEAN,
    METRICS,
    against,
    against_best,
    against_chance,
    ceiling_of,
    ceiling_words,
    finite,
    method_row,
    number_of,
    place,
    twin_words,
    verdict,
    with_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


class Perturbed(Protocol):
    """A condition."""

    @property
    def name(self) -> str: ...
    @property
    def genes(self) -> tuple[str, ...]: ...


class Measured(Protocol):
    """Measured responses; ``variance`` is that of the sampling, arrays have the shape (condition, gene)."""

    @property
    def genes(self) -> Sequence[str]: ...
    @property
    def symbol(self) -> Sequence[str]: ...
    @property
    def conditions(self) -> Sequence[Perturbed]: ...
    @property
    def delta(self) -> "NDArray[np.float64]": ...
    @property
    def variance(self) -> "NDArray[np.float64]": ...
    @property
    def n_cells(self) -> "NDArray[np.int64]": ...


class JudgedResponses(Protocol):
    """A cross-validation over conditions; ``PerturbationModel.judged`` of :func:`cellfm.tl.train_perturbation` is one."""

    @property
    def table(self) -> "pd.DataFrame": ...
    @property
    def scores(self) -> "pd.DataFrame": ...
    @property
    def predicted(self) -> "NDArray[np.float64]": ...
    @property
    def sd(self) -> "NDArray[np.float64]": ...
    @property
    def truth(self) -> Measured: ...
    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[str]: ...
    @property
    def hash(self) -> str: ...


def perturbation_deltas(
    predicted: "NDArray[np.floating]",
    true: "NDArray[np.floating]",
    genes: Sequence[str],
    *,
    sd: "NDArray[np.floating] | None" = None,
    n_labels: int = 10,
    title: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the predicted against the measured response of each gene to one perturbation.

    Parameters
    ----------
    predicted, true
        Changes of mean log1p(counts per 10⁴), shape (gene,).
    genes
        Their names.
    sd
        Standard deviation of the prediction; its 95 % intervals are drawn for the named genes. NaN or None: there is none.
    n_labels
        Genes with the largest measured response that are named, but for those whose name would lie on another.
    title
        Such as the perturbation.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("deltas.png")``.

    Raises
    ------
    DataError
        Shapes differ, there are no genes, or a response is not finite.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.perturbation_deltas(predicted, measured, adata.var_names)  # doctest: +SKIP
    """
    require("matplotlib")
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    _check(predicted, true, genes)
    ax = new_axes(5.2, 4.8) if ax is None else ax
    deviation = np.full(true.shape, np.nan) if sd is None else np.asarray(sd, float)
    ends = ends_of(predicted, deviation, true)
    ax.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
    ax.axvline(0, color="lightgray", linewidth=0.8, zorder=0)
    ax.plot(ends, ends, "--", color="gray", linewidth=0.8, zorder=0)
    ax.scatter(true, predicted, s=12, linewidths=0, alpha=0.6, color="tab:blue")
    named = named_genes(
        predicted, true, width=ends[1] - ends[0], n_most=n_labels, apart=(0.2, 0.035)
    )
    half = 1.96 * np.nan_to_num(deviation[named])
    if half.any():
        ax.errorbar(
            true[named], predicted[named], yerr=half, fmt="none", elinewidth=0.8, alpha=0.5, color="tab:blue"
        )  # fmt: skip
    _name_points(ax, true[named], predicted[named], [genes[i] for i in named])
    r = _correlation(predicted, true)
    ax.set(
        xlim=ends,
        ylim=ends,
        xlabel="measured change of mean log1p(CP10k)",
        ylabel="predicted",
    )
    ax.set_title(f"{title}  r = {r:.2f}" if math.isfinite(r) else title, fontsize=10)
    return ax


def perturbation_report(
    judged: JudgedResponses | None,
    path: Path | str,
    *,
    transfer: "pd.DataFrame | None" = None,
    training: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    title: str = "Perturbation",
) -> Path:
    """Write one HTML page: the verdict, every method beside controls and ceiling, and the responses gene by gene.

    Parameters
    ----------
    judged
        The cross-validation: ``judged`` of what :func:`cellfm.tl.train_perturbation` returned.
    path
        File to write; one that exists is replaced.
    transfer, training, notes
        Of the same: scores of predictions into other contexts, settings, and what was left out.
    title
        Of the page.

    Returns
    -------
    The path.

    Raises
    ------
    DataError
        The model was read from a folder, which holds no predictions of its cross-validation; or its table lacks its control, the perturbed mean.
    MissingDependencyError
        jinja2 or plotly is not installed.

    Examples
    --------
    >>> cellfm.pl.perturbation_report(
    ...     trained.judged, "perturbation.html", notes=trained.notes
    ... )  # doctest: +SKIP
    """
    require("plotly", extra="report")
    require("jinja2", extra="report")
    judged = _checked(judged)
    sections = [
        _methods_section(judged.table),
        _genes_section(judged),
        _conditions_section(judged),
    ]
    if transfer is not None:
        sections.append(_transfer_section(transfer))
    sections.append(_listed_section(judged.table))
    # warnings lead the page already
    kept = [note for note in notes if note not in judged.warnings]
    sections.append(_training_section(training or {}, kept))
    page = Page(
        title=title,
        lead=_lead(judged),
        sections=sections,
        footer=f"Splits {judged.hash}. Written by cellfm.",
    )
    return write_page(page, path)


def _checked(judged: JudgedResponses | None) -> JudgedResponses:
    if judged is None:
        msg = "The model was read from a folder, which keeps the scores of its cross-validation but not its predictions; make the report when it is trained (cellfm perturb train --report)."
        raise DataError(msg)
    for name in (CANDIDATE, MEAN):
        if name not in judged.table.index:
            msg = f"The table has no row {name!r}; it has {', '.join(map(repr, judged.table.index))}. A model is not reported without its controls; train it again."
            raise DataError(msg)
    return judged


def _lead(judged: JudgedResponses) -> str:
    table = judged.table
    n, value = int(number_of(table, CANDIDATE, "n")), number_of(table, CANDIDATE, "pds")
    parts = [
        f"**{verdict(table)}** Each of {n} perturbations was predicted by what had not seen it, for {len(judged.truth.genes):,} genes.",
        (
            f"PDS, the share of the other perturbations that a prediction is further from than from its own, is {with_interval(table, CANDIDATE, 'pds')} "
            f"({against_chance(table)}). {against(table, MEAN)} {against_best(table)} {twin_words(table)} {ceiling_words(table)}"
        ),
    ]
    parts += [f"**Warning**: {warning}" for warning in judged.warnings]
    if not math.isfinite(value):
        parts.append("The score is missing: too few perturbations can be told apart.")
    return "\n\n".join(parts)


def _methods_section(table: "pd.DataFrame") -> Section:
    order = sorted(table.index, key=lambda name: place(table, name))
    looks: dict[int, Look] = {order.index(CANDIDATE): "mark"}
    ceiling = ceiling_of(table)
    if ceiling is not None:
        looks[order.index(ceiling)] = "quiet"
    shown = [name for name in METRICS if name in table.columns]
    numbers = [[name, *(finite(number_of(table, name, m)) for m in shown)] for name in order]
    return Section(
        title="Methods",
        text=(
            "Means over perturbations with 95 % intervals (resampled perturbations); differences are paired. "
            "**Share of the way**: how far a method comes from the better of no change and the mean response (0) to what one half of the "
            "cells says of the other (1), on average over the metrics of the second table in which the halves are the better ones; each counts "
            "from −1 to 1. Weighted MSE, NMAE (error over significant genes, no change = 1) and L2 are better when lower."
        ),
        tables=[
            Table(
                columns=("method", "PDS", "PDS of the model less that of the method", "share of the way"),
                rows=[method_row(table, name) for name in order],
                looks=looks,
            ),
            Table(
                columns=("method", *(METRICS[name][0] for name in shown)), rows=numbers, looks=looks
            ),
        ],
    )  # fmt: skip


def _genes_section(judged: JudgedResponses) -> Section:
    truth = judged.truth
    return Section(
        title="Predicted against measured",
        text=(
            "One point is a gene; choose the perturbation at the top left. Bars are 95 % intervals of the prediction for the genes that move most. Open circles: what "
            "the mean of the other perturbations says; a prediction that is no nearer to the diagonal than they are has found nothing of its own. "
            "A diamond is the perturbed gene itself."
        ),
        figures=[
            responses_figure(
                names=[each.name for each in truth.conditions],
                genes=truth.genes,
                targets=[[i for i, s in enumerate(truth.symbol) if s in each.genes] for each in truth.conditions],
                predicted=judged.predicted,
                sd=judged.sd,
                true=truth.delta,
                true_sd=np.sqrt(truth.variance),
            )
        ],
    )  # fmt: skip


def _conditions_section(judged: JudgedResponses) -> Section:
    scores, truth = judged.scores, judged.truth
    shown = [name for name in METRICS if name in scores.columns]
    of_model, of_mean = (
        scores[scores.index.get_level_values(0) == name].droplevel(0) for name in (CANDIDATE, MEAN)
    )
    rows: list[list[Cell]] = []
    for row, each in enumerate(truth.conditions):
        size = float(np.linalg.norm(truth.delta[row]))
        found: list[Cell] = [each.name, GROUPS.get(judged.groups[row], judged.groups[row])]
        found += [int(truth.n_cells[row]), size]
        found += [finite(number_of(of_model, each.name, name)) for name in shown]
        found.append(finite(number_of(of_mean, each.name, shown[0])))
        rows.append(found)
    return Section(
        title="Each perturbation",
        text="Scores of the model, by perturbation. The size is the Euclidean norm of the measured response; small ones are mostly noise, and cannot be predicted.",
        tables=[
            Table(
                columns=("perturbation", "training knew", "cells", "size", *(METRICS[name][0] for name in shown), f"{METRICS[shown[0]][0]} of the mean"),
                rows=rows,
            )
        ],
    )  # fmt: skip


def _listed_section(table: "pd.DataFrame") -> Section:
    shown = [name for name in LISTED if name in table.columns]
    order = sorted(table.index, key=lambda name: place(table, name))
    return Section(
        title="Metrics that others print",
        text=(
            "Methods are not ranked on these: correlations and errors over all genes reward predictions that say the same of every perturbation, "
            "because all perturbations share a response (Mejia et al. 2025; Viñas Torné et al. 2025)."
        ),
        tables=[
            Table(
                columns=("method", *(LISTED[name][0] for name in shown)),
                rows=[[n, *(finite(number_of(table, n, m)) for m in shown)] for n in order],
                looks={order.index(CANDIDATE): "mark"},
            )
        ],
        folded=True,
    )


def _transfer_section(table: "pd.DataFrame") -> Section:
    shown = [name for name in METRICS if name in table.columns]
    rows: list[list[Cell]] = [
        [str(name), *(finite(number_of(table, str(name), m)) for m in shown)]
        for name in table.index
    ]
    looks: dict[int, Look] = {
        i: "mark" for i, name in enumerate(table.index) if str(name) == CANDIDATE
    }
    return Section(
        title="Into another context",
        text="Responses in a cell type, line or donor, predicted from the same perturbations in the others; means over perturbations and contexts.",
        tables=[Table(columns=("method", *(METRICS[m][0] for m in shown)), rows=rows, looks=looks)],
    )


def _training_section(training: Mapping[str, object], notes: Sequence[str]) -> Section:
    rows: list[list[Cell]] = [[name, _told(value)] for name, value in training.items()]
    return Section(
        title="Training, and what was left out",
        text="\n".join(f"- {note}" for note in notes) or "Nothing was left out.",
        tables=[Table(columns=("setting", "value"), rows=rows)] if rows else [],
    )


def _told(value: object) -> str | None:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)


def _name_points(
    ax: "Axes", x: "NDArray[np.floating]", y: "NDArray[np.floating]", names: Sequence[str]
) -> None:
    for name, across, up in zip(names, x, y, strict=True):
        left = across < 0
        ax.annotate(
            name,
            (float(across), float(up)),
            xytext=(-5 if left else 5, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
        )


def _correlation(predicted: "NDArray[np.floating]", true: "NDArray[np.floating]") -> float:
    if len(true) < 2 or min(float(predicted.std()), float(true.std())) < 1e-12:
        return math.nan
    return float(np.corrcoef(predicted, true)[0, 1])


def _check(
    predicted: "NDArray[np.floating]", true: "NDArray[np.floating]", genes: Sequence[str]
) -> None:
    if not predicted.shape == true.shape == (len(genes),) or not len(genes):
        msg = f"Predicted responses have shape {predicted.shape}, measured ones {true.shape}, and there are {len(genes)} gene names; expected one number a gene in both. Give responses and names over the same genes."
        raise DataError(msg)
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        msg = "Responses hold NaN or infinite values; leave out genes that were not measured or predicted."
        raise DataError(msg)
