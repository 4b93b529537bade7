"""The interactive figure of responses: one perturbation at a time, one point a gene."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure

    Values = NDArray[np.floating]

MOST_GENES = 250
"""Genes drawn of a perturbation: those with the largest measured or predicted response."""
N_NAMED = 12
OURS, OTHERS, TARGET = "#1f5fa8", "#8a95a1", "#c4622d"
_Z = 1.96


def responses_figure(
    *,
    names: Sequence[str],
    genes: Sequence[str],
    targets: Sequence[Sequence[int]],
    predicted: "Values",
    sd: "Values",
    true: "Values",
    true_sd: "Values",
) -> "Figure":
    """Draw the predicted against the measured response of each gene, with a menu of perturbations.

    Parameters
    ----------
    names
        Of the perturbations.
    genes
        Names.
    targets
        Columns of the perturbed genes themselves.
    predicted, sd, true, true_sd
        Responses and their standard deviations, shape (perturbation, gene); NaN where a deviation is not known.

    Raises
    ------
    DataError
        There is nothing to draw.
    """
    require("plotly", extra="report")
    from plotly import graph_objects as go

    if not len(names) or predicted.shape != true.shape:
        msg = f"There are {len(names)} perturbations, predicted responses {predicted.shape} and measured ones {true.shape}; expected one at least, and the same shapes. Give the same perturbations in both."
        raise DataError(msg)
    figure = go.Figure()
    first = int(np.argmax(np.abs(true).sum(axis=1)))
    each: list[int] = []
    for row in range(len(names)):
        kept = _kept(predicted[row], true[row])
        before = len(figure.data)
        if len(names) > 1:
            others = (true.sum(axis=0) - true[row]) / (len(names) - 1)
            _add_others(figure, true[row, kept], others[kept], [genes[i] for i in kept])
        hover = _hover(row, kept, predicted=predicted, sd=sd, true=true, true_sd=true_sd)
        _add_genes(
            figure, row, kept, hover, genes=genes, targets=targets[row], predicted=predicted, sd=sd, true=true
        )  # fmt: skip
        _add_targets(figure, row, targets[row], genes=genes, predicted=predicted, true=true)
        each += [row] * (len(figure.data) - before)
        for trace in figure.data[before:]:
            trace.visible = row == first
    ends = [ends_of(predicted[row], sd[row], true[row]) for row in range(len(names))]
    _style(figure, ends)
    _add_menu(figure, names, each, ends)
    figure.update_layout(updatemenus=[{"active": first}])
    figure.update_xaxes(range=list(ends[first]))
    figure.update_yaxes(range=list(ends[first]))
    return figure


def ends_of(predicted: "Values", sd: "Values", true: "Values") -> tuple[float, float]:
    """Return the ends of both axes, so that the diagonal is one.

    Parameters
    ----------
    predicted, sd, true
        Responses of one perturbation, and deviations of the predicted one, NaN where not known; shape (gene,).
    """
    rank = np.argsort(-np.abs(true), kind="stable")[:N_NAMED]
    half = _Z * np.nan_to_num(sd[rank])
    every = np.concatenate([predicted, true, predicted[rank] - half, predicted[rank] + half])
    low, high = float(every.min()), float(every.max())
    pad = 0.12 * max(high - low, 1e-3)
    return round(low - pad, 4), round(high + pad, 4)


def named_genes(
    predicted: "Values",
    true: "Values",
    *,
    width: float,
    n_most: int = N_NAMED,
    apart: tuple[float, float] = (0.1, 0.03),
) -> "NDArray[np.intp]":
    """Return the genes whose names are written: the largest, but for those whose name would lie on another.

    Parameters
    ----------
    predicted, true
        Responses of one perturbation, shape (gene,).
    width
        Of the axes.
    n_most
        Genes that are tried.
    apart
        Shares of the width by which names keep apart, across and up; one of the two is enough.
    """
    chosen: list[int] = []
    for i in np.argsort(-np.abs(true), kind="stable")[:n_most]:
        free = (
            abs(true[i] - true[j]) > apart[0] * width
            or abs(predicted[i] - predicted[j]) > apart[1] * width
            for j in chosen
        )
        if all(free):
            chosen.append(int(i))
    return np.array(chosen, dtype=np.intp)


def _kept(predicted: "Values", true: "Values") -> "NDArray[np.intp]":
    size = np.maximum(np.abs(predicted), np.abs(true))
    return np.sort(np.argsort(-size, kind="stable")[:MOST_GENES])


def _hover(
    row: int,
    kept: "NDArray[np.intp]",
    *,
    predicted: "Values",
    sd: "Values",
    true: "Values",
    true_sd: "Values",
) -> list[str]:
    def told(value: float, deviation: float) -> str:
        text = f"{value:+.3f}"
        if np.isfinite(deviation):
            text += f" ({value - _Z * deviation:+.2f} to {value + _Z * deviation:+.2f})"
        return text.replace("-", "−")

    return [
        f"predicted {told(predicted[row, i], sd[row, i])}<br>measured {told(true[row, i], true_sd[row, i])}"
        for i in kept
    ]


def _add_others(figure: "Figure", x: "Values", y: "Values", genes: Sequence[str]) -> None:
    figure.add_scatter(
        x=_rounded(x),
        y=_rounded(y),
        text=list(genes),
        mode="markers",
        marker={"size": 6, "symbol": "circle-open", "color": OTHERS, "opacity": 0.6},
        name="mean of the other perturbations",
        hovertemplate="<b>%{text}</b><br>mean of the others %{y:+.3f}<br>measured %{x:+.3f}<extra></extra>",
    )


def _add_genes(  # noqa: PLR0913 - the arrays of the figure
    figure: "Figure",
    row: int,
    kept: "NDArray[np.intp]",
    hover: list[str],
    *,
    genes: Sequence[str],
    targets: Sequence[int],
    predicted: "Values",
    sd: "Values",
    true: "Values",
) -> None:
    """Draw the genes; those that move most have names and intervals."""
    rank = np.argsort(-np.abs(true[row, kept]), kind="stable")
    moved = np.isin(np.arange(len(kept)), rank[:N_NAMED])
    low, high = ends_of(predicted[row], sd[row], true[row])
    # the perturbed genes have their names beside their own marks
    chosen = named_genes(predicted[row, kept], true[row, kept], width=high - low)
    named = np.isin(np.arange(len(kept)), chosen) & ~np.isin(kept, targets)
    half = np.where(moved & np.isfinite(sd[row, kept]), _Z * sd[row, kept], 0.0)
    figure.add_scatter(
        x=_rounded(true[row, kept]),
        y=_rounded(predicted[row, kept]),
        error_y={"array": _rounded(half), "thickness": 1, "width": 0, "color": "rgba(31,95,168,.4)"},
        text=[genes[i] if named[number] else "" for number, i in enumerate(kept)],
        customdata=[[genes[i], text] for i, text in zip(kept, hover, strict=True)],
        mode="markers+text",
        textposition=["middle right" if true[row, i] > 0 else "middle left" for i in kept],
        textfont={"size": 10, "color": "#1d2329"},
        marker={"size": 7, "color": OURS, "opacity": 0.75},
        name="prediction",
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
    )  # fmt: skip


def _add_targets(
    figure: "Figure",
    row: int,
    columns: Sequence[int],
    *,
    genes: Sequence[str],
    predicted: "Values",
    true: "Values",
) -> None:
    if not len(columns):
        return
    figure.add_scatter(
        x=_rounded(true[row, columns]),
        y=_rounded(predicted[row, columns]),
        text=[genes[i] for i in columns],
        mode="markers+text",
        textposition="top center",
        textfont={"size": 11, "color": TARGET},
        marker={"size": 12, "symbol": "diamond-open", "color": TARGET, "line": {"width": 2}},
        name="perturbed gene",
        hoverinfo="skip",
    )


def _add_menu(
    figure: "Figure", names: Sequence[str], each: list[int], ends: Sequence[tuple[float, float]]
) -> None:
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [owner == row for owner in each]},
                {"xaxis.range": list(ends[row]), "yaxis.range": list(ends[row])},
            ],
        }
        for row, name in enumerate(names)
    ]
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "showactive": True,
                "bgcolor": "#fff",
                "bordercolor": "#c3ccd5",
                "pad": {"b": 4},
            }
        ]
    )


def _style(figure: "Figure", ends: Sequence[tuple[float, float]]) -> None:
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    figure.add_shape(
        type="line",
        x0=low,
        y0=low,
        x1=high,
        y1=high,
        layer="below",
        line={"dash": "dash", "width": 1, "color": OTHERS},
    )
    figure.update_layout(
        template="plotly_white",
        height=640,
        width=900,
        margin={"l": 60, "r": 30, "t": 60, "b": 50},
        font={"family": "system-ui, 'DejaVu Sans', sans-serif", "size": 13, "color": "#1d2329"},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        xaxis_title="measured change of mean log1p(CP10k)",
        yaxis_title="predicted change",
        hovermode="closest",
    )


def _rounded(values: "Values") -> list[float]:
    return [round(float(value), 4) for value in values]
