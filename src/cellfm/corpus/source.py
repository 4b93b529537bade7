"""What a sampler draws from, and which of its cells: filters, held-out sets and weights by name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.corpus.cells import lowest_numbers
from cellfm.corpus.mask import check_fraction
from cellfm.corpus.part import LABELS, Labels
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells

_SHOWN = 20  # known values that a message lists


class CellSource(Protocol):
    """Cells with a lasting number each, read in blocks of rows."""

    def __len__(self) -> int:
        """Return the number of cells."""

    @property
    def lengths(self) -> "NDArray[np.integer]":
        """Expressed genes of each cell."""

    @property
    def number(self) -> "NDArray[np.int64]":
        """Lasting number of each cell; masks are a function of it."""

    def read(self, start: int, stop: int) -> "InMemoryCells":
        """Return the rows ``start:stop``; genes and counts in the types they are stored in."""


class LabelledCells(Protocol):
    """Cells with names to choose them by, such as a :class:`~cellfm.corpus.store.Store`."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""

    def column(self, name: str) -> Labels:
        """Return a column of labels of all cells."""

    def numbers(self) -> "NDArray[np.int64]":
        """Return the lasting number of each cell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """Rows to train on and rows to hold out.

    Attributes
    ----------
    train
        Ascending rows that are in no held-out set.
    held_out
        Ascending rows of each held-out set: ``dataset=NAME``, ``donor=NAME``, and ``cells`` for the share drawn by
        hash. A cell may be in two of the named sets.
    """

    train: "NDArray[np.integer]"
    held_out: "Mapping[str, NDArray[np.integer]]"


def select(
    store: LabelledCells,
    *,
    where: Sequence[str] = (),
    held_out_datasets: Sequence[str] = (),
    held_out_donors: Sequence[str] = (),
    held_out_fraction: float = 0.0,
    seed: int = 0,
) -> Selection:
    """Choose the cells of a run.

    Parameters
    ----------
    store
        Cells with labels.
    where
        Conditions that all hold: ``tissue=blood``, ``tissue=blood|lung`` (one of them), ``disease!=normal``. Columns are
        the dataset and the metadata; ``tissue=`` means not known. They apply to the held-out cells too.
    held_out_datasets, held_out_donors
        Names whose cells are never trained on.
    held_out_fraction
        Share of the remaining cells to hold out: those whose numbers hash lowest.
    seed
        Of that share.

    Raises
    ------
    ConfigError
        A name is not in the store, a condition is none, or no cell is left.
    """
    check_fraction("held_out_fraction", held_out_fraction)
    kept = np.ones(store.n_cells, dtype=np.bool_)
    for condition in where:
        kept &= _holds(store, condition)
    _refuse_none(kept, f"where={', '.join(where)}" if where else "the store")
    train = kept.copy()
    held_out: dict[str, NDArray[np.integer]] = {}
    for column, names in (("dataset", held_out_datasets), ("donor", held_out_donors)):
        labels = store.column(column) if names else None
        for name in names:
            assert labels is not None
            of = labels.codes == _code(labels, column, name)
            _refuse_none(of & kept, f"the held-out {column} {name!r} with where={', '.join(where)}")
            held_out[f"{column}={name}"] = _positions(of & kept)
            train &= ~of
    _refuse_none(train, "training, once the held-out datasets and donors are left out")
    rows = _positions(train)
    if held_out_fraction:
        apart = lowest_numbers(
            store.numbers()[rows], round(held_out_fraction * len(rows)), seed=seed
        )
        held_out["cells"] = rows[apart]
        rows = np.delete(rows, apart)
        _refuse_none(rows >= 0, f"training with held_out_fraction={held_out_fraction}")
    return Selection(train=rows, held_out=held_out)


def visit_weights(
    store: LabelledCells, rows: "NDArray[np.integer]", weights: Mapping[str, float]
) -> "NDArray[np.float32] | None":
    """Visits an epoch of each row by the dataset it is from: 1 where none is given; None if all are 1.

    Raises
    ------
    ConfigError
        A dataset is not in the store, or a weight is negative or not finite.
    """
    if not weights:
        return None
    labels = store.column("dataset")
    of = np.ones(len(labels.categories), dtype=np.float32)
    for name, weight in weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            msg = f"The weight of the dataset {name!r} is {weight}; it must be a number of at least 0, 1 for one visit an epoch. Give a number in that range."
            raise ConfigError(msg)
        of[_code(labels, "dataset", name)] = weight
    return of[labels.codes[rows]]


def _holds(store: LabelledCells, condition: str) -> "NDArray[np.bool_]":
    """Where a condition holds."""
    column, equals, values = condition.partition("=")
    column, unequal = column.rstrip("! "), column.rstrip().endswith("!")
    if not equals or not column:
        msg = f"where={condition!r} is no condition; expected COLUMN=VALUE, COLUMN=VALUE|VALUE or COLUMN!=VALUE, such as tissue=blood. Write the condition in one of these forms."
        raise ConfigError(msg)
    _check_known("column", column.strip(), LABELS)
    labels = store.column(column.strip())
    codes = [_code(labels, column.strip(), value.strip()) for value in values.split("|")]
    listed = np.zeros(len(labels.categories) + 1, dtype=np.bool_)
    listed[codes] = True
    return listed[labels.codes] != unequal


def _code(labels: Labels, column: str, name: str) -> int:
    _check_known(column, name, labels.categories)
    return labels.categories.index(name)


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not there, and say which may have been meant."""
    names = sorted(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    some = ", ".join(repr(each) for each in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    msg = f"There is no {what} {name!r} in the corpus.{hint} It has {some or 'none'}{more}; `cellfm corpus describe` lists all."
    raise ConfigError(msg)


def _refuse_none(kept: "NDArray[np.bool_]", what: str) -> None:
    if not kept.any():
        msg = f"There are 0 cells for {what}; at least one is needed. Loosen the conditions; `cellfm corpus describe` shows what the corpus has."
        raise ConfigError(msg)


def _positions(flags: "NDArray[np.bool_]") -> "NDArray[np.integer]":
    """Rows that are flagged, in half the width where it suffices: there may be 10⁸."""
    rows = np.flatnonzero(flags)
    return rows.astype(np.int32) if len(flags) <= np.iinfo(np.int32).max else rows
