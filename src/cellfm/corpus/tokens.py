"""Rows of counts → ragged tokens, vectorised over the block."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    from cellfm.corpus.counts import Scale

TARGET_TOTAL = 1e4
"""Total to which every cell is scaled before the logarithm (Zeng et al. 2025, Methods)."""
DEPTH_UNIT = 1e3
"""Unit of the read-depth features."""
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


def tokenize(
    block: "csr_matrix | csr_array",
    token: "NDArray[np.int32]",
    *,
    scale: "Scale" = "counts",
    max_genes: int | None = None,
) -> CellBatch:
    """Turn rows of counts into a ragged batch; nothing is sampled.

    The depth T is the sum over the vocabulary genes of the cell, taken before `max_genes`, and
    ``value = log1p(count / T × 10⁴)``. A cell without any vocabulary gene has an empty segment.

    Parameters
    ----------
    block
        Cells × input genes.
    token
        Vocabulary token of each column; 0 drops it. Columns with the same token are summed.
    scale
        ``"log1p"`` takes ``expm1`` of the values for counts. Ratios between genes survive, the read
        depth does not: T becomes the constant of the normalisation (about 10⁴) for every cell.
    max_genes
        Keep only that many genes of a cell: the highest counts, of equal counts the lower token.

    Raises
    ------
    DataError
        `token` has not one entry per column.
    ConfigError
        `max_genes` is below 1.
    """
    if max_genes is not None and max_genes < 1:
        msg = f"max_genes is {max_genes}; it must be at least 1, or None for all expressed genes."
        raise ConfigError(msg)
    gene, value, lengths, totals = [], [], [], []
    for counts in _chunks(block, token, scale):
        total = cell_totals(counts.count, counts.offsets)
        if max_genes is not None:
            counts = highest(counts, max_genes)  # noqa: PLW2901
        gene.append(counts.gene)
        value.append(log_values(counts.count, total, counts.lengths))
        lengths.append(counts.lengths)
        totals.append(total)
    depth = np.concatenate(totals)
    return CellBatch(
        gene=torch.from_numpy(np.concatenate(gene, dtype=np.int64)),
        value=torch.from_numpy(np.concatenate(value)),
        offsets=torch.from_numpy(boundaries(np.concatenate(lengths))),
        depth=depth_features(depth, depth),
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
    parts = list(_chunks(block, token, scale))
    return RaggedCounts(
        gene=np.concatenate([part.gene for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        offsets=boundaries(np.concatenate([part.lengths for part in parts])),
    )


def cell_totals(
    count: "NDArray[np.float32]", offsets: "NDArray[np.int64]"
) -> "NDArray[np.float64]":
    """Sum of the counts of each cell in double precision; 0 for an empty cell."""
    total = np.zeros(len(offsets) - 1)
    filled = offsets[1:] > offsets[:-1]  # reduceat has no empty segments
    if filled.any():
        total[filled] = np.add.reduceat(count.astype(np.float64), offsets[:-1][filled])
    return total


def log_values(
    count: "NDArray[np.float32]", total: "NDArray[np.float64]", lengths: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """``log1p(count / total × 10⁴)`` of every entry."""
    factor = np.divide(TARGET_TOTAL, total, out=np.zeros_like(total), where=total > 0)
    value = count * np.repeat(factor.astype(np.float32), lengths)
    return np.log1p(value, out=value)


def depth_features(observed: "NDArray[np.float64]", target: "NDArray[np.float64]") -> torch.Tensor:
    """``log1p(S / 1000), log1p(T / 1000)`` of each cell."""
    depth = np.log1p(np.stack([observed, target], axis=1) / DEPTH_UNIT)
    return torch.from_numpy(depth.astype(np.float32))


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


def _chunks(
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
