"""Edits of the chosen cells, gene by gene, and what they do to the state of the cell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.nn.kernels.knockout import EDIT_ROWS, EditedStates, Edits
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.nn.kernels.workers import workers
from cellfm.tl._screen.cells import ScreenCells
from cellfm.tl._states import GPU_TOKENS, whitening_of
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mode = Literal["knockout", "overexpression"]
ScreenPool = Literal["cls", "whitened"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Space:
    r"""Where states are compared: an affine map of the state of [CLS], :math:`z = (h - \mu) M`, or the state itself.

    Attributes
    ----------
    mean
        μ, shape (dim,).
    matrix
        M, shape (dim, component); None for the identity.
    """

    mean: "NDArray[np.float64]"
    matrix: "NDArray[np.float64] | None"

    @classmethod
    def of(cls, model: Pretrained, pool: ScreenPool) -> "Space":
        """Return the space of a pool."""
        if pool == "cls":
            return cls(mean=np.zeros(model.network.config.dim), matrix=None)
        whitening = whitening_of(model)
        return cls(
            mean=whitening.mean.astype(np.float64), matrix=whitening.matrix.astype(np.float64)
        )

    def place(self, states: "NDArray[np.floating]") -> "NDArray[np.float64]":
        """Map states."""
        return self.shift(states - self.mean)

    def shift(self, difference: "NDArray[np.floating]") -> "NDArray[np.float64]":
        """Map differences of states."""
        return difference.astype(np.float64) if self.matrix is None else difference @ self.matrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effects:
    """Sums over the edited cells, a row for each token that was edited.

    Attributes
    ----------
    tokens
        Ascending.
    n
        Cells a gene was edited in.
    distance, squared
        Sum of the distances between a cell's state before and after, and of their squares.
    cosine
        Sum of 1 − cosine of the two.
    along
        Sum of the parts of the way to the goal; 0 without a goal.
    nearer
        Sum of the changes of the distance to the goal.
    state
        Sum of the shifts of the state of [CLS] itself, shape (token, dim).
    """

    tokens: "NDArray[np.int64]"
    n: "NDArray[np.int64]"
    distance: "NDArray[np.float64]"
    squared: "NDArray[np.float64]"
    cosine: "NDArray[np.float64]"
    along: "NDArray[np.float64]"
    nearer: "NDArray[np.float64]"
    state: "NDArray[np.float64]"

    @classmethod
    def empty(cls, tokens: "NDArray[np.int64]", dim: int) -> "Effects":
        """Return zeros."""
        zeros = [np.zeros(len(tokens)) for _ in range(5)]
        return cls(
            tokens=tokens,
            n=np.zeros(len(tokens), np.int64),
            distance=zeros[0],
            squared=zeros[1],
            cosine=zeros[2],
            along=zeros[3],
            nearer=zeros[4],
            state=np.zeros((len(tokens), dim)),
        )

    def mean(self, sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Return sums as means over the cells."""
        return (
            sums / np.maximum(self.n, 1)[:, None]
            if sums.ndim == 2
            else sums / np.maximum(self.n, 1)
        )

    def add(
        self,
        place: "NDArray[np.int64]",
        states: "NDArray[np.float32]",
        space: Space,
        goal: "Goal | None",
    ) -> None:
        """Add the edits of one cell; the last state is that of the cell as it is.

        Parameters
        ----------
        place
            Row of the gene of each edit.
        states
            Shape (edit + 1, dim).
        space
            Where states are compared.
        goal
            The two mean states; None without a goal.
        """
        difference = states[:-1].astype(np.float64) - states[-1]
        shift, before = space.shift(difference), space.place(states[-1:])[0]
        distance = np.linalg.norm(shift, axis=1)
        self.n[place] += 1
        self.distance[place] += distance
        self.squared[place] += distance**2
        self.cosine[place] += _one_minus_cosine(before, before + shift)
        self.state[place] += difference
        if goal is not None:
            self.along[place] += shift @ goal.direction
            away = before - goal.goal
            self.nearer[place] += np.linalg.norm(away + shift, axis=1) - np.linalg.norm(away)


