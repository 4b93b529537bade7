"""Fine-tuning on a data set of several batches, without labels: what keeps a cell's state from carrying its batch."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.decoder import Affine
from cellfm.nn.encoder import CellFM
from cellfm.nn.loss import elastic_cell_similarity, mean_square
from cellfm.nn.primitives import unset

CellPool = Literal["cls", "mean", "both"]
THRESHOLD = 0.8
"""Cosine away from which the elastic similarity pushes pairs of cells (Zeng et al. 2025; Cui et al. 2024)."""


class IntegrationWeights(NamedTuple):
    """Weight of each part of the loss besides the squared errors; 0 leaves it out."""

    detection: float = 1.0
    ecs: float = 1.0
    adversarial: float = 0.0


class IntegrationLoss(NamedTuple):
    """The loss and its parts, before their weights; None where a part was left out."""

    total: Float[Tensor, ""]
    gene: Float[Tensor, ""]
    cell: Float[Tensor, ""]
    detection: Float[Tensor, ""] | None
    ecs: Float[Tensor, ""] | None
    adversarial: Float[Tensor, ""] | None

    @property
    def masked(self) -> Float[Tensor, ""]:
        """Squared errors of the scored genes, gene-wise plus cell-wise: what validation compares epochs by."""
        return self.gene + self.cell


def reverse_gradient(x: Float[Tensor, "row dim"], strength: float) -> Float[Tensor, "row dim"]:
    r"""Return `x`; its gradient is multiplied by :math:`-\lambda` (Ganin & Lempitsky 2015, eq. 12 f.).

    Parameters
    ----------
    x
        What a discriminator reads.
    strength
        λ, at least 0.
    """
    return x.detach() * (1 + strength) - x * strength


class BatchDiscriminator(nn.Module):
    """Guesses a cell's batch from its state: two hidden layers with layer norm and LeakyReLU, as in scGPT (Cui et al. 2024).

    Parameters
    ----------
    dim
        Width of the state.
    n_batches
        Number of batches.
    """

    def __init__(self, dim: int, n_batches: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Affine(dim, dim),
            nn.LeakyReLU(),
            nn.LayerNorm(dim),
            Affine(dim, dim),
            nn.LeakyReLU(),
            nn.LayerNorm(dim),
            Affine(dim, n_batches),
        )

    def forward(self, state: Float[Tensor, "cell dim"]) -> Float[Tensor, "cell batch"]:
        """Return a logit of each batch for each cell."""
        return self.layers(state)


class BatchEmbedding(nn.Module):
    """A learned vector per batch, added to what the decoders read and to nothing else.

    What a batch does to the expression can then be said without the cell's state saying it. It begins at 0: the first step
    sees the pretrained decoders unchanged.

    Parameters
    ----------
    dim
        Width of the states.
    n_batches
        Number of batches.
    """

    def __init__(self, dim: int, n_batches: int) -> None:
        super().__init__()
        self.gene, self.cell = unset(n_batches, dim), unset(n_batches, dim)


class Integrator(nn.Module):
    r"""A network with what it needs to be fine-tuned on the batches of one data set.

    .. math::
        L = \frac{1}{|M|}\sum_{i \in M} (y_i - \hat y_i^\mathrm{gene})^2 + (y_i - \hat y_i^\mathrm{cell})^2
            + \delta D + \epsilon E + \lambda A

    over the scored genes *M*, unexpressed ones with :math:`y_i = 0` among them (``CellBatch.zero``; Zeng et al. 2025).
    *D* is the cross-entropy of "does the cell express the gene" by the network's detection or zero head, left out where it has
    none. *E* is :math:`\mathrm{mean}_{ij}\,1 - (\mathrm{ReLU}(\cos_{ij}) - 0.8)^2` between **cell states**, as in scGPT: the published one
    compares rows of cell-wise predictions, whose columns are other genes in other cells, so that their cosines mean little.
    *A* is the cross-entropy of a discriminator that guesses the batch from the cell state; its gradient is reversed on the way
    to the network (Ganin & Lempitsky 2015), with batches weighing alike whatever their numbers of cells.

    Parameters
    ----------
    network
        With decoders.
    n_batches
        Number of batches.
    pool
        Which cell state *E* and *A* read.
    weights
        δ, ε, λ.
    conditional
        Whether the decoders are told the batch.
    generator
        Of the new parameters, on the CPU.
    """

    def __init__(
        self,
        network: CellFM,
        *,
        n_batches: int,
        pool: CellPool,
        weights: IntegrationWeights,
        conditional: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not network.config.decoders:
            msg = "Fine-tuning by masked recovery needs a network with decoders; this one has none (ModelConfig.decoders)."
            raise ValueError(msg)
        self.network, self.pool, self.weights, self.n_batches = network, pool, weights, n_batches
        dim = network.config.dim
        width = dim * (2 if pool == "both" else 1)
        self.discriminator = BatchDiscriminator(width, n_batches) if weights.adversarial else None
        self.batch_embedding = BatchEmbedding(dim, n_batches) if conditional else None
        _fill(self, generator)
        self.to(network.cls.device)

    def loss(self, batch: CellBatch, code: Int[Tensor, " cell"]) -> IntegrationLoss:
        """Return the loss of masked cells.

        Parameters
        ----------
        batch
            Cells with `hidden`, `scored` and `target`, on the device of the network.
        code
            Batch of each cell, 0 … n_batches - 1.
        """
        if batch.scored is None or batch.target is None:
            msg = "Integrator.loss needs a batch with `scored` and `target`."
            raise ValueError(msg)
        states = self.network.encode(batch)
        cell = torch.arange(batch.n_cells).repeat_interleave(batch.offsets.diff())
        cell = cell.to(batch.gene.device)
        embedding = pool_states(states.cell, states.gene, cell, self.pool)
        row = cell[batch.scored]
        gene = self.network.gene_embedding(batch.gene[batch.scored])
        state, whole = states.gene[batch.scored], states.cell[row]
        if self.batch_embedding is not None:
            state = state + self.batch_embedding.gene[code][row]
            whole = whole + self.batch_embedding.cell[code][row]
        target = batch.target[batch.scored]
        return self._weighed(
            gene=mean_square(self.network.gene_decoder(state).float() - target),
            cell=mean_square(self.network.cell_decoder(gene, whole).float() - target),
            detection=self._detection(state, gene, whole, target > 0),
            ecs=elastic_cell_similarity(embedding, threshold=THRESHOLD)
            if self.weights.ecs
            else None,
            adversarial=self._adversarial(embedding, code),
        )

    def _weighed(
        self,
        *,
        gene: Tensor,
        cell: Tensor,
        detection: Tensor | None,
        ecs: Tensor | None,
        adversarial: Tensor | None,
    ) -> IntegrationLoss:
        """Sum the parts; the adversary's weight is on its reversed gradient: the discriminator learns at full speed."""
        total = gene + cell
        weighed = (
            (self.weights.detection, detection),
            (self.weights.ecs, ecs),
            (1.0, adversarial),
        )
        for weight, part in weighed:
            total = total if part is None else total + weight * part
        return IntegrationLoss(total, gene, cell, detection, ecs, adversarial)

    def _detection(
        self,
        state: Float[Tensor, "scored dim"],
        gene: Float[Tensor, "scored dim"],
        whole: Float[Tensor, "scored dim"],
        expressed: Tensor,
    ) -> Float[Tensor, ""] | None:
        """Cross-entropy of "is this scored gene expressed" by the heads there are."""
        config = self.network.config
        if not self.weights.detection or not (config.zero_heads or config.detection_head):
            return None
        truth, n_scored = expressed.to(whole.dtype), max(len(expressed), 1)
        logit = self.network.cell_zero_decoder.logit(gene, whole).float()
        found = functional.binary_cross_entropy_with_logits(logit, truth, reduction="sum")
        if config.zero_heads:
            share = self.network.gene_zero_decoder(state).float()
            found = found + functional.binary_cross_entropy(share, truth, reduction="sum")
        return found / n_scored

    def _adversarial(
        self, embedding: Float[Tensor, "cell dim"], code: Int[Tensor, " cell"]
    ) -> Float[Tensor, ""] | None:
        if self.discriminator is None:
            return None
        logit = self.discriminator(reverse_gradient(embedding, self.weights.adversarial)).float()
        number = torch.bincount(code, minlength=self.n_batches)
        weight = 1.0 / number[code].to(logit.dtype)  # batches weigh alike
        cost = functional.cross_entropy(logit, code, reduction="none")
        return (weight * cost).sum() / weight.sum()


