"""Which genes are scored, which are hidden, and how a cell is thinned.

Every draw is a hash of (seed, epoch, cell, token): a cell's mask does not depend on the batch it is in, nor on rank or worker.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cellfm.corpus.draw import COIN, MASK, RATE, THIN, child, key_of, uniform
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELL_BITS, _HASH_BITS, _TOKEN_BITS = 20, 24, 20
"""Parts of a sort key: cell in the batch, random, token (makes keys distinct)."""

SMALL_COUNT = 16
"""Counts up to this are thinned by summing the probability function; above, by the library's quantile."""


class Mask(NamedTuple):
    """Scored genes, and those of them that are hidden."""

    scored: "NDArray[np.bool_]"
    hidden: "NDArray[np.bool_]"


def mask_cells(
    gene: "NDArray[np.integer]",
    offsets: "NDArray[np.int64]",
    cell: "NDArray[np.int64]",
    *,
    seed: int,
    epoch: int,
    scored_fraction: float = 0.2,
    hidden_fraction: float = 0.8,
) -> Mask:
    """Draw the scored genes of every cell and the hidden ones among them.

    Of n genes, ``int(scored_fraction · n)`` are scored and ``int(hidden_fraction · n_scored)`` of these hidden
    (Zeng et al. 2025). A cell with fewer than 5 genes scores nothing at the published fraction of 0.2;
    the original scored all genes of such a cell and hid none, which is no task.

    Parameters
    ----------
    gene, offsets
        Tokens of the cells, ragged.
    cell
        Lasting number of each cell.
    seed, epoch
        Another pair gives another mask.
    scored_fraction, hidden_fraction
        Share of genes that are scored, and of these that are hidden; both in [0, 1].

    Raises
    ------
    ConfigError
        A fraction is outside [0, 1].
    DataError
        More than 1,048,576 cells, or a token above 1,048,575.
    """
    check_fraction("scored_fraction", scored_fraction)
    check_fraction("hidden_fraction", hidden_fraction)
    lengths = np.diff(offsets)
    if len(lengths) > 1 << _CELL_BITS or gene.max(initial=0) >= 1 << _TOKEN_BITS:
        msg = (
            f"{len(lengths):,} cells with tokens up to {gene.max(initial=0):,} cannot be masked at once; "
            f"expected at most {1 << _CELL_BITS:,} cells and tokens below {1 << _TOKEN_BITS:,}. Cut the batch smaller."
        )
        raise DataError(msg)
    row = np.repeat(np.arange(len(lengths)), lengths)
    keys = _sort_keys(gene, row, child(key_of(seed, epoch, MASK), cell))
    n_scored = (scored_fraction * lengths).astype(np.int64)
    n_hidden = (hidden_fraction * n_scored).astype(np.int64)
    ordered, start = _ordered_lowest(keys, row, lengths, n_scored)
    return Mask(
        scored=keys <= _limits(ordered, start, n_scored)[row],
        hidden=keys <= _limits(ordered, start, n_hidden)[row],
    )


def _sort_keys(
    gene: "NDArray[np.integer]", row: "NDArray[np.int64]", key: "NDArray[np.uint64]"
) -> "NDArray[np.uint64]":
    """Put cell, hash and token into one word each, so that one plain sort ranks all genes of all cells."""
    random = child(key[row], gene) >> np.uint64(64 - _HASH_BITS)
    upper = (row.astype(np.uint64) << np.uint64(_HASH_BITS)) | random
    return (upper << np.uint64(_TOKEN_BITS)) | gene.astype(np.uint64)


