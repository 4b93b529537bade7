"""The equation: gated linear attention over the set of expressed genes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cellfm.nn.primitives import Projection

# A head whose mean square is below this is dead: all its queries, or all its keys, are zero.
DEAD = 1e-24


@dataclass(frozen=True, slots=True)
class Segments:
    """How many query rows and how many key rows belong to each cell, in order."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]

    @classmethod
    def same(cls, lengths: tuple[int, ...]) -> "Segments":
        """Every row asks and every row answers."""
        return cls(lengths, lengths)


def feature_map(
    x: Float[Tensor, "*row dim"], *, inplace: bool = False
) -> Float[Tensor, "*row dim"]:
    r"""Return :math:`\phi(x) = \mathrm{ReLU}(x)`, the feature map of queries and keys (Zeng et al. 2025, Methods).

    Every forward pass takes it from here, the kernels of inference too, so that another one is written once. It may be any
    elementwise function; where it is zero, kernels leave out work.
    """
    return functional.relu(x, inplace=inplace)


def linear_attention(
    q: Float[Tensor, "query head d"],
    k: Float[Tensor, "key head d"],
    v: Float[Tensor, "key head d"],
    segments: Segments,
) -> Float[Tensor, "query head d"]:
    r"""Return :math:`o_i = q_i \sum_j k_j^\top v_j`, the sum over the keys of the same cell.

    Kept in float32 at least: the sum runs over thousands of genes. The factors :math:`1/\sqrt{d_h}` and
    :math:`1/\sqrt{n}` of the publication are left out, because the norm that follows cancels any positive scale.
    """
    q, k, v = (x if x.dtype == torch.float64 else x.float() for x in (q, k, v))
    mixed = []
    starts = zip(
        accumulate(segments.queries, initial=0), accumulate(segments.keys, initial=0), strict=True
    )
    with _without_autocast(q.device):
        for (q0, k0), (q1, k1) in pairwise(starts):
            asked, keys, values = (_by_head(x) for x in (q[q0:q1], k[k0:k1], v[k0:k1]))
            mixed.append(torch.bmm(asked, torch.bmm(keys.mT, values)).transpose(0, 1))
    return torch.cat(mixed) if mixed else q


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep the precision of the operands; the meta device, which plans and counts, knows no autocast."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _by_head(x: Float[Tensor, "row head d"]) -> Float[Tensor, "head row d"]:
    """Return a contiguous matrix a head: some CPU libraries are several times slower on strided ones."""
    return x.transpose(0, 1).contiguous()


def rms_normalise(o: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    r"""Return :math:`o / \sqrt{\mathrm{mean}(o^2)}`, without gain; a dead head gives 0 with gradient 0."""
    mean_square = o.square().mean(-1, keepdim=True)
    alive = mean_square > DEAD
    return o * torch.where(alive, mean_square, 1.0).rsqrt() * alive


class Retention(nn.Module):
    r"""Gated multi-head linear attention, no order, no decay (Zeng et al. 2025, Methods; RetNet's gate and norm).

    .. math::
        O_h = \mathrm{RMS}\big(\phi(X_q W_q)_h\, (\phi(X_k W_k)_h^\top (X_k W_v)_h)\big) \odot \mathrm{SiLU}(X_q W_u)_h,
        \qquad Y = O W_o, \qquad \phi = \mathrm{ReLU}

    Linear in the number of genes. `X_q` and `X_k` are the same rows for self-retention, some of them when only
    some rows are wanted, and different ones for cross-retention.

    Parameters
    ----------
    dim, n_heads
        Width of a state and number of heads.
    lora_rank
        Rank of the adapter on each projection; 0 means none.
    """

    def __init__(self, dim: int, n_heads: int, *, lora_rank: int = 0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = Projection(dim, dim, lora_rank=lora_rank)
        self.key = Projection(dim, dim, lora_rank=lora_rank)
        self.value = Projection(dim, dim, lora_rank=lora_rank)
        self.gate = Projection(dim, dim, lora_rank=lora_rank)
        self.out = Projection(dim, dim, lora_rank=lora_rank)

    def forward(
        self,
        x_query: Float[Tensor, "query dim"],
        x_key: Float[Tensor, "key dim"],
        segments: Segments,
        visible: Float[Tensor, " key"] | None = None,
    ) -> Float[Tensor, "query dim"]:
        """Mix each query row with the visible key rows of the same cell."""
        q, k = feature_map(self.query(x_query)), feature_map(self.key(x_key))
        v = self.value(x_key)
        if visible is not None:
            k = k * visible[:, None].to(k.dtype)
        q, k, v = (rearrange(x, "row (head d) -> row head d", head=self.n_heads) for x in (q, k, v))
        mixed = rms_normalise(linear_attention(q, k, v, segments))
        gate = functional.silu(self.gate(x_query))
        return self.out(rearrange(mixed, "row head d -> row (head d)").to(gate.dtype) * gate)
