"""Rows of counts → ragged batches, vectorised over the block."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.ragged import boundaries, cell_totals, chunks, highest, log_values
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    from cellfm.corpus.counts import Scale

DEPTH_UNIT = 1e3
"""Unit of the read-depth features."""


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
        msg = f"max_genes is {max_genes}; it must be at least 1, or None for all expressed genes. Give a number in that range."
        raise ConfigError(msg)
    gene, value, lengths, totals = [], [], [], []
    for counts in chunks(block, token, scale):
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


def depth_features(observed: "NDArray[np.float64]", target: "NDArray[np.float64]") -> torch.Tensor:
    """``log1p(S / 1000), log1p(T / 1000)`` of each cell."""
    depth = np.log1p(np.stack([observed, target], axis=1) / DEPTH_UNIT)
    return torch.from_numpy(depth.astype(np.float32))
