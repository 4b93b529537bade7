"""Presence removes a gene exactly, integrals are complete, and gradients are those of finite differences."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.nn import CellFM
from cellfm.nn.attribution import attribute, gene_presence, weighted_mean
from cellfm.nn.classifier import CellClassifier, new_head
from cellfm.nn.heads import initialise_head
from tests.cells import batch as cells
from tests.cells import network as random_network

EXACT = 1e-9  # float64
FADED = 1e-9
INTEGRAL = 1e-3  # of 32 gradients: keys pass a ReLU, so that the path has kinks


def linear(network: CellFM, pool: str = "cls"):
    """Scores of four classes, linear in the states."""
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def scores(batch: CellBatch, presence: Tensor) -> Tensor:
        states = network.encode(batch)
        state = states.cell if pool == "cls" else weighted_mean(states.gene, batch, presence)
        return state @ weight.T

    return scores


def double(batch: CellBatch) -> CellBatch:
    return replace(batch, value=batch.value.double(), depth=batch.depth.double())


def without(batch: CellBatch, gone: int) -> CellBatch:
    kept = torch.arange(batch.n_tokens) != gone
    return replace(
        batch,
        gene=batch.gene[kept],
        value=batch.value[kept],
        offsets=batch.offsets - (batch.offsets > gone).long(),
    )


def classifier(kind: str) -> CellClassifier:
    network = random_network()
    head = new_head(kind, network, 4)
    initialise_head(head, torch.Generator().manual_seed(0))
    return CellClassifier(network, [head]).double().eval()


@pytest.fixture
def batch() -> CellBatch:
    return double(cells([7, 1, 12], seed=4))


@pytest.mark.parametrize("depth_tokens", [True, False])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_presence_zero_is_the_cell_without_the_gene(
    batch: CellBatch, pool: str, *, depth_tokens: bool
) -> None:
    network = random_network(depth_tokens=depth_tokens).double()
    scores = linear(network, pool)
    presence = torch.ones(batch.n_tokens, dtype=torch.float64)
    plain = scores(batch, presence)
    presence[9] = 0
    with gene_presence(network, batch, presence, n_prefix=network.config.n_prefix):
        removed = scores(batch, presence)
    smaller = without(batch, 9)
    expected = scores(smaller, torch.ones(smaller.n_tokens, dtype=torch.float64))
    assert torch.allclose(removed, expected, atol=EXACT)
    assert not torch.allclose(removed[2], plain[2], atol=1e-3)
    assert torch.equal(scores(batch, torch.ones_like(presence)), plain)  # the hooks are gone


@pytest.mark.parametrize("kind", ["clusters", "mlp"])
def test_heads_read_the_genes_through_presence(batch: CellBatch, kind: str) -> None:
    module = classifier(kind)
    presence = torch.ones(batch.n_tokens, dtype=torch.float64)
    presence[3] = 0
    with gene_presence(module, batch, presence, n_prefix=module.network.config.n_prefix):
        removed = module.logits(batch)[0]
    assert torch.allclose(removed, module.logits(without(batch, 3))[0], atol=EXACT)


def test_the_gradient_is_that_of_finite_differences(batch: CellBatch) -> None:
    network = random_network().double()
    scores, target = linear(network), torch.tensor([1, 0, 3])
    found = attribute(network, scores, batch, target)
    step = 1e-5
    for gene, cell in ((2, 0), (7, 1), (15, 2)):
        values = []
        for change in (step, -step):
            presence = torch.ones(batch.n_tokens, dtype=torch.float64)
            presence[gene] += change
            with gene_presence(network, batch, presence, n_prefix=network.config.n_prefix):
                logits = scores(batch, presence)[cell].detach()
            values.append(float(logits[target[cell]] - logits.mean()))
        assert float(found[gene]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_integrated_gradients_are_complete(batch: CellBatch, head: str) -> None:
    """Their sum is the score less that of the cell without genes (Sundararajan et al. 2017, proposition 1)."""
    target = torch.tensor([1, 0, 3])
    if head == "linear":
        module = random_network().double()
        scores = linear(module)
        n_prefix = module.config.n_prefix
    else:
        module = classifier(head)
        n_prefix = module.network.config.n_prefix

        def scores(batch: CellBatch, _presence: Tensor) -> Tensor:
            return module.logits(batch)[0]

    def chosen(value: float) -> Tensor:
        presence = torch.full((batch.n_tokens,), value, dtype=torch.float64)
        with gene_presence(module, batch, presence, n_prefix=n_prefix):
            logits = scores(batch, presence)
        return (logits - logits.mean(1, keepdim=True)).gather(1, target[:, None])[:, 0]

    found = attribute(module, scores, batch, target, method="integrated", n_steps=32)
    per_cell = torch.stack([part.sum() for part in found.split(batch.lengths)])
    # A head whose only keys are genes has a norm that jumps at 0, where nothing is left: the limit counts.
    expected = (chosen(1.0) - chosen(FADED)).detach()
    assert expected.abs().max() > 0.05
    assert torch.allclose(per_cell, expected, rtol=INTEGRAL, atol=INTEGRAL)
    gradient = attribute(module, scores, batch, target)
    assert not torch.allclose(gradient, found, rtol=0.1, atol=1e-3)


def test_a_number_added_to_all_scores_changes_nothing(batch: CellBatch) -> None:
    network = random_network().double()
    scores, target = linear(network), torch.tensor([1, 0, 3])
    plain = attribute(network, scores, batch, target)
    moved = attribute(
        network, lambda b, m: scores(b, m) + 5 * m.sum() * torch.ones(4).double(), batch, target
    )
    assert torch.allclose(plain, moved, atol=1e-6)


def test_cells_do_not_bear_on_each_other(batch: CellBatch) -> None:
    network = random_network().double()
    scores, target = linear(network), torch.tensor([1, 0, 3])
    together = attribute(network, scores, batch, target)
    alone = [attribute(network, scores, batch.cells(i, i + 1), target[i : i + 1]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=EXACT)
