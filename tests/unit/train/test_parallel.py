"""What can be told in one process; tests/e2e/test_distributed.py starts two."""

import re
from dataclasses import replace

import pytest
import torch

from cellfm.errors import ConfigError
from cellfm.nn import CellFM, masked_expression_loss
from cellfm.train import Trainee, World, open_world
from cellfm.train.parallel import check_lanes, first_row


def trainee(job, network=None, **run):
    job = job.changed("run", **run)
    network = job.network() if network is None else network
    return Trainee.of(network, masked_expression_loss, run=job.config.run, world=World())


def test_alone_the_world_is_one():
    with open_world("cpu") as world:
        assert world == World()
        assert world.total([1.5, 2.0]) == [1.5, 2.0]
        assert world.any(flag=True)
        assert not world.all(flag=False)
        assert world.from_first(7) == 7


def test_more_processes_than_lanes():
    message = re.escape(
        "8 processes share a step of data.lanes=6 micro-batches: 2 of them would have nothing to do. Give data.lanes=8"
    )
    with pytest.raises(ConfigError, match=message):
        check_lanes(6, World(size=8))
    check_lanes(8, World(size=8))


@pytest.mark.parametrize(("n_rows", "size"), [(10, 2), (10, 3), (1, 4), (7, 7), (5, 4)])
def test_shares_are_those_of_chunks(n_rows, size):
    """torch.chunk is the rule by which FSDP cuts; what is left over has no rows."""
    tensor = torch.arange(n_rows)
    chunks = list(tensor.chunk(size))
    for rank in range(size):
        start = first_row(tensor, World(rank=rank, size=size))
        expected = chunks[rank] if rank < len(chunks) else tensor[:0]
        assert torch.equal(tensor[start : start + len(expected)], expected)
        assert len(expected) or start == n_rows


def test_a_network_on_the_meta_device_is_made_from_the_seed(job):
    with torch.device("meta"):
        network = CellFM(job.config.model)
    trainee(job, network, seed=1)
    for (name, ours), theirs in zip(
        network.named_parameters(), job.network().parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_table_starts_the_genes_it_has(job):
    """Rows of zeros, and those beyond the genes that fill the table up, stay as they were made."""
    found = trainee(job)
    parameter = found.network.gene_embedding.weight
    before = parameter.detach().clone()
    table = torch.randn(41, 16, generator=torch.Generator().manual_seed(0))
    unseen = [0, 7, 40]
    table[unseen] = 0.0
    assert found.network.config.n_rows == 48
    found.start_genes(table)
    seen = [row for row in range(41) if row not in unseen]
    assert torch.equal(parameter.detach()[seen], table[seen])
    assert torch.equal(parameter.detach()[unseen], before[unseen])
    assert torch.equal(parameter.detach()[41:], before[41:])
    assert not parameter[0].any()
    assert parameter.requires_grad
    assert parameter.is_leaf


def test_alone_the_first_process_has_said_it_all():
    table = torch.ones(3)
    assert World().broadcast(table) is table


def loss_and_gradients(job, **run):
    found = trainee(job, job.network().train(), **run)
    torch.default_generator.manual_seed(3)
    loss = found.module(job.sampler.batch(0)).total
    loss.backward()
    return loss.detach(), [p.grad for p in found.network.parameters()], found


def test_recomputed_activations_are_the_same(job):
    """Dropout included; names of parameters stay."""
    before = torch.get_rng_state()
    job = replace(job).changed("model", dropout=0.5)
    loss, gradients, plain = loss_and_gradients(job)
    again, recomputed, other = loss_and_gradients(job, activation_checkpointing=True)
    assert torch.equal(loss, again)
    for one, two in zip(gradients, recomputed, strict=True):
        assert one is two is None or torch.equal(one, two)
    assert list(plain.network.state_dict()) == list(other.network.state_dict())
    torch.set_rng_state(before)


def test_the_whole_of_an_unshared_network_is_itself(job):
    network = job.network()
    assert trainee(job, network).whole() is network


def test_layers_are_compiled_around_the_loop_over_cells(job, monkeypatch):
    """Compiling takes a minute; here only what is given to the compiler."""
    compiled, kept = [], []
    monkeypatch.setattr(torch, "compile", lambda f, *, dynamic: compiled.append((f, dynamic)) or f)
    monkeypatch.setattr(torch.compiler, "disable", lambda f: kept.append(f) or f)
    network = trainee(job, compile=True).network
    layers = network.encoder_layers
    assert [(f.__self__, dynamic) for f, dynamic in compiled] == [(x, True) for x in layers]
    assert [f.__self__ for f in kept] == [layer.retention for layer in layers]
