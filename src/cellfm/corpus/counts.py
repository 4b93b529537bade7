"""The input scale is checked, not guessed."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import CountsError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix

    from cellfm.batch import CellBatch

Scale = Literal["counts", "log1p"]
"""What the values are: raw counts, or log1p of counts scaled to a fixed total per cell."""

LOG1P_CEILING = 15.0
"""Largest value taken for log1p-normalised: log1p(10⁶), counts per million in one gene, is 13.8."""
TOTAL_SPREAD = 0.05
"""Relative spread of the totals of expm1 below which a matrix is called normalised and logged."""

WAY_OUT = (
    "Give the raw counts: layer=NAME if they are in a layer, use_raw=True if they are in .raw; "
    'or say scale="log1p" if only log-normalised values exist (read depth is then lost).'
)


def refuse_float16(dtype: np.dtype[np.generic]) -> None:
    """Refuse half-precision values, whatever they hold.

    Raises
    ------
    CountsError
        The values are float16.
    """
    if dtype == np.float16:
        msg = (
            "The values are stored as float16, which cannot hold the integers above 2,048: counts have been rounded. "
            "Expected integers, float32 or float64; go back to the file from before the conversion."
        )
        raise CountsError(msg)


def check_counts(
    block: "csr_matrix | csr_array",
    *,
    first_row: int = 0,
    scale: Scale = "counts",
    way_out: str = WAY_OUT,
) -> None:
    """Check that the stored values of some rows are what `scale` says.

    Parameters
    ----------
    block
        Rows of the matrix as they are stored.
    first_row
        Row of the whole matrix at which the block begins; used in messages.
    scale
        ``"counts"`` wants integers of at least 0, ``"log1p"`` logarithms of normalised counts.
    way_out
        What a message tells the user to do.

    Raises
    ------
    CountsError
        The values are something else; the message says where, what and what to do.
    """
    values = block.data
    refuse_float16(values.dtype)
    if not values.size or values.dtype.kind in "bu":
        _refuse_integers(block, scale)
        return
    smallest, largest = values.min(), values.max()  # NaN comes through both
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        wrong = ~np.isfinite(values)
        msg = f"{_where(block, wrong, first_row)}, which is not a number. Expected counts; set missing values to 0 or drop these cells."
        raise CountsError(msg)
    if smallest < 0:
        msg = (
            f"{_where(block, values < 0, first_row)}: negative values are no counts. "
            f"The matrix looks scaled or centred (minimum {smallest:.4g}, maximum {largest:.4g}). {way_out}"
        )
        raise CountsError(msg)
    if scale == "log1p":
        _check_log1p(block, first_row)
    else:
        _check_integers(block, first_row, way_out)


def _check_integers(block: "csr_matrix | csr_array", first_row: int, way_out: str) -> None:
    """Refuse values with a fractional part and say what they look like."""
    values = block.data
    if values.dtype.kind != "f":
        return
    wrong = np.rint(values) != values
    if wrong.any():
        msg = f"{_where(block, wrong, first_row)}, which is no integer, but counts were expected. {_looks_like(block)} {way_out}"
        raise CountsError(msg)


def _check_log1p(block: "csr_matrix | csr_array", first_row: int) -> None:
    """Refuse values that no log1p-normalised matrix holds."""
    values = block.data
    if values.max() > LOG1P_CEILING:
        msg = (
            f'{_where(block, values > LOG1P_CEILING, first_row)}, but scale="log1p" was said and logarithms of normalised counts '
            f'stay below {LOG1P_CEILING:g}. If these are raw counts, use scale="counts".'
        )
        raise CountsError(msg)
    _refuse_integers(block, "log1p")


def _refuse_integers(block: "csr_matrix | csr_array", scale: Scale) -> None:
    """Refuse whole numbers where logarithms are expected; nothing stored is fine."""
    values = block.data
    if scale == "log1p" and values.any() and (np.rint(values) == values).all():
        msg = (
            f'All values are integers (maximum {values.max():.6g}), but scale="log1p" was said. '
            'Expected logarithms of normalised counts; these are raw counts: use scale="counts".'
        )
        raise CountsError(msg)


def _looks_like(block: "csr_matrix | csr_array") -> str:
    """Say in a sentence what a non-integer, non-negative block probably is."""
    largest = float(block.data.max())
    if largest > LOG1P_CEILING:
        return f"They look normalised but not logged (maximum {largest:.4g})."
    linear = block.astype(np.float64)
    linear.data = np.expm1(linear.data)
    totals = np.asarray(linear.sum(axis=1)).ravel()
    totals = totals[totals > 0]
    if totals.size > 1 and totals.std() < TOTAL_SPREAD * totals.mean():
        return f"They look log1p-normalised (every cell sums to about {totals.mean():.0f} after expm1)."
    return f"They look log-normalised (maximum {largest:.4g})."


def _where(block: "csr_matrix | csr_array", wrong: "NDArray[np.bool_]", first_row: int) -> str:
    """Name the first offending row and its value."""
    position = int(np.argmax(wrong))
    row = int(np.searchsorted(block.indptr, position, side="right")) - 1
    return (
        f"Row {first_row + row}, column {block.indices[position]} holds {block.data[position]:.6g}"
    )


def empty_rows(batch: "CellBatch") -> "NDArray[np.int64]":
    """Rows of a batch without a single count on a vocabulary gene."""
    return np.flatnonzero(batch.offsets.diff().numpy() == 0)


def refuse_empty_rows(rows: "NDArray[np.int64]", *, n_rows: int) -> None:
    """Refuse cells that have no vocabulary gene and hence no state.

    Parameters
    ----------
    rows
        Empty rows of the whole matrix.
    n_rows
        Rows of the whole matrix.

    Raises
    ------
    CountsError
        There is such a cell.
    """
    if not rows.size:
        return
    first = ", ".join(str(row) for row in rows[:5])
    more = ", …" if rows.size > 5 else ""
    msg = (
        f"{rows.size:,} of {n_rows:,} cells have no count on any gene of the vocabulary (rows {first}{more}). "
        'Every cell needs at least one; filter them out, or say empty="nan" to get NaN for them.'
    )
    raise CountsError(msg)
