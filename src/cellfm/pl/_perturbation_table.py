"""What the table of methods says: in words, and as rows of a page."""

import math
from typing import TYPE_CHECKING

import numpy as np

from cellfm.pl._page import Bar, Cell, Shown

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE, MEAN = "cellfm", "perturbed-mean"
"""Rows of the table of methods: what is judged, and what says the same of every perturbation."""
TRIVIAL, TWIN = (MEAN, "no-change"), "random weights"
METRICS = {
    "pds": ("PDS", True),
    "centroid_accuracy": ("centroid accuracy", True),
    "pearson_delta_ref": ("Pearson Δ from the mean", True),
    "r2_weighted": ("weighted R²", True),
    "wmse": ("weighted MSE", False),
    "nmae": ("NMAE", False),
    "l2_top1000": ("L2, top 1,000", False),
}
"""Metrics that methods are ranked on: heading, and whether more is better."""
LISTED = {
    "de_overlap": ("overlap of top 20", True),
    "direction": ("direction right", True),
    "direction_wrong": ("direction wrong", False),
    "mse_de20": ("MSE, top 20", False),
    "pearson_delta": ("Pearson Δ", True),
    "r2_delta": ("R² of Δ", True),
    "mse": ("MSE", False),
}
"""Metrics that are listed for comparison with other work."""
KINDS = {
    "no-change": "nothing happens",
    "perturbed-mean": "the mean of the training perturbations",
    "mean-and-target": "the mean response, and the perturbed gene as others change",
    "matching-mean": "the mean of the same genes alone, else the mean",
    "additive": "the sum of the same genes alone",
    "bilinear-pca": "bilinear ridge on principal components",
    "bilinear-cellfm": "bilinear ridge on CellFM embeddings",
    "bilinear-random": "bilinear ridge on random vectors",
    "knn": "the mean of the genes most alike",
    "random weights": "the same head on a network with random weights",
}
GROUPS = {
    "seen": "seen",
    "unseen_single": "unseen gene",
    "combo_seen0": "pair, no gene seen",
    "combo_seen1": "pair, one gene seen",
    "combo_seen2": "pair, both genes seen",
}


def verdict(table: "pd.DataFrame") -> str:
    """Say in one sentence whether the model is ahead of its controls.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    rivals = _rivals(table)
    low = np.asarray(rivals["difference_low"], dtype=float)
    if (low > 0).all():
        return "The model is ahead of every control, with intervals above 0."
    if number_of(table, MEAN, "difference_low") > 0:
        close = ", ".join(f"`{name}`" for name in rivals.index[~(low > 0)])
        return f"The model is ahead of the mean response, but not reliably of {close}."
    if number_of(table, MEAN, "difference_high") < 0:
        return "The model is behind the mean response: do not use its predictions."
    return "The model is not told apart from the mean response, which says the same of every perturbation."


def against_chance(table: "pd.DataFrame") -> str:
    """Say where chance lies.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    low, high = (number_of(table, CANDIDATE, f"pds_{end}") for end in ("low", "high"))
    if low > 0.5:
        return "0.5 is chance, and outside the interval"
    return "0.5 is chance, and above the interval" if high < 0.5 else "0.5 is chance, and inside the interval"  # fmt: skip


def against(table: "pd.DataFrame", rival: str) -> str:
    """Say how far the model is ahead of a control.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    rival
        The control.
    """
    return f"Against `{rival}` ({number_of(table, rival, 'pds'):.3f}) the difference is {_difference(table, rival)}."


def against_best(table: "pd.DataFrame") -> str:
    """Say how far it is ahead of the best control, if that is not the mean response.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    rivals = _rivals(table)
    best = str(rivals["pds"].idxmax())
    if best == MEAN:
        return ""
    return f"The best control is `{best}` ({number_of(table, best, 'pds'):.3f}): the difference is {_difference(table, best)}."


def _difference(table: "pd.DataFrame", rival: str) -> str:
    return with_interval(table, rival, "difference", signed=True)


def twin_words(table: "pd.DataFrame") -> str:
    """Say what the training of the network is worth.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    if TWIN not in table.index:
        return ""
    told = f"({number_of(table, TWIN, 'pds'):.3f}, difference {_difference(table, TWIN)})"
    if number_of(table, TWIN, "difference_low") > 0:
        return f"The same head on a network with random weights is behind {told}: what CellFM learned counts."
    return f"The same head on a network with random weights is not behind {told}: nothing shows that what CellFM learned counts here."


