"""Known targets at the head of a list of genes, beside chance and controls."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

LENGTHS = (20, 50, 100)
"""Lengths of the lists that are compared with known targets."""
MARKED, UNMARKED, LESS = "marked", "not marked", "marked, less other genes marked"
TWIN, PEARSON, EXPRESSION = "random weights", "|Pearson|", "mean expression"
OTHERS = "other genes marked"
LEVEL = 0.05


def compare_lists(
    scores: "Mapping[str, NDArray[np.floating]]",
    background: "Sequence[NDArray[np.float64]]",
    known: "NDArray[np.bool_]",
) -> "pd.DataFrame":
    """Count known targets at the heads of lists: a row for each way to rank, and one for other genes marked.

    Parameters
    ----------
    scores
        Of the same genes; the first is ours.
    background
        Scores with other genes marked.
    known
        Known targets among these genes.
    """
    import pandas as pd

    lengths = [k for k in LENGTHS if 2 * k <= len(known)] or [max(1, len(known) // 2)]
    rows = {name: overlap_row(overlaps(score, known, lengths), known, lengths) for name, score in scores.items()}  # fmt: skip
    if background:
        found = np.array([overlaps(each, known, lengths) for each in background])
        ours = overlaps(scores[MARKED], known, lengths)
        row = overlap_row(found.mean(axis=0), known, lengths)
        row |= {f"sd_{k}": value for k, value in zip(lengths, found.std(axis=0), strict=True)}
        p = (1 + (found >= ours).sum(axis=0)) / (1 + len(found))
        rows[OTHERS] = row | {f"p_{k}": value for k, value in zip(lengths, p, strict=True)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ranked_by")


def overlaps(
    score: "NDArray[np.floating]", known: "NDArray[np.bool_]", lengths: Sequence[int]
) -> "NDArray[np.int64]":
    """Return how many of the first genes are known targets, for each length; genes without a score come last.

    Parameters
    ----------
    score, known
        Of the same genes.
    lengths
        Of the lists.
    """
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    return np.array([known[order[:k]].sum() for k in lengths])


def overlap_row(
    found: "NDArray[np.number]", known: "NDArray[np.bool_]", lengths: Sequence[int]
) -> dict[str, float]:
    """Return overlaps beside those of as many genes drawn at random without replacement (hypergeometric).

    Parameters
    ----------
    found
        Known targets at the head of each list, or a mean of several.
    known
        Known targets among all genes.
    lengths
        Of the lists.
    """
    from scipy.stats import hypergeom

    n, n_known = len(known), int(known.sum())
    row: dict[str, float] = {}
    for k, overlap in zip(lengths, found.tolist(), strict=True):
        share = n_known / n
        row |= {
            f"overlap_{k}": float(overlap),
            f"expected_{k}": k * share,
            f"sd_{k}": float(np.sqrt(k * share * (1 - share) * (n - k) / max(n - 1, 1))),
            f"p_{k}": float(hypergeom.sf(np.ceil(overlap) - 1, n, n_known, k)),
        }
    return row


def verdict_of(gene: str, comparison: "pd.DataFrame") -> str:
    """Say what the longest list shows and what it does not.

    Parameters
    ----------
    gene
        Symbol of the marked gene.
    comparison
        From `compare_lists`; the first row is ours.
    """
    k = max(int(str(name).rpartition("_")[2]) for name in comparison.columns)
    found, p = (comparison[f"{what}_{k}"].astype(float) for what in ("overlap", "p"))
    mean, spread = (float(comparison[f"{what}_{k}"].iloc[0]) for what in ("expected", "sd"))
    told = (
        f"Of the first {k} genes {found.iloc[0]:.0f} are known targets of {gene}; as many random expressed genes would hold {mean:.1f} ± {spread:.1f} "
        f"(p = {p.iloc[0]:.2g})."
    )
    if p.iloc[0] > LEVEL:
        return f"{told} Verdict: not shown to be above expectation."
    rest = [str(name) for name in comparison.index[1:] if name not in (LESS, UNMARKED)]
    unbeaten = [
        name
        for name in rest
        if found[name] >= found.iloc[0] or (name == OTHERS and p[name] > LEVEL)
    ]
    if unbeaten:
        return (
            f"{told} Verdict: above expectation, but not shown to be above {', '.join(unbeaten)}."
        )
    return f"{told} Verdict: above expectation and above all controls."
