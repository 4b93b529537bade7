"""Low-rank adapters on a network that was trained without them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from cellfm.errors import ConfigError
from cellfm.nn.encoder import CellFM
from cellfm.nn.primitives import Projection, merge_lora

SIGMA = 0.01
"""Standard deviation of A; B starts at 0, so that an adapter begins by changing nothing."""


@torch.no_grad()
def add_lora(network: CellFM, rank: int, generator: torch.Generator) -> None:
    r"""Put an adapter on every projection of every layer, in place; the outputs stay what they were.

    .. math:: W x \to W x + B (A x), \qquad A \sim N(0, 0.01^2), \quad B = 0

    (Hu et al. 2021, arXiv:2106.09685, eq. 3, without the factor α/r.) ``network.config.lora_rank`` becomes `rank`.

    Parameters
    ----------
    network
        Without adapters.
    rank
        Rank r of BA.
    generator
        Source of A, on the CPU: the same numbers on every device.

    Raises
    ------
    ConfigError
        The rank is below 1, or the network has adapters already.
    """
    if rank < 1:
        msg = f"The rank of the adapters is {rank}; it must be at least 1, usually 4 to 64. Give a number in that range."
        raise ConfigError(msg)
    if network.config.lora_rank:
        msg = f"The network has adapters of rank {network.config.lora_rank} already; merge them into its weights (merge_adapters) before adding others."
        raise ConfigError(msg)
    for projection in _projections(network):
        weight = projection.weight
        n_out, n_in = weight.shape
        a = torch.empty(rank, n_in).normal_(0.0, SIGMA, generator=generator)
        projection.lora_a = nn.Parameter(a.to(weight))
        projection.lora_b = nn.Parameter(weight.new_zeros(n_out, rank))
    network.config = replace(network.config, lora_rank=rank)


def lora_parameters(network: CellFM) -> dict[str, nn.Parameter]:
    """Return the adapters' matrices by their names in the network; none if it has no adapters.

    Parameters
    ----------
    network
        With or without adapters.
    """
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.endswith(("lora_a", "lora_b"))
    }


def train_only_lora(network: CellFM) -> None:
    """Freeze every parameter, the gene table included, but the adapters.

    Parameters
    ----------
    network
        With adapters.

    Raises
    ------
    ConfigError
        It has none, so that nothing would be left to train.
    """
    adapters = lora_parameters(network)
    if not adapters:
        msg = "The network has no adapters, so that nothing would be trained; call add_lora first."
        raise ConfigError(msg)
    network.requires_grad_(requires_grad=False)
    for parameter in adapters.values():
        parameter.requires_grad_()


def merge_adapters(network: CellFM) -> None:
    """Fold every adapter into its weight, :math:`W + BA`, in place; the config then says that there are none.

    Parameters
    ----------
    network
        Its outputs stay the same to rounding.
    """
    merge_lora(network)
    network.config = replace(network.config, lora_rank=0)


def _projections(network: CellFM) -> Iterator[Projection]:
    """Yield the projections of all layers, first layer first."""
    for layer in network.encoder_layers:
        yield from (module for module in layer.modules() if isinstance(module, Projection))
