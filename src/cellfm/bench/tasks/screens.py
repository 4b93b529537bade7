"""Protocols of tasks on perturbations: which conditions are predicted from which cells."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods.responses import ResponseView
from cellfm.corpus.conditions import Condition, Protocol, first_tested, fold_conditions
from cellfm.corpus.split import TEST
from cellfm.genes import Vocabulary
from cellfm.tl._perturb.data import PerturbData, PerturbOptions, read_perturbations
from cellfm.tl._response.responses import Responses
from cellfm.tl._response.scores import Truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_FOLDS = 5
MIN_CELLS = 20
"""Cells of a condition: its halves need ten."""
LEAST_CONDITIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """What is predicted at once.

    Attributes
    ----------
    name
        For people.
    rows
        Cells that methods see: controls, and conditions that are not predicted.
    truth
        Of the predicted conditions, from each half of their cells.
    asked
        The predicted conditions.
    reference
        Mean response of the training conditions, shape (gene,).
    """

    name: str
    rows: "NDArray[np.int64]"
    truth: tuple[Truth, Truth]
    asked: tuple[Condition, ...]
    reference: "NDArray[np.float64]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbationCase(ResponseView):
    """A screen under a protocol.

    Attributes
    ----------
    folds
        Each condition is predicted in one of them, or once in each context.
    """

    folds: tuple[Fold, ...]


def refuses_screen(dataset: Dataset) -> str | None:
    """Say why a dataset is no use to tasks on perturbations; None if it is.

    Parameters
    ----------
    dataset
        The dataset.
    """
    if dataset.perturbation is None:
        return "it has no perturbations (entry `perturbation` of its file)"
    if dataset.scale != "counts":
        return "responses are measured on raw counts"
    counts = dataset.cells.obs[dataset.perturbation].value_counts()
    usable = int((counts >= MIN_CELLS).sum()) - 1
    if usable < LEAST_CONDITIONS:
        return f"it has {max(usable, 0)} perturbations with at least {MIN_CELLS} cells; {LEAST_CONDITIONS} are needed"
    return None


def screen_cases(dataset: Dataset, *, seed: int) -> Iterator[PerturbationCase]:
    """Yield a case for each protocol that a screen allows.

    Parameters
    ----------
    dataset
        With perturbations.
    seed
        Of folds and halves.
    """
    options = PerturbOptions(
        perturbation=dataset.perturbation or "",
        control=dataset.control,
        context=dataset.context,
        batch=dataset.batch,
        min_cells=MIN_CELLS,
        min_matched=0.0,
        missing_singles=True,
    )
    # Which genes can be perturbed is a matter of the data; what a model knows of them is the method's.
    data = read_perturbations(dataset.cells, Vocabulary.from_hgnc(), options)
    half = _halves(data, seed=seed)
    names: dict[str, int] = {name: i for i, name in enumerate(dataset.cells.obs_names.astype(str))}
    rows = np.array([names[str(name)] for name in data.cells], np.int64)
    for protocol, folds in _protocols(data, half, seed=seed):
        digest = hashlib.sha256(f"{protocol} {seed} {MIN_CELLS}".encode())
        part = np.zeros(len(rows), np.int8)
        for fold in folds:
            digest.update("\n".join(each.name for each in fold.asked).encode() + b"\0")
            part[np.setdiff1d(np.arange(len(rows)), fold.rows)] = TEST
        yield PerturbationCase(
            dataset=dataset,
            adata=dataset.cells[rows],
            rows=rows,
            split=protocol,
            split_hash=digest.hexdigest(),
            part=part,
            seed=seed,
            notes=(*data.notes, f"{sum(len(fold.asked) for fold in folds)} predictions in {len(folds)} folds"),
            data=data,
            folds=folds,
        )  # fmt: skip


def screen_views(case: PerturbationCase) -> Sequence[ResponseView]:
    """Return a view for each fold, without the cells of what is to be predicted.

    Parameters
    ----------
    case
        From :func:`screen_cases`.
    """
    from anndata import AnnData

    views = []
    for fold in case.folds:
        shown = AnnData(case.adata.X[fold.rows])
        shown.var_names = case.adata.var_names
        views.append(
            ResponseView(
                dataset=case.dataset.blind(),
                adata=shown,
                rows=case.rows[fold.rows],
                split=case.split,
                split_hash=case.split_hash,
                part=np.zeros(len(fold.rows), np.int8),
                seed=case.seed,
                fold=fold.name,
                data=_seen(case.data, fold.rows),
                asked=fold.asked,
            )
        )
    return views


def _seen(data: PerturbData, rows: "NDArray[np.int64]") -> PerturbData:
    """Take cells, without the names of conditions that none of them has."""
    taken = data.take(rows)
    kept, code = np.unique(np.append(taken.code, 0), return_inverse=True)
    conditions = tuple(data.conditions[i] for i in kept)
    return replace(taken, conditions=conditions, code=code[:-1].astype(np.int64))


def _halves(data: PerturbData, *, seed: int) -> "NDArray[np.int64]":
    """Half of each cell, 0 or 1, even within each condition, context and batch."""
    rng, half = np.random.default_rng([seed, 2]), np.zeros(len(data.code), np.int64)
    stratum = (data.code * len(data.contexts) + data.context) * len(data.batches) + data.batch
    for kind in np.unique(stratum):
        own = rng.permutation(np.flatnonzero(stratum == kind))
        half[own] = (np.arange(len(own)) + rng.integers(2)) % 2
    return half


def _protocols(
    data: PerturbData, half: "NDArray[np.int64]", *, seed: int
) -> Iterator[tuple[str, tuple[Fold, ...]]]:
    conditions = data.conditions[1:]
    n_genes = np.array([len(each.genes) for each in conditions])
    wanted: list[tuple[Protocol, int]] = [("singles", 1), ("doubles", 2)]
    for protocol, size in wanted:
        if (n_genes == size).sum() < LEAST_CONDITIONS:
            continue
        folds = []
        splits = fold_conditions(conditions, n_folds=N_FOLDS, protocol=protocol, seed=seed)
        for number, (split, tested) in enumerate(zip(splits, first_tested(splits), strict=True)):
            # A pair with a held-out gene is held out too, but under "singles" only singles are judged.
            hidden = 1 + np.flatnonzero(split.part == TEST)
            asked = 1 + np.array([i for i in tested if n_genes[i] == size], np.int64)
            seen = np.flatnonzero(~np.isin(data.code, hidden))
            folds.append(_fold(data, half, seen, asked, name=f"fold {1 + number}"))
        yield protocol, tuple(fold for fold in folds if fold is not None)
    if len(data.contexts) > 1:
        folds = [_context_fold(data, half, number) for number in range(len(data.contexts))]
        if found := tuple(fold for fold in folds if fold is not None):
            yield "contexts", found


def _context_fold(data: PerturbData, half: "NDArray[np.int64]", context: int) -> Fold | None:
    """Hold out the perturbed cells of a context; the conditions are known from others, the controls are seen."""
    inside = data.context == context
    seen = np.flatnonzero(~inside | (data.code == 0))
    n_in = np.bincount(data.code[inside], minlength=len(data.conditions))
    n_out = np.bincount(data.code[~inside], minlength=len(data.conditions))
    asked = np.flatnonzero((n_in >= MIN_CELLS) & (n_out >= MIN_CELLS))
    name = data.contexts[context]
    return _fold(data, half, seen, asked[asked > 0], name=name, context=name)


def _fold(
    data: PerturbData,
    half: "NDArray[np.int64]",
    seen: "NDArray[np.int64]",
    asked: "NDArray[np.int64]",
    *,
    name: str,
    context: str | None = None,
) -> Fold | None:
    """None where nothing is left to predict."""
    wanted = np.isin(data.code, np.append(asked, 0))
    halves = [Responses.of(data, rows=wanted & (half == h), context=context) for h in range(2)]
    both = sorted(set(halves[0].conditions) & set(halves[1].conditions))
    if len(both) < 2:
        return None
    kept = [each.take(np.array([c in both for c in each.conditions])) for each in halves]
    return Fold(
        name=name,
        rows=seen,
        truth=(Truth.of(kept[0]), Truth.of(kept[1])),
        asked=tuple(both),
        reference=Responses.of(data, rows=seen).mean,
    )
