"""Batches of a data set: what a column of ``obs`` says they are, and how states are centred by them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

LEAST_CELLS = 2
"""Of a batch: the mean of one cell is the cell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batches:
    """Which batch each cell is from."""

    names: tuple[str, ...]
    code: "NDArray[np.int64]"

    @property
    def sizes(self) -> "NDArray[np.int64]":
        """Cells of each batch."""
        return np.bincount(self.code, minlength=len(self.names))


def batches_of(obs: "pd.DataFrame", batch_key: str) -> Batches:
    """Read the batches of the cells.

    Parameters
    ----------
    obs
        Table of cells.
    batch_key
        Column of it.

    Raises
    ------
    DataError
        There is no such column, it has gaps, one batch only, or a batch with fewer than two cells.
    """
    if batch_key not in obs.columns:
        msg = (
            f"There is no column {batch_key!r} in obs; it has {', '.join(map(str, obs.columns)) or 'no columns'}. Name the "
            "column that says which batch a cell is from by batch_key=…."
        )
        raise DataError(msg)
    column = obs[batch_key]
    n_missing = int(column.isna().sum())
    if n_missing:
        msg = (
            f"obs[{batch_key!r}] has no value for {n_missing:,} of {len(column):,} cells; expected a batch for each. Leave these "
            "cells out, or give them a batch of their own."
        )
        raise DataError(msg)
    names, code = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)
    batches = Batches(names=tuple(map(str, names)), code=code.astype(np.int64))
    if len(names) < 2:
        only = f"one batch, {str(names[0])!r}" if len(names) else "no batch"
        msg = (
            f"obs[{batch_key!r}] has {only}; expected two at least, or there is nothing to integrate. Use cellfm embed "
            "for cells of one batch, or name another column."
        )
        raise DataError(msg)
    small = [batches.names[i] for i in np.flatnonzero(batches.sizes < LEAST_CELLS)]
    if small:
        msg = (
            f"{len(small)} of the {len(names):,} batches in obs[{batch_key!r}] have fewer than {LEAST_CELLS} cells: "
            f"{', '.join(small[:5])}{' …' if len(small) > 5 else ''}. Leave them out or join them with others; names of cells make no batches."
        )
        raise DataError(msg)
    return batches


def centred(states: "NDArray[np.float32]", batches: Batches) -> "NDArray[np.float32]":
    r"""Subtract from each state the mean of its batch and add the mean of all cells.

    .. math:: x_i \leftarrow x_i - \bar x_{b(i)} + \bar x

    This moves batches as a whole. Where batches differ in which types they hold, their means differ for that reason too, and
    centring pulls cells of one type apart.

    Parameters
    ----------
    states
        Shape (cell, dim).
    batches
        Batch of each cell.
    """
    values = states.astype(np.float64)
    shift = _means(values, batches.code, len(batches.names))[batches.code] - values.mean(axis=0)
    return (values - shift).astype(np.float32)


def _means(
    values: "NDArray[np.float64]", code: "NDArray[np.int64]", n: int
) -> "NDArray[np.float64]":
    total = np.zeros((n, values.shape[1]))
    np.add.at(total, code, values)
    return total / np.maximum(np.bincount(code, minlength=n), 1)[:, None]
