import pytest
import torch

from cellfm.errors import DataError
from cellfm.nn import masked_expression_loss
from cellfm.nn.loss import predict_scored
from cellfm.train import HeldOut, evaluate


def score(network, held_out):
    return evaluate(network, held_out, objective=masked_expression_loss, precision="fp32")


def test_means_over_all_scored_genes(job):
    network = job.network().train()
    found = score(network, job.held_out)
    assert network.training
    network.eval()
    gene, cell, mean = [], [], []
    for batch in job.held_out.batches:
        with torch.no_grad():
            prediction = predict_scored(network, batch)
        target = batch.target[batch.scored]
        gene.append(prediction.gene - target)
        cell.append(prediction.cell - target)
        mean.append(job.held_out.gene_mean[batch.gene[batch.scored]] - target)
    assert found.n_scored == sum(len(part) for part in gene)
    assert found.gene_loss == pytest.approx(torch.cat(gene).square().mean().item(), rel=1e-6)
    assert found.cell_loss == pytest.approx(torch.cat(cell).square().mean().item(), rel=1e-6)
    assert found.gene_mean_loss == pytest.approx(torch.cat(mean).square().mean().item(), rel=1e-6)


def test_the_mode_comes_back_after_an_error(job):
    def fail(network, batch):
        raise RuntimeError

    network = job.network().train()
    with pytest.raises(RuntimeError):
        evaluate(network, job.held_out, objective=fail, precision="fp32")
    assert network.training


def test_no_held_out_cells(job):
    nothing = score(job.network(), HeldOut(batches=[], gene_mean=job.held_out.gene_mean))
    assert (nothing.gene_loss, nothing.n_scored) == (0.0, 0)


def test_baseline_of_another_vocabulary(job):
    wrong = HeldOut(batches=job.held_out.batches, gene_mean=torch.zeros(3))
    with pytest.raises(
        DataError,
        match=r"gene_mean has shape \(3,\); the network has 40 genes, so it must be \(41,\)",
    ):
        score(job.network(), wrong)
