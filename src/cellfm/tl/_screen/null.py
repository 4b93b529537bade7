"""What a knock-out of a gene expressed like this one does anyway: the null of a screen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_NULL = 19
"""Genes of a null with which a p-value of 0.05 can be had at all."""
MAD_TO_SD = 1.4826
"""Of a normal distribution."""


def matched_genes(
    screened: "NDArray[np.int64]",
    candidates: "NDArray[np.int64]",
    features: "NDArray[np.float64]",
    n_null: int,
) -> "NDArray[np.int64]":
    """Return for each gene the candidates most like it in expression, shape (gene, n_null); never the gene itself.

    Parameters
    ----------
    screened, candidates
        Tokens; there must be more than `n_null` candidates.
    features
        Of each token, shape (token, feature): such as detection and mean where detected. They are compared by rank among the
        candidates, so that the scale does not matter.
    n_null
        Genes a null.
    """
    from scipy.stats import rankdata

    reference = features[candidates]
    ranked = rankdata(reference, axis=0) / len(candidates)
    nearest = np.empty((len(screened), n_null), np.int64)
    for row, token in enumerate(screened.tolist()):
        own = np.mean(reference <= features[token], axis=0)
        distance = ((ranked - own) ** 2).sum(axis=1)
        distance[candidates == token] = np.inf
        nearest[row] = candidates[np.argsort(distance, kind="stable")[:n_null]]
    return nearest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    r"""Where scores stand among those of their matched genes, all brought to the level of the gene by the line through the latter.

    The line is that of Theil (1950) and Sen (1968, J. Am. Stat. Assoc. 63, 1379): its slope is the median of those between pairs of genes. Without it
    the most expressed genes, whose matched genes are all expressed less, would stand out for their expression alone. Far from the matched genes' levels x
    the line is uncertain, as for a prediction by least squares: the spread is multiplied by :math:`\sqrt{1 + 1/n + (x_g - \bar x)^2 / \sum (x - \bar x)^2}`.

    Attributes
    ----------
    null
        Median of the matched genes' scores, at the level of the gene.
    z
        Distance from it in this spread; the spread itself is :math:`1.4826` times their median absolute deviation, which a few outlying genes do not move.
    p
        (1 + matched genes with at least this score) / (1 + matched genes), one-sided (Phipson & Smyth 2010, Stat. Appl. Genet. Mol.
        Biol. 9, 39).
    q
        p after Benjamini & Hochberg (1995), over the genes screened.
    tail_p, tail_q
        The same of the upper tail of a normal distribution at z: the empirical null of Efron (2004, J. Am. Stat. Assoc. 99, 96), which
        assumes that most genes are alike and go by a bell curve.
    """

    null: "NDArray[np.float64]"
    z: "NDArray[np.float64]"
    p: "NDArray[np.float64]"
    q: "NDArray[np.float64]"
    tail_p: "NDArray[np.float64]"
    tail_q: "NDArray[np.float64]"

    @classmethod
    def of(
        cls,
        score: "NDArray[np.float64]",
        null: "NDArray[np.float64]",
        *,
        level: "NDArray[np.float64]",
        null_level: "NDArray[np.float64]",
        known: "NDArray[np.bool_]",
        log: bool = False,
    ) -> "Standing":
        """Compare.

        Parameters
        ----------
        score
            Of each gene.
        null
            Of its matched genes, shape (gene, matched).
        level, null_level
            Expression that the scores may depend on, of each gene and of its matched genes.
        known
            Genes that can be compared; the others get NaN.
        log
            Compare logarithms, for scores that are positive and skewed.
        """
        from scipy.stats import norm

        tiny = np.finfo(np.float64).tiny
        own, others = (np.log(np.maximum(x, tiny)) if log else x for x in (score, null))
        slope = np.array([_slope(x, y) for x, y in zip(null_level, others, strict=True)])
        others = others + slope[:, None] * (level[:, None] - null_level)
        middle = np.median(others, axis=1)
        spread = MAD_TO_SD * np.median(np.abs(others - middle[:, None]), axis=1)
        spread *= _uncertainty(level, null_level)
        z = np.full(len(score), np.nan)
        np.divide(own - middle, spread, out=z, where=known & (spread > 0))
        at_least = (others >= own[:, None]).sum(axis=1)
        p = np.where(known, (1 + at_least) / (1 + null.shape[1]), np.nan)
        tail = norm.sf(z)
        return cls(
            null=np.exp(middle) if log else middle,
            z=z,
            p=p,
            q=_adjusted(p),
            tail_p=tail,
            tail_q=_adjusted(tail),
        )


def _slope(x: "NDArray[np.float64]", y: "NDArray[np.float64]") -> float:
    """Return the median of the slopes between pairs of points, 0 where all have one place."""
    from scipy.stats import theilslopes

    return float(theilslopes(y, x).slope) if np.ptp(x) > 0 else 0.0


def _uncertainty(
    level: "NDArray[np.float64]", null_level: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Return how many times wider a prediction from the line is than the points around it."""
    from_mean = level - null_level.mean(axis=1)
    total = null_level.var(axis=1) * null_level.shape[1]
    far = np.divide(from_mean**2, total, out=np.zeros_like(total), where=total > 0)
    return np.sqrt(1 + 1 / null_level.shape[1] + far)


def _adjusted(p: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return p after Benjamini & Hochberg over the genes that have one."""
    from scipy.stats import false_discovery_control

    q, there = np.full(len(p), np.nan), np.isfinite(p)
    if there.any():
        q[there] = false_discovery_control(p[there])
    return q
