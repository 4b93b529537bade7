"""Objectives: functions of a network and a batch; each returns its parts."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM


class Loss(NamedTuple):
    """The masked-expression loss and its two halves."""

    total: Float[Tensor, ""]
    gene: Float[Tensor, ""]
    cell: Float[Tensor, ""]


class Prediction(NamedTuple):
    """Predicted value of each scored gene."""

    gene: Float[Tensor, " scored"]
    cell: Float[Tensor, " scored"]


def predict_scored(network: CellFM, batch: CellBatch) -> Prediction:
    """Predict the scored genes from their own states and from the state of their cell."""
    if batch.scored is None:
        msg = "predict_scored needs a batch with `scored`; masks come from cellfm.corpus.mask."
        raise ValueError(msg)
    states = network.encode(batch, wanted="scored")
    cell = torch.arange(batch.n_cells).repeat_interleave(batch.offsets.diff()).to(batch.gene.device)
    repeated = states.cell[cell[batch.scored]]
    gene = network.gene_embedding(batch.gene[batch.scored])
    return Prediction(network.gene_decoder(states.gene), network.cell_decoder(gene, repeated))


def masked_expression_loss(network: CellFM, batch: CellBatch) -> Loss:
    r"""Mean squared error over the scored genes of the batch, gene-wise plus cell-wise (Zeng et al. 2025).

    .. math:: L = \frac{1}{|M|}\sum_{i \in M} (y_i - \hat y_i^\mathrm{gene})^2 + (y_i - \hat y_i^\mathrm{cell})^2

    A batch that scores nothing has loss 0.
    """
    prediction = predict_scored(network, batch)
    target = batch.target[batch.scored] if batch.target is not None else batch.value[batch.scored]
    gene = mean_square(prediction.gene.float() - target)
    cell = mean_square(prediction.cell.float() - target)
    return Loss(gene + cell, gene, cell)


def mean_square(error: Float[Tensor, " scored"]) -> Float[Tensor, ""]:
    """Return the mean of squares; 0 when there is nothing to average."""
    return error.square().sum() / max(error.numel(), 1)


def zero_probability_loss(
    probability: Float[Tensor, " token"],
    expressed: Bool[Tensor, " token"],
    scored: Bool[Tensor, " token"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy of "is this gene expressed", as the released weights were trained with.

    The sum runs over *all* genes and is divided by the number of scored ones: unintended by the look of it, but
    it is the published objective.
    """
    loss = functional.binary_cross_entropy(
        probability, expressed.to(probability.dtype), reduction="sum"
    )
    return loss / scored.sum().clamp(min=1)


def elastic_cell_similarity(
    rows: Float[Tensor, "cell column"], *, threshold: float = 0.8
) -> Float[Tensor, ""]:
    r"""Return :math:`\mathrm{mean}_{ij}\,1 - (\mathrm{ReLU}(\cos_{ij}) - \theta)^2` with the diagonal's cosine set to 0.

    Pushes cells apart or together, away from the threshold θ (scGPT's ECS; here on rows of predictions, as published).
    """
    unit = functional.normalize(rows, dim=1, eps=1e-4)
    cosine = (unit @ unit.T) * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    return (1 - (cosine.relu() - threshold).square()).mean()
