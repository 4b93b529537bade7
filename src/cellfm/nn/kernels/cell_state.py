"""The cell state without what it does not need: exact, several times faster than encoding every gene."""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM, ERetNetLayer, Layout, ValueEncoder
from cellfm.nn.primitives import LEAKY_SLOPE, NORM_EPSILON
from cellfm.nn.retention import feature_map

Precision = Literal["fp32", "mixed"]
TABLE_BYTES = 1 << 30
TABLE_BLOCK = 4096  # genes multiplied at a time when the table is built

Inputs = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # query, key, value, gate of each row, before activations


class CellStates:
    r"""Cell states of a trained network; the same numbers as ``network.encode(batch, wanted="cell")``.

    What is saved, each an identity in exact arithmetic:

    - For :math:`x \ge 0` the value encoder is :math:`T\,\mathrm{softmax}(xs)` with
      :math:`s = (W_3 + \alpha I)\,\mathrm{LeakyReLU}(w_1)`; it runs on distinct values only.
    - The first layer's projections are linear in gene plus value: :math:`W(g + e) = Wg + We`, a look-up for each
      gene (`tabulate`) and one product for each distinct value.
    - The last layer asks for [CLS] only, and its values come after the weighted sum:
      :math:`o_h = \big(\sum_j a_{hj} x_j\big) W_{v,h}` with :math:`a_{hj} = \phi(q_h)\cdot\phi(k_{hj})`; where
      :math:`\phi(q_h)` is 0, about half of the places, no key is needed.
    - Dropout, masks and scales are absent; adapters are merged.

    Parameters
    ----------
    network
        Trained network; later changes of its weights are not seen.
    precision
        ``"fp32"``, or ``"mixed"``: products in bfloat16; residual stream, norms and retention sums in float32.
    """

    @torch.no_grad()
    def __init__(self, network: CellFM, *, precision: Precision = "fp32") -> None:
        self.network = network
        self.dtype = torch.bfloat16 if precision == "mixed" else torch.float32
        self.layers = [
            InferenceLayer(layer, network.config.n_heads, self.dtype)
            for layer in network.encoder_layers
        ]
        self.values = TabulatedValues(network.value_encoder)
        # The table of the value encoder, already projected: distinct values cost 256 terms instead of dim.
        self.value_inputs = [self.values.table @ m.float().T for m in self.layers[0].inputs]
        self.row_of_gene: Tensor | None = None
        self.gene_inputs: list[Tensor] = []

    @torch.inference_mode()
    def tabulate(self, genes: Int[Tensor, " gene"], *, max_bytes: int = TABLE_BYTES) -> bool:
        """Look up the first layer's products for these genes from now on; False if the table would be too large.

        Parameters
        ----------
        genes
            Tokens of all genes that will come; others raise an IndexError.
        max_bytes
            Largest table to build.
        """
        table = self.network.gene_embedding.weight
        genes = torch.unique(functional.pad(genes.to(table.device, torch.int64), (1, 0)))
        inputs = self.layers[0].inputs
        n_bytes = genes.numel() * sum(m.shape[0] * m.element_size() for m in inputs)
        if len(self.layers) == 1 or n_bytes > max_bytes:
            return False
        self.row_of_gene = torch.full((len(table),), genes.numel(), device=table.device)
        self.row_of_gene[genes] = torch.arange(genes.numel(), device=table.device)
        parts = [table[block].to(self.dtype) for block in genes.split(TABLE_BLOCK)]
        self.gene_inputs = [torch.cat([part @ m.T for part in parts]) for m in inputs]
        return True

    @torch.inference_mode()
    def __call__(self, batch: CellBatch) -> Float[Tensor, "cell dim"]:
        """Return the state of each cell.

        Parameters
        ----------
        batch
            Cells without hidden or zero genes, on the device of the network.

        Raises
        ------
        ValueError
            If genes are hidden or zero, or a value is negative; `CellFM.encode` takes those.
        """
        if batch.hidden is not None or batch.zero is not None:
            msg = "CellStates takes plain cells, but some genes are hidden or zero; use CellFM.encode for those."
            raise ValueError(msg)
        rows = Rows.of(batch, self.network.config.n_prefix)
        if rows.distinct[0] < 0:
            msg = f"CellStates takes values of log1p, but the smallest is {float(rows.distinct[0]):.3g}; it must not be negative."
            raise ValueError(msg)
        prefix = self.network.embed_prefix(batch)
        weights = self.values.weights(rows.distinct)
        table = self.network.gene_embedding.weight
        x = rows.look_up(table, rows.gene, weights @ self.values.table, prefix)
        for i, layer in enumerate(self.layers[:-1]):
            tabulated = i == 0 and self.row_of_gene is not None
            inputs = self._looked_up(rows, weights, prefix) if tabulated else layer.project(x)
            x = layer.advance(x, inputs, rows.lengths)
        return self.layers[-1].cell_states(x, rows.cls, rows.lengths)

    def _looked_up(
        self, rows: "Rows", weights: Float[Tensor, "value bin"], prefix: Float[Tensor, "prefix dim"]
    ) -> Inputs:
        """Return the first layer's products as sums of two look-ups; prefixes are multiplied."""
        assert self.row_of_gene is not None
        gene = self.row_of_gene[rows.gene]
        q, k, v, u = (
            rows.look_up(table, gene, (weights @ values).to(self.dtype), own)
            for table, values, own in zip(
                self.gene_inputs, self.value_inputs, self.layers[0].project(prefix), strict=True
            )
        )
        return q, k, v, u


