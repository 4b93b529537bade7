"""Heads on the cell's state."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cellfm.nn.decoder import Affine
from cellfm.nn.initialise import fill


class MlpHead(nn.Module):
    r"""Class scores from a cell's state: a linear map beside one hidden layer.

    .. math:: z = (h - \mu) / \sigma, \qquad y = W_s z + b_s + W_2\, \mathrm{dropout}(\mathrm{GELU}(W_1 z + b_1)) + b_2

    The states of pretrained cells differ little beside what they share: μ and σ, buffers that are not trained, take that away,
    as a linear probe's standardisation does. They are 0 and 1 until `standardise`.

    Parameters
    ----------
    dim
        Width of a state.
    hidden
        Width of the hidden layer.
    n_out
        Scores.
    dropout
        Of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int, n_out: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.straight = Affine(dim, n_out)
        self.first = Affine(dim, hidden)
        self.second = Affine(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def standardise(self, states: Float[Tensor, "cell dim"]) -> None:
        """Take μ and σ from some cells; a coordinate that is the same in all of them keeps its size.

        Parameters
        ----------
        states
            Of training cells only.
        """
        scale = states.std(dim=0, correction=0)
        self.mean.copy_(states.mean(dim=0))
        self.scale.copy_(torch.where(scale > 1e-6, scale, 1.0))

    def forward(self, state: Float[Tensor, "cell dim"]) -> Float[Tensor, "cell n_out"]:
        """Return the scores of each cell."""
        z = (state - self.mean) / self.scale
        return self.straight(z) + self.second(self.dropout(functional.gelu(self.first(z))))


@torch.no_grad()
def initialise_head(head: nn.Module, generator: torch.Generator) -> None:
    """Fill a head with random weights, in place, by the rules of :func:`~cellfm.nn.initialise.initialise`; biases are 0.

    Parameters
    ----------
    head
        `MlpHead` or `AnnotationHead`, on the CPU.
    generator
        Source of all randomness.
    """
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            # Only layers of the encoder have a gain that depends on their number.
            fill(f"annotation.{name}", parameter, n_layers=1, generator=generator)
