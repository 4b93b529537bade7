"""What the network is built of: bias-free maps with optional adapters, gated units, and two constants."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEAKY_SLOPE = 0.2  # MindSpore's default; part of the released weights
NORM_EPSILON = 1e-7  # likewise


def unset(*shape: int) -> nn.Parameter:
    """Return a parameter of NaNs, so that a network that was never initialised cannot pass for a real one."""
    return nn.Parameter(torch.full(shape, torch.nan))


class Projection(nn.Module):
    r"""Linear map without bias, :math:`Wx + B(Ax)` when it carries an adapter of rank `lora_rank`.

    The adapter reads the *input* of the projection (Hu et al. 2021, arXiv:2106.09685, without the α/r factor).

    Parameters
    ----------
    n_in, n_out
        Widths of input and output.
    lora_rank
        Rank of the adapter; 0 means none.
    """

    def __init__(self, n_in: int, n_out: int, *, lora_rank: int = 0) -> None:
        super().__init__()
        self.weight = unset(n_out, n_in)
        self.lora_a = unset(lora_rank, n_in) if lora_rank else None
        self.lora_b = unset(n_out, lora_rank) if lora_rank else None

    def forward(self, x: Float[Tensor, "*row n_in"]) -> Float[Tensor, "*row n_out"]:
        """Map the last axis."""
        y = functional.linear(x, self.weight)
        if self.lora_a is None or self.lora_b is None:
            return y
        return y + functional.linear(functional.linear(x, self.lora_a), self.lora_b)

    def merged(self) -> Float[Tensor, "n_out n_in"]:
        """Return the one matrix that does the same: :math:`W + BA`."""
        if self.lora_a is None or self.lora_b is None:
            return self.weight
        return self.weight + self.lora_b @ self.lora_a


class GatedLinearUnit(nn.Module):
    r"""Gated feed-forward without activation, :math:`((X W_a) \odot (X W_b)) W_c` (SGLU)."""

    def __init__(self, dim: int, *, lora_rank: int = 0) -> None:
        super().__init__()
        self.left = Projection(dim, dim, lora_rank=lora_rank)
        self.right = Projection(dim, dim, lora_rank=lora_rank)
        self.out = Projection(dim, dim, lora_rank=lora_rank)

    def forward(self, x: Float[Tensor, "row dim"]) -> Float[Tensor, "row dim"]:
        """Transform each row by itself."""
        return self.out(self.left(x) * self.right(x))


@torch.no_grad()
def merge_lora(network: nn.Module) -> None:
    """Fold every adapter into its weight, in place; the outputs stay the same and the adapters are gone."""
    for module in network.modules():
        if isinstance(module, Projection) and module.lora_a is not None:
            module.weight.copy_(module.merged())
            module.lora_a = module.lora_b = None