def ceiling_words(table: "pd.DataFrame") -> str:
    """Say what can be expected at most.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    ceiling = ceiling_of(table)
    if ceiling is None:
        return "There is no ceiling: too few cells to halve."
    return f"One half of the cells predicts the other with {number_of(table, ceiling, 'pds'):.3f}; that is about as good as it can get."


def method_row(table: "pd.DataFrame", name: str) -> list[Cell]:
    """Return the row of a method in the first table.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    name
        Of the method.
    """
    difference: Cell = None
    if name in _rivals(table).index:
        difference = _bar(table, name, "difference", ends=(-0.5, 0.5), line=0.0)
    return [
        Shown(text=name, sort=name, note=KINDS.get(name, "")),
        _bar(table, name, "pds", ends=(0.0, 1.0), line=0.5),
        difference,
        share_of_the_way(table, name),
    ]


def share_of_the_way(table: "pd.DataFrame", name: str) -> float | None:
    """Return the mean of (value − trivial) / (ceiling − trivial), each in [−1, 1]; None without a ceiling.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    name
        Of the method.
    """
    ceiling = ceiling_of(table)
    if ceiling is None:
        return None
    shares = []
    for metric in (m for m in METRICS if m in table.columns):
        sign = 1 if METRICS[metric][1] else -1
        trivial = [sign * number_of(table, row, metric) for row in TRIVIAL if row in table.index]
        base, top = max(trivial), sign * number_of(table, ceiling, metric)
        if top - base > 1e-9:
            share = (sign * number_of(table, name, metric) - base) / (top - base)
            shares.append(min(max(share, -1.0), 1.0))
    known = [share for share in shares if math.isfinite(share)]
    return float(np.mean(known)) if known else None


def place(table: "pd.DataFrame", name: str) -> tuple[int, float]:
    """Return what rows are sorted by: the model, controls from the best, the ceiling.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    name
        Of the method.
    """
    rank = 0 if name == CANDIDATE else 2 if name == ceiling_of(table) else 1
    value = number_of(table, name, "pds")
    return rank, -value if math.isfinite(value) else math.inf


def ceiling_of(table: "pd.DataFrame") -> str | None:
    """Return the name of the ceiling, if there is one.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    """
    return next((str(name) for name in table.index if str(name).startswith("ceiling")), None)


def _rivals(table: "pd.DataFrame") -> "pd.DataFrame":
    return table.drop(index=[name for name in (CANDIDATE, ceiling_of(table)) if name is not None])


def number_of(table: "pd.DataFrame", row: str, column: str) -> float:
    """Return one number.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    row, column
        Which.
    """
    return float(np.asarray(table.loc[[row], column], dtype=float)[0])


def finite(value: float) -> float | None:
    """Return None for NaN and infinity, which a table shows as a dash.

    Parameters
    ----------
    value
        Any number.
    """
    return value if math.isfinite(value) else None


def with_interval(table: "pd.DataFrame", row: str, column: str, *, signed: bool = False) -> str:
    """Write a number with its interval.

    Parameters
    ----------
    table
        A row for each method, a column for each metric, with ``_low`` and ``_high``.
    row, column
        Which.
    signed
        Write plus signs.
    """
    value, low, high = (number_of(table, row, f"{column}{end}") for end in ("", "_low", "_high"))
    sign = "+" if signed else ""
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]".replace("-", "−")


def _bar(
    table: "pd.DataFrame", row: str, column: str, *, ends: tuple[float, float], line: float
) -> Bar | None:
    value, low, high = (number_of(table, row, f"{column}{end}") for end in ("", "_low", "_high"))
    if not math.isfinite(value):
        return None
    return Bar(
        value=value,
        low=finite(low),
        high=finite(high),
        left=ends[0],
        right=ends[1],
        lines=(line,),
        signed=ends[0] < 0,
    )
