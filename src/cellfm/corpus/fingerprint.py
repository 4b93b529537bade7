"""What a cell is, whatever file, row, format or order of genes it came in."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from cellfm.corpus.draw import child, key_of, mix

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_LANES = 2
"""Words of a fingerprint: the first sorts the corpus, the second is the lasting number of a cell."""

_PURPOSE = 0xCE11
_OTHER_LANE = np.uint64(0x9E3779B97F4A7C15)  # no lane holds the same word twice in the content hash
_LEAST_BITS = 15  # weights are made for 32,768 tokens or more


def fingerprint(
    gene: "NDArray[np.integer]", count: "NDArray[np.integer]", offsets: "NDArray[np.integer]"
) -> "NDArray[np.uint64]":
    """Hash the set of (token, count) pairs of each cell.

    Lane k ∈ {0, 1} is mix(Σⱼ Aₖ[geneⱼ] · countⱼ mod 2⁶⁴), a multilinear universal hash; the weight Aₖ[t] is
    ``child(key_of(0xCE11, k), t) | 1`` of :mod:`cellfm.corpus.draw`. It depends neither on the order of the genes nor on
    zeros, and the counts of one gene may come in parts. Two different cells share a fingerprint with a chance of about
    2⁻¹²⁶: 10⁸ cells have a pair that does with less than 10⁻²¹.

    Parameters
    ----------
    gene, count, offsets
        Genes and counts of cell *i* are ``offsets[i]:offsets[i + 1]``; tokens of at least 0.

    Returns
    -------
    One row per cell, one column per lane. A cell without counts has (0, 0).
    """
    entries = slice(offsets[0], offsets[-1])
    gene, count = gene[entries], count[entries]
    weights = _weights(1 << max(int(gene.max(initial=0)).bit_length(), _LEAST_BITS))
    n_cells, index = len(offsets) - 1, _index_type(len(gene), len(weights))
    # a product of a sparse matrix and two columns is one pass over the entries, and wraps as wanted
    cells = sparse.csr_matrix((n_cells, len(weights)), dtype=np.uint64)
    cells.data = count.astype(np.uint64, copy=False)
    cells.indices = gene.astype(index, copy=False)
    cells.indptr = (offsets - offsets[0]).astype(index, copy=False)
    return mix(np.asarray(cells @ weights))


def content_hash(fingerprints: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Hash a set of cells; the hash of a union of disjoint sets is the (wrapping) sum of theirs.

    Returns
    -------
    Two words: Σ mix(lane 0) and Σ mix(lane 1 ^ constant), mod 2⁶⁴.
    """
    first = mix(fingerprints[:, 0]).sum(dtype=np.uint64)
    second = mix(fingerprints[:, 1] ^ _OTHER_LANE).sum(dtype=np.uint64)
    return np.array([first, second], dtype=np.uint64)


def content_hex(accumulators: "NDArray[np.uint64]") -> str:
    """Write a content hash as 32 hexadecimal digits."""
    return "".join(f"{int(word):016x}" for word in accumulators)


def cell_numbers(words: "NDArray[np.integer]") -> "NDArray[np.int64]":
    """Lasting numbers of cells: lane 1 of their fingerprints, shape (cell,), seen as signed integers."""
    return np.ascontiguousarray(words, dtype=np.uint64).view(np.int64)


@cache
def _weights(n_tokens: int) -> "NDArray[np.uint64]":
    """Odd weights of the tokens in both lanes."""
    token = np.arange(n_tokens)
    lanes = [child(key_of(_PURPOSE, lane), token) | np.uint64(1) for lane in range(N_LANES)]
    weights = np.stack(lanes, axis=1)
    weights.flags.writeable = False
    return weights


def _index_type(n_values: int, n_tokens: int) -> type[np.int32 | np.int64]:
    """Narrowest index that the sparse product can use."""
    return np.int32 if max(n_values, n_tokens) <= np.iinfo(np.int32).max else np.int64
