"""Objectives: functions of a network and a batch; each returns its parts."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM


class Loss(NamedTuple):
    """The masked-expression loss and its parts."""

    total: Float[Tensor, ""]
    gene: Float[Tensor, ""]
    cell: Float[Tensor, ""]
    detection: Float[Tensor, ""] | None = None
    """Of the detection term, before its weight; None without one."""


class Prediction(NamedTuple):
    """Predicted value of each scored gene."""

    gene: Float[Tensor, " scored"]
    cell: Float[Tensor, " scored"]


def predict_scored(network: CellFM, batch: CellBatch) -> Prediction:
    """Predict the scored genes from their own states and from the state of their cell."""
    if batch.scored is None:
        msg = "predict_scored needs a batch with `scored`; masks come from cellfm.corpus.mask."
        raise ValueError(msg)
    return _predict(network, _scored_rows(network, batch))


def masked_expression_loss(network: CellFM, batch: CellBatch, *, detection: float = 0.0) -> Loss:
    r"""Mean squared error over the scored genes of the batch, gene-wise plus cell-wise (Zeng et al. 2025).

    .. math::
        L = \frac{1}{|M|}\sum_{i \in M} (y_i - \hat y_i^\mathrm{gene})^2 + (y_i - \hat y_i^\mathrm{cell})^2 + \delta\, D, \qquad
        D = -\frac{1}{|M|}\sum_{i \in M} \tfrac{1}{2}\big(\log p_i + \log(1 - p_{a(i)})\big)

    The detection term *D* (ours; off by default) asks the cell's state which genes the cell expresses:
    :math:`p_i = \sigma(\langle W_z g_i + b, h_\mathrm{cls} \rangle)` of a scored gene against that of a gene :math:`a(i)` which the
    cell lacks; the second logarithm is left out where none was found. The squared errors only ask *how much* of a gene there is,
    given that there is some; most of what tells cell types apart in sparse counts is which genes there are.

    A batch that scores nothing has loss 0.

    Parameters
    ----------
    network
        Network; with a detection head if `detection` is above 0.
    batch
        Masked cells; with `absent` genes if `detection` is above 0.
    detection
        Weight δ.
    """
    rows = _scored_rows(network, batch)
    prediction = _predict(network, rows)
    target = batch.target[batch.scored] if batch.target is not None else batch.value[batch.scored]
    gene = mean_square(prediction.gene.float() - target)
    cell = mean_square(prediction.cell.float() - target)
    if not detection:
        return Loss(gene + cell, gene, cell)
    found = detection_loss(network, batch, rows)
    return Loss(gene + cell + detection * found, gene, cell, found)


def detection_loss(network: CellFM, batch: CellBatch, rows: "ScoredRows") -> Float[Tensor, ""]:
    """Mean over the scored genes of half the cross-entropy of "does the cell express it", and of the absent one beside it.

    Like the squared errors it is a mean over scored genes, so that a cut into micro-batches changes nothing.
    """
    if batch.absent is None:
        msg = "The detection term needs a batch with `absent`; the sampler draws it when asked to."
        raise ValueError(msg)
    absent = batch.absent[batch.scored]
    there = absent > 0
    lacking = network.gene_embedding(absent[there])
    present = network.cell_zero_decoder.logit(rows.gene, rows.cell)
    missing = network.cell_zero_decoder.logit(lacking, rows.cell[there])
    # log(p) of a logit is -softplus(-logit): finite with a slope wherever the probability itself would be 0 or 1
    cost = functional.softplus(-present.float()).sum() + functional.softplus(missing.float()).sum()
    return cost / max(2 * present.numel(), 1)


class ScoredRows(NamedTuple):
    """What the decoders read, one row per scored gene."""

    state: Float[Tensor, "scored dim"]
    """Last-layer state of the gene."""
    gene: Float[Tensor, "scored dim"]
    """Embedding of the gene."""
    cell: Float[Tensor, "scored dim"]
    """Last-layer state of its cell."""


def _scored_rows(network: CellFM, batch: CellBatch) -> ScoredRows:
    states = network.encode(batch, wanted="scored")
    cell = torch.arange(batch.n_cells).repeat_interleave(batch.offsets.diff()).to(batch.gene.device)
    return ScoredRows(
        state=states.gene,
        gene=network.gene_embedding(batch.gene[batch.scored]),
        cell=states.cell[cell[batch.scored]],
    )


def _predict(network: CellFM, rows: ScoredRows) -> Prediction:
    return Prediction(network.gene_decoder(rows.state), network.cell_decoder(rows.gene, rows.cell))


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
