"""Held-out loss, beside the simplest predictors of the same values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.errors import DataError
from cellfm.train.parallel import Trainee
from cellfm.train.step import autocast

MIN_VALUES = 10
"""A gene that is scored less often has no R² of its own."""
GENE_MEAN = "gene_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Cells that are never trained on, with fixed masks."""

    name: str
    """Name of the set."""
    batches: Sequence[CellBatch]
    """Masked batches on the CPU; the same in every process."""
    baselines: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    """Predictions of each baseline for each batch: one value per scored gene. Only the first process needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """Mean squared errors over the same scored genes of all cells of a held-out set."""

    name: str
    """Name of the set."""
    gene_loss: float
    """Of the gene-wise decoder."""
    cell_loss: float
    """Of the cell-wise decoder."""
    baselines: Mapping[str, float]
    """Of each baseline."""
    gene_r2: float | None
    """Median over genes of 1 - MSE / MSE of the gene's mean, for the gene-wise decoder; None where no gene is scored often enough."""
    n_scored: int
    """Scored genes."""
    untrained_gene_loss: float | None = None
    """Of the gene-wise decoder before the first step."""
    untrained_cell_loss: float | None = None
    """Of the cell-wise decoder before the first step."""

    @property
    def gene_mean_loss(self) -> float:
        """Of predicting each gene's mean over the training cells, whatever the cell: the line to beat."""
        return self.baselines[GENE_MEAN]

    def line(self) -> dict[str, float | int | str]:
        """Return the score as a flat line of metrics."""
        fields: dict[str, float | int | str | None] = {
            "set": self.name,
            "gene_loss": self.gene_loss,
            "cell_loss": self.cell_loss,
            **{f"{name}_loss": loss for name, loss in self.baselines.items()},
            "untrained_gene_loss": self.untrained_gene_loss,
            "untrained_cell_loss": self.untrained_cell_loss,
            "gene_r2": self.gene_r2,
            "n_scored": self.n_scored,
        }
        return {name: value for name, value in fields.items() if value is not None}


def evaluate(
    trainee: Trainee, held_out: HeldOut, *, precision: Literal["fp32", "bf16"]
) -> HeldOutScore:
    """Score a network without dropout on held-out cells; its mode and weights are left as they were.

    The batches are shared out over the processes; all of them get the scores of the network, the first one also those
    of the baselines.

    Parameters
    ----------
    trainee
        Network on any device.
    held_out
        Cells and baselines.
    precision
        Of the matrix products.

    Raises
    ------
    DataError
        A baseline has not one prediction for each scored gene.
    """
    n_genes = trainee.network.config.n_genes
    mode = trainee.network.training
    trainee.network.eval()
    try:
        errors = torch.zeros(2, n_genes + 1, dtype=torch.float64)
        for batch, counts in _own(held_out.batches, trainee):
            errors += counts * _network_errors(trainee, batch, n_genes, precision)
    finally:
        trainee.network.train(mode)
    trainee.world.total_of(errors)
    n_values = sum(
        (_per_gene(batch, None, n_genes) for batch in held_out.batches), errors.new_zeros(1)
    )
    n_scored = int(n_values.sum())
    gene, cell = (errors.sum(dim=1) / max(n_scored, 1)).tolist()
    by_baseline = {
        name: _baseline_errors(name, held_out, predictions, n_genes)
        for name, predictions in held_out.baselines.items()
    }
    return HeldOutScore(
        name=held_out.name,
        gene_loss=gene,
        cell_loss=cell,
        baselines={
            name: float(found.sum()) / max(n_scored, 1) for name, found in by_baseline.items()
        },
        gene_r2=_median_r2(errors[0], by_baseline.get(GENE_MEAN), n_values),
        n_scored=n_scored,
    )


def _own(batches: Sequence[CellBatch], trainee: Trainee) -> list[tuple[CellBatch, float]]:
    """Return this process's batches, and whether each counts: shares of a network must all be called equally often."""
    world = trainee.world
    own = [(batch, 1.0) for batch in batches[world.rank :: world.size]]
    if trainee.sharded and batches and len(own) < -(-len(batches) // world.size):
        own.append((batches[0], 0.0))
    return own


def _network_errors(
    trainee: Trainee, batch: CellBatch, n_genes: int, precision: Literal["fp32", "bf16"]
) -> Tensor:
    """Sum the squared errors of both decoders for each gene, shape (2, n_genes + 1)."""
    device = trainee.world.device
    with autocast(device, precision):
        prediction = trainee.predict(batch.to(device))
    target = _truth(batch)
    squares = [(x.float().cpu() - target).square() for x in prediction]
    return torch.stack([_per_gene(batch, square, n_genes) for square in squares])


def _baseline_errors(
    name: str, held_out: HeldOut, predictions: Sequence[Tensor], n_genes: int
) -> Tensor:
    """Sum the squared errors of a baseline for each gene."""
    errors = torch.zeros(n_genes + 1, dtype=torch.float64)
    if len(predictions) != len(held_out.batches):
        msg = f"HeldOut {held_out.name!r}: baseline {name!r} has {len(predictions)} tensors for {len(held_out.batches)} batches; give one each."
        raise DataError(msg)
    for batch, prediction in zip(held_out.batches, predictions, strict=True):
        target = _truth(batch)
        if prediction.shape != target.shape:
            msg = (
                f"HeldOut {held_out.name!r}: baseline {name!r} predicts {tuple(prediction.shape)} values of a batch with "
                f"{len(target)} scored genes. Give one value per scored gene, in the order of the batch."
            )
            raise DataError(msg)
        errors += _per_gene(batch, (prediction - target).square(), n_genes)
    return errors


def _truth(batch: CellBatch) -> Tensor:
    target = batch.value if batch.target is None else batch.target
    return target[:0] if batch.scored is None else target[batch.scored]


def _per_gene(batch: CellBatch, values: Tensor | None, n_genes: int) -> Tensor:
    """Sum a value of each scored gene, or 1 for None, over the cells."""
    genes = batch.gene[:0] if batch.scored is None else batch.gene[batch.scored]
    weights = torch.ones(len(genes), dtype=torch.float64) if values is None else values.double()
    return torch.bincount(genes, weights=weights, minlength=n_genes + 1)


def _median_r2(errors: Tensor, of_mean: Tensor | None, n_values: Tensor) -> float | None:
    if of_mean is None:
        return None
    judged = (n_values >= MIN_VALUES) & (of_mean > 0)
    return float((1 - errors[judged] / of_mean[judged]).median()) if judged.any() else None
