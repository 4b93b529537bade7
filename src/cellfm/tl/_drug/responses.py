r"""Responses to treatments: differences of mean log expression from the controls of the same context and batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.tl._drug.data import DrugData, Treatment
from cellfm.tl._response.log_counts import log_values
from cellfm.tl._response.responses import LEAST_SPREAD
from cellfm.tl._response.transfer import sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contexts:
    """Control cells of each context.

    Attributes
    ----------
    names
        Of the contexts.
    control
        Mean log expression, shape (context, gene).
    sensitivity
        As in :mod:`cellfm.tl._response.transfer`, shape (context, gene).
    state
        Mean state of the control cells, shape (context, dim).
    """

    names: tuple[str, ...]
    control: "Floats"
    sensitivity: "Floats"
    state: "Floats"

    @staticmethod
    def of(
        counts: "csr_matrix",
        context: "NDArray[np.int64]",
        names: Sequence[str],
        states: "NDArray[np.floating]",
    ) -> "Contexts":
        """Average control cells.

        Parameters
        ----------
        counts, context, states
            Of control cells.
        names
            Of the contexts; each has a cell.
        """
        rows = [np.flatnonzero(context == number) for number in range(len(names))]
        return Contexts(
            names=tuple(names),
            control=np.stack([np.asarray(log_values(counts[r]).mean(axis=0)).ravel() for r in rows]),
            sensitivity=np.stack([sensitivity(counts[r]) for r in rows]),
            state=np.stack([states[r].mean(axis=0, dtype=np.float64) for r in rows]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugResponses:
    """Pseudobulk responses of treatments.

    Attributes
    ----------
    treatments
        What was done.
    delta
        Difference from controls, shape (treatment, gene), as in `cellfm.tl._response.responses`.
    tau
        Its sampling variance in units of `spread`, shape (treatment,).
    spread
        Variance of log expression within strata, shape (gene,).
    n_cells
        Of each treatment.
    halves
        Responses measured with either half of the control cells, shape (2, treatment, gene): what one half of them has by chance does not
        make a prediction look good on the other. Where there are too few controls, the same twice.
    split
        Responses of either half of the treated cells to either half of the controls, two independent measurements of shape (2, treatment, gene):
        genes chosen by one are judged by the other.
    split_tau
        As `tau`, of the second.
    """

    treatments: tuple[Treatment, ...]
    delta: "Floats"
    tau: "Floats"
    spread: "Floats"
    n_cells: "NDArray[np.int64]"
    halves: "Floats"
    split: "Floats"
    split_tau: "Floats"

    @property
    def variance(self) -> "Floats":
        """Sampling variance, shape (treatment, gene)."""
        return self.tau[:, None] * self.spread

    def take(self, which: "NDArray[np.integer] | NDArray[np.bool_]") -> "DrugResponses":
        """Return some of the treatments.

        Parameters
        ----------
        which
            Numbers or flags.
        """
        index = np.flatnonzero(which) if which.dtype == bool else which
        return replace(
            self,
            treatments=tuple(self.treatments[i] for i in index),
            delta=self.delta[index],
            tau=self.tau[index],
            n_cells=self.n_cells[index],
            halves=self.halves[:, index],
            split=self.split[:, index],
            split_tau=self.split_tau[index],
        )

    @staticmethod
    def of(data: DrugData) -> "DrugResponses":
        """Average cells; strata are contexts and batches, and a treatment counts where controls are.

        Parameters
        ----------
        data
            Cells.

        Raises
        ------
        DataError
            A treatment has no cells in a batch with controls of its context.
        """
        delta, tau, spread, n_cells = _differences(data)
        half, treated = _halves(data), data.code >= 0
        halves, split, split_tau = np.stack([delta, delta]), np.stack([delta, delta]), tau
        try:
            halves = np.stack([_differences(data.take(treated | (half == i)))[0] for i in (0, 1)])
            both = [_differences(data.take(half == i)) for i in (0, 1)]
            split, split_tau = np.stack([each[0] for each in both]), both[1][1]
        except DataError:  # a context and batch with one control cell: there is nothing to halve
            pass
        return DrugResponses(
            treatments=data.treatments,
            delta=delta,
            tau=tau,
            spread=np.maximum(spread, LEAST_SPREAD),
            n_cells=n_cells,
            halves=halves,
            split=split,
            split_tau=split_tau,
        )


def control_halves(data: DrugData) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
    """Return flags of two halves of the control cells of each context and batch, shape (cell,).

    Parameters
    ----------
    data
        Cells.
    """
    half, control = _halves(data), data.code < 0
    return control & (half == 0), control & (half == 1)


def fitted_and_truth(data: DrugData) -> tuple[DrugResponses, DrugResponses]:
    """Return responses to one half of the control cells, to fit on, and to the other half, to judge by.

    A chance deviation of the controls, which all responses of a context share, is then worth nothing.

    Parameters
    ----------
    data
        Cells.
    """
    responses = DrugResponses.of(data)
    first, _ = control_halves(data)
    try:
        fitted = DrugResponses.of(data.take((data.code >= 0) | first))
    except DataError:
        fitted = responses
    return fitted, replace(responses, delta=responses.halves[1])


def _halves(data: DrugData) -> "NDArray[np.int64]":
    """0 and 1 in turn for the cells of a treatment, or the controls, in a context and batch."""
    key = np.stack([data.code, data.context, data.batch], axis=1)
    of = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    half = np.empty(len(of), np.int64)
    for number in np.unique(of):
        own = np.flatnonzero(of == number)
        half[own] = np.arange(len(own)) % 2
    return half


def _differences(data: DrugData) -> "tuple[Floats, Floats, Floats, NDArray[np.int64]]":
    """Delta, τ, spread and number of cells of each treatment."""
    mean, n, spread, group = _means(data)
    delta, tau, n_cells = [], [], []
    lacking = []
    for number, treatment in enumerate(data.treatments):
        own = [key for key in group if key[0] == number]
        pairs = [(group[key], group[(-1, *key[1:])]) for key in own if (-1, *key[1:]) in group]
        if not pairs:
            lacking.append(treatment.name)
            continue
        a, b = (np.array(side) for side in zip(*pairs, strict=True))
        share = n[a] / n[a].sum()
        delta.append(share @ (mean[a] - mean[b]))
        tau.append(float((share**2 * (1 / n[a] + 1 / n[b])).sum()))
        n_cells.append(int(n[a].sum()))
    if lacking:
        msg = (
            f"{len(lacking)} treatments have no cells in a batch that has control cells of their context, such as {lacking[0]}; their "
            "differences would be those of batches. Leave the batch column out, or give controls for each batch."
        )
        raise DataError(msg)
    return np.stack(delta), np.array(tau), spread, np.array(n_cells, np.int64)


def _means(
    data: DrugData,
) -> "tuple[Floats, Floats, Floats, dict[tuple[int, int, int], int]]":
    """Mean and size of each (treatment, context, batch), the variance within these, and their numbers."""
    from scipy import sparse

    key = np.stack([data.code, data.context, data.batch], axis=1)
    groups, of = np.unique(key, axis=0, return_inverse=True)
    of = of.ravel()
    shape = (len(groups), len(of))
    member = sparse.csr_matrix((np.ones(len(of)), (of, np.arange(len(of)))), shape=shape)
    values = log_values(data.counts)
    n = np.bincount(of, minlength=len(groups)).astype(np.float64)
    mean = (member @ values).toarray() / n[:, None]
    square = np.asarray(values.multiply(values).sum(axis=0), np.float64).ravel()
    within = np.maximum(square - (n[:, None] * mean**2).sum(axis=0), 0.0)
    number = {(int(a), int(b), int(c)): i for i, (a, b, c) in enumerate(groups)}
    return mean, n, within / max(len(of) - len(groups), 1), number
