"""Means over conditions with their bootstrap draws, and how far up a list a condition is."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.resample import TAILS, resample
from cellfm.bench.task import Score

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Values = NDArray[np.float64]


DIGITS = 9
"""Scores that differ by less are equal: the same prediction for two candidates is, but for rounding errors."""


def condition_scores(table: "pd.DataFrame", *, seed: int) -> dict[str, Score]:
    """Return the mean of each column over conditions; conditions are drawn, with all their rows.

    Parameters
    ----------
    table
        Conditions × metrics; a condition may have several rows. NaN where a metric does not apply; columns of NaN are left out.
    seed
        Of the draws.
    """
    names = table.index.to_numpy(str)
    drawn = resample(np.zeros(len(table), np.int64), names, unit="condition", seed=seed)
    scores = {}
    for column in table.columns:
        value = table[column].to_numpy(np.float64)
        good = np.isfinite(value)
        if not good.any():
            continue
        weight = drawn.weights[:, good]
        total = weight.sum(axis=1)
        x = np.where(total > 0, weight @ value[good] / np.maximum(total, 1.0), np.nan)
        n = len(np.unique(names[good]))
        scores[str(column)] = Score(value=float(x[0]), draws=x[1:], n_units=n, unit="condition")
    return scores


def retrieval_table(
    score: "Values", right: "NDArray[np.bool_]", relevant: "NDArray[np.bool_]"
) -> "dict[str, Values]":
    """Return for each query how far up the right candidate is.

    ``mrr``: 1 / rank; ``mean_rank``: (rank − 1) / (candidates − 1); ``hit_k``: whether rank ≤ k, and ``relevant_hit_k`` whether that
    of the best relevant one is. Ranks begin at 1; equal scores share their mean rank, so that nothing is won by saying nothing.

    Parameters
    ----------
    score
        More is better, shape (query, candidate).
    right
        The right candidate of each query, same shape.
    relevant
        Candidates that share something with it, same shape.
    """
    from scipy.stats import rankdata

    rank = rankdata(-np.round(score, DIGITS), axis=1)
    own = (rank * right).sum(axis=1)
    best = np.where(relevant, rank, np.inf).min(axis=1)
    hits = {f"hit_{k}": (own <= k).astype(np.float64) for k in (1, 5, 10)}
    loose = {f"relevant_hit_{k}": (best <= k).astype(np.float64) for k in (1, 5, 10)}
    normalised = (own - 1.0) / max(score.shape[1] - 1, 1)
    return {"mrr": 1.0 / own, "mean_rank": normalised, **hits, **loose}


def clopper_pearson(n_right: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404).

    Parameters
    ----------
    n_right, n
        Successes and trials.
    """
    from scipy.stats import beta

    tail = TAILS[0] / 100
    low = beta.ppf(tail, n_right, n - n_right + 1) if n_right else 0.0
    high = beta.ppf(1 - tail, n_right + 1, n - n_right) if n_right < n else 1.0
    return float(low), float(high)
