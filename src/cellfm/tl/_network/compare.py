"""Several methods on the pairs of one known network: metrics, intervals, the null of the same degrees, paired differences."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cellfm.tl._network.known import KnownNetwork
from cellfm.tl._network.metrics import METRICS, Standing, best_pairs, draw_sources
from cellfm.tl._network.rewire import rewired

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Scores: TypeAlias = "Mapping[str, NDArray[np.float32]]"
"""(source, target) by method, the candidate first."""
N_DRAWS = 1000
TAILS = (2.5, 97.5)
COMPARED = METRICS[:2]
"""Metrics whose difference to the candidate is given."""


def compare(
    every: Scores, known: KnownNetwork, universe: str, *, n_permutations: int, seed: int
) -> "pd.DataFrame":
    """Return the metrics of each method for one known network, with intervals, the null of the same degrees, and differences to the first.

    Parameters
    ----------
    every
        Scores of the pairs of `known` by each method, the candidate first.
    known
        True edges.
    universe
        Name of the pairs.
    n_permutations
        Networks with the same degrees.
    seed
        Of resamples and of these networks.
    """
    import pandas as pd

    weights = draw_sources(len(known.sources), n_draws=N_DRAWS, seed=seed)
    found = {}
    for name, score in every.items():
        standing = Standing.of(score, known)
        found[name] = standing.scores()[0], standing.scores(weights)
    null = _null_epr(every, known, n=n_permutations, seed=seed)
    first, first_draws = next(iter(found.values()))
    rows = []
    for name, (value, draws) in found.items():
        own: dict[str, object] = {"universe": universe, "method": name, "n_sources": len(known.sources)}  # fmt: skip
        own |= {"n_pairs": known.n_pairs, "n_edges": known.n_edges}
        own |= dict(_with_tails(METRICS, value, draws))
        own |= {"null_epr": null[name].mean() if n_permutations else np.nan}
        own |= {"p": (1 + (null[name] >= value[0] - 1e-9).sum()) / (1 + n_permutations) if n_permutations else np.nan}  # fmt: skip
        if value is not first:
            names = [f"{metric}_difference" for metric in COMPARED]
            n = len(COMPARED)
            own |= dict(_with_tails(names, (first - value)[:n], (first_draws - draws)[:, :n]))
        rows.append(own)
    return pd.DataFrame(rows).set_index(["universe", "method"])


def _with_tails(
    names: "tuple[str, ...] | list[str]", value: "NDArray[np.float64]", draws: "NDArray[np.float64]"
) -> Iterator[tuple[str, float]]:
    low, high = np.percentile(draws, TAILS, axis=0)
    for place, name in enumerate(names):
        yield name, float(value[place])
        yield f"{name}_low", float(low[place])
        yield f"{name}_high", float(high[place])


def _null_epr(
    every: Scores, known: KnownNetwork, *, n: int, seed: int
) -> "dict[str, NDArray[np.float64]]":
    """EPR of each method for each random network with the same degrees: its best pairs stay, the edges change."""
    best = {name: best_pairs(score, known) for name, score in every.items()}
    null = {name: np.empty(n) for name in every}
    scale = known.n_edges**2 / known.n_pairs
    for number, edges in enumerate(rewired(known, n=n, seed=seed)):
        for name, part in best.items():
            null[name][number] = part[edges].sum() / scale
    return null
