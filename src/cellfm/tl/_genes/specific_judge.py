"""How far lists of genes of types agree with differential expression, beside controls and shuffled labels."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

LEAST = 1e-9
"""Added to means before their ratio is taken."""
Q_VALUE, LOG2_FOLD_CHANGE = 0.05, 1.0
"""A gene is differentially expressed in a type with at most this q and at least this fold change against the other cells."""
N_DRAWS = 2000
"""Bootstrap draws over types."""
LEVEL = 0.05
BLOCK = 512
"""Genes that are dense at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expression:
    """Expression of every gene in each type and in all other cells, shape (type, token).

    Attributes
    ----------
    mean_in, mean_out
        Of log1p of counts per 10⁴.
    log2_fold_change
        Of the mean counts per 10⁴.
    detected_in, detected_out
        Share of cells.
    auroc
        Chance that a cell of the type has more of the gene than another; ties count half.
    p, q
        Of the Wilcoxon rank-sum test, two-sided, of the type against all other cells; q by Benjamini & Hochberg over the genes of a type. NaN for genes
        that no cell expresses.
    """

    mean_in: "NDArray[np.float64]"
    mean_out: "NDArray[np.float64]"
    log2_fold_change: "NDArray[np.float64]"
    detected_in: "NDArray[np.float64]"
    detected_out: "NDArray[np.float64]"
    auroc: "NDArray[np.float64]"
    p: "NDArray[np.float64]"
    q: "NDArray[np.float64]"

    @property
    def raised(self) -> "NDArray[np.bool_]":
        """Which genes are differentially expressed, higher in the type."""
        return (self.q <= Q_VALUE) & (self.log2_fold_change >= LOG2_FOLD_CHANGE)


def expression_of_types(
    value: "csr_matrix", kind: "NDArray[np.int64]", *, n_types: int
) -> Expression:
    """Compare the cells of each type with all others, gene by gene.

    Parameters
    ----------
    value
        Cell × token, log1p of counts per 10⁴.
    kind
        Type of each cell; every type has two cells, and so has the rest.
    n_types
        Number of types.
    """
    inside, all_cells = np.eye(n_types)[kind].T, np.ones(len(kind))
    n_in = inside.sum(axis=1)[:, None]
    n_out = len(kind) - n_in

    def means(table: "csr_matrix") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        within, total = inside @ table, all_cells @ table
        return np.asarray(within) / n_in, (np.asarray(total) - np.asarray(within)) / n_out

    mean_in, mean_out = means(value)
    counts_in, counts_out = means(value.expm1())
    detected_in, detected_out = means((value > 0).astype(np.float64))
    auroc, p, q = _rank_sum(value, kind, n_types)
    return Expression(
        mean_in=mean_in,
        mean_out=mean_out,
        # Differences of sums may come out a hair below 0.
        log2_fold_change=np.log2((counts_in + LEAST) / (counts_out.clip(min=0) + LEAST)),
        detected_in=detected_in,
        detected_out=detected_out,
        auroc=auroc,
        p=p,
        q=q,
    )


def _rank_sum(
    value: "csr_matrix", kind: "NDArray[np.int64]", n_types: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]":
    r"""Return AUROC, p and q of each type against all other cells, shape (type, token).

    :math:`U = R - n_1 (n_1 + 1) / 2` with R the sum of the ranks in the type, ties sharing their mean; AUROC is :math:`U / n_1 n_2`, p that of the normal
    approximation with the variance corrected for ties (Mann & Whitney 1947), as scanpy and scipy have it. All types of a gene are served by one sort.
    """
    from scipy.stats import false_discovery_control, norm, rankdata

    inside, n = np.eye(n_types)[kind].T, len(kind)
    n_in = inside.sum(axis=1)[:, None]
    pairs = n_in * (n - n_in)
    there = np.flatnonzero(value.getnnz(axis=0))
    auroc, p, q = (np.full((n_types, value.shape[1]), np.nan) for _ in range(3))
    columns = value.tocsc()
    for start in range(0, len(there), BLOCK):
        tokens = there[start : start + BLOCK]
        dense = columns[:, tokens].toarray()
        rank = rankdata(dense, axis=0).astype(np.float64)
        u = inside @ rank - n_in * (n_in + 1) / 2
        # The variance of ranks falls short of (n² − 1) / 12 by what ties take.
        variance = pairs * rank.var(axis=0, ddof=1) / n
        z = np.abs(u - pairs / 2) / np.sqrt(np.where(variance > 0, variance, np.inf))
        auroc[:, tokens], p[:, tokens] = u / pairs, 2 * norm.sf(z)
    q[:, there] = false_discovery_control(p[:, there], axis=1)
    return auroc, p, q


