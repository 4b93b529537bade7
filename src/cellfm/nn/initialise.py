"""Random weights, in one function."""

import torch
from torch import Tensor, nn

from cellfm.nn.encoder import CellFM

BLOCK_INPUTS = ("query", "key")
XAVIER_HALF = ("gene_embedding.weight", "cls", "depth_embedding", "annotation.clusters")
ZERO = ("mask_embedding", "zero_embedding", "alpha", "lora_b")


@torch.no_grad()
def initialise(network: CellFM, generator: torch.Generator) -> CellFM:
    r"""Fill a network with random weights, in place, and return it.

    ==============================================  =========================================
    gene table, [CLS], depth and class embeddings   Xavier normal, gain ½; padding row 0
    retention query and key                         Xavier normal, gain 1
    retention value, gate, out; gated units         Xavier normal, gain :math:`(8L)^{-1/4}`
    retention of the annotation head                Xavier normal, gain 1
    adapters                                        A normal σ = 0.01, B 0
    mask, zero embedding, α                         0
    layer norms                                     gain 1, bias 0
    every other map                                 uniform :math:`\pm 1/\sqrt{n_\mathrm{in}}`
    ==============================================  =========================================

    Parameters
    ----------
    network
        Network on the device of the generator.
    generator
        Source of all randomness.
    """
    for name, parameter in network.named_parameters():
        fill(name, parameter, n_layers=network.config.n_layers, generator=generator)
    return network


@torch.no_grad()
def fill(name: str, parameter: Tensor, *, n_layers: int, generator: torch.Generator) -> None:
    """Fill one parameter of a network; :func:`initialise` does so for all, in their order.

    Parameters
    ----------
    name, parameter
        As in ``named_parameters()``.
    n_layers
        Layers of the network.
    generator
        Source of all randomness.
    """
    block_gain = (8.0 * n_layers) ** -0.25
    *path, last = name.split(".")
    if last in ZERO:
        parameter.zero_()
    elif name in XAVIER_HALF:
        # [CLS] and the depth pair have the fans of the (1, 1, dim) and (1, 2, dim) arrays they are published as.
        fan = (
            sum(parameter.shape)
            if parameter.ndim == 2 and name != "depth_embedding"
            else _prefix_fan(parameter)
        )
        parameter.normal_(0.0, 0.5 * (2.0 / fan) ** 0.5, generator=generator)
    elif path and path[-1].startswith("norm"):
        parameter.fill_(1.0 if last == "weight" else 0.0)
    elif last == "lora_a":
        parameter.normal_(0.0, 0.01, generator=generator)
    elif "layers" in path:
        unit = path[-1] in BLOCK_INPUTS or path[0] == "annotation"
        nn.init.xavier_normal_(parameter, gain=1.0 if unit else block_gain, generator=generator)
    else:
        n_in = parameter.shape[-1]
        parameter.uniform_(-(n_in**-0.5), n_in**-0.5, generator=generator)
    if name == "gene_embedding.weight":
        parameter[0] = 0.0


def _prefix_fan(parameter: Tensor) -> int:
    dim, n = parameter.shape[-1], parameter.numel() // parameter.shape[-1]
    return dim * n + dim