def pool_states(
    cls: Float[Tensor, "cell dim"],
    gene: Float[Tensor, "token dim"],
    cell: Int[Tensor, " token"],
    pool: CellPool,
) -> Float[Tensor, "cell width"]:
    """Return the state of [CLS], the mean of the states of the cell's rows, or the two side by side.

    Parameters
    ----------
    cls
        State of [CLS] of each cell.
    gene, cell
        State of each gene and the cell it is in.
    pool
        Which.
    """
    if pool == "cls":
        return cls
    total = torch.zeros_like(cls).index_add(0, cell, gene)
    number = torch.bincount(cell, minlength=len(cls)).clamp(min=1)
    mean = total / number[:, None].to(total.dtype)
    return mean if pool == "mean" else torch.cat([cls, mean], dim=1)


@torch.no_grad()
def _fill(integrator: Integrator, generator: torch.Generator) -> None:
    """Fill the parameters that are new: uniform ±1/√n for maps, 0 for biases and batch embeddings."""
    if integrator.batch_embedding is not None:
        for parameter in integrator.batch_embedding.parameters():
            parameter.zero_()
    if integrator.discriminator is not None:
        for layer in integrator.discriminator.layers:
            if isinstance(layer, Affine):
                bound = layer.weight.shape[1] ** -0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
