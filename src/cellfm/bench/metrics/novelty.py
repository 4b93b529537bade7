"""How well a score tells cells of unknown types from the others, for several weightings of the cells at once.

All functions take a score, higher for stranger cells, and whether each cell is novel (or labelled wrongly). With `weights` of
shape (weighting, cell) they return one value for each weighting. Cells of equal score are taken together, so that their
order does not matter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TPR = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranked:
    """Weights of the two sorts of cells at each distinct score, ascending; both (weighting, score)."""

    novel: "NDArray[np.float64]"
    known: "NDArray[np.float64]"

    @classmethod
    def of(
        cls,
        score: "NDArray[np.floating]",
        novel: "NDArray[np.bool_]",
        weights: "NDArray[np.floating] | None" = None,
    ) -> "Ranked":
        """Sort and add up.

        Parameters
        ----------
        score
            Of each cell, higher for stranger ones.
        novel
            Which cells are to have high scores.
        weights
            How often each cell counts, weightings × cells; None counts each once.
        """
        weights = np.ones((1, len(score))) if weights is None else weights
        order = np.argsort(score, kind="stable")
        sorted_score = np.asarray(score)[order]
        starts = np.flatnonzero(np.r_[True, sorted_score[1:] > sorted_score[:-1]])
        sorted_weights, is_novel = weights[:, order], novel[order]
        return cls(
            novel=np.add.reduceat(sorted_weights * is_novel, starts, axis=1),
            known=np.add.reduceat(sorted_weights * ~is_novel, starts, axis=1),
        )


def auroc(
    score: "NDArray[np.floating]",
    novel: "NDArray[np.bool_]",
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Return the share of pairs in which the novel cell has the higher score, ties counting half; NaN without pairs.

    Parameters
    ----------
    score, novel, weights
        As in :meth:`Ranked.of`.
    """
    ranked = Ranked.of(score, novel, weights)
    below = np.cumsum(ranked.known, axis=1) - ranked.known / 2
    pairs = ranked.novel.sum(axis=1) * ranked.known.sum(axis=1)
    return _ratio((ranked.novel * below).sum(axis=1), pairs)


def average_precision(
    score: "NDArray[np.floating]",
    novel: "NDArray[np.bool_]",
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Return the area under precision and recall of the novel cells, as a step function; the share of novel cells by chance.

    Parameters
    ----------
    score, novel, weights
        As in :meth:`Ranked.of`.
    """
    ranked = Ranked.of(score, novel, weights)
    hits = np.cumsum(ranked.novel[:, ::-1], axis=1)
    taken = hits + np.cumsum(ranked.known[:, ::-1], axis=1)
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    return _ratio((ranked.novel[:, ::-1] * precision).sum(axis=1), ranked.novel.sum(axis=1))


def false_positive_rate(
    score: "NDArray[np.floating]",
    novel: "NDArray[np.bool_]",
    *,
    weights: "NDArray[np.floating] | None" = None,
    tpr: float = TPR,
) -> "NDArray[np.float64]":
    """Return the share of known cells above the highest threshold that this share of the novel cells reaches; 0.95 by chance.

    Parameters
    ----------
    score, novel, weights
        As in :meth:`Ranked.of`.
    tpr
        Share of the novel cells to be found.
    """
    ranked = Ranked.of(score, novel, weights)
    hits = np.cumsum(ranked.novel[:, ::-1], axis=1)
    false = np.cumsum(ranked.known[:, ::-1], axis=1)
    total = hits[:, -1:]
    enough = hits >= tpr * total - 1e-9 * np.maximum(total, 1)
    first = enough.argmax(axis=1)[:, None]
    rate = _ratio(np.take_along_axis(false, first, axis=1)[:, 0], false[:, -1])
    return np.where(total[:, 0] > 0, rate, np.nan)


def risk_coverage_area(
    score: "NDArray[np.floating]",
    wrong: "NDArray[np.bool_]",
    *,
    weights: "NDArray[np.floating] | None" = None,
) -> "NDArray[np.float64]":
    """Return the share of wrong labels among the cells of lowest scores, averaged over all shares of cells (Geifman et al. 2019).

    Parameters
    ----------
    score
        Of each cell, higher for those whose labels are trusted less.
    wrong
        Whether its label is wrong; that of a novel cell always is.
    weights
        As in :meth:`Ranked.of`.
    """
    ranked = Ranked.of(score, wrong, weights)
    size = ranked.novel + ranked.known
    covered = np.cumsum(size, axis=1)
    risk = np.divide(
        np.cumsum(ranked.novel, axis=1), covered, out=np.zeros_like(covered), where=covered > 0
    )
    return _ratio((size * risk).sum(axis=1), covered[:, -1])


def _ratio(above: "NDArray[np.float64]", below: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
