"""What the values of a matrix are, with the evidence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.corpus.choose import MAX_COUNT
from cellfm.corpus.counts import LOG1P_CEILING, TOTAL_SPREAD
from cellfm.corpus.rows import GuardedRows, RowSource, spread_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

Kind = Literal["counts", "log1p", "logged", "normalised", "scaled", "rounded", "broken", "empty"]

N_BLOCKS, BLOCK_ROWS = 16, 256
"""Rows that are looked at, spread over the matrix: all where there are no more."""

WORDS: dict[Kind, str] = {
    "counts": "raw counts",
    "log1p": "log1p of counts scaled to one total a cell",
    "logged": "logarithms, by their size",
    "normalised": "normalised, not logged",
    "scaled": "scaled or centred",
    "rounded": "float16, which rounds counts",
    "broken": "in part no numbers, or beyond what counts are",
    "empty": "nothing but zeros",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFacts:
    """What was seen in a few thousand rows of a matrix.

    Attributes
    ----------
    name
        ``X``, ``raw/X`` or ``layers/NAME``; ``matrix`` in formats with one only.
    kind
        What the values are.
    n_rows, n_cols
        Its shape.
    n_seen
        Rows that were looked at; 0 where only some columns were, of a matrix stored by columns.
    dtype
        Type of the stored values.
    smallest, largest
        Of all values seen, zeros included.
    integers
        Fraction of the stored values that are whole numbers.
    zeros
        Fraction of all values that are 0.
    n_empty
        Cells among those seen without any value.
    median_total
        Median of the sums of the cells seen.
    scaled_to
        Total of every cell after expm1, where it is one.
    """

    name: str
    kind: Kind
    n_rows: int
    n_cols: int
    n_seen: int
    dtype: str
    smallest: float
    largest: float
    integers: float
    zeros: float
    n_empty: int
    median_total: float
    scaled_to: float | None

    @property
    def evidence(self) -> str:
        """What speaks for the kind."""
        seen = f"{self.n_seen:,} rows" if self.n_seen else "the first columns"
        facts = [
            f"{self.integers:.0%} of values whole" if self.integers in (0.0, 1.0) else f"{self.integers:.1%} of values whole",
            f"{self.smallest:.4g} to {self.largest:.4g}",
            f"{self.zeros:.0%} zeros",
        ]  # fmt: skip
        if self.scaled_to is not None:
            facts.append(f"every cell sums to {self.scaled_to:,.0f} after expm1")
        return f"{', '.join(facts)} in {seen}, {self.dtype}"


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Sums over blocks of rows."""

    n_cells: int = 0
    n_values: int = 0
    n_stored: int = 0
    n_whole: int = 0
    n_not_finite: int = 0
    smallest: float = np.inf
    largest: float = -np.inf
    dtype: str = ""

    def add(self, block: "csr_matrix") -> None:
        """Look at a block."""
        values = block.data
        self.n_values += block.shape[0] * block.shape[1]
        self.n_stored += int(np.count_nonzero(values))
        self.dtype = str(values.dtype)
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        self.n_not_finite += len(values) - len(finite)
        whole = (
            np.rint(finite) == finite if finite.dtype.kind == "f" else np.ones(len(finite), bool)
        )
        self.n_whole += int(np.count_nonzero(whole & (finite != 0)))
        if finite.size:
            self.smallest = min(self.smallest, float(finite.min()))
            self.largest = max(self.largest, float(finite.max()))


def look_at(rows: RowSource, name: str) -> MatrixFacts:
    """Look at rows from all over a matrix; one stored by columns on disk is looked at by its first columns.

    Parameters
    ----------
    rows
        The matrix.
    name
        What it is called in its file.

    Raises
    ------
    DataError
        It cannot be read.
    """
    seen, totals, linear = _Seen(), [], []
    for whole_rows, block in _blocks(rows):
        seen.add(block)
        if whole_rows:
            seen.n_cells += block.shape[0]
            totals.append(_totals(block, logged=False))
            if 0 < seen.largest <= LOG1P_CEILING:
                linear.append(_totals(block, logged=True))
    sums = np.concatenate(totals) if totals else np.zeros(0)
    after = np.concatenate(linear) if linear else np.zeros(0)
    after = after[after > 0]
    one_total = after.size > 1 and after.std() < TOTAL_SPREAD * after.mean()
    smallest = min(seen.smallest, 0.0) if seen.n_stored < seen.n_values else seen.smallest
    kind = _kind(seen, one_total=bool(one_total))
    return MatrixFacts(
        name=name,
        kind=kind,
        n_rows=rows.n_rows,
        n_cols=rows.n_cols,
        n_seen=seen.n_cells,
        dtype=seen.dtype,
        smallest=smallest if np.isfinite(smallest) else 0.0,
        largest=seen.largest if np.isfinite(seen.largest) else 0.0,
        integers=seen.n_whole / seen.n_stored if seen.n_stored else 1.0,
        zeros=1.0 - seen.n_stored / seen.n_values if seen.n_values else 1.0,
        n_empty=int((sums == 0).sum()),
        median_total=float(np.median(sums)) if sums.size else 0.0,
        scaled_to=float(after.mean()) if kind == "log1p" else None,
    )


def _blocks(rows: RowSource) -> "Iterator[tuple[bool, csr_matrix]]":
    """Yield blocks, and whether they are whole rows."""
    if isinstance(rows, GuardedRows):
        for _, block in rows.sample(N_BLOCKS, BLOCK_ROWS):
            # Of a matrix stored by columns all rows come at once, with zeros for the columns further on.
            yield block.shape[1] == rows.n_cols, block
        return
    for start, stop in spread_blocks(rows.n_rows, N_BLOCKS, BLOCK_ROWS):
        yield True, rows.read(start, stop)


def _totals(block: "csr_matrix", *, logged: bool) -> "NDArray[np.float64]":
    values = np.nan_to_num(block.data.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.expm1(np.minimum(values, LOG1P_CEILING)) if logged else values
    row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    return np.bincount(row, weights=values, minlength=block.shape[0]).astype(np.float64)


def _kind(seen: _Seen, *, one_total: bool) -> Kind:  # noqa: PLR0911 - one line a kind
    if seen.dtype == "float16":
        return "rounded"
    if seen.n_not_finite:
        return "broken"
    if not seen.n_stored:
        return "empty"
    if seen.smallest < 0:
        return "scaled"
    if seen.n_whole == seen.n_stored:
        return "counts" if seen.largest <= MAX_COUNT else "broken"
    if seen.largest > LOG1P_CEILING:
        return "normalised"
    return "log1p" if one_total else "logged"
