import pytest
import torch
from tests.unit.train.conftest import LEVELS, TwoKinds

from cellfm.errors import DataError
from cellfm.nn.loss import masked_expression_loss, predict_scored
from cellfm.train import HeldOut, Trainee, World
from cellfm.train.evaluate import MIN_VALUES, evaluate


def score(job, network, held_out):
    trainee = Trainee.of(network, masked_expression_loss, run=job.config.run, world=World())
    return evaluate(trainee, held_out, precision="fp32")


def test_means_over_all_scored_genes(job):
    network = job.network().train()
    found = score(job, network, job.held_out)
    assert network.training
    network.eval()
    gene, cell, mean = [], [], []
    for batch, prediction_of_mean in zip(
        job.held_out.batches, job.held_out.baselines["gene_mean"], strict=True
    ):
        with torch.no_grad():
            prediction = predict_scored(network, batch)
        target = batch.target[batch.scored]
        gene.append(prediction.gene - target)
        cell.append(prediction.cell - target)
        mean.append(prediction_of_mean - target)
    assert found.n_scored == sum(len(part) for part in gene)
    assert found.gene_loss == pytest.approx(torch.cat(gene).square().mean().item(), rel=1e-6)
    assert found.cell_loss == pytest.approx(torch.cat(cell).square().mean().item(), rel=1e-6)
    assert found.baselines == {
        "gene_mean": pytest.approx(torch.cat(mean).square().mean().item(), rel=1e-6)
    }


def test_median_of_each_genes_own_r2(job):
    batches = [TwoKinds().batch(-step) for step in range(1, 20)]
    means = [LEVELS.mean(0)[batch.gene[batch.scored]] for batch in batches]
    network = job.network().eval()
    found = score(job, network, HeldOut(name="a", batches=batches, baselines={"gene_mean": means}))
    per_gene = {}
    for batch, mean in zip(batches, means, strict=True):
        with torch.no_grad():
            predicted = predict_scored(network, batch).gene
        target, gene = batch.target[batch.scored], batch.gene[batch.scored]
        for g, ours, theirs in zip(
            gene.tolist(),
            (predicted - target).square().tolist(),
            (mean - target).square().tolist(),
            strict=True,
        ):
            per_gene.setdefault(g, []).append((ours, theirs))
    r2 = [
        1 - sum(ours for ours, _ in pairs) / sum(theirs for _, theirs in pairs)
        for pairs in per_gene.values()
        if len(pairs) >= MIN_VALUES
    ]
    assert len(r2) > 10
    assert found.gene_r2 == pytest.approx(torch.tensor(r2).median().item(), rel=1e-5)


def test_no_r2_without_the_mean_or_with_few_values(job):
    batches = job.held_out.batches[:1]
    few = HeldOut(
        name="a",
        batches=batches,
        baselines={"gene_mean": job.held_out.baselines["gene_mean"][:1]},
    )
    assert score(job, job.network(), few).gene_r2 is None
    bare = score(job, job.network(), HeldOut(name="a", batches=job.held_out.batches))
    assert (bare.gene_r2, bare.baselines) == (None, {})
    assert "gene_r2" not in bare.line()


def test_the_mode_comes_back_after_an_error(job):
    network = job.network().train()
    wrong = HeldOut(name="a", batches=[TwoKinds().batch(0), None])
    with pytest.raises(AttributeError):
        score(job, network, wrong)
    assert network.training


def test_no_held_out_cells(job):
    nothing = score(job, job.network(), HeldOut(name="a", batches=[]))
    assert (nothing.gene_loss, nothing.n_scored) == (0.0, 0)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            [torch.zeros(3)],
            r"HeldOut 'cells': baseline 'pca' has 1 tensors for 3 batches; give one each",
        ),
        (
            [torch.zeros(3)] * 3,
            r"'pca' predicts \(3,\) values of a batch with \d+ scored genes. Give one value per scored gene",
        ),
    ],
)
def test_baseline_of_other_batches(job, predictions, message):
    wrong = HeldOut(name="cells", batches=job.held_out.batches, baselines={"pca": predictions})
    with pytest.raises(DataError, match=message):
        score(job, job.network(), wrong)