def _one_minus_cosine(
    before: "NDArray[np.float64]", after: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Half the squared distance of the two on the unit sphere: 1 minus the cosine without its loss of digits."""
    norms = np.linalg.norm(after, axis=1, keepdims=True), np.linalg.norm(before)
    unit = [x / np.maximum(norm, 1e-12) for x, norm in zip((after, before), norms, strict=True)]
    return ((unit[0] - unit[1]) ** 2).sum(axis=1) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Goal:
    r"""Mean states :math:`\mu_A` of the cells that are edited and :math:`\mu_B` of the goal.

    A shift s goes the part :math:`s \cdot (\mu_B - \mu_A) / \lVert \mu_B - \mu_A \rVert^2` of the way from one to the other.
    """

    goal: "NDArray[np.float64]"
    direction: "NDArray[np.float64]"

    @classmethod
    def of(cls, start: "NDArray[np.float64]", goal: "NDArray[np.float64]") -> "Goal":
        """Measure two sets of states."""
        way = goal.mean(axis=0) - start.mean(axis=0)
        return cls(goal=goal.mean(axis=0), direction=way / max(float(way @ way), 1e-24))


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRule:
    """What is done to a gene: it goes, or its counts are raised `fold` times."""

    fold: float | None
    """None takes it away."""

    def edits(
        self, cell: CellBatch, tokens: "NDArray[np.int64]", rate: "NDArray[np.float64] | None"
    ) -> "tuple[NDArray[np.int64], Edits]":
        """Return rows of `tokens`, and their edits of a cell; the last edit changes nothing.

        Parameters
        ----------
        cell
            One cell; its genes are in ascending order.
        tokens
            Genes to edit, ascending.
        rate
            Counts per 10⁴ of each token where it is expressed; for over-expression only.
        """
        gene = cell.gene.numpy()
        found = np.searchsorted(gene, tokens)
        there = gene[found.clip(max=len(gene) - 1)] == tokens
        if self.fold is None or rate is None:
            place = np.flatnonzero(there)
            return place, Edits(removed=torch.from_numpy(np.append(found[place], -1)))
        removed = np.where(there, found, -1)
        own = np.expm1(cell.value.numpy()[removed].astype(np.float64))
        raised = np.log1p(self.fold * np.where(there, own, rate[tokens]))
        # Nothing changes when a gene gets the value it has: the first gene of the cell serves for that.
        return np.arange(len(tokens)), Edits(
            removed=torch.from_numpy(np.append(removed, 0)),
            added=torch.from_numpy(np.append(tokens, gene[0])),
            value=torch.from_numpy(np.append(raised, cell.value.numpy()[0]).astype(np.float32)),
        )


def run_edits(
    model: Pretrained,
    cells: ScreenCells,
    tokens: "NDArray[np.int64]",
    rule: EditRule,
    *,
    pool: ScreenPool,
    progress: Progress | None = None,
) -> Effects:
    """Edit every chosen cell for every gene and return the sums.

    Parameters
    ----------
    model
        Weights, on the device to compute on.
    cells
        The chosen cells.
    tokens
        Genes to edit, ascending.
    rule
        What is done to a gene.
    pool
        Where states are compared.
    progress
        Called with (edits done, edits in all).
    """
    network, device = model.network.eval(), model.network.cls.device
    space = Space.of(model, pool)
    effects = Effects.empty(tokens, network.config.dim)
    budget = EDIT_ROWS if device.type == "cpu" else GPU_TOKENS
    routed = device.type == "cpu" and routing_pays(network.config.dim)
    total = _n_edits(cells, tokens, rule)

    def one(i: int) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
        cell = cells.batch.cells(i, i + 1)
        place, edits = rule.edits(cell, tokens, cells.rate)
        states = edited(cell.to(device), edits.to(device), row_budget=budget)
        return place, states.cpu().numpy()

    done = 0
    with fp32_routing(use=routed), workers(device) as pool_of_workers:
        edited = EditedStates(network)
        goal = _goal(model, cells, space)
        for place, states in pool_of_workers.map(one, range(cells.batch.n_cells)):
            effects.add(place, states, space, goal)
            done += len(place)
            if progress is not None:
                progress(done, total)
    return effects


def _n_edits(cells: ScreenCells, tokens: "NDArray[np.int64]", rule: EditRule) -> int:
    if rule.fold is not None:
        return len(tokens) * cells.batch.n_cells
    return int(cells.n_expressing[tokens].sum())


@torch.inference_mode()
def _goal(model: Pretrained, cells: ScreenCells, space: Space) -> Goal | None:
    """Return the two mean states, of cells as they are."""
    if cells.goal is None:
        return None
    device = model.network.cls.device
    start, goal = (
        np.concatenate(
            [
                model.network.encode(part.cells(i, i + 1).to(device), wanted="cell").cell.cpu()
                for i in range(part.n_cells)
            ]
        )
        for part in (cells.batch, cells.goal)
    )
    return Goal.of(space.place(start), space.place(goal))
