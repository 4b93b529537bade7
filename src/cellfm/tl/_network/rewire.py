"""Random networks in which every source has as many targets, and every target as many sources, as in a known one."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._network.known import KnownNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

N_BURN, N_BETWEEN = 20, 5
"""Rounds of trades before the first network, and between two; in each round every source trades with another."""


def rewired(
    known: KnownNetwork, *, n: int, seed: int
) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
    """Yield the edges, as places of sources and of targets, of random networks with the degrees of a known one.

    By the global Curveball algorithm (Carstens et al. 2018): the sources are paired at random, and two sources deal out anew the targets that only one of them has. A gene never becomes its own target.

    Parameters
    ----------
    known
        The network.
    n
        How many.
    seed
        Of the trades.

    References
    ----------
    Carstens CJ, Berger A, Strona G (2018) A unifying framework for fast randomization of ecological networks with fixed (node) degrees, MethodsX 5:773-780.
    """
    rng = np.random.default_rng(seed)
    targets = [set(np.flatnonzero(row).tolist()) for row in known.true]
    place = {name: number for number, name in enumerate(known.targets.tolist())}
    own = [place.get(name, -1) for name in known.sources.tolist()]
    for number in range(n):
        for _ in range(N_BETWEEN if number else N_BURN):
            order = rng.permutation(len(targets)).tolist()
            for one, other in zip(order[::2], order[1::2], strict=False):
                _trade(targets[one], targets[other], {own[one], own[other]}, rng)
        sizes = [len(part) for part in targets]
        yield (
            np.repeat(np.arange(len(targets)), sizes),
            np.fromiter((t for part in targets for t in part), np.int64, sum(sizes)),
        )


def _trade(one: set[int], other: set[int], barred: set[int], rng: np.random.Generator) -> None:
    """Deal out anew what only one of the two has; `barred` are the two sources themselves, which stay where they are."""
    first, second = one - other - barred, other - one - barred
    if not first or not second:
        return
    pool = sorted(first) + sorted(second)
    chosen = {pool[i] for i in rng.permutation(len(pool))[: len(first)].tolist()}
    one -= first
    one |= chosen
    other -= second
    other |= set(pool) - chosen
