r"""Optimal transport by convex potentials: how a population of cells was moved, learned from two unpaired samples.

For the squared Euclidean cost, the cheapest map from a distribution P to a distribution Q is the gradient of a convex function
(Brenier 1991), and it is found by the min-max problem of Makkuva et al. (ICML 2020, eq. 6), which CellOT (Bunne et al., Nat Methods
2023, doi:10.1038/s41592-023-01969-x) uses for treated and untreated cells:

.. math:: \min_f \max_g\; E_{y∼Q}[f(y)] + E_{x∼P}[⟨x, ∇g(x)⟩ − f(∇g(x))], \qquad T = ∇g

over convex f and g: for given f the best g is its convex conjugate. Both may depend on a condition c, in which they need not be convex
(Bunne, Krause & Cuturi, NeurIPS 2022): then one pair of potentials holds the maps of all conditions.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

START = -4.0
"""Raw value of the weights that must not be negative: softplus(−4) = 0.018."""


class _Affine(nn.Module):
    """Wx + b without values; torch's own draws them, and warns where the input has width 0, as that of no condition has."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None

    def forward(self, x: Float[Tensor, "cell n_in"]) -> Float[Tensor, "cell n_out"]:
        return functional.linear(x, self.weight, self.bias)


class ConvexPotential(nn.Module):
    r"""A function of a point, convex in it, and of a condition, in which it is free.

    The partially input-convex network of Amos, Xu & Kolter (ICML 2017, eq. 3), and a quadratic so that the gradient begins near the
    identity (Bunne, Krause & Cuturi 2022, §3.3):

    .. math::
        z_1 &= σ(A_0 x + C_0 c + b_0) \\
        z_{k+1} &= σ(W_k^+ (z_k ∘ s(U_k c + u_k)) + A_k x + C_k c + b_k) \\
        f(x, c) &= w^{+⊤} z_K + ½ Σ_i e^{q_i} x_i^2 + (a + C c)^⊤ x

    with σ = softplus, which is convex, increasing and smooth; :math:`W^+ = \mathrm{softplus}(W)` and the gate
    :math:`s = \mathrm{softplus}` are not negative, so each layer is convex in x.

    Parameters
    ----------
    dim
        Width of a point.
    condition
        Width of a condition; 0 for none.
    hidden
        Widths of the layers.

    The parameters are filled by `initialise_potential`.
    """

    def __init__(self, dim: int, condition: int = 0, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        self.dim, self.condition, self.hidden = dim, condition, hidden
        self.point = nn.ModuleList(_Affine(dim, width) for width in hidden)
        self.given = nn.ModuleList(_Affine(condition, width, bias=False) for width in hidden)
        self.gate = nn.ModuleList(_Affine(condition, width) for width in hidden[:-1])
        self.hidden_weight = nn.ParameterList(
            torch.empty(high, low) for low, high in pairwise(hidden)
        )
        self.out_weight = nn.Parameter(torch.empty(hidden[-1]))
        self.curvature = nn.Parameter(torch.empty(dim))
        self.slope = _Affine(condition, dim)

    def forward(
        self, x: Float[Tensor, "cell dim"], c: Float[Tensor, "cell condition"]
    ) -> Float[Tensor, " cell"]:
        """Return the potential of each point.

        Parameters
        ----------
        x
            Points.
        c
            Condition of each; of width 0 where there is none.
        """
        z = functional.softplus(self.point[0](x) + self.given[0](c))
        for gate, weight, point, given in zip(
            self.gate, self.hidden_weight, self.point[1:], self.given[1:], strict=True
        ):
            mixed = (z * functional.softplus(gate(c))) @ functional.softplus(weight).T
            z = functional.softplus(mixed + point(x) + given(c))
        quadratic = 0.5 * (self.curvature.exp() * x.square()).sum(dim=1)
        return z @ functional.softplus(self.out_weight) + quadratic + (self.slope(c) * x).sum(dim=1)

    def gradient(
        self,
        x: Float[Tensor, "cell dim"],
        c: Float[Tensor, "cell condition"],
        *,
        create_graph: bool = False,
    ) -> Float[Tensor, "cell dim"]:
        """Return ∇ₓ f(x, c): where the map of this potential takes each point.

        Parameters
        ----------
        x
            Points.
        c
            Condition of each.
        create_graph
            Whether the result is to be differentiated by the parameters.
        """
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            total = self(x, c).sum()
            return torch.autograd.grad(total, x, create_graph=create_graph)[0]


@torch.no_grad()
def initialise_potential(potential: ConvexPotential, generator: torch.Generator) -> ConvexPotential:
    """Fill a potential with random weights, in place, so that its gradient is nearly the identity; return it.

    Maps are uniform in ±1/√n_in, weights that must not be negative begin at softplus(−4) / width, quadratic and slope at ½|x|² and 0.

    Parameters
    ----------
    potential
        On the device of the generator.
    generator
        Source of all randomness.
    """
    for name, parameter in potential.named_parameters():
        if name.startswith(("hidden_weight", "out_weight")):
            noise = torch.rand(parameter.shape, generator=generator, device=parameter.device)
            parameter.copy_(START + 0.5 * noise - torch.tensor(float(parameter.shape[-1])).log())
        elif name.startswith(("curvature", "slope")) or not parameter.numel():
            parameter.zero_()
        else:
            n_in = parameter.shape[-1] if parameter.ndim > 1 else parameter.numel()
            bound = n_in**-0.5
            noise = torch.rand(parameter.shape, generator=generator, device=parameter.device)
            parameter.copy_((2.0 * noise - 1.0) * bound)
    return potential


def source_loss(
    f: ConvexPotential,
    g: ConvexPotential,
    x: Float[Tensor, "cell dim"],
    c: Float[Tensor, "cell condition"],
) -> Float[Tensor, ""]:
    """Loss of g, E[f(∇g(x)) − ⟨x, ∇g(x)⟩]: for a given f its least value is −E[f*(x)].

    Parameters
    ----------
    f, g
        Potentials.
    x, c
        Points of P and their conditions.
    """
    moved = g.gradient(x, c, create_graph=True)
    return cast("Tensor", (f(moved, c) - (x * moved).sum(dim=1)).mean())


def target_loss(
    f: ConvexPotential,
    moved: Float[Tensor, "cell dim"],
    c: Float[Tensor, "cell condition"],
    real: tuple[Float[Tensor, "other dim"], Float[Tensor, "other condition"]],
) -> Float[Tensor, ""]:
    """Loss of f, E[f(y)] − E[f(∇g(x))].

    Parameters
    ----------
    f
        Potential.
    moved, c
        ∇g(x), held fixed, and the conditions.
    real
        Points y of Q and their conditions.
    """
    return cast("Tensor", f(*real).mean() - f(moved.detach(), c).mean())


Sample = tuple[
    Float[Tensor, "cell dim"],
    Float[Tensor, "cell condition"],
    Float[Tensor, "cell dim"],
    Float[Tensor, "cell condition"],
]
"""Points of P with conditions, points of Q with conditions; as many of each condition on both sides."""


def fit_potentials(
    f: ConvexPotential,
    g: ConvexPotential,
    samples: Iterator[Sample],
    *,
    n_steps: int = 500,
    n_inner: int = 2,
    learning_rate: float = 2e-2,
) -> list[float]:
    """Solve the min-max problem by turns, in place: a step of f after `n_inner` steps of g (CellOT, Methods).

    Adam with β = (0.5, 0.9) as in CellOT; the rate falls to 0 as a cosine.

    Parameters
    ----------
    f, g
        Initialised potentials.
    samples
        Gives a batch for each step of either.
    n_steps
        Steps of f.
    n_inner
        Steps of g for each.
    learning_rate
        The first one.

    Returns
    -------
    The value of the problem, E[f(y)] + E[⟨x, ∇g⟩ − f(∇g)], of each step of f.
    """
    adam = [torch.optim.Adam(p.parameters(), lr=learning_rate, betas=(0.5, 0.9)) for p in (f, g)]
    rates = [torch.optim.lr_scheduler.CosineAnnealingLR(each, n_steps) for each in adam]
    values = []
    for _ in range(n_steps):
        for _ in range(n_inner):
            x, c, _, _ = next(samples)
            adam[1].zero_grad(set_to_none=True)
            source_loss(f, g, x, c).backward()
            adam[1].step()
        x, c, y, d = next(samples)
        moved = g.gradient(x, c)
        adam[0].zero_grad(set_to_none=True)
        loss = target_loss(f, moved, c, (y, d))
        loss.backward()
        adam[0].step()
        values.append(float(loss.detach() + (x * moved).sum(dim=1).mean()))
        for rate in rates:
            rate.step()
    return values
