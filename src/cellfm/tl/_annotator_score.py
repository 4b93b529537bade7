"""Tables that say how good labels are: accuracy, macro-F1, calibration, abstentions, confusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._confidence import expected_calibration_error, reliability, sigmoid, softmax
from cellfm.tl._labels import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

METRICS = (
    "n_cells",
    "accuracy",
    "macro_f1",
    "ece_before",
    "ece",
    "unknown",
    "accuracy_kept",
    "auroc_unknown",
)
"""Columns of a table of metrics, after ``data`` and ``method``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calls:
    """Labels of one column for some cells, before and after abstaining."""

    best: "NDArray[np.str_]"
    """Label before abstaining."""
    flags: "NDArray[np.bool_]"
    """Whether each cell was given each label, shape (cell, class)."""
    probability: "NDArray[np.float64]"
    """Of the label, calibrated."""
    raw_probability: "NDArray[np.float64]"
    """The same without the temperature."""
    novelty: "NDArray[np.float64]"
    novel: "NDArray[np.bool_]"
    """Novelty above its threshold."""
    uncertain: "NDArray[np.bool_]"
    """Probability below its threshold."""

    @property
    def unknown(self) -> "NDArray[np.bool_]":
        """Which cells get no label."""
        return self.novel | self.uncertain

    @property
    def label(self) -> "NDArray[np.str_]":
        """Label, or "unknown"."""
        return np.where(self.unknown, UNKNOWN, self.best)


def decide(
    logits: "NDArray[np.floating]", temperature: float, *, exclusive: bool
) -> "tuple[NDArray[np.bool_], NDArray[np.float64]]":
    """Return which labels are given, shape (cell, class), and the probability that they are right.

    With several labels a cell, those with a probability of at least one half are given, or the likeliest one when there is
    none; the probability is then that of the whole set, the labels being independent given the cell.

    Parameters
    ----------
    logits
        Cell × class.
    temperature
        By which they are divided.
    exclusive
        Whether a cell has one label only.
    """
    n_cells = np.arange(len(logits))
    top = np.asarray(logits).argmax(axis=1)
    if exclusive:
        probability = softmax(logits / temperature)
        flags = np.zeros(probability.shape, bool)
        flags[n_cells, top] = True
        return flags, probability[n_cells, top]
    probability = sigmoid(logits / temperature)
    flags = probability >= 0.5
    flags[n_cells, top] = True
    return flags, np.where(flags, probability, 1 - probability).prod(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """True labels of some cells."""

    flags: "NDArray[np.bool_]"
    """Whether each cell has each label, shape (cell, class)."""
    known: "NDArray[np.bool_]"
    """Cells whose labels the reference has; they are scored."""
    novel: "NDArray[np.bool_]"
    """Cells whose labels the reference lacks."""


def metric_row(calls: Calls, truth: Truth, *, data: str, method: str) -> dict[str, object]:
    """Return one row of a table of metrics; NaN for what cannot be said.

    Parameters
    ----------
    calls, truth
        Given and true labels of the same cells.
    data, method
        What the row is about.
    """
    rows = np.flatnonzero(truth.known)
    right = (calls.flags == truth.flags).all(axis=1)[rows]
    kept = ~calls.unknown[rows]
    nan = float("nan")
    some = len(rows) > 0
    numbers = {
        "n_cells": len(rows),
        "accuracy": float(right.mean()) if some else nan,
        "macro_f1": mean_f1(truth.flags[rows], calls.flags[rows]) if some else nan,
        "ece_before": expected_calibration_error(calls.raw_probability[rows], right)
        if some
        else nan,
        "ece": expected_calibration_error(calls.probability[rows], right) if some else nan,
        "unknown": float(1 - kept.mean()) if some else nan,
        "accuracy_kept": float(right[kept].mean()) if kept.any() else nan,
        "auroc_unknown": auroc(calls.novelty[truth.novel], calls.novelty[truth.known]),
    }
    return {"data": data, "method": method, **numbers}


def mean_f1(truth: "NDArray[np.bool_]", given: "NDArray[np.bool_]") -> float:
    """Return the mean F1 over the labels that occur in the truth, each counting the same.

    Parameters
    ----------
    truth, given
        Cell × class.
    """
    hits = (truth & given).sum(axis=0)
    total = truth.sum(axis=0) + given.sum(axis=0)
    there = truth.any(axis=0)
    return float((2 * hits[there] / total[there]).mean()) if there.any() else float("nan")


def auroc(novel: "NDArray[np.floating]", known: "NDArray[np.floating]") -> float:
    """Return the share of pairs in which the novel cell has the higher score, ties counting half; NaN without pairs.

    Parameters
    ----------
    novel, known
        Scores, higher for stranger cells.
    """
    from scipy.stats import rankdata

    if not len(novel) or not len(known):
        return float("nan")
    rank = rankdata(np.concatenate([novel, known]))[: len(novel)].sum()
    return float((rank - len(novel) * (len(novel) + 1) / 2) / (len(novel) * len(known)))


def confusion_table(
    truth: "NDArray[np.str_]", given: "NDArray[np.str_]", classes: Sequence[str]
) -> "pd.DataFrame":
    """Count cells by true (row) and given label (column); cells without a true label are left out.

    Parameters
    ----------
    truth
        True labels, "" for none.
    given
        Given ones.
    classes
        Labels that can be given; others and "unknown" follow them.
    """
    import pandas as pd

    rows = truth != ""
    seen = set(truth[rows].tolist())
    index = [name for name in classes if name in seen] + sorted(seen - set(classes))
    extra = sorted(set(given[rows].tolist()) - {*classes, UNKNOWN})
    table = pd.crosstab(pd.Series(truth[rows]), pd.Series(given[rows]))
    table = table.reindex(index=index, columns=[*classes, *extra, UNKNOWN], fill_value=0)
    table.index.name, table.columns.name = "truth", "label"
    return table.astype(int)


def abstention_table(calls: Calls) -> "pd.DataFrame":
    """Count the cells without a label by the label they would have got.

    Parameters
    ----------
    calls
        Of the query.
    """
    import pandas as pd

    names = sorted(set(calls.best.tolist()))
    groups = [calls.best == name for name in names]
    table = pd.DataFrame(
        {
            "label": names,
            "n_cells": [int(group.sum()) for group in groups],
            "novel": [int((group & calls.novel).sum()) for group in groups],
            "uncertain": [int((group & calls.uncertain & ~calls.novel).sum()) for group in groups],
            "unknown": [int((group & calls.unknown).sum()) for group in groups],
        }
    )
    return table.assign(share_unknown=table["unknown"] / table["n_cells"])


def calibration_table(calls: Calls, truth: Truth) -> "pd.DataFrame":
    """Return number of cells, mean probability and accuracy of each bin that holds cells.

    Parameters
    ----------
    calls, truth
        Given and true labels of the same cells.
    """
    import pandas as pd

    rows = truth.known
    right = (calls.flags == truth.flags).all(axis=1)[rows]
    counts, mean, accuracy = reliability(calls.probability[rows], right)
    table = pd.DataFrame({"n_cells": counts.astype(int), "probability": mean, "accuracy": accuracy})
    return table[table["n_cells"] > 0].reset_index(drop=True)
