"""The yardstick: a plain padded float32 encoder with the weights of a CellFM network, nothing left out."""

import torch
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn import CellFM
from cellfm.nn.primitives import NORM_EPSILON


def pad(batch: CellBatch, longest: int) -> dict[str, Tensor]:
    """Return (cell, longest) arrays of a ragged batch."""
    lengths = batch.offsets.diff()
    valid = torch.arange(longest) < lengths[:, None]
    padded = {"valid": valid, "depth": batch.depth}
    for name in ("gene", "value", "hidden", "scored", "target"):
        flat = getattr(batch, name)
        if flat is not None:
            padded[name] = torch.zeros(valid.shape, dtype=flat.dtype).masked_scatter(valid, flat)
    return padded


class PaddedEncoder:
    """Straight transcription of the equations on (cell, token, dim) arrays with masks and scales."""

    def __init__(self, network: CellFM) -> None:
        self.network = network
        self.config = network.config

    def states(self, cells: dict[str, Tensor]) -> Tensor:
        """Return the states of [CLS], [S, T] and all (padded) genes."""
        net = self.network
        values = net.value_encoder(cells["value"])
        visible = cells["valid"]
        if "hidden" in cells:
            values = torch.where(cells["hidden"][..., None], net.mask_embedding, values)
            visible = visible & ~cells["hidden"]
        genes = (net.gene_embedding(cells["gene"]) + values) * cells["valid"][..., None]
        cls = net.cls.expand(len(genes), 1, -1)
        prefix = [cls]
        if self.config.depth_tokens:
            prefix.append(net.depth_embedding + net.depth_encoder(cells["depth"]))
        x = torch.cat([*prefix, genes], dim=1)
        ones = torch.ones(len(genes), self.config.n_prefix, dtype=torch.bool)
        early, late = (
            torch.cat([ones, visible], 1).float(),
            torch.cat([ones, cells["valid"]], 1).float(),
        )
        for i, layer in enumerate(net.layers):
            x = self.layer(layer, x, early if i < self.config.n_layers // 2 else late, late)
        return x

    def layer(self, layer, x: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        ret, heads = layer.retention, self.config.n_heads
        width = self.config.dim // heads
        q, k, v, u = (
            torch.unflatten(m(x), 2, (heads, width)).transpose(1, 2)
            for m in (ret.query, ret.key, ret.value, ret.gate)
        )
        q, k = q.relu() / width**0.5, k.relu() / width**0.5 * keys[:, None, :, None]
        v = v / valid.sum(1)[:, None, None, None] ** 0.5
        o = q @ (k.transpose(2, 3) @ v)
        o = o * (o.square().mean(-1, keepdim=True) + 1e-24).rsqrt() * functional.silu(u)
        y = layer.residual_gain * x + ret.out(o.transpose(1, 2).flatten(2))
        y = functional.layer_norm(
            y, (self.config.dim,), layer.norm1.weight, layer.norm1.bias, NORM_EPSILON
        )
        z = layer.residual_gain * y + layer.glu.out(layer.glu.left(y) * layer.glu.right(y))
        return functional.layer_norm(
            z, (self.config.dim,), layer.norm2.weight, layer.norm2.bias, NORM_EPSILON
        )

    def cell_states(self, cells: dict[str, Tensor]) -> Tensor:
        return self.states(cells)[:, 0]

    def loss(self, cells: dict[str, Tensor]) -> Tensor:
        """Masked-expression loss with both decoders on every padded position."""
        net, x = self.network, self.states(cells)
        gene = net.gene_decoder(x[:, self.config.n_prefix :].flatten(0, 1)).reshape(
            cells["valid"].shape
        )
        mapped = net.cell_decoder.map(net.gene_embedding(cells["gene"])).sigmoid()
        cell = (mapped @ x[:, 0, :, None]).squeeze(-1)
        scored = cells["scored"].float()
        errors = ((gene - cells["target"]).square() + (cell - cells["target"]).square()) * scored
        return errors.sum() / scored.sum()
