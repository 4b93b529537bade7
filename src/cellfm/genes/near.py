"""Which genes a misspelt name may mean."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile

CUTOFF, N_LOOKED_AT = 0.7, 12
"""Least similarity by difflib, and the names among which those of the same family are preferred."""


def near_symbols(name: str, symbols: Sequence[str], n: int = 3) -> list[str]:
    """Return the symbols most like a name; of those that are near, the ones that begin alike come first.

    Parameters
    ----------
    name
        In any case.
    symbols
        To choose from.
    n
        At most so many.
    """
    asked = name.strip().upper()
    close = get_close_matches(asked, symbols, n=N_LOOKED_AT, cutoff=CUTOFF)
    return sorted(close, key=lambda other: -_n_alike(asked, other))[:n]


def _n_alike(one: str, other: str) -> int:
    """Count the letters with which both begin."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
