"""Whom a gene listens to: ranks of the retention weights between the genes of each cell, without keeping an n × n table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM, Layout
from cellfm.nn.retention import Segments, feature_map

Ranked = Literal["sources", "targets"]
"""What the weight of a pair is ranked among: all genes that the target reads, or all genes that read the source."""

BLOCK_WEIGHTS = 1 << 18
"""Weights computed, sorted and forgotten together: 1 MB in float32, which stays in a core's cache."""
LEAST_GENES = 3
"""Genes a cell needs: with two, each has one other, and there is nothing to rank it against."""
ITSELF = -1.0
"""Below all weights, which are sums of products of non-negative numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadVectors:
    r"""What the genes of a batch ask for, :math:`\phi(q)`, and answer to, :math:`\phi(k)`, in one layer."""

    query: Float[Tensor, "token head d"]
    key: Float[Tensor, "token head d"]


def head_vectors(network: CellFM, batch: CellBatch) -> Iterator[HeadVectors]:
    r"""Yield :math:`\phi(XW_q)` and :math:`\phi(XW_k)` of the genes, layer after layer, :math:`\phi = \mathrm{ReLU}`.

    [CLS] and the depth tokens are no genes: they take part in the states, and are left out here.

    Parameters
    ----------
    network
        In evaluation mode.
    batch
        Cells on its device.

    Raises
    ------
    ValueError
        Genes are hidden or zero.
    """
    if batch.hidden is not None or batch.zero is not None:
        msg = "Weights of pairs are of plain cells, but some genes are hidden or zero; leave out CellBatch.hidden and CellBatch.zero."
        raise ValueError(msg)
    layout = Layout.of(batch, network.config.n_prefix)
    x, everything = network.embed_rows(batch, layout), Segments.same(layout.lengths)
    for i, layer in enumerate(network.encoder_layers):
        genes, retention = x[layout.gene_rows], layer.retention
        query, key = (
            rearrange(
                feature_map(project(genes)),
                "token (head d) -> token head d",
                head=retention.n_heads,
            )
            for project in (retention.query, retention.key)
        )
        yield HeadVectors(query=query, key=key)
        if i + 1 < len(network.encoder_layers):
            x = layer(x, everything)


def pair_ranks(
    vectors: HeadVectors,
    source: Int[Tensor, " source"],
    target: Int[Tensor, " target"],
    *,
    ranked: Ranked = "sources",
    block: int = BLOCK_WEIGHTS,
) -> Float[Tensor, "head source target"]:
    r"""Return where the weight of each pair stands among those of a cell, from 0 to 1.

    Target i reads source j with weight :math:`a_{ij} = \phi(q_i) \cdot \phi(k_j)`. With n genes in the cell, the rank among sources is the share
    of the n − 2 other genes that i reads less than j, where those that it reads as much count half:

    .. math:: r_{ij} = \frac{\#\{l \ne i, j: a_{il} < a_{ij}\} + \tfrac12 \#\{l \ne i, j: a_{il} = a_{ij}\}}{n - 2}

    The rank among targets compares :math:`a_{ij}` over the genes i that may read j, with queries of length 1, because the norm after the sum
    cancels the length of each query (`cellfm.nn.retention.Retention`): without it the loudest query would come first.

    Memory: `block` weights and a copy of those asked for, and the result; blocks of rows are made, sorted and forgotten.

    Parameters
    ----------
    vectors
        Of the genes of one cell, at least `LEAST_GENES`.
    source, target
        Places of genes in the cell; of a gene and itself the result has no meaning.
    ranked
        What is ranked.
    block
        Weights held at a time; at least one row of them is.
    """
    query, key = (x.transpose(0, 1).contiguous() for x in (vectors.query, vectors.key))
    if ranked == "targets":
        return _ranks(
            key, functional.normalize(query, dim=-1), own=source, asked=target, block=block
        )
    return _ranks(query, key, own=target, asked=source, block=block).mT


def _ranks(
    one: Float[Tensor, "head n d"],
    other: Float[Tensor, "head n d"],
    *,
    own: Int[Tensor, " row"],
    asked: Int[Tensor, " column"],
    block: int,
) -> Float[Tensor, "head row column"]:
    """Return for the rows `own` of `one` the ranks of `asked` among all rows of `other` but the row itself."""
    n_heads, n, _ = one.shape
    ranks = one.new_empty(n_heads, len(own), len(asked))
    step = max(1, block // n)
    for head in range(n_heads):
        for start in range(0, len(own), step):
            rows = own[start : start + step]
            weight = one[head, rows] @ other[head].T
            weight[torch.arange(len(rows), device=rows.device), rows] = ITSELF
            ranks[head, start : start + step] = _mid_ranks(weight, weight[:, asked])
    return ranks.div_(n - 2)


def _mid_ranks(
    weight: Float[Tensor, "row n"], value: Float[Tensor, "row column"]
) -> Float[Tensor, "row column"]:
    """Return how many weights of the row, `ITSELF` not counted, are below each value, and half of the others that equal it; sorts in place."""
    value = value.contiguous()
    weight = _sorted(weight)
    below = torch.searchsorted(weight, value)
    after = (below + 1).clamp_(max=weight.shape[1] - 1)
    tied = (weight.gather(1, after) == value) & (after > below)
    rank = (below - 1).to(weight.dtype)
    if not tied.any():
        return rank
    # Nearly all ties are zeros, which come first in their row: one search a row instead of one a value.
    n_upto = torch.searchsorted(weight, weight.new_zeros(len(weight), 1), right=True)
    rank = torch.where(value == 0, (n_upto - 2).to(weight.dtype) / 2, rank)
    rows = (tied & (value > 0)).any(1)
    if rows.any():
        upto = torch.searchsorted(weight[rows], value[rows], right=True)
        rank[rows] = (below[rows] + upto - 3).to(weight.dtype) / 2
    return rank


def _sorted(weight: Float[Tensor, "row n"]) -> Float[Tensor, "row n"]:
    """Sort each row; on the CPU in place by NumPy, ten times as fast as PyTorch, which also returns where each value was."""
    if weight.device.type != "cpu":
        return weight.sort(dim=-1).values
    weight.numpy().sort(axis=-1)
    return weight
