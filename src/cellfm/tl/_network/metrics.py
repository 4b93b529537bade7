r"""How well scores of pairs find the edges of a known network, with intervals over its sources.

Over all pairs of the universe, n of them, k of them true edges:

.. math:: \mathrm{EPR} = \frac{\text{true edges among the } k \text{ best pairs} / k}{k / n}, \qquad
          \text{AUPRC ratio} = \frac{\text{average precision}}{k / n}

(Pratapa et al. 2020, BEELINE), 1 for random scores; AUROC, 0.5 for random scores; and the odds ratio of being among the k best and being true, with ½ added to
each of the four counts. Pairs without a score come last. Ties at the k-th place count by the share of them that has room, which is
the expectation over random orders of the tied.

Intervals resample sources with replacement: the targets of one source are not independent of one another. A resample weighs every pair by how often its source was
drawn; all metrics are computed of the whole weighted list, from the counts :class:`Standing` keeps of each true edge.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._network.known import KnownNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

METRICS = ("epr", "auprc_ratio", "auroc", "odds_ratio")
CHUNK = 128
"""Resamples weighed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """Where each true edge stands among the pairs of each source.

    Attributes
    ----------
    row
        Source of each true edge, shape (edge,).
    above, level
        Pairs of each source that score higher than the edge, and as high, shape (edge, source).
    true_above, true_level
        True edges among those.
    n_pairs, n_true
        Of each source.
    """

    row: "NDArray[np.int64]"
    above: "Values"
    level: "Values"
    true_above: "Values"
    true_level: "Values"
    n_pairs: "Values"
    n_true: "Values"

    @classmethod
    def of(cls, score: "NDArray[np.floating]", known: KnownNetwork) -> "Standing":
        """Count.

        Parameters
        ----------
        score
            (source, target) of `known`; NaN for none.
        known
            True edges.
        """
        filled = np.where(np.isnan(score), -np.inf, score).astype(np.float64)
        row, column = np.nonzero(known.true)
        edge = filled[row, column]
        shape = (len(edge), len(known.sources))
        counts = np.zeros((4, *shape))
        for source in range(shape[1]):
            own = np.sort(filled[source, known.allowed[source]])
            true = np.sort(filled[source, known.true[source]])
            for place, part in ((0, own), (2, true)):
                high = len(part) - np.searchsorted(part, edge, side="right")
                counts[place, :, source] = high
                counts[place + 1, :, source] = len(part) - np.searchsorted(part, edge) - high
        return cls(
            row=row,
            above=counts[0],
            level=counts[1],
            true_above=counts[2],
            true_level=counts[3],
            n_pairs=known.allowed.sum(axis=1).astype(np.float64),
            n_true=known.true.sum(axis=1).astype(np.float64),
        )

    def scores(self, weights: "Values | None" = None) -> "Values":
        """Return the metrics in the order of :data:`METRICS`, shape (draw, metric).

        Parameters
        ----------
        weights
            How often each source counts, shape (draw, source); None for once each.
        """
        weights = np.ones((1, len(self.n_true))) if weights is None else weights
        parts = [self._scores(weights[at : at + CHUNK]) for at in range(0, len(weights), CHUNK)]
        return np.concatenate(parts)

    def _scores(self, weights: "Values") -> "Values":
        own = weights[:, self.row]
        above, level = weights @ self.above.T, weights @ self.level.T
        true_above, true_level = weights @ self.true_above.T, weights @ self.true_level.T
        n, k = weights @ self.n_pairs, weights @ self.n_true
        # A draw may leave an edge's source out, and a universe may have no false pair.
        with np.errstate(invalid="ignore", divide="ignore"):
            room = np.clip((k[:, None] - above) / level, 0.0, 1.0)
            precision = (true_above + true_level) / (above + level)
            false_below = (n - k)[:, None] - (above - true_above) - (level - true_level) / 2
        there = own > 0
        hits = np.where(there, own * room, 0.0).sum(axis=1)
        average = np.where(there, own * precision, 0.0).sum(axis=1) / k
        false_below = np.where(there, own * false_below, 0.0).sum(axis=1)
        auroc = np.divide(false_below, k * (n - k), out=np.full(len(n), np.nan), where=n > k)
        density = k / n
        odds = (hits + 0.5) * (n - 2 * k + hits + 0.5) / ((k - hits + 0.5) ** 2)
        return np.stack([hits / k / density, average / density, auroc, odds], axis=1)


def best_pairs(score: "NDArray[np.floating]", known: KnownNetwork) -> "Values":
    """Return how much of each pair is among the k best, k the number of true edges, shape (source, target): 1, 0, or a share at ties.

    Parameters
    ----------
    score
        (source, target) of `known`; NaN for none.
    known
        True edges.
    """
    filled = np.where(np.isnan(score), -np.inf, score)
    k = known.n_edges
    last = np.partition(filled[known.allowed], -k)[-k]
    above = known.allowed & (filled > last)
    level = known.allowed & (filled == last)
    return above + level * ((k - above.sum()) / max(int(level.sum()), 1))


def draw_sources(n: int, *, n_draws: int, seed: int) -> "Values":
    """Return how often each source is drawn in each resample, shape (draw, source).

    Parameters
    ----------
    n
        Sources.
    n_draws
        Resamples.
    seed
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float64)
