"""Heads of the masked-expression objective: expression from a gene's state, or from the cell's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cellfm.nn.primitives import LEAKY_SLOPE, Projection, unset


class GeneDecoder(nn.Module):
    r"""Gene-wise decoder, :math:`\hat y_i = w_2 \mathrm{LeakyReLU}(W_1 h_i)`; unbounded."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = Projection(dim, dim)
        self.second = Projection(dim, 1)

    def forward(self, state: Float[Tensor, "token dim"]) -> Float[Tensor, " token"]:
        """Predict the value of each gene from its own state."""
        return self.second(functional.leaky_relu(self.first(state), LEAKY_SLOPE)).squeeze(-1)


class CellDecoder(nn.Module):
    r"""Cell-wise decoder, :math:`\hat y_i = \langle \sigma(W_m g_i), h_\mathrm{cls} \rangle`, g the *input* gene embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = Projection(dim, dim)

    def forward(
        self, gene: Float[Tensor, "token dim"], cell: Float[Tensor, "token dim"]
    ) -> Float[Tensor, " token"]:
        """Predict the value of each gene from the state of its cell (already repeated for each gene)."""
        return (self.map(gene).sigmoid() * cell).sum(-1)


class GeneZeroDecoder(nn.Sequential):
    """Probability of expression from a gene's state: three layers with LeakyReLU, then a sigmoid."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            Affine(dim, dim),
            nn.LeakyReLU(LEAKY_SLOPE),
            Affine(dim, dim),
            nn.LeakyReLU(LEAKY_SLOPE),
            Affine(dim, 1),
        )

    def forward(self, state: Float[Tensor, "token dim"]) -> Float[Tensor, " token"]:
        """Return a probability for each gene."""
        return super().forward(state).squeeze(-1).sigmoid()


class CellZeroDecoder(nn.Module):
    r"""Probability of expression from the cell, :math:`\sigma(\langle W_z g_i + b, h_\mathrm{cls} \rangle)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = unset(dim, dim)
        self.bias = unset(dim)

    def forward(
        self, gene: Float[Tensor, "token dim"], cell: Float[Tensor, "token dim"]
    ) -> Float[Tensor, " token"]:
        """Return a probability for each gene."""
        return self.logit(gene, cell).sigmoid()

    def logit(
        self, gene: Float[Tensor, "token dim"], cell: Float[Tensor, "token dim"]
    ) -> Float[Tensor, " token"]:
        """Return its log odds, which keep their slope where the probability is rounded to 0 or 1."""
        return (functional.linear(gene, self.weight, self.bias) * cell).sum(-1)


class Affine(nn.Module):
    """Linear map with bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = unset(n_out, n_in)
        self.bias = unset(n_out)

    def forward(self, x: Float[Tensor, "row n_in"]) -> Float[Tensor, "row n_out"]:
        """Map the last axis."""
        return torch.addmm(self.bias, x, self.weight.T)
