"""Random numbers as a function of what they are for: no state, no order, no worker."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1

MASK, COIN, RATE, THIN, ORDER_LOW, ORDER_HIGH, WINDOW_LOW, WINDOW_HIGH, VISIT = range(9)
ABSENT, SUBSET = 9, 10
"""Streams: what a number is drawn for, so that no two purposes share one."""


def mix(word: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Finaliser of splitmix64 (Steele, Lea & Flood 2014): a bijection whose bits look random."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def key_of(*numbers: int) -> "NDArray[np.uint64]":
    """Hash some integers, in order, into an array of one word."""
    key = np.array([len(numbers)], dtype=np.uint64)
    for number in numbers:
        key = child(key, np.array([number & _WORD], dtype=np.uint64))
    return key


def child(key: "NDArray[np.uint64]", number: "NDArray[np.integer]") -> "NDArray[np.uint64]":
    """Words at the positions `number` of the splitmix64 streams that begin at `key`."""
    return mix(key + (number.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(word: "NDArray[np.uint64]") -> "NDArray[np.float64]":
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def scramble(
    number: "NDArray[np.integer]", low: "NDArray[np.uint32]", high: "NDArray[np.uint32]"
) -> "NDArray[np.uint32]":
    """Hash numbers under a key of two words each, in half the width: four times as fast as :func:`child`.

    It is the finaliser of MurmurHash3 (Appleby 2011) with the second key between its two halves. Under one key it is a
    bijection of the numbers below 2³²: different genes of a cell never tie.
    """
    word = number.astype(np.uint32)
    shifted = np.empty_like(word)
    word += low
    for step, (shift, factor) in enumerate(((16, 0x85EBCA6B), (13, 0xC2B2AE35))):
        np.right_shift(word, np.uint32(shift), out=shifted)
        word ^= shifted
        word *= np.uint32(factor)
        if not step:
            word ^= high
    np.right_shift(word, np.uint32(16), out=shifted)
    word ^= shifted
    return word


def halves(word: "NDArray[np.uint64]") -> tuple["NDArray[np.uint32]", "NDArray[np.uint32]"]:
    """Lower and upper half of each word."""
    return word.astype(np.uint32), (word >> np.uint64(32)).astype(np.uint32)


def generator(*words: "NDArray[np.uint64]") -> np.random.Generator:
    """Return the generator of a stream that is chosen by two words, one in each array."""
    return np.random.Generator(np.random.Philox(key=np.concatenate(words)))
