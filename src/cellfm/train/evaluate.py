"""Held-out loss, beside the simplest predictor on the same genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.errors import DataError
from cellfm.nn import CellFM
from cellfm.train.step import Objective, autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Cells that are never trained on, with fixed masks."""

    batches: Sequence[CellBatch]
    """Masked batches on the CPU."""
    gene_mean: Tensor
    """Mean training value of each token where it is expressed, shape (n_genes + 1,): the baseline's prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """Mean squared errors over the same scored genes of all held-out cells."""

    gene_loss: float
    """Of the gene-wise decoder."""
    cell_loss: float
    """Of the cell-wise decoder."""
    gene_mean_loss: float
    """Of predicting each gene's mean, whatever the cell."""
    n_scored: int
    """Scored genes."""


def evaluate(
    network: CellFM,
    held_out: HeldOut,
    *,
    objective: Objective,
    precision: Literal["fp32", "bf16"],
) -> HeldOutScore:
    """Score a network without dropout on held-out cells; its mode and weights are left as they were.

    Parameters
    ----------
    network
        Network on any device.
    held_out
        Cells and baseline.
    objective
        Its `gene` and `cell` are means over the scored genes of a batch.
    precision
        Of the matrix products.
    """
    _check_baseline(held_out.gene_mean, n_genes=network.config.n_genes)
    device = network.cls.device
    sums, n_scored = torch.zeros(3, dtype=torch.float64), 0
    training = network.training
    network.eval()
    try:
        for batch in held_out.batches:
            with torch.no_grad(), autocast(device, precision):
                loss = objective(network, batch.to(device))
            n = _n_scored(batch)
            errors = [
                loss.gene.item(),
                loss.cell.item(),
                _gene_mean_error(batch, held_out.gene_mean),
            ]
            sums += n * torch.tensor(errors, dtype=torch.float64)
            n_scored += n
    finally:
        network.train(training)
    gene, cell, mean = (sums / max(n_scored, 1)).tolist()
    return HeldOutScore(gene_loss=gene, cell_loss=cell, gene_mean_loss=mean, n_scored=n_scored)


def _n_scored(batch: CellBatch) -> int:
    return 0 if batch.scored is None else int(batch.scored.sum())


def _gene_mean_error(batch: CellBatch, gene_mean: Tensor) -> float:
    if not _n_scored(batch):
        return 0.0
    target = batch.value if batch.target is None else batch.target
    return float((gene_mean[batch.gene] - target)[batch.scored].square().mean())


def _check_baseline(gene_mean: Tensor, *, n_genes: int) -> None:
    if gene_mean.shape != (n_genes + 1,):
        msg = (
            f"HeldOut.gene_mean has shape {tuple(gene_mean.shape)}; the network has {n_genes} genes, so it must be "
            f"({n_genes + 1},): one mean for each token, and one for padding at index 0."
        )
        raise DataError(msg)
