"""Which cells are fitted on, chosen on and judged: by whole donors where there are enough of them."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.mask import check_fraction
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
LEAST_GROUPS = 3
"""Fewer donors than these cannot give one to each part."""
N_TRIES = 16
"""Orders of the groups that are tried; the one whose parts come nearest to the sizes asked for is taken."""


def split_cells(
    label: "NDArray[np.str_] | None",
    group: "NDArray[np.str_] | None",
    *,
    validation: float,
    test: float,
    seed: int,
) -> "NDArray[np.int8]":
    """Deal cells to training, validation and test.

    Whole groups (donors) are dealt where there are at least three of them and each part can have one while every label
    keeps a training cell; otherwise cells are dealt within each label.

    Parameters
    ----------
    label
        Class of each cell; None for none.
    group
        Donor or batch of each cell; None for none.
    validation, test
        Share of the cells wanted in these parts.
    seed
        Of the choice.

    Returns
    -------
    0 for training, 1 for validation, 2 for test. Every label has at least one training cell.

    Raises
    ------
    ConfigError
        The shares are no fractions or leave nothing to train on.
    DataError
        There is no column at all, or the two differ in length.
    """
    for name, share in (("validation", validation), ("test", test)):
        check_fraction(name, share)
    if validation + test >= 1:
        msg = f"validation={validation} and test={test} leave no cell to train on; their sum must be below 1. Lower one of them."
        raise ConfigError(msg)
    n_cells = _n_cells(label, group)
    of_label = np.zeros(n_cells, np.intp) if label is None else np.unique(label, return_inverse=True)[1]  # fmt: skip
    rng = np.random.default_rng(seed)
    if group is not None:
        part = _by_group(
            of_label, np.unique(group, return_inverse=True)[1], (test, validation), rng
        )
        if part is not None:
            return part
    return _within_labels(of_label, (test, validation), rng)


def whole_groups(part: "NDArray[np.int8]", group: "NDArray[np.str_]") -> bool:
    """Whether no group has cells in two parts.

    Parameters
    ----------
    part
        Part of each cell.
    group
        Donor or batch of each cell.
    """
    return all(len(np.unique(part[group == name])) == 1 for name in np.unique(group))


def split_hash(names: Sequence[str], part: "NDArray[np.int8]") -> str:
    """SHA-256 of the cells' names, each with its part; the order of the cells does not matter.

    Parameters
    ----------
    names
        Name of each cell.
    part
        Its part.
    """
    lines = sorted(f"{name}\t{int(of)}\n" for name, of in zip(names, part, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _n_cells(label: "NDArray[np.str_] | None", group: "NDArray[np.str_] | None") -> int:
    sizes = {len(column) for column in (label, group) if column is not None}
    if len(sizes) != 1:
        msg = f"A split needs labels or groups, one for each cell; found columns of {sorted(sizes) or 'no'} cells. Give them for all cells."
        raise DataError(msg)
    return sizes.pop()


def _by_group(
    label: "NDArray[np.intp]",
    group: "NDArray[np.intp]",
    shares: tuple[float, float],
    rng: np.random.Generator,
) -> "NDArray[np.int8] | None":
    """Deal whole groups; None where that is not possible."""
    table = np.zeros((group.max() + 1, label.max() + 1), np.int64)
    np.add.at(table, (group, label), 1)
    if len(table) < LEAST_GROUPS:
        return None
    best: NDArray[np.int8] | None = None
    least = np.inf
    for _ in range(N_TRIES):
        of_group = _deal(table, shares, rng.permutation(len(table)))
        if of_group is None:
            continue
        sizes = [table[of_group == part].sum() / len(label) for part in (TEST, VALIDATION)]
        error = float(np.abs(np.subtract(sizes, shares)).sum())
        if error < least:
            best, least = of_group, error
    return None if best is None else best[group]


def _deal(
    table: "NDArray[np.int64]", shares: tuple[float, float], order: "NDArray[np.intp]"
) -> "NDArray[np.int8] | None":
    """Give groups, in this order, to test and validation while they bring the sizes nearer to the shares."""
    part = np.zeros(len(table), np.int8)
    for kind, share in zip((TEST, VALIDATION), shares, strict=True):
        wanted, got = share * table.sum(), 0
        for group in order if share else ():
            free = part == TRAIN
            free[group] = False
            keeps_labels = (table[free].sum(axis=0) > 0).all()
            nearer = abs(got + table[group].sum() - wanted) < abs(got - wanted)
            if part[group] == TRAIN and keeps_labels and (not got or nearer):
                part[group] = kind
                got += int(table[group].sum())
        if share and not got:
            return None
    return part


def _within_labels(
    label: "NDArray[np.intp]", shares: tuple[float, float], rng: np.random.Generator
) -> "NDArray[np.int8]":
    """Deal the cells of each label; what rounding leaves over goes on to the next label."""
    part = np.zeros(len(label), np.int8)
    owed = np.zeros(2)
    for kind in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == kind))
        start = 0
        for i, of in enumerate((TEST, VALIDATION)):
            owed[i] += shares[i] * len(members)
            n_taken = int(np.clip(np.rint(owed[i]), 0, len(members) - 1 - start))
            part[members[start : start + n_taken]] = of
            owed[i] -= n_taken
            start += n_taken
    return part
