"""Every packaged recipe is stepped once: small ones really, large ones on the meta device."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.cells import batch
from torch.utils.checkpoint import checkpoint

from cellfm.config import PretrainConfig, load, presets
from cellfm.nn import CellFM, initialise, masked_expression_loss
from cellfm.train import Trainee, World, build_optimizer, train_step

SMALL = ("debug", "mini", "small")
LARGE = ("80m", "800m", "3b")
LENGTHS = [30, 50, 70]


def test_they_are_all_stepped():
    assert sorted((*SMALL, *LARGE)) == presets()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mini", (3.5, 4.5)),
        ("small", (20, 30)),
        ("80m", (86, 87)),
        ("800m", (804, 805)),
        ("3b", (2_900, 3_100)),
    ],
)
def test_sizes_are_what_the_names_say(name, millions):
    with torch.device("meta"):
        network = CellFM(load(PretrainConfig, name).model)
    low, high = millions
    assert low < sum(parameter.numel() for parameter in network.parameters()) / 1e6 < high


@pytest.mark.parametrize("name", presets())
def test_settings_go_together(name):
    config = load(PretrainConfig, name)
    model, data, schedule, run = config.model, config.data, config.schedule, config.run
    assert model.dropout == 0.1
    assert model.dim // model.n_heads in (16, 32)  # 32 as published; debug is smaller than that
    assert schedule.warmup_steps <= schedule.n_steps // 10
    assert schedule.n_steps % run.checkpoint_every == 0
    assert data.lanes & (data.lanes - 1) == 0  # shared out evenly over any power of two
    assert (run.precision == "bf16") == (name not in ("debug", "mini"))


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_take_a_step(name):
    config = load(PretrainConfig, name)
    network = initialise(CellFM(config.model), torch.Generator().manual_seed(config.run.seed))
    before = network.layers[0].retention.query.weight.clone()
    trainee = Trainee.of(network.train(), masked_expression_loss, run=config.run, world=World())
    batches = [
        batch(LENGTHS, n_genes=config.model.n_genes, seed=lane, masked=True)
        for lane in range(config.data.lanes)
    ]
    result = train_step(
        trainee,
        batches,
        build_optimizer(network, config.optim),
        optim=config.optim,
        step=0,
        seed=config.run.seed,
        precision=config.run.precision,
    )
    assert math.isfinite(result.loss)
    assert result.grad_norm > 0
    assert result.n_tokens == config.data.lanes * sum(LENGTHS)
    assert not torch.equal(network.layers[0].retention.query.weight, before)


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_take_a_step_without_numbers(name):
    """All shapes of a step: forward, backward and optimiser, on a device that holds no numbers."""
    config = load(PretrainConfig, name)
    with torch.device("meta"):
        network = CellFM(config.model).train()
    if config.run.activation_checkpointing:
        for layer in network.encoder_layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    cells = batch(LENGTHS, n_genes=config.model.n_genes, masked=True)
    # Which rows are scored decides shapes, so that it must be known, as `offsets` is.
    masked = replace(cells.to("meta"), scored=cells.scored)
    loss = masked_expression_loss(network, masked)
    loss.total.backward()
    optimizer = build_optimizer(network, config.optim)
    optimizer.step()
    assert loss.total.shape == ()
    for parameter_name, parameter in network.named_parameters():
        trained = (
            "zero" not in parameter_name
        )  # zero heads and zero embedding have no part in the objective
        assert (parameter.grad is not None) == trained, parameter_name
        if trained:
            assert parameter.grad.shape == parameter.shape
            assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