def _ordered_lowest(
    keys: "NDArray[np.uint64]",
    row: "NDArray[np.int64]",
    lengths: "NDArray[np.int64]",
    number: "NDArray[np.int64]",
) -> tuple["NDArray[np.uint64]", "NDArray[np.int64]"]:
    """Sort at least the `number` lowest keys of each cell; return them and where each cell begins.

    Only hashes below a bound that nearly always leaves enough are sorted; if it does not, all are. The outcome
    is the same.
    """
    share = number / np.maximum(lengths, 1)
    bound = share + 5 * np.sqrt(share / np.maximum(lengths, 1)) + 5 / np.maximum(lengths, 1)
    edge = np.minimum(bound * 2.0**_HASH_BITS, 2.0**_HASH_BITS).astype(np.uint64)
    first = np.arange(len(lengths), dtype=np.uint64) << np.uint64(_HASH_BITS)
    chosen = keys < ((first + edge) << np.uint64(_TOKEN_BITS))[row]
    n_chosen = np.bincount(row[chosen], minlength=len(lengths))
    if (n_chosen < number).any():
        chosen, n_chosen = np.ones_like(chosen), lengths
    return np.sort(keys[chosen]), np.cumsum(n_chosen) - n_chosen


def _limits(
    ordered: "NDArray[np.uint64]", start: "NDArray[np.int64]", number: "NDArray[np.int64]"
) -> "NDArray[np.uint64]":
    """Return the `number`-th lowest key of each cell; 0, below every key, where the number is 0."""
    limit = np.zeros(len(number), dtype=np.uint64)
    some = number > 0
    limit[some] = ordered[start[some] + number[some] - 1]
    return limit


def thin_counts(
    gene: "NDArray[np.integer]",
    count: "NDArray[np.float32]",
    offsets: "NDArray[np.int64]",
    cell: "NDArray[np.int64]",
    *,
    seed: int,
    epoch: int,
) -> "NDArray[np.float32]":
    """Thin half of the cells as if they had been sequenced less deeply.

    With probability 1/2 a cell draws ``p ~ Beta(2, 2)`` and every count becomes ``max(1, Binomial(count, p))``: no
    gene is lost. The other cells are returned as they are. `count` must hold integers.
    """
    lengths = np.diff(offsets)
    coin = uniform(child(key_of(seed, epoch, COIN), cell))
    rate = beta_2_2(uniform(child(key_of(seed, epoch, RATE), cell)))
    row = np.repeat(np.arange(len(lengths)), lengths)
    touched = np.flatnonzero((coin < 0.5)[row] & (count > 1))  # a count of 1 stays 1
    word = child(child(key_of(seed, epoch, THIN), cell)[row[touched]], gene[touched])
    thinned = count.copy()
    thinned[touched] = np.maximum(
        1, binomial(uniform(word), count[touched].astype(np.int64), rate[row[touched]])
    )
    return thinned


def beta_2_2(quantile: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Inverse of the distribution function ``3p² - 2p³`` of Beta(2, 2), in closed form."""
    return 0.5 - np.sin(np.arcsin(1 - 2 * quantile) / 3)


def binomial(
    quantile: "NDArray[np.float64]", n: "NDArray[np.int64]", p: "NDArray[np.float64]"
) -> "NDArray[np.int64]":
    """Inverse of the distribution function of Binomial(n, p)."""
    result = np.empty(len(n), dtype=np.int64)
    small = n <= SMALL_COUNT
    result[small] = _small_binomial(quantile[small], n[small], p[small])
    if not small.all():
        from scipy.stats import binom

        result[~small] = binom.ppf(quantile[~small], n[~small], p[~small])
    return result.clip(0, n)  # the library puts the quantile of 0 at -1


def _small_binomial(
    quantile: "NDArray[np.float64]", n: "NDArray[np.int64]", p: "NDArray[np.float64]"
) -> "NDArray[np.int64]":
    """Walk up the distribution function; those that have arrived drop out."""
    result = np.zeros(len(n), dtype=np.int64)
    odds = p / np.maximum(1 - p, np.finfo(np.float64).eps)
    mass = (1 - p) ** n
    below = mass.copy()
    active = np.flatnonzero((quantile > below) & (n > 0))
    for step in range(1, SMALL_COUNT + 1):
        if not active.size:
            break
        result[active] = step
        mass[active] *= odds[active] * (n[active] - step + 1) / step
        below[active] += mass[active]
        active = active[(quantile[active] > below[active]) & (n[active] > step)]
    return result


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a fraction outside [0, 1].

    Raises
    ------
    ConfigError
        It is outside.
    """
    if not 0.0 <= fraction <= 1.0:
        msg = f"{name} is {fraction}; expected a fraction between 0 and 1, such as 0.2."
        raise ConfigError(msg)
