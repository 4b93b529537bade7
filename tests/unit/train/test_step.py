import pytest
import torch

from cellfm.nn import masked_expression_loss
from cellfm.train import NonFiniteLossError, build_optimizer, train_step
from cellfm.train.step import noise, repeatable

CPU = torch.device("cpu")


def step(job, network, optimizer, **changes):
    options = {"step": 0, "seed": 0, "precision": "fp32", "objective": masked_expression_loss}
    return train_step(
        network, job.sampler.batch(0), optimizer, optim=job.config.optim, **{**options, **changes}
    )


def drawn(*, seed, step):
    with noise(CPU, seed=seed, step=step):
        return torch.rand(3)


def test_noise_is_a_function_of_seed_and_step():
    before = torch.get_rng_state()
    assert torch.equal(drawn(seed=1, step=2), drawn(seed=1, step=2))
    assert not torch.equal(drawn(seed=1, step=2), drawn(seed=2, step=1))
    assert not torch.equal(drawn(seed=1, step=2), drawn(seed=1, step=3))
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


def test_an_infinite_gradient_is_refused_though_the_loss_is_finite(job):
    def objective(network, batch):
        loss = masked_expression_loss(network, batch)
        # The root's slope at 0 is infinite.
        return loss._replace(
            total=loss.total.detach() + (network.cls - network.cls.detach()).sum().sqrt()
        )

    network = job.network()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    with pytest.raises(
        NonFiniteLossError,
        match=r"Step 7: the loss is [0-9.]+ and the norm of its gradient (inf|nan)",
    ):
        step(job, network, build_optimizer(network, job.config.optim), objective=objective, step=7)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