class Rows:
    """Which gene and which distinct value each row of a batch has; prefix rows are filled in by hand."""

    def __init__(
        self, layout: Layout, gene: Tensor, value: Tensor, distinct: Float[Tensor, " value"]
    ) -> None:
        self.gene, self.value, self.distinct = gene, value, distinct
        self.lengths = layout.lengths
        self.cls = layout.prefix_rows[:, 0]
        self.prefix = layout.prefix_rows.flatten()

    @classmethod
    def of(cls, batch: CellBatch, n_prefix: int) -> "Rows":
        """Index the rows of a batch; prefix rows point at the padding gene and the first value."""
        layout = Layout.of(batch, n_prefix)
        distinct, which = torch.unique(batch.value, return_inverse=True)
        gene = torch.zeros(sum(layout.lengths), dtype=torch.int64, device=batch.gene.device)
        value = torch.zeros_like(gene)
        gene[layout.gene_rows] = batch.gene.long()
        value[layout.gene_rows] = which
        if not distinct.numel():
            distinct = batch.value.new_zeros(1)
        return cls(layout, gene, value, distinct)

    def look_up(
        self, genes: Tensor, gene: Int[Tensor, " row"], values: Tensor, prefix: Tensor
    ) -> Float[Tensor, "row dim"]:
        """Return ``genes[gene] + values[value]``, and `prefix` in the prefix rows."""
        x = genes.index_select(0, gene).add_(values.index_select(0, self.value))
        x[self.prefix] = prefix
        return x


class TabulatedValues:
    """The value encoder for numbers that are not negative: one softmax of a multiple of a fixed vector."""

    def __init__(self, encoder: ValueEncoder) -> None:
        v = functional.leaky_relu(encoder.first.merged()[:, 0], LEAKY_SLOPE)
        self.slope = encoder.second.merged() @ v + encoder.alpha * v
        self.table = encoder.table.merged().T.contiguous()

    def weights(self, x: Float[Tensor, " value"]) -> Float[Tensor, "value bin"]:
        """Return the weight of each row of the table."""
        return torch.softmax(torch.outer(x, self.slope), dim=-1)


