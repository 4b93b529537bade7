"""Which genes are scored, which are hidden, and how a cell is thinned.

Every draw is a hash of (seed, epoch, cell, token): a cell's mask does not depend on the batch it is in, nor on rank or worker.
"""

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cellfm.corpus.draw import (
    COIN,
    MASK,
    RATE,
    SUBSET,
    THIN,
    child,
    halves,
    key_of,
    scramble,
    uniform,
)
from cellfm.corpus.ragged import boundaries, cut
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DRAWS = 2
"""Version of the draws: another number, other masks and thinned counts from the same seed."""

RATE_BITS = 8
"""Of the number of a cell's rate of thinning."""
PIECES = (15, 127, 1023)
"""Sizes of the binomials that are tabulated; each has as many outcomes as a power of two."""

_PIECE = np.uint32(0x9E3779B1)  # moves the hashes of the pieces of a count apart
CHUNK = 1 << 18
"""Genes whose ranks are drawn at a time: the tables of a call stay small."""
_WEIGHT = 256  # of a cell, in genes: what is tabulated for it
_SPARE = 4.0  # standard deviations between the bound below which ranks are sorted and the rank that is wanted


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
    (Zeng et al. 2025): those whose hashes rank lowest in the cell. A cell with fewer than 5 genes scores nothing at the
    published fraction of 0.2; the original scored all genes of such a cell and hid none, which is no task.

    Parameters
    ----------
    gene, offsets
        Tokens of the cells, ragged; no gene twice in a cell.
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
    """
    check_fraction("scored_fraction", scored_fraction)
    check_fraction("hidden_fraction", hidden_fraction)
    key = child(key_of(seed, epoch, MASK), cell)
    mask = Mask(*(np.zeros(len(gene), dtype=np.bool_) for _ in range(2)))
    for part, lengths, rank in _ranked(gene, offsets, key):
        n_scored = (scored_fraction * lengths).astype(np.int64)
        numbers = n_scored, (hidden_fraction * n_scored).astype(np.int64)
        for flags, number, limit in zip(
            mask, numbers, _limits(rank, lengths, numbers), strict=True
        ):
            here = flags[part]
            np.less_equal(rank, np.repeat(limit, lengths), out=here)
            if not number.all():
                here &= np.repeat(number > 0, lengths)
    return mask


def draw_genes(
    gene: "NDArray[np.integer]",
    offsets: "NDArray[np.int64]",
    cell: "NDArray[np.int64]",
    *,
    n_genes: int,
    seed: int,
    epoch: int,
) -> "NDArray[np.bool_]":
    """Draw `n_genes` genes of every cell that has more; shorter cells keep all.

    Parameters
    ----------
    gene, offsets
        Tokens of the cells, ragged; no gene twice in a cell.
    cell
        Lasting number of each cell.
    n_genes
        Genes to keep.
    seed, epoch
        Another pair draws anew.
    """
    key = child(key_of(seed, epoch, SUBSET), cell)
    kept = np.ones(len(gene), dtype=np.bool_)
    for part, lengths, rank in _ranked(gene, offsets, key):
        number = np.minimum(lengths, n_genes)
        limit, _ = _limits(rank, lengths, (number, number))
        kept[part] = rank <= np.repeat(limit, lengths)
    return kept


def _ranked(
    gene: "NDArray[np.integer]", offsets: "NDArray[np.int64]", key: "NDArray[np.uint64]"
) -> "Iterator[tuple[slice, NDArray[np.int64], NDArray[np.uint32]]]":
    """Yield runs of cells: where their genes are, the lengths of the cells, and a random rank for each gene."""
    for start, stop in pairwise(cut(offsets + _WEIGHT * np.arange(len(offsets)), CHUNK).tolist()):
        ends = offsets[start : stop + 1]
        lengths, part = np.diff(ends), slice(ends[0], ends[-1])
        low, high = (np.repeat(half, lengths) for half in halves(key[start:stop]))
        yield part, lengths, scramble(gene[part], low, high)


def _limits(
    rank: "NDArray[np.uint32]",
    lengths: "NDArray[np.int64]",
    numbers: "tuple[NDArray[np.int64], NDArray[np.int64]]",
) -> "list[NDArray[np.uint32]]":
    """Return, for each of `numbers`, the so many-th lowest rank of each cell; anything where the number is 0.

    Ranks are counted by their upper 8 bits; only those in the bin of the rank that is wanted, about n / 256, are sorted.
    """
    rank, n_ranks = _lowest(rank, lengths, numbers[0])
    row = np.repeat(np.arange(len(lengths), dtype=np.uint32), n_ranks)
    bins = (row << np.uint32(8)) | (rank >> np.uint32(24))
    filled = np.zeros((len(lengths) << 8) + 1, dtype=np.int64)
    np.cumsum(np.bincount(bins, minlength=len(filled) - 1), out=filled[1:])
    limits = []
    for number in numbers:
        wanted = filled[:-1:256] + number
        of = np.maximum(np.searchsorted(filled, wanted) - 1, 0)
        some = np.flatnonzero(bins == np.repeat(of.astype(np.uint32), n_ranks))
        ordered = np.sort((bins[some].astype(np.uint64) << np.uint64(32)) | rank[some])
        first = np.searchsorted(ordered, of.astype(np.uint64) << np.uint64(32))
        place = first + np.maximum(wanted - filled[of], 1) - 1
        ordered = np.append(ordered, np.uint64(0))
        limits.append(ordered[np.minimum(place, len(ordered) - 1)].astype(np.uint32))
    return limits


def _lowest(
    rank: "NDArray[np.uint32]", lengths: "NDArray[np.int64]", number: "NDArray[np.int64]"
) -> "tuple[NDArray[np.uint32], NDArray[np.int64]]":
    """Return at least the `number` lowest ranks of each cell, in their order, and how many these are.

    Ranks are uniform: those below a bound hold as many as are wanted, but for about one cell in 30,000. If they do not,
    all are returned; the outcome is the same.
    """
    n = np.maximum(lengths, 1)
    share = number / n
    bound = share + _SPARE * np.sqrt(share * (1 - share) / n) + _SPARE / n
    edge = np.minimum(bound * 2.0**32, 2.0**32 - 1).astype(np.uint32)
    below = np.flatnonzero(rank <= np.repeat(edge, lengths))
    n_below = np.diff(np.searchsorted(below, boundaries(lengths)))
    return (rank, lengths) if (n_below < number).any() else (rank[below], n_below)


def thin_counts(
    gene: "NDArray[np.integer]",
    count: "NDArray[np.number]",
    offsets: "NDArray[np.int64]",
    cell: "NDArray[np.int64]",
    *,
    seed: int,
    epoch: int,
) -> "NDArray[np.float32]":
    """Thin half of the cells as if they had been sequenced less deeply.

    With probability 1/2 a cell draws ``p ~ Beta(2, 2)``, one of 256 equally likely quantiles of it, and every count becomes
    ``max(1, Binomial(count, p))``: no gene is lost. The other cells are returned as they are. `count` must hold integers.
    """
    lengths = np.diff(offsets)
    thinned = count.astype(np.float32)  # a copy
    chosen = np.flatnonzero(uniform(child(key_of(seed, epoch, COIN), cell)) < 0.5)
    rate = np.full(len(lengths), -1, dtype=np.int32)  # number of each cell's rate; below 0: none
    rate[chosen] = child(key_of(seed, epoch, RATE), cell[chosen]) >> np.uint64(64 - RATE_BITS)
    rate_of = np.repeat(rate, lengths)
    at = np.flatnonzero((rate_of >= 0) & (count > 1))  # a count of 1 stays 1
    low, high = (
        np.repeat(half, lengths)[at] for half in halves(child(key_of(seed, epoch, THIN), cell))
    )
    left = binomial(gene[at], count[at].astype(np.int64), rate_of[at], keys=(low, high))
    thinned[at] = np.maximum(left, 1)
    return thinned


def binomial(
    gene: "NDArray[np.integer]",
    n: "NDArray[np.int64]",
    rate: "NDArray[np.int32]",
    *,
    keys: "tuple[NDArray[np.uint32], NDArray[np.uint32]]",
) -> "NDArray[np.int64]":
    """Draw from Binomial(n, p) with p the rate of a number, by hash of the gene.

    A large n is cut into pieces of 1,023, 127 and 15 and a rest: the sum of their draws is a draw of n, and every piece has
    a table of its distribution function, which a word of 32 bits is looked up in.
    """
    low, high = keys
    left, rest = np.zeros(len(n), dtype=np.int64), n
    for size in PIECES[::-1]:
        large = np.flatnonzero(rest >= (size if size > PIECES[0] else size + 1))
        if len(large):
            number, rest = rest[large] // size, rest.copy()
            rest[large] -= number * size
            of = np.repeat(large, number)
            piece = np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number)
            shift = (piece.astype(np.uint32) + np.uint32(size << 20)) * _PIECE
            word = scramble(gene[of], low[of] + shift, high[of])
            drawn = _look_up(word, _table(size), rate[of].astype(np.int64) * (size + 1), size + 1)
            left += np.bincount(of, weights=drawn, minlength=len(n)).astype(np.int64)
    n_slots = PIECES[0] + 1
    start = (rate.astype(np.int64) * n_slots + rest) * n_slots
    return left + _look_up(scramble(gene, low, high), _small_tables(), start, n_slots)


def _look_up(
    word: "NDArray[np.uint32]",
    table: "NDArray[np.uint32]",
    start: "NDArray[np.int64]",
    n_slots: int,
) -> "NDArray[np.int64]":
    """How many entries of ``table[start : start + n_slots]`` each word is above, by halving."""
    place, step = start, n_slots >> 1
    while step:
        place = place + step * (word > table[place + (step - 1)])
        step >>= 1
    return place - start


@cache
def _table(n: int) -> "NDArray[np.uint32]":
    """At ``[rate, k]``, flat: the last of 2³² words that draws at most k from Binomial(n, rate)."""
    from scipy.special import betainc

    k = np.arange(n)
    below = np.ones((1 << RATE_BITS, n + 1))
    if n:  # P(X ≤ k) is an incomplete beta function
        below[:, :n] = betainc(n - k, k + 1, 1 - rates()[:, None])
    table = (np.rint(below * 2.0**32) - 1).clip(0).astype(np.uint32).ravel()
    table.flags.writeable = False
    return table


@cache
def _small_tables() -> "NDArray[np.uint32]":
    """Tables of n = 0 … 15 at ``[rate, n, k]``, flat."""
    n_slots = PIECES[0] + 1
    blocks = np.full((1 << RATE_BITS, n_slots, n_slots), ~np.uint32(0))
    for n in range(n_slots):
        blocks[:, n, : n + 1] = _table(n).reshape(-1, n + 1)
    blocks.flags.writeable = False
    return blocks.reshape(-1)


def rates() -> "NDArray[np.float64]":
    """Rates of thinning: the middles of equal parts of Beta(2, 2)."""
    return beta_2_2((np.arange(1 << RATE_BITS) + 0.5) / (1 << RATE_BITS))


def beta_2_2(quantile: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Inverse of the distribution function ``3p² - 2p³`` of Beta(2, 2), in closed form."""
    return 0.5 - np.sin(np.arcsin(1 - 2 * quantile) / 3)


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a fraction outside [0, 1].

    Raises
    ------
    ConfigError
        It is outside.
    """
    if not 0.0 <= fraction <= 1.0:
        msg = f"{name} is {fraction}; expected a fraction between 0 and 1, such as 0.2. Give a number in that range."
        raise ConfigError(msg)
