import math
from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from tests.unit.nn.test_loss import asked
from tests.unit.train.conftest import TwoKinds

from cellfm.batch import CellBatch
from cellfm.nn import masked_expression_loss
from cellfm.train import Trainee, World, build_optimizer, train_step
from cellfm.train.step import noise, repeatable

CPU = torch.device("cpu")


def step(job, network, optimizer, *, objective=masked_expression_loss, batches=None, **changes):
    trainee = Trainee.of(network, objective, run=job.config.run, world=World())
    options = {"step": 0, "seed": 0, "precision": "fp32", **changes}
    batches = job.sampler.batches(0) if batches is None else batches
    return train_step(trainee, batches, optimizer, optim=job.config.optim, **options)


def drawn(*, seed, step, lane=0):
    with noise(CPU, seed=seed, step=step, lane=lane):
        return torch.rand(3)


def test_noise_is_a_function_of_seed_step_and_lane():
    before = torch.get_rng_state()
    assert torch.equal(drawn(seed=1, step=2), drawn(seed=1, step=2))
    assert not torch.equal(drawn(seed=1, step=2), drawn(seed=2, step=1))
    assert not torch.equal(drawn(seed=1, step=2), drawn(seed=1, step=3))
    assert not torch.equal(drawn(seed=1, step=2), drawn(seed=1, step=2, lane=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_sums_over_repeated_rows_are_repeatable():
    """With two threads these gradients differ now and then, unless the order of the sums is fixed."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 4, (20_000,), generator=generator)
    weight = torch.randn(20_000, 64, generator=generator)

    def gradient():
        x = torch.ones(4, 64, requires_grad=True)
        with repeatable(CPU):
            (x[rows] * weight).sum().backward()
        return x.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(10))


def test_the_mode_comes_back_after_an_error():
    def fail():
        assert torch.are_deterministic_algorithms_enabled()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), repeatable(CPU):
        fail()
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_is_close_to_fp32_and_not_the_same(job):
    losses = []
    for precision in ("fp32", "bf16"):
        network = job.network().eval()
        result = step(job, network, build_optimizer(network, job.config.optim), precision=precision)
        losses.append(result.loss)
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_an_infinite_gradient_changes_nothing_though_the_loss_is_finite(job):
    def objective(network, batch):
        loss = masked_expression_loss(network, batch)
        # The root's slope at 0 is infinite.
        return loss._replace(
            total=loss.total.detach() + (network.cls - network.cls.detach()).sum().sqrt()
        )

    network = job.network()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    result = step(
        job, network, build_optimizer(network, job.config.optim), objective=objective, step=7
    )
    assert math.isfinite(result.loss)
    assert not result.is_finite
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_micro_batches_weigh_by_their_scored_genes(job):
    """A step of three micro-batches is one over all their cells: the mean is over all scored genes."""
    job = job.changed("model", dropout=0.0)
    parts = TwoKinds(n_lanes=3).batches(4)
    assert len({int(part.scored.sum()) for part in parts}) == 3
    cut, whole = job.network(), job.network()
    first = step(job, cut, build_optimizer(cut, job.config.optim), batches=parts)
    second = step(job, whole, build_optimizer(whole, job.config.optim), batches=[joined(parts)])
    assert (first.n_cells, first.n_tokens, first.n_scored) == (
        second.n_cells,
        second.n_tokens,
        second.n_scored,
    )
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)
    for one, two in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_weigh_alike_with_the_detection_term(job):
    """Though not every scored gene has an absent one beside it, and some lanes have fewer of them."""
    job = job.changed("model", dropout=0.0, zero_heads=False, detection_head=True)
    parts = [asked([9, 14], seed=1, none=0.1), asked([20, 3, 6], seed=2, none=0.8)]
    shares = [float((part.absent[part.scored] > 0).float().mean()) for part in parts]
    assert abs(shares[0] - shares[1]) > 0.3
    objective = partial(masked_expression_loss, detection=0.8)
    results, networks = [], [job.network(), job.network()]
    for network, batches in zip(networks, (parts, [joined(parts)]), strict=True):
        optimizer = build_optimizer(network, job.config.optim)
        results.append(step(job, network, optimizer, objective=objective, batches=batches))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].loss > results[0].gene_loss + results[0].cell_loss
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-5)
    for one, two in zip(*(network.parameters() for network in networks), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def joined(parts):
    """Put the cells of several batches into one."""
    ends = torch.tensor([0, *accumulate(part.n_tokens for part in parts)])
    offsets = [part.offsets[1:] + end for part, end in zip(parts, ends[:-1], strict=True)]
    tokens = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("gene", "value", "depth", "hidden", "scored", "target", "absent")
        if getattr(parts[0], name) is not None
    }
    return CellBatch(offsets=torch.cat([torch.zeros(1, dtype=torch.int64), *offsets]), **tokens)


def test_lanes_that_score_nothing_do_no_harm(job):
    batch = job.sampler.batch(0)
    nothing = replace(batch, scored=torch.zeros_like(batch.scored))
    job = job.changed("model", dropout=0.0)
    alone, beside = job.network(), job.network()
    one = step(job, alone, build_optimizer(alone, job.config.optim), batches=[batch])
    two = step(job, beside, build_optimizer(beside, job.config.optim), batches=[nothing, batch])
    assert one.loss == two.loss
    assert one.n_scored == two.n_scored
    empty = step(job, beside, build_optimizer(beside, job.config.optim), batches=[nothing])
    assert (empty.loss, empty.n_scored, empty.is_finite) == (0.0, 0, True)
