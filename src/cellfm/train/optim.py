"""Which parameters decay, how the gradient is clipped, and the optimiser."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from cellfm.config.pretrain import OptimConfig
from cellfm.train.parallel import World, is_share, share

FUSED = ("cpu", "cuda")


def decays(name: str, parameter: Tensor, rule: Literal["matrices", "published"]) -> bool:
    """Whether a parameter is pulled towards zero.

    Parameters
    ----------
    name, parameter
        As in ``named_parameters()``.
    rule
        ``"matrices"``: projections, but no embedding, norm, bias or scalar. ``"published"``: whatever has none of
        emb, layernorm, bias in its *official* name; there norms are called ``post_norm*.gamma`` and ``beta``, so
        they decay, as [CLS] does, and only the biases of the zero heads do not.
    """
    path = name.split(".")
    # The class queries of the annotation head are `cluster_emb` officially.
    embedding = "embedding" in name or path[-1] == "clusters"
    if rule == "matrices":
        return parameter.ndim >= 2 and not embedding
    in_norm = len(path) > 1 and path[-2].startswith("norm")
    return not embedding and (path[-1] != "bias" or in_norm)


def parameter_groups(
    network: nn.Module, config: OptimConfig
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Split the trainable parameters into those that decay and those that do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (decayed if decays(name, parameter, config.decay) else kept).append(parameter)
    groups: list[dict[str, list[nn.Parameter] | float]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return AdamW, or Adam with the L2 term in the gradient; one fused kernel where the device has it."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.kind]
    groups = parameter_groups(network, config)
    fused = all(parameter.device.type in FUSED for parameter in network.parameters())
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], config: OptimConfig, *, world: World | None = None
) -> Tensor:
    """Scale gradients that are longer than the limit down to it, in place.

    Parameters
    ----------
    parameters
        Those without a gradient are passed over.
    config
        Its `clip_norm` and `clip_per`.
    world
        Processes among which the gradients may be shared out; lengths are those of the whole gradients.

    Returns
    -------
    L2 norm of the whole gradient before clipping.
    """
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not found:
        return torch.zeros(())
    gradients = [share(gradient) for gradient in found]
    norms = torch.stack(torch._foreach_norm(gradients))
    if world is not None and is_share(found[0]):
        norms = world.total_of(norms.square()).sqrt()
    total = torch.linalg.vector_norm(norms)
    if config.clip_norm is None:
        return total
    length = norms if config.clip_per == "tensor" else total.expand_as(norms)
    # A zero gradient gives limit / 0 = ∞ and is kept as it is.
    factors = (config.clip_norm / length).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return total
