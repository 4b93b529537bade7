"""Counts of cells on vocabulary genes, ragged: what rows of a matrix become before they are tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    from cellfm.corpus.counts import Scale

TARGET_TOTAL = 1e4
"""Total to which every cell is scaled before the logarithm (Zeng et al. 2025, Methods)."""
_FEW_SEGMENTS = 64  # in a run of `cut`: from here on it pays to look for the runs one by one
_EXACT = 2.0**24  # up to here single precision holds every integer
CHUNK = 1 << 18
"""Stored values sorted at a time: what fits the second-level cache, so that the sort stays there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RaggedCounts:
    """Counts of the expressed vocabulary genes of some cells, genes in ascending token order."""

    gene: "NDArray[np.int32]"
    count: "NDArray[np.float32]"
    offsets: "NDArray[np.int64]"

    @property
    def lengths(self) -> "NDArray[np.int64]":
        """Expressed genes of each cell."""
        return np.diff(self.offsets)

    def keep(self, position: "NDArray[np.intp]") -> "RaggedCounts":
        """Return the entries at ascending positions; no cell goes, some get shorter."""
        return RaggedCounts(
            gene=self.gene.take(position),
            count=self.count.take(position),
            offsets=np.searchsorted(position, self.offsets),
        )


def vocabulary_counts(
    block: "csr_matrix | csr_array", token: "NDArray[np.int32]", *, scale: "Scale" = "counts"
) -> RaggedCounts:
    """Take the counts on vocabulary genes: equal tokens summed, zeros dropped, ascending tokens.

    Raises
    ------
    DataError
        `token` has not one entry per column.
    """
    parts = list(chunks(block, token, scale))
    return RaggedCounts(
        gene=np.concatenate([part.gene for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        offsets=boundaries(np.concatenate([part.lengths for part in parts])),
    )


def cell_totals(
    count: "NDArray[np.number]", offsets: "NDArray[np.int64]", *, whole: bool = False
) -> "NDArray[np.float64]":
    """Sum of the counts of each cell in double precision; 0 for an empty cell.

    Parameters
    ----------
    count, offsets
        Counts of cell *i* are ``offsets[i]:offsets[i + 1]``.
    whole
        The counts are known to be integers: sums in single precision, six times as fast, are exact up to 2²⁴ and are
        kept if none is larger.
    """
    total = np.zeros(len(offsets) - 1)
    filled = offsets[1:] > offsets[:-1]  # reduceat has no empty segments
    if not filled.any():
        return total
    start = offsets[:-1][filled]
    if whole:
        total[filled] = np.add.reduceat(count.astype(np.float32, copy=False), start)
    if not whole or total.max() >= _EXACT:
        total[filled] = np.add.reduceat(count.astype(np.float64), start)
    return total


def log_values(
    count: "NDArray[np.number]", total: "NDArray[np.float64]", lengths: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """``log1p(count / total × 10⁴)`` of every entry."""
    factor = np.divide(TARGET_TOTAL, total, out=np.zeros_like(total), where=total > 0)
    value = np.repeat(factor.astype(np.float32), lengths)
    np.multiply(count, value, out=value, casting="same_kind")
    return np.log1p(value, out=value)


def boundaries(lengths: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Offsets of segments of the given lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def cut(offsets: "NDArray[np.int64]", budget: int) -> "NDArray[np.int64]":
    """Cut segments into runs of at most `budget` entries; a longer segment is a run of its own.

    Returns
    -------
    Run *i* holds the segments ``result[i]:result[i + 1]``; no run is empty.
    """
    edges, last = [0], len(offsets) - 1
    if offsets[-1] - offsets[0] > last * budget // _FEW_SEGMENTS:
        # runs are short: where each would end is found for all beginnings at once
        ends = np.searchsorted(offsets, offsets[:-1] + budget, side="right") - 1
        following = np.maximum(ends, np.arange(1, last + 1)).tolist()
        while edges[-1] < last:
            edges.append(following[edges[-1]])
    while edges[-1] < last:
        edge = int(np.searchsorted(offsets, offsets[edges[-1]] + budget, side="right")) - 1
        edges.append(max(edge, edges[-1] + 1))
    return np.array(edges, dtype=np.int64)


def highest(counts: RaggedCounts, max_genes: int) -> RaggedCounts:
    """Keep the `max_genes` highest counts of each cell; of equal counts the lower token."""
    lengths = counts.lengths
    if not (lengths > max_genes).any():
        return counts
    row = np.repeat(np.arange(len(lengths)), lengths)
    touched = np.flatnonzero((lengths > max_genes)[row])
    # lexsort is stable: equal counts stay in token order
    order = touched[np.lexsort((-counts.count[touched], row[touched]))]
    start = boundaries(np.where(lengths > max_genes, lengths, 0))[:-1]
    rank = np.arange(len(order)) - start[row[order]]
    kept = np.ones(len(row), dtype=np.bool_)
    kept[order[rank >= max_genes]] = False
    return counts.keep(np.flatnonzero(kept))


def chunks(
    block: "csr_matrix | csr_array", token: "NDArray[np.int32]", scale: "Scale"
) -> Iterator[RaggedCounts]:
    """Yield the vocabulary counts of runs of rows; one empty run for an empty block."""
    if len(token) != block.shape[1]:
        msg = f"The token map has {len(token):,} entries but the matrix has {block.shape[1]:,} columns; give one token per column, 0 for none."
        raise DataError(msg)
    token = np.ascontiguousarray(token, dtype=np.int32)
    mapped = token[token > 0]
    # strictly ascending tokens over ascending columns: nothing to sort and nothing to sum
    ascending = bool((mapped[1:] > mapped[:-1]).all())
    offsets = np.asarray(block.indptr, dtype=np.int64)
    edges = cut(offsets, CHUNK) if len(offsets) > 1 else np.array([0, 0])
    for start, stop in pairwise(edges):
        part = slice(offsets[start], offsets[stop])
        counts = RaggedCounts(
            gene=block.indices[part],
            count=_as_counts(block.data[part], scale),
            offsets=offsets[start : stop + 1] - offsets[start],
        )
        if ascending and _is_ascending(counts):
            counts = _renamed(counts, token)
        else:
            counts = _summed(_transposed_twice(counts, token))
        yield counts if counts.count.all() else counts.keep(np.flatnonzero(counts.count != 0))


def _as_counts(values: "NDArray[np.generic]", scale: "Scale") -> "NDArray[np.float32]":
    """Cast stored values to float32 counts."""
    if scale == "log1p":
        values = np.expm1(values)
    return values.astype(np.float32, copy=False)


def _is_ascending(counts: RaggedCounts) -> bool:
    """Whether the genes of every cell ascend strictly."""
    gene = counts.gene
    descent = gene[1:] <= gene[:-1]
    edge = counts.offsets[1:-1]
    descent[edge[(edge > 0) & (edge < len(gene))] - 1] = False  # from one cell to the next it may
    return not descent.any()


def _renamed(counts: RaggedCounts, token: "NDArray[np.int32]") -> RaggedCounts:
    """Put tokens for columns where the order is right already, and drop the unmapped."""
    named = RaggedCounts(gene=token.take(counts.gene), count=counts.count, offsets=counts.offsets)
    return named if named.gene.all() else named.keep(np.flatnonzero(named.gene != 0))


def _transposed_twice(counts: RaggedCounts, token: "NDArray[np.int32]") -> RaggedCounts:
    """Put tokens for columns and sort them within each cell, dropping the unmapped.

    Two sparse transpositions are two counting sorts: linear in the entries, and the column of token 0 is
    dropped between them for nothing.
    """
    from scipy.sparse import csc_matrix, csr_matrix

    n_cells, n_tokens = len(counts.offsets) - 1, int(token.max(initial=0)) + 1
    rows = csr_matrix(
        (counts.count, token.take(counts.gene), counts.offsets.astype(np.int32)),
        shape=(n_cells, n_tokens),
    )
    columns = rows.tocsc()
    dropped = columns.indptr[1]
    columns = csc_matrix(
        (columns.data[dropped:], columns.indices[dropped:], columns.indptr[1:] - dropped),
        shape=(n_cells, n_tokens - 1),
    )
    rows = columns.tocsr()
    return RaggedCounts(
        gene=rows.indices + np.int32(1), count=rows.data, offsets=rows.indptr.astype(np.int64)
    )


def _summed(counts: RaggedCounts) -> RaggedCounts:
    """Sum neighbours with the same token in the same cell."""
    if _is_ascending(counts):
        return counts
    first = np.ones(len(counts.gene), dtype=np.bool_)
    first[1:] = counts.gene[1:] != counts.gene[:-1]
    start = counts.offsets[:-1]
    first[start[start < len(first)]] = True
    position, again = np.flatnonzero(first), np.flatnonzero(~first)
    summed = counts.count[position]
    # few repeat: adding these is faster than reducing runs that are nearly all of length 1
    np.add.at(summed, np.searchsorted(position, again) - 1, counts.count[again])
    return RaggedCounts(
        gene=counts.gene[position],
        count=summed,
        offsets=np.searchsorted(position, counts.offsets),
    )