def tau(values: "NDArray[np.floating]") -> "NDArray[np.float64]":
    r"""Return how specific each gene is, :math:`\tau = \frac{1}{T-1}\sum_t (1 - x_t / \max_u x_u)` (Yanai et al. 2005, Bioinformatics 21, 650).

    0: the same in all types; 1: in one type alone. NaN where all are 0.

    Parameters
    ----------
    values
        (type, gene), at least 0, of two types or more.
    """
    highest = values.max(axis=0).astype(np.float64)
    share = values / np.where(highest > 0, highest, np.nan)
    return (1.0 - share).sum(axis=0) / (len(values) - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lists:
    """Genes that may be listed for each type, those that are right, and how long a list is.

    Attributes
    ----------
    candidate
        (type, token); genes that the type expresses, of the kind that is looked at.
    right
        (type, token); differentially expressed ones.
    n
        Genes of a list at most.
    """

    candidate: "NDArray[np.bool_]"
    right: "NDArray[np.bool_]"
    n: int

    def top(self, score: "NDArray[np.floating]", one: int) -> "NDArray[np.int64]":
        """Return the candidates of a type with the highest scores, best first.

        Parameters
        ----------
        score
            (type, token).
        one
            The type.
        """
        tokens = np.flatnonzero(self.candidate[one])
        return tokens[np.argsort(-score[one, tokens], kind="stable")][: self.n]

    def hits(self, score: "NDArray[np.floating]") -> "NDArray[np.int64]":
        """Return how many genes of the list of each type are right, shape (type,).

        Parameters
        ----------
        score
            (type, token).
        """
        each = range(len(self.candidate))
        return np.array([self.right[one, self.top(score, one)].sum() for one in each])

    def shares(self, scores: "Sequence[NDArray[np.floating]]") -> "NDArray[np.float64]":
        """Return the share of right genes in the list of each type, (score, type); 0 for an empty list.

        Parameters
        ----------
        scores
            Each (type, token).
        """
        return np.stack([self.hits(score) for score in scores]) / np.maximum(self.lengths, 1)

    def n_of(self, score: "NDArray[np.floating]", counted: "NDArray[np.bool_]") -> float:
        """Return how many genes of a kind are in a list, mean over types.

        Parameters
        ----------
        score
            (type, token).
        counted
            (token,); genes of that kind.
        """
        each = range(len(self.candidate))
        return float(np.mean([counted[self.top(score, one)].sum() for one in each]))

    @property
    def lengths(self) -> "NDArray[np.int64]":
        """Genes of each list."""
        return np.minimum(self.candidate.sum(axis=1), self.n)

    def by_chance(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return mean and standard deviation of the hits of as many candidates drawn at random (hypergeometric), shape (type,)."""
        n_all = np.maximum(self.candidate.sum(axis=1), 1)
        share = (self.candidate & self.right).sum(axis=1) / n_all
        mean = self.lengths * share
        left = (n_all - self.lengths) / np.maximum(n_all - 1, 1)
        return mean, np.sqrt(mean * (1.0 - share) * left)

    @property
    def telling(self) -> "NDArray[np.bool_]":
        """Types whose list says something: at least half of the candidates are left out, and some are right."""
        enough = self.candidate.sum(axis=1) >= 2 * self.n
        return enough & (self.candidate & self.right).any(axis=1)

    def jaccard(self, score: "NDArray[np.floating]") -> float:
        """Return the mean over pairs of types of shared genes of their lists over genes of either; NaN with fewer than two lists.

        Parameters
        ----------
        score
            (type, token).
        """
        lists = [set(self.top(score, one).tolist()) for one in range(len(self.candidate))]
        shares = [len(a & b) / len(a | b) for a, b in combinations(lists, 2) if a or b]
        return float(np.mean(shares)) if shares else float("nan")


def enrichment_table(
    lists: Lists,
    score: "NDArray[np.floating]",
    shuffled: "NDArray[np.integer]",
    names: "NDArray[np.object_]",
) -> "pd.DataFrame":
    """Return for each type the hits of its list, those by chance and those under shuffled labels.

    Parameters
    ----------
    lists
        What is listed.
    score
        (type, token).
    shuffled
        Hits under shuffled labels, (labelling, type).
    names
        Of the types.

    Returns
    -------
    ``p`` is the share of shuffled labellings, and one, with as many hits; ``q`` by Benjamini & Hochberg over types; NaN where the list holds more than half of
    the candidates, or none is differentially expressed.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control

    found, (mean, spread) = lists.hits(score), lists.by_chance()
    p = np.where(lists.telling, (1 + (shuffled >= found).sum(axis=0)) / (1 + len(shuffled)), np.nan)
    q = p.copy()
    q[lists.telling] = false_discovery_control(p[lists.telling]) if lists.telling.any() else np.nan
    return pd.DataFrame(
        {
            "candidates": lists.candidate.sum(axis=1),
            "differential": (lists.candidate & lists.right).sum(axis=1),
            "listed": lists.lengths,
            "hits": found,
            "random_mean": mean,
            "random_sd": spread,
            "shuffled_mean": shuffled.mean(axis=0),
            "shuffled_sd": shuffled.std(axis=0),
            "p": p,
            "q": q,
        },
        index=pd.Index(names, name="type"),
    )


def compare(
    lists: Lists,
    scores: "Mapping[str, NDArray[np.floating]]",
    counted: "NDArray[np.bool_]",
    *,
    repeated: "Mapping[str, Sequence[NDArray[np.floating]]]",
    seed: int,
) -> "pd.DataFrame":
    """Return a row for each way to rank genes: the first is what is compared with the others.

    Parameters
    ----------
    lists
        What is listed.
    scores
        (type, token) of each way.
    counted
        Tokens whose number in the lists is told, such as lncRNAs.
    repeated
        Ways of which there are several drawings, each (type, token): the mean over them is told.
    seed
        Of the bootstrap over types.

    Returns
    -------
    ``precision`` (share of differentially expressed genes among those listed, mean over types), ``first_minus`` with ``low`` and ``high`` (by how much the
    first way's is higher; 95 % percentile interval of a bootstrap over types), ``jaccard`` and ``n_counted`` (a type).
    """
    import pandas as pd

    used = lists.telling
    rng = np.random.default_rng(seed)
    draw = rng.integers(max(used.sum(), 1), size=(N_DRAWS, int(used.sum())))
    rows: dict[str, dict[str, float]] = {}
    first = None
    for name, drawings in {**{name: [one] for name, one in scores.items()}, **repeated}.items():
        share = lists.shares(drawings).mean(axis=0)[used]
        first = share if first is None else first
        difference = first - share
        low, high = (
            np.percentile(difference[draw].mean(axis=1), [2.5, 97.5])
            if used.any()
            else (np.nan, np.nan)
        )
        rows[name] = {
            "precision": share.mean() if used.any() else np.nan,
            "first_minus": difference.mean() if used.any() else np.nan,
            "low": low,
            "high": high,
            "jaccard": float(np.mean([lists.jaccard(score) for score in drawings])),
            "n_counted": float(np.mean([lists.n_of(score, counted) for score in drawings])),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ranked_by")
