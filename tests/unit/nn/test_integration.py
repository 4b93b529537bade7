"""Gradient reversal, the discriminator, batch-conditional decoders and the loss around them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.config.model import ModelConfig
from cellfm.nn import CellFM, initialise
from cellfm.nn.integration import (
    BatchDiscriminator,
    IntegrationWeights,
    Integrator,
    pool_states,
    reverse_gradient,
)
from cellfm.nn.loss import elastic_cell_similarity, masked_expression_loss

CONFIG = ModelConfig(n_genes=12, dim=16, n_layers=2, n_heads=4, value_bins=8, detection_head=True)


def network(config: ModelConfig = CONFIG) -> CellFM:
    return initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()


def batch() -> CellBatch:
    """Four cells of five genes, the last of each an unexpressed one that is scored."""
    generator = torch.Generator().manual_seed(1)
    gene = torch.cat([torch.randperm(12, generator=generator)[:5] + 1 for _ in range(4)])
    value = torch.rand(20, generator=generator) + 0.5
    value[4::5] = 0.0
    scored = torch.tensor([True, False, True, False, True] * 4)
    hidden = torch.tensor([True, False, False, False, True] * 4)
    return CellBatch(
        gene=gene,
        value=value,
        offsets=torch.arange(0, 21, 5),
        depth=torch.rand(4, 2, generator=generator),
        hidden=hidden,
        scored=scored,
        target=value,
        zero=torch.zeros(20, dtype=torch.bool),
    )


CODE = torch.tensor([0, 0, 0, 1])


def integrator(*, pool: str = "cls", conditional: bool = False, **weights: float) -> Integrator:
    given = IntegrationWeights(**{"detection": 0.0, "ecs": 0.0, "adversarial": 0.0, **weights})
    generator = torch.Generator().manual_seed(2)
    made = Integrator(
        network(),
        n_batches=2,
        pool=pool,  # type: ignore[arg-type]
        weights=given,
        conditional=conditional,
        generator=generator,
    )
    return made.eval()


def gradient(loss: Tensor, parameter: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    return found


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_reversal_keeps_values_and_turns_gradients(strength: float) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, strength)
    torch.testing.assert_close(y, x)
    (found,) = torch.autograd.grad((y * 3.0).sum(), x)
    torch.testing.assert_close(found, torch.full_like(x, -3.0 * strength))


def test_without_extras_it_is_the_loss_of_pretraining() -> None:
    ours, theirs = integrator().loss(batch(), CODE), masked_expression_loss(network(), batch())
    torch.testing.assert_close(ours.total, theirs.total)
    torch.testing.assert_close(ours.masked, theirs.total)
    assert ours.detection is ours.ecs is ours.adversarial is None


def test_new_batch_embeddings_change_nothing_yet_and_are_learned_by_batch() -> None:
    plain, told = integrator(), integrator(conditional=True)
    loss = told.loss(batch(), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(loss.total, plain.loss(batch(), CODE).total)
    assert told.batch_embedding is not None
    for table in (told.batch_embedding.gene, told.batch_embedding.cell):
        slope = gradient(loss.total, table)
        assert slope[0].abs().sum() > 0  # the batch that is there
        assert slope[1].abs().sum() == 0  # the one that is not


def test_batch_embedding_reaches_the_decoders_but_not_the_state() -> None:
    made = integrator(conditional=True, ecs=1.0)
    assert made.batch_embedding is not None
    before = made.loss(batch(), CODE)
    with torch.no_grad():
        made.batch_embedding.cell[1] += 1.0
    after = made.loss(batch(), CODE)
    assert before.ecs is not None
    assert after.ecs is not None
    torch.testing.assert_close(after.ecs, before.ecs)
    torch.testing.assert_close(after.gene, before.gene)
    assert not torch.isclose(after.cell, before.cell)


def test_elastic_similarity_reads_cell_states_with_its_weight() -> None:
    made = integrator(ecs=0.5)
    loss = made.loss(batch(), CODE)
    state = made.network.encode(batch()).cell
    assert loss.ecs is not None
    torch.testing.assert_close(loss.ecs, elastic_cell_similarity(state))
    torch.testing.assert_close(loss.total, loss.masked + 0.5 * loss.ecs)


def test_detection_asks_which_scored_genes_are_expressed() -> None:
    made = integrator(detection=2.0)
    loss = made.loss(batch(), CODE)
    masked = batch()
    assert masked.scored is not None
    cell = torch.arange(4).repeat_interleave(5)[masked.scored]
    rows = made.network.encode(masked).cell[cell]
    gene = made.network.gene_embedding(masked.gene[masked.scored])
    share = made.network.cell_zero_decoder(gene, rows)
    truth = torch.tensor([1.0, 1.0, 0.0] * 4)  # the third scored gene of each cell is not expressed
    expected = -(truth * share.log() + (1 - truth) * (1 - share).log()).mean()
    assert loss.detection is not None
    torch.testing.assert_close(loss.detection, expected)
    torch.testing.assert_close(loss.total, loss.masked + 2.0 * expected)


def test_adversary_pulls_the_network_and_the_discriminator_apart() -> None:
    strength = 0.7
    made = integrator(adversarial=strength)
    loss = made.loss(batch(), CODE)
    assert loss.adversarial is not None
    assert made.discriminator is not None
    # the same cost without reversal
    logit = made.discriminator(made.network.encode(batch()).cell)
    cost = torch.nn.functional.cross_entropy(logit, CODE, weight=torch.tensor([1 / 3, 1.0]))
    torch.testing.assert_close(loss.adversarial, cost)
    first = made.discriminator.layers[0].weight
    torch.testing.assert_close(gradient(loss.adversarial, first), gradient(cost, first))
    inside = made.network.cls
    torch.testing.assert_close(
        gradient(loss.adversarial, inside), -strength * gradient(cost, inside), atol=1e-6, rtol=1e-4
    )


def test_batches_weigh_alike() -> None:
    """A discriminator that always says the large batch gains nothing by it."""
    made = integrator(adversarial=1.0)
    assert made.discriminator is not None
    last = made.discriminator.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([3.0, -3.0]))
    large = made.loss(batch(), CODE).adversarial
    with torch.no_grad():
        last.bias.zero_()
    undecided = made.loss(batch(), CODE).adversarial
    assert large is not None
    assert undecided is not None
    assert large > undecided
    torch.testing.assert_close(undecided, torch.tensor(2.0).log())


@pytest.mark.parametrize("pool", ["cls", "mean", "both"])
def test_pools(pool: str) -> None:
    cls, gene = torch.randn(2, 3), torch.randn(5, 3)
    cell = torch.tensor([0, 0, 1, 1, 1])
    mean = torch.stack([gene[:2].mean(0), gene[2:].mean(0)])
    expected = {"cls": cls, "mean": mean, "both": torch.cat([cls, mean], dim=1)}[pool]
    torch.testing.assert_close(pool_states(cls, gene, cell, pool), expected)  # type: ignore[arg-type]
    assert integrator(pool=pool, adversarial=1.0, ecs=1.0).loss(batch(), CODE).total.isfinite()


def test_zero_heads_take_part() -> None:
    made = Integrator(
        network(replace(CONFIG, detection_head=False, zero_heads=True)),
        n_batches=2,
        pool="cls",
        weights=IntegrationWeights(1.0, 0.0, 0.0),
        conditional=False,
        generator=torch.Generator(),
    )
    loss = made.eval().loss(batch(), CODE)
    assert loss.detection is not None
    head = made.network.gene_zero_decoder
    assert gradient(loss.total, next(head.parameters())).abs().sum() > 0


def test_generator_decides_new_parameters() -> None:
    first, again = integrator(adversarial=1.0), integrator(adversarial=1.0)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()


def test_discriminator_shape() -> None:
    head = integrator(adversarial=1.0, pool="both").discriminator
    assert isinstance(head, BatchDiscriminator)
    assert head(torch.randn(5, 32)).shape == (5, 2)


def test_refusals() -> None:
    bare = network(replace(CONFIG, decoders=False, detection_head=False))
    with pytest.raises(ValueError, match="decoders"):
        Integrator(
            bare,
            n_batches=2,
            pool="cls",
            weights=IntegrationWeights(),
            conditional=False,
            generator=torch.Generator(),
        )
    with pytest.raises(ValueError, match="scored"):
        integrator().loss(replace(batch(), scored=None), CODE)
