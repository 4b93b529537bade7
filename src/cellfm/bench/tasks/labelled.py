"""Protocols of tasks with labels: whole donors or batches are held out where there are any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.task import Case
from cellfm.corpus.split import TEST, VALIDATION, split_cells, split_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_DONORS = 3
LEAST_CELLS = 3
"""A type with fewer cells cannot be split; its cells are left out, and that is said."""
MOST_FOLDS = 5
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """What is held out at once."""

    name: str
    part: "NDArray[np.int8]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelCase(Case):
    """A case with folds; each test cell is in one of them."""

    folds: tuple[Fold, ...] = ()

    @property
    def unit(self) -> str:
        """What a group is."""
        return self.split


def refuses_labels(dataset: Dataset) -> str | None:
    """Say why a dataset is no use to a task with labels; None if it is.

    Parameters
    ----------
    dataset
        The dataset.
    """
    if dataset.label is None:
        return "it has no labels (entry `label` of its file)"
    counts = dataset.cells.obs[dataset.label].value_counts()
    usable = int((counts >= LEAST_CELLS).sum())
    if usable < 2:
        return f"it has {usable} types with at least {LEAST_CELLS} cells; two are needed"
    return None


def label_cases(dataset: Dataset, *, seed: int) -> Iterator[LabelCase]:
    """Yield a case for each protocol that a dataset allows.

    ``donor``: each donor in turn (of more than five, five folds of whole donors), with three donors or more; ``batch``:
    likewise batches, from two on; ``intra`` only where there is neither: 30 % of the cells of each type.

    Parameters
    ----------
    dataset
        With labels.
    seed
        Of what is drawn.
    """
    cells = dataset.cells
    label = cells.obs[dataset.label].astype(str)
    counts = label.value_counts()
    rare = counts[counts < LEAST_CELLS]
    rows = np.flatnonzero(~label.isin(rare.index).to_numpy())
    labels = label.to_numpy().astype(np.str_)[rows]
    notes = [f"{len(counts) - len(rare)} types, {len(rows):,} cells"]
    if len(rare):
        notes.append(
            f"{len(rare)} types with fewer than {LEAST_CELLS} cells left out: {int(rare.sum())} cells"
        )
    adata = cells if len(rows) == len(label) else cells[rows].copy()
    for split, group in _protocols(dataset, rows):
        folds = tuple(_folds(labels, group, seed=seed))
        part = np.zeros(len(rows), np.int8)
        for fold in folds:
            part[fold.part == TEST] = TEST
        names = adata.obs_names
        hashes = [split_hash(list(names), fold.part) for fold in folds]
        yield LabelCase(
            dataset=dataset,
            adata=adata,
            rows=rows,
            split=split,
            split_hash=split_hash(hashes, np.arange(len(hashes), dtype=np.int8)),
            part=part,
            seed=seed,
            labels=labels,
            classes=tuple(np.unique(labels).tolist()),
            group=group,
            notes=tuple(notes),
            folds=folds,
        )


def fold_views(case: Case) -> Sequence[Case]:
    """Return a view for each fold of a case.

    Parameters
    ----------
    case
        From :func:`label_cases`.
    """
    return [case.view(fold.part, fold=fold.name) for fold in folds_of(case)]


def folds_of(case: Case) -> tuple[Fold, ...]:
    """Folds of a case; a case without any is one itself."""
    if isinstance(case, LabelCase):
        return case.folds
    return (Fold(name="", part=case.part),)


def _protocols(
    dataset: Dataset, rows: "NDArray[np.int64]"
) -> "Iterator[tuple[str, NDArray[np.str_] | None]]":
    found = False
    for split, key, least in (("donor", dataset.donor, LEAST_DONORS), ("batch", dataset.batch, 2)):
        if key is None:
            continue
        group = dataset.cells.obs[key].to_numpy().astype(np.str_)[rows]
        if len(np.unique(group)) >= least:
            found = True
            yield split, group
    if not found:
        yield "intra", None


def _folds(
    labels: "NDArray[np.str_]", group: "NDArray[np.str_] | None", *, seed: int
) -> Iterator[Fold]:
    if group is None:
        part = split_cells(labels, None, validation=0.0, test=TEST_SHARE, seed=seed)
        yield Fold(name="", part=_with_validation(part, labels, None, seed=seed))
        return
    names = np.unique(group)
    dealt = np.random.default_rng(seed).permutation(len(names)) % min(len(names), MOST_FOLDS)
    for i in range(dealt.max() + 1):
        held = names[dealt == i]
        part = np.where(np.isin(group, held), TEST, 0).astype(np.int8)
        yield Fold(
            name=", ".join(held.tolist()), part=_with_validation(part, labels, group, seed=seed)
        )


def _with_validation(
    part: "NDArray[np.int8]",
    labels: "NDArray[np.str_]",
    group: "NDArray[np.str_] | None",
    *,
    seed: int,
) -> "NDArray[np.int8]":
    """Take validation cells from the training cells: whole donors where enough are left."""
    fit = np.flatnonzero(part != TEST)
    of_fit = None if group is None else group[fit]
    chosen = split_cells(labels[fit], of_fit, validation=VALIDATION_SHARE, test=0.0, seed=seed)
    part = part.copy()
    part[fit[chosen == VALIDATION]] = VALIDATION
    return part
