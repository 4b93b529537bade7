"""The graph head fitted to responses: an ensemble of :class:`~cellfm.nn.response_graph.ResponseGraphHead`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfm.corpus.conditions import Condition
from cellfm.errors import DataError, WeightsError
from cellfm.nn.response_graph import ResponseGraphHead, initialise_response_head, response_loss
from cellfm.tl._response.baselines import Prediction
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.graph_inputs import GraphConfig, GraphInputs
from cellfm.tl._response.responses import Responses
from cellfm.train.finetune import tune

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GraphConfig", "GraphPredictor", "fit_graph_head"]

LEAST_HELD = 8
"""Training conditions from which each member keeps some back to stop by, where no validation part is given."""
HELD = 0.2
BUDGET = 2_000_000
"""Numbers, condition × gene × hidden, of a step."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphPredictor:
    """A fitted ensemble.

    Attributes
    ----------
    genes
        Inputs made of the vectors of genes.
    members
        The heads, in evaluation mode.
    """

    genes: GraphInputs
    members: tuple[ResponseGraphHead, ...]

    def predict(self, conditions: Sequence[Condition]) -> Prediction:
        """Return mean and standard deviation over the members; NaN for the latter where there is one only.

        Parameters
        ----------
        conditions
            Any genes, alone or in pairs; of one without vectors nothing is known but that something was perturbed.
        """
        perturbed = self.genes.perturbed(conditions)
        step = _step(len(self.genes.symbol), self.genes.config.hidden)
        with torch.inference_mode():
            each = [
                torch.cat([head(self.genes.states, part) for part in perturbed.split(step)])
                for head in self.members
            ]
        delta = torch.stack(each).double().numpy()
        sd = delta.std(axis=0, ddof=1) if len(delta) > 1 else np.full(delta.shape[1:], np.nan)
        return Prediction(conditions=tuple(conditions), delta=delta.mean(axis=0), sd=sd)

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the parameters of all members, for a file."""
        return {
            f"{number}.{name}": value.detach().clone()
            for number, head in enumerate(self.members)
            for name, value in head.state_dict().items()
        }

    @classmethod
    def restore(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        train: Responses,
        features: GeneFeatures,
        config: GraphConfig,
    ) -> "GraphPredictor":
        """Make it from its parameters and from what it was fitted to.

        Parameters
        ----------
        tensors
            From `tensors`.
        train, features, config
            As in :func:`fit_graph_head`.

        Raises
        ------
        WeightsError
            Parameters are missing, are too many or have other shapes.
        """
        genes = GraphInputs.of(train, features, config)
        heads = tuple(genes.head() for _ in range(config.n_members))
        expected = {
            f"{number}.{name}": tuple(value.shape)
            for number, head in enumerate(heads)
            for name, value in head.state_dict().items()
        }
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if found != expected:
            wrong = sorted({name for name, _ in expected.items() ^ found.items()})
            msg = f"The graph head's parameters do not fit the genes and settings they came with; {len(wrong)} differ, {wrong[0]!r} first: expected {expected.get(wrong[0], 'none')}, found {found.get(wrong[0], 'none')}. Save it again."
            raise WeightsError(msg)
        for number, head in enumerate(heads):
            start = f"{number}."
            own = {n[len(start) :]: v for n, v in tensors.items() if n.startswith(start)}
            head.load_state_dict(own)
            head.eval()
        return cls(genes=genes, members=heads)


def fit_graph_head(
    train: Responses,
    features: GeneFeatures,
    *,
    validation: Responses | None = None,
    config: GraphConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GraphPredictor:
    """Fit an ensemble of graph heads to responses.

    Each begins at the mean response, and is as it was in the epoch with the lowest squared error of validation conditions.

    Parameters
    ----------
    train
        Responses to learn from; conditions with many cells count more, up to twice as much as one with a usual number.
    features
        Vectors of genes.
    validation
        Responses that decide when to stop; None: each member keeps back a part of the training conditions of its own, or trains all epochs
        where there are fewer than :data:`LEAST_HELD`.
    config
        How; None for the defaults.
    progress
        Called with (members done, members).

    Raises
    ------
    DataError
        There are fewer than two conditions, or those of validation have other genes.
    """
    config = config or GraphConfig()
    if len(train.conditions) < 2:
        msg = f"There are responses to {len(train.conditions)} conditions to learn from; at least 2 are needed. Give more of them."
        raise DataError(msg)
    if validation is not None and validation.genes != train.genes:
        msg = f"The validation part has {len(validation.genes)} genes, the training part {len(train.genes)}, or in another order; both must have the same. Use the same genes in the same order."
        raise DataError(msg)
    genes = GraphInputs.of(train, features, config)
    members = []
    for number in range(config.n_members):
        members.append(_member(number, train, validation, genes))
        if progress is not None:
            progress(number + 1, config.n_members)
    return GraphPredictor(genes=genes, members=tuple(members))


class _Conditions:
    """Batches of training conditions, in another order each epoch."""

    def __init__(self, perturbed: Tensor, *, size: int, seed: int) -> None:
        self._perturbed, self._size, self._seed = perturbed, size, seed

    def n_batches(self, epoch: int) -> int:
        return -(-len(self._perturbed) // self._size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._perturbed))
        for rows in torch.from_numpy(order).split(self._size):
            yield self._perturbed[rows], rows


def _member(
    number: int, train: Responses, validation: Responses | None, genes: GraphInputs
) -> ResponseGraphHead:
    """Fit one head."""
    config = genes.config
    if validation is None:
        train, validation = _kept_back(train, number, seed=config.seed)
    head = genes.head()
    generator = torch.Generator().manual_seed(config.seed + number)
    initialise_response_head(head, torch.from_numpy(train.mean).float(), generator)
    true, noise = (torch.from_numpy(x).float() for x in (train.delta, np.sqrt(train.variance)))
    weight = torch.from_numpy(_weights(train.n_cells)).float()

    def loss(perturbed: Tensor, rows: Tensor) -> Tensor:
        target = true[rows]
        if config.augment:
            # of a seed of its own in each step, which `tune` sees to
            target = target + noise[rows] * torch.randn(target.shape)
        predicted = head(genes.states, perturbed)
        return response_loss(
            predicted, target, weight[rows], focus=config.focus, direction=config.direction
        )

    tune(
        head,
        loss,
        train=_Conditions(
            genes.perturbed(train.conditions),
            size=_step(len(genes.symbol), config.hidden),
            seed=config.seed + number,
        ),
        validate=None if validation is None else _error(head, genes, validation),
        config=config.tuning(number),
    )
    return head


def _error(
    head: ResponseGraphHead, genes: GraphInputs, validation: Responses
) -> Callable[[], float]:
    """Return a function that measures the squared error of validation conditions."""
    perturbed = genes.perturbed(validation.conditions)
    true = torch.from_numpy(validation.delta).float()
    weight = torch.from_numpy(_weights(validation.n_cells)).float()

    def error() -> float:
        predicted = head(genes.states, perturbed)
        return float(response_loss(predicted, true, weight, focus=0.0, direction=0.0))

    return error


def _kept_back(train: Responses, number: int, *, seed: int) -> tuple[Responses, Responses | None]:
    """Split the training conditions: members keep back parts one after the other of one random order."""
    n = len(train.conditions)
    if n < LEAST_HELD:
        return train, None
    size = max(1, round(HELD * n))
    order = np.random.default_rng(seed).permutation(n)
    held = np.zeros(n, dtype=bool)
    held[order[np.arange(number * size, (number + 1) * size) % n]] = True
    return train.take(~held), train.take(held)


def _weights(n_cells: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Return weights that rise with the number of cells, to twice that of the usual number."""
    return n_cells / (n_cells + np.median(n_cells))


def _step(n_genes: int, hidden: int) -> int:
    """Conditions of a step."""
    return max(1, min(32, BUDGET // max(1, n_genes * hidden)))
