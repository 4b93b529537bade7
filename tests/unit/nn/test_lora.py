"""Adapters begin by changing nothing, are all that is trained, and merge without a trace."""

from dataclasses import replace

import pytest
import torch

from cellfm.errors import ConfigError
from cellfm.nn.lora import add_lora, lora_parameters, merge_adapters, train_only_lora
from tests.cells import batch, network

EXACT = {"rtol": 0.0, "atol": 0.0}
ROUNDING = {
    "rtol": 1e-6,
    "atol": 1e-6,
}  # Wx + B(Ax) and (W + BA)x round differently; states are about 1


def adapted(rank: int = 3):
    net = network()
    add_lora(net, rank, torch.Generator().manual_seed(0))
    return net


def disturbed(net):
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lora_parameters(net).values():
            parameter.normal_(0.0, 0.1, generator=generator)
    return net


def test_new_adapters_change_nothing():
    cells = batch([5, 0, 12])
    before, after = network().encode(cells), adapted().encode(cells)
    torch.testing.assert_close(after.cell, before.cell, **EXACT)
    torch.testing.assert_close(after.gene, before.gene, **EXACT)


def test_they_are_on_every_projection_of_every_layer():
    net = adapted(rank=3)
    assert net.config.lora_rank == 3
    found = {name: tuple(p.shape) for name, p in lora_parameters(net).items()}
    # 5 projections of the retention and 3 of the gated unit, two matrices each, in both layers
    assert len(found) == 2 * 8 * 2
    assert {shape for name, shape in found.items() if name.endswith("lora_a")} == {(3, 16)}
    assert {shape for name, shape in found.items() if name.endswith("lora_b")} == {(16, 3)}
    for name, parameter in lora_parameters(net).items():
        if name.endswith("lora_b"):
            assert not parameter.any()
        else:
            assert 0.002 < parameter.std() < 0.03  # σ is 0.01


def test_a_network_built_with_adapters_has_the_same_names():
    assert list(adapted(2).state_dict()) == list(network(lora_rank=2).state_dict())


def test_the_generator_decides():
    one, same = adapted(), adapted()
    other = network()
    add_lora(other, 3, torch.Generator().manual_seed(1))
    name = "layers.1.glu.out.lora_a"
    assert torch.equal(lora_parameters(one)[name], lora_parameters(same)[name])
    assert not torch.equal(lora_parameters(one)[name], lora_parameters(other)[name])


def test_merging_changes_no_output():
    cells = batch([5, 30, 12])
    net = disturbed(adapted()).double()
    wide = replace(cells, value=cells.value.double(), depth=cells.depth.double())
    before = net.encode(wide)
    assert (before.cell - network().double().encode(wide).cell).abs().max() > 1e-3
    merge_adapters(net)
    after = net.encode(wide)
    torch.testing.assert_close(after.cell, before.cell, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.gene, before.gene, rtol=1e-12, atol=1e-12)
    assert not lora_parameters(net)
    assert net.config.lora_rank == 0
    assert list(net.state_dict()) == list(network().state_dict())


def test_merging_in_single_precision():
    cells = batch([5, 30, 12])
    net = disturbed(adapted())
    weight = net.encoder_layers[0].glu.left
    with torch.no_grad():
        expected = weight.weight + weight.lora_b @ weight.lora_a
        before = net.encode(cells).cell
    merge_adapters(net)
    torch.testing.assert_close(weight.weight, expected, **EXACT)
    torch.testing.assert_close(net.encode(cells).cell, before, **ROUNDING)


def test_only_adapters_get_a_gradient():
    net = disturbed(adapted())
    train_only_lora(net)
    net.encode(batch([5, 12])).cell.square().mul(torch.arange(16.0)).sum().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == set(lora_parameters(net))
    assert not net.gene_embedding.weight.requires_grad


def test_refusals():
    with pytest.raises(ConfigError, match="rank of the adapters is 0"):
        add_lora(network(), 0, torch.Generator())
    with pytest.raises(ConfigError, match="adapters of rank 3 already"):
        add_lora(adapted(), 2, torch.Generator())
    with pytest.raises(ConfigError, match="no adapters"):
        train_only_lora(network())
