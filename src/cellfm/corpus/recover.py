"""Counts from log1p-normalised values, where they can be proved to be exact."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from cellfm.corpus.counts import check_counts
from cellfm.errors import CountsError, SourceError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

TOTAL_COLUMNS = ("n_counts", "total_counts", "nCount_RNA", "n_umi", "nUMI", "n_UMIs")
"""Columns of `obs` that hold the sum of the counts of each cell in common pipelines."""

ROUNDING = 2.0**-21
"""Largest relative error of a stored logarithm. Float32 rounds to 2⁻²⁴ for each of three steps (product, logarithm, storage), and its
logarithm may be off by a little more; 3.5 · 2⁻²⁴ is the worst that scanpy's values showed among ten million."""
LARGEST_SURE = 0.5
"""A count is sure if the error that its logarithm may have moves it by less than this."""

_SAFE_COUNT = (
    4096  # counts that the first estimate of the factor, from one value, cannot round wrongly
)


def recover_counts(block: "sparse.csr_matrix", *, first_row: int = 0) -> "sparse.csr_matrix":
    r"""Undo ``log1p(count · k)`` with an unknown factor *k* for each cell.

    The smallest value of a cell is taken for one count: ``k = expm1(min)``, refined by the weighted mean of ``expm1(value) / count``. The counts
    are accepted if all of a cell's values, ``expm1(value) / k``, are integers as far as float32 can tell, and ``log1p(count · k)``
    gives back every stored value within its rounding. A factor that all counts of a cell share cannot be seen in the values: a
    cell whose counts are all even comes out halved, and one with a single distinct value comes out as ones; `check_totals`
    catches both where a column of totals is there.

    Parameters
    ----------
    block
        Rows of log1p-normalised values.
    first_row
        Row of the whole matrix at which the block begins; used in messages.

    Returns
    -------
    Counts in double precision, without zeros.

    Raises
    ------
    SourceError
        They are no logarithms of normalised counts, or not exactly.
    """
    try:
        if block.data.any():  # zeros alone are integers, which logarithms must not be
            check_counts(block, first_row=first_row, scale="log1p")
    except CountsError as error:
        msg = f"Counts cannot be recovered: {error}"
        raise SourceError(msg) from error
    values = sparse.csr_matrix(block, dtype=np.float64, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    if not values.nnz:
        return values
    lengths = np.diff(values.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    linear = np.expm1(values.data)
    factor = _factors(linear, row, values.indptr)
    count = np.rint(linear / factor[row])
    _check_exact(values, linear, count, factor[row], row=row + first_row)
    values.data = count
    return values


def total_columns(obs: "pd.DataFrame") -> tuple[str, ...]:
    """Columns of totals that are there and hold numbers."""
    return tuple(
        name for name in TOTAL_COLUMNS if name in obs.columns and obs[name].dtype.kind in "uif"
    )


def check_totals(counts: "sparse.csr_matrix", obs: "pd.DataFrame", *, first_row: int = 0) -> None:
    """Refuse recovered counts whose sums are not what `obs` says.

    Raises
    ------
    SourceError
        A sum differs from a column of totals.
    """
    totals = np.asarray(counts.sum(axis=1)).ravel()
    for name in total_columns(obs):
        said = obs[name].to_numpy()[first_row : first_row + len(totals)].astype(np.float64)
        wrong = np.flatnonzero(~(said == totals))
        if len(wrong):
            i = wrong[0]
            msg = (
                f"Counts cannot be recovered: those of row {first_row + i} add up to {totals[i]:.0f}, but obs column {name!r} says "
                f"{said[i]:.6g}; expected the same. Genes were taken out after normalising, or all counts share a factor. Find the raw counts."
            )
            raise SourceError(msg)


def _factors(
    linear: "NDArray[np.float64]", row: "NDArray[np.int64]", indptr: "NDArray[np.integer]"
) -> "NDArray[np.float64]":
    """Factor of each row: from its smallest value, then as a mean, first over small counts and then over all."""
    filled = np.diff(indptr) > 0
    factor = np.ones(len(filled))
    factor[filled] = np.minimum.reduceat(linear, indptr[:-1][filled])
    # float32 rounds a logarithm y = log1p(v) relatively, which moves v by y (1 + v) / v times that
    certainty = np.square(linear / (np.log1p(linear) * (1.0 + linear)))
    for largest in (_SAFE_COUNT, np.inf):
        count = np.rint(linear / factor[row])
        weight = np.where((count >= 1) & (count <= largest), certainty, 0.0)
        estimate = linear / np.maximum(count, 1.0)
        total = np.bincount(row, weights=weight * estimate, minlength=len(filled))
        weights = np.bincount(row, weights=weight, minlength=len(filled))
        factor = np.divide(total, weights, out=factor, where=weights > 0)
    return factor


def _check_exact(
    values: "sparse.csr_matrix",
    linear: "NDArray[np.float64]",
    count: "NDArray[np.float64]",
    factor: "NDArray[np.float64]",
    *,
    row: "NDArray[np.int64]",
) -> None:
    """Refuse values that no integer reproduces, or that more than one does."""
    stored = values.data
    error = ROUNDING * np.abs(stored)
    spread = (
        error * (1.0 + linear) / factor
    )  # of expm1(stored) / factor, if stored is off by that error
    checks = (
        (count < 1, "is no multiple of the smallest value of its cell"),
        (
            np.abs(np.log1p(count * factor) - stored) > error,
            "is no multiple of the smallest value of its cell",
        ),
        (spread >= LARGEST_SURE, "is too large for float32 to tell its count"),
    )
    for wrong, why in checks:
        if wrong.any():
            i = int(np.argmax(wrong))
            msg = (
                f"Counts cannot be recovered: the value {stored[i]:.6g} in row {row[i]}, column {values.indices[i]} {why} "
                f"({linear[i] / factor[i]:.5g} times). Expected log1p of counts times one factor for each cell. Find the raw counts."
            )
            raise SourceError(msg)
