"""The scale that responses are measured on: log1p of counts per 10⁴."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

CP10K = 1e4


def log_values(counts: "csr_matrix") -> "csr_matrix":
    """Return log1p of counts per 10⁴, shape (cell, gene), double precision.

    Parameters
    ----------
    counts
        Every cell has some.
    """
    from scipy import sparse

    values = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    total = np.asarray(values.sum(axis=1)).ravel()
    values.data = np.log1p(values.data * np.repeat(CP10K / np.maximum(total, 1.0), np.diff(values.indptr)))  # fmt: skip
    return values


def column_means(values: "csr_matrix") -> "NDArray[np.float64]":
    """Return the mean of each column.

    Parameters
    ----------
    values
        At least one row.
    """
    return np.asarray(values.mean(axis=0), np.float64).ravel()