class InferenceLayer:
    """One layer with merged adapters, products in `dtype`, everything else in float32."""

    def __init__(self, layer: ERetNetLayer, n_heads: int, dtype: torch.dtype) -> None:
        retention, glu = layer.retention, layer.glu
        self.n_heads, self.dtype, self.gain = n_heads, dtype, layer.residual_gain
        self.exact = [
            m.merged() for m in (retention.query, retention.key, retention.value, retention.gate)
        ]
        self.inputs = [m.to(dtype) for m in self.exact]
        self.exact_outputs = [m.merged() for m in (retention.out, glu.left, glu.right, glu.out)]
        self.outputs = [m.to(dtype) for m in self.exact_outputs]
        self.norm1, self.norm2 = layer.norm1, layer.norm2

    def project(self, x: Float[Tensor, "row dim"]) -> Inputs:
        """Return queries, keys, values and gates before feature map and activation."""
        x = x.to(self.dtype)
        q, k, v, u = (functional.linear(x, m) for m in self.inputs)
        return q, k, v, u

    def advance(
        self, x: Float[Tensor, "row dim"], inputs: Inputs, lengths: tuple[int, ...]
    ) -> Float[Tensor, "row dim"]:
        """Return the next state of every row."""
        query, key, value, gate = inputs
        query, key = feature_map(query, inplace=True), feature_map(key, inplace=True)
        mixed = x.new_empty(x.shape)
        for rows in _cells(lengths):
            q, k, v = (self._heads(part[rows]) for part in (query, key, value))
            o = torch.bmm(q, torch.bmm(k.transpose(1, 2), v))
            torch.unflatten(mixed[rows], 1, (self.n_heads, -1)).copy_(_unit_rms(o).transpose(0, 1))
        return self._finish(x, mixed.mul_(functional.silu(gate)), self.outputs)

    def cell_states(
        self, x: Float[Tensor, "row dim"], cls_rows: Int[Tensor, " cell"], lengths: tuple[int, ...]
    ) -> Float[Tensor, "cell dim"]:
        """Return the next state of [CLS] alone; values are projected after the weighted sum."""
        cls = x[cls_rows]
        query, _, value, gate = self.exact
        q = feature_map(functional.linear(cls, query), inplace=True)
        sums = x.new_empty(self.n_heads, len(cls), x.shape[1])
        for i, rows in enumerate(_cells(lengths)):
            sums[:, i] = self._weights(q[i], x[rows]).T @ x[rows]
        per_head = torch.unflatten(value, 0, (self.n_heads, -1))
        mixed = _unit_rms(torch.bmm(sums, per_head.transpose(1, 2))).transpose(0, 1).flatten(1)
        return self._finish(
            cls, mixed.mul_(functional.silu(functional.linear(cls, gate))), self.exact_outputs
        )

    def _weights(
        self, q: Float[Tensor, " dim"], x: Float[Tensor, "row dim"]
    ) -> Float[Tensor, "row head"]:
        """Return what each head of one query gives to each row; keys it does not ask for are not computed."""
        asked = q.nonzero().squeeze(1)
        keys = functional.linear(x.to(self.dtype), self.inputs[1][asked])
        keys = feature_map(keys, inplace=True).float()
        head = asked.div(x.shape[1] // self.n_heads, rounding_mode="floor")
        by_head = q.new_zeros(len(asked), self.n_heads)
        by_head[torch.arange(len(asked), device=q.device), head] = q[asked]
        return keys @ by_head

    def _finish(
        self, x: Float[Tensor, "row dim"], mixed: Float[Tensor, "row dim"], outputs: list[Tensor]
    ) -> Float[Tensor, "row dim"]:
        """Return both residual steps after the retention; stream and norms stay float32."""
        out, left, right, last = outputs
        update = functional.linear(mixed.to(out.dtype), out).float()
        y = self._normalise(update.add_(x, alpha=self.gain), self.norm1)
        half = y.to(out.dtype)
        gated = functional.linear(half, left).mul_(functional.linear(half, right))
        update = functional.linear(gated, last).float()
        return self._normalise(update.add_(y, alpha=self.gain), self.norm2)

    def _heads(self, part: Float[Tensor, "row dim"]) -> Float[Tensor, "head row d"]:
        """Return one contiguous matrix a head, in float32."""
        return torch.unflatten(part, 1, (self.n_heads, -1)).transpose(0, 1).float().contiguous()

    @staticmethod
    def _normalise(
        x: Float[Tensor, "row dim"], norm: torch.nn.LayerNorm
    ) -> Float[Tensor, "row dim"]:
        return functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, NORM_EPSILON)


def _cells(lengths: tuple[int, ...]) -> Iterator[slice]:
    """Return the rows of each cell."""
    return (slice(a, b) for a, b in pairwise(accumulate(lengths, initial=0)))


def _unit_rms(o: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """Scale each head to mean square 1, in place; a dead head stays 0."""
    norm = torch.linalg.vector_norm(o, dim=-1, keepdim=True)
    return o.mul_(o.shape[-1] ** 0.5).div_(norm.clamp_min_(1e-12))
