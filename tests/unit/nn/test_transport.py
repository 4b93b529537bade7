"""Convex potentials: convexity, gradients, and maps that are known."""

import pytest
import torch

from cellfm.nn.transport import (
    ConvexPotential,
    fit_potentials,
    initialise_potential,
    source_loss,
    target_loss,
)


def potential(dim=3, condition=2, seed=0, scale=1.0):
    made = initialise_potential(
        ConvexPotential(dim, condition, (16, 16)), torch.Generator().manual_seed(seed)
    )
    if scale != 1.0:  # weights far from the start: convexity must not depend on it
        with torch.no_grad():
            noise = torch.Generator().manual_seed(seed + 1)
            for parameter in made.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=noise) * scale)
    return made


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_convex_in_the_point_whatever_the_weights(scale):
    f, rng = potential(scale=scale).double(), torch.Generator().manual_seed(5)
    x, y = (torch.randn(500, 3, generator=rng, dtype=torch.float64) * 3 for _ in range(2))
    c = torch.randn(500, 2, generator=rng, dtype=torch.float64)
    t = torch.rand(500, 1, generator=rng, dtype=torch.float64)
    between = f(t * x + (1 - t) * y, c)
    assert (between <= t[:, 0] * f(x, c) + (1 - t[:, 0]) * f(y, c) + 1e-9).all()


def test_not_convex_in_the_condition():
    f, rng = potential(scale=2.0).double(), torch.Generator().manual_seed(5)
    x = torch.randn(500, 3, generator=rng, dtype=torch.float64)
    c, d = (torch.randn(500, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    assert (f(x, (c + d) / 2) > (f(x, c) + f(x, d)) / 2 + 1e-6).any()


def test_gradient_is_that_of_autograd_and_begins_near_the_identity():
    g, x, c = potential(), torch.randn(7, 3), torch.randn(7, 2)
    step = 1e-3
    numeric = torch.stack(
        [
            (g(x + step * e, c) - g(x - step * e, c)) / (2 * step)
            for e in torch.eye(3)
        ],
        dim=1,
    )  # fmt: skip
    assert torch.allclose(g.gradient(x, c), numeric, atol=2e-3)
    assert torch.allclose(g.gradient(x, c), x, atol=0.05)


def test_losses_reach_every_parameter_of_their_own_potential():
    f, g = potential(seed=1), potential(seed=2)
    x, y, c = torch.randn(9, 3), torch.randn(9, 3), torch.randn(9, 2)
    source_loss(f, g, x, c).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in g.parameters())
    g.zero_grad()
    f.zero_grad()
    target_loss(f, g.gradient(x, c), c, (y, c)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in f.parameters())
    assert all(p.grad is None for p in g.parameters())


def samples(source, target, c, seed):
    rng = torch.Generator().manual_seed(seed)
    while True:
        rows, others = (torch.randint(len(c), (256,), generator=rng) for _ in range(2))
        others = rows if c.shape[1] else others
        yield source[rows], c[rows], target[others], c[others]


def test_recovers_the_linear_map_between_gaussians():
    """Between N(0, I) and N(m, S) the optimal map is m + S^½ x."""
    rng = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.5, 0.4], [0.4, 0.6]])
    mean = torch.tensor([1.0, -0.5])
    x = torch.randn(4000, 2, generator=rng)
    y = mean + torch.randn(4000, 2, generator=rng) @ root
    f, g = potential(2, 0, 1), potential(2, 0, 2)
    fit_potentials(f, g, samples(x, y, torch.zeros(4000, 0), 3))
    test = torch.randn(1000, 2, generator=rng)
    found = g.gradient(test, torch.zeros(1000, 0))
    error = (found - (mean + test @ root)).square().mean()
    assert error < 0.02  # the shift alone leaves 0.28, the identity 1.5
    assert (found - test - mean).square().mean() > 0.1


def test_one_pair_of_potentials_holds_a_shift_for_each_condition():
    rng = torch.Generator().manual_seed(0)
    c = torch.rand(4000, 1, generator=rng) * 2 - 1
    x = torch.randn(4000, 2, generator=rng)
    y = torch.randn(4000, 2, generator=rng) + torch.cat([2 * c, -c], dim=1)
    f, g = potential(2, 1, 1), potential(2, 1, 2)
    fit_potentials(f, g, samples(x, y, c, 3))
    for value in (-0.8, 0.1, 0.9):
        at = torch.full((1000, 1), value)
        moved = (g.gradient(x[:1000], at) - x[:1000]).mean(dim=0)
        assert torch.allclose(moved, torch.tensor([2 * value, -value]), atol=0.2)
