"""Figures of the report."""

from typing import TYPE_CHECKING

from cellfm.bench.report_tables import methods_of, summarise, words
from cellfm.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plotly.graph_objects import Figure

    from cellfm.bench.compare import Run
    from cellfm.bench.result import Result

BIO_GUARD = 0.02
"""An embedding may keep so much less biology than PCA before what it gains in mixing counts for nothing."""
CANDIDATE, CONTROL = "#1f5fa8", "#8a95a1"
_OURS = ("#1f5fa8", "#c4622d", "#2f855a", "#7b4fa3", "#b8860b", "#0f7c8a")
_DASHES = ("dot", "dash", "dashdot", "longdash")


def bio_batch_figure(run: "Run", rows: "Sequence[Result]") -> "Figure | None":
    """Draw biology kept against batches mixed, with the line below which an embedding keeps too little.

    Parameters
    ----------
    run
        Where the bootstrap draws are.
    rows
        Results of one question.

    Returns
    -------
    None where there are no such metrics.
    """
    require("plotly", extra="report")
    from plotly import graph_objects as go

    points = []
    for (_, method), group in methods_of(rows).items():
        by = {m: [row for row in group if row.metric == m] for m in ("bio", "batch")}
        if by["bio"] and by["batch"]:
            bio, batch = (summarise(run, by[m]).value for m in ("bio", "batch"))
            if bio is not None and batch is not None:
                points.append((method, group[0].roles, bio, batch))
    if not points:
        return None
    figure = go.Figure()
    for ours, color, name in ((True, CANDIDATE, "candidates"), (False, CONTROL, "controls")):
        part = [point for point in points if ("candidate" in point[1]) == ours]
        figure.add_scatter(
            x=[point[3] for point in part],
            y=[point[2] for point in part],
            text=[point[0] for point in part],
            mode="markers+text",
            textposition="top center",
            textfont={"size": 11, "color": color},
            marker={"size": 10, "color": color},
            name=name,
            hovertemplate="%{text}<br>bio %{y:.3f}, batch %{x:.3f}<extra></extra>",
        )
    pca = [(len(roles), bio) for _, roles, bio, _ in points if "pca" in roles]
    if pca:
        figure.add_hline(
            # what is PCA and nothing else, before what is PCA with its batches corrected
            y=min(pca)[1] - BIO_GUARD,
            line={"dash": "dash", "width": 1, "color": "#a3342b"},
            annotation={"text": f"Bio guard: PCA − {BIO_GUARD}", "font": {"color": "#a3342b"}},
            annotation_position="bottom right",
        )
    _style(figure, x="batch: batches mixed", y="bio: biology kept")
    return figure


def few_shot_figure(run: "Run", rows: "Sequence[Result]") -> "Figure | None":
    """Draw the primary metric over the labels per type.

    Parameters
    ----------
    run
        Where the bootstrap draws are.
    rows
        Results of one question.

    Returns
    -------
    None where there is no such result.
    """
    require("plotly", extra="report")
    from plotly import graph_objects as go

    rows = [row for row in rows if row.primary and row.k is not None]
    if not rows:
        return None
    figure, n_ours, n_others = go.Figure(), 0, 0
    for method in dict.fromkeys(row.method for row in rows):
        group = [row for row in rows if row.method == method]
        ours = "candidate" in group[0].roles
        if ours:
            line = {"color": _OURS[n_ours % len(_OURS)], "width": 2.5}
            n_ours += 1
        else:
            line = {"color": CONTROL, "dash": _DASHES[n_others % len(_DASHES)], "width": 1.5}
            n_others += 1
        _add_curve(figure, run, group, line)
    ks = sorted({row.k for row in rows if row.k is not None})
    _style(figure, x="labels per type", y=words(rows[0].metric))
    figure.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks])
    return figure


def _add_curve(
    figure: "Figure", run: "Run", group: "Sequence[Result]", line: dict[str, object]
) -> None:
    """Draw one method; a method that failed for some k has a gap there."""
    points = []
    for k in sorted({row.k for row in group if row.k is not None}):
        score = summarise(run, [row for row in group if row.k == k])
        if score.value is not None:
            low = score.value if score.low is None else score.low
            high = score.value if score.high is None else score.high
            points.append(
                (k, score.value, max(high - score.value, 0.0), max(score.value - low, 0.0))
            )
    if points:
        shots, value, above, below = (list(column) for column in zip(*points, strict=True))
        figure.add_scatter(
            x=shots,
            y=value,
            error_y={"array": above, "arrayminus": below, "thickness": 1, "width": 4},
            mode="lines+markers",
            line=line,
            name=group[0].method,
            hovertemplate="%{x} labels: %{y:.3f}",
        )


def _style(figure: "Figure", *, x: str, y: str) -> None:
    figure.update_layout(
        template="plotly_white",
        height=440,
        margin={"l": 60, "r": 30, "t": 20, "b": 50},
        font={"family": "system-ui, 'DejaVu Sans', sans-serif", "size": 13, "color": "#1d2329"},
        legend={"bgcolor": "rgba(255,255,255,.8)"},
        xaxis_title=x,
        yaxis_title=y,
    )
