"""From genes and values to states: embeddings, ERetNet layers, the CellFM network."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.config.model import ModelConfig
from cellfm.nn.annotation import AnnotationHead
from cellfm.nn.decoder import CellDecoder, CellZeroDecoder, GeneDecoder, GeneZeroDecoder
from cellfm.nn.primitives import LEAKY_SLOPE, NORM_EPSILON, GatedLinearUnit, Projection, unset
from cellfm.nn.retention import Retention, Segments

Wanted = Literal["all", "scored", "cell"]


class States(NamedTuple):
    """Last-layer states of a batch."""

    cell: Float[Tensor, "cell dim"]
    """State of [CLS]: the cell's embedding."""
    gene: Float[Tensor, "token dim"]
    """States of the genes asked for, in the order of the batch."""


class ValueEncoder(nn.Module):
    r"""A number as a soft look-up in a table.

    .. math:: v = \mathrm{LeakyReLU}(x w_1), \qquad e(x) = T\, \mathrm{softmax}(W_3 v + \alpha v)

    Parameters
    ----------
    dim
        Width of the embedding.
    n_bins
        Columns of the table T.
    """

    def __init__(self, dim: int, n_bins: int) -> None:
        super().__init__()
        self.alpha = unset(1)
        self.first = Projection(1, n_bins)
        self.second = Projection(n_bins, n_bins)
        self.table = Projection(n_bins, dim)

    def forward(self, x: Float[Tensor, "*number"]) -> Float[Tensor, "*number dim"]:
        """Embed each number."""
        v = functional.leaky_relu(self.first(x[..., None]), LEAKY_SLOPE)
        return self.table(torch.softmax(self.second(v) + self.alpha * v, dim=-1))


class ERetNetLayer(nn.Module):
    r"""One layer: post-norm residuals with DeepNorm's gain (Wang et al. 2022, arXiv:2203.00555).

    .. math::
        Y = \mathrm{LN}(\lambda X + \mathrm{Retention}(X)), \qquad
        X' = \mathrm{LN}(\lambda Y + \mathrm{SGLU}(Y)), \qquad \lambda = (2L)^{1/4}
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.residual_gain = (2.0 * config.n_layers) ** 0.25
        self.retention = Retention(config.dim, config.n_heads, lora_rank=config.lora_rank)
        self.glu = GatedLinearUnit(config.dim, lora_rank=config.lora_rank)
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPSILON)
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(config.dropout * index / config.n_layers)

    def forward(
        self,
        x: Float[Tensor, "row dim"],
        segments: Segments,
        visible: Float[Tensor, " row"] | None = None,
        rows: Int[Tensor, " query"] | None = None,
    ) -> Float[Tensor, "query dim"]:
        """Return the next state of the rows asked for (all, when `rows` is None); every row is a key."""
        asked = x if rows is None else x[rows]
        y = self.norm1(
            self.residual_gain * asked + self.dropout(self.retention(asked, x, segments, visible))
        )
        return self.norm2(self.residual_gain * y + self.dropout(self.glu(y)))


class Layout(NamedTuple):
    """Where the tokens of a batch stand among the rows of the network: each cell is its prefix, then its genes."""

    gene_rows: Int[Tensor, " token"]
    prefix_rows: Int[Tensor, "cell prefix"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, batch: CellBatch, n_prefix: int) -> "Layout":
        """Lay out a batch; device of the batch."""
        device = batch.gene.device
        starts = batch.offsets[:-1] + n_prefix * torch.arange(batch.n_cells)
        lengths = batch.offsets.diff()
        shift = n_prefix * (torch.arange(batch.n_cells) + 1)
        genes = torch.arange(batch.n_tokens) + shift.repeat_interleave(lengths)
        prefix = starts[:, None] + torch.arange(n_prefix)
        return cls(genes.to(device), prefix.to(device), tuple((lengths + n_prefix).tolist()))


class Asked(NamedTuple):
    """Rows whose last-layer state is wanted: [CLS] of each cell, then maybe its scored genes."""

    rows: Int[Tensor, " query"]
    cells: Int[Tensor, " cell"]
    """Which of them are [CLS]."""
    genes: Int[Tensor, " scored"]
    """Which of them are scored genes."""
    per_cell: tuple[int, ...]

    @classmethod
    def of(cls, batch: CellBatch, layout: Layout, *, scored: bool) -> "Asked":
        """Pick the rows of a batch; what depends on its content is found on the CPU, where the cells are cut."""
        cls_rows, cell = layout.prefix_rows[:, 0], torch.arange(batch.n_cells)
        if not scored or batch.scored is None:
            places = cell.to(cls_rows.device)
            return cls(cls_rows, places, places[:0], (1,) * batch.n_cells)
        before = torch.cat([batch.offsets.new_zeros(1), batch.scored.cpu().cumsum(0)])
        n_scored = before[batch.offsets].diff()
        cells = (before[batch.offsets[:-1]] + cell).to(cls_rows.device)
        shift = 1 + cell.repeat_interleave(n_scored)
        genes = (torch.arange(len(shift)) + shift).to(cls_rows.device)
        rows = cls_rows.new_empty(len(cell) + len(shift))
        rows[cells], rows[genes] = cls_rows, layout.gene_rows[batch.scored]
        return cls(rows, cells, genes, tuple((1 + n_scored).tolist()))


class CellFM(nn.Module):
    """The CellFM network (Zeng et al. 2025, Nat. Commun. 16, 4679): a cell is [CLS], optionally [S, T], and its genes.

    Hidden genes are no keys in the first ``n_layers // 2`` layers and are keys in the rest.

    Parameters
    ----------
    config
        Shape of the network. Parameters are NaN until `initialise` or a weights folder fills them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.full((config.n_rows, config.dim), torch.nan)
        self.gene_embedding = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=0)
        self.value_encoder = ValueEncoder(config.dim, config.value_bins)
        self.cls, self.mask_embedding, self.zero_embedding = (unset(config.dim) for _ in range(3))
        if config.depth_tokens:
            self.depth_embedding = unset(2, config.dim)
            self.depth_encoder = ValueEncoder(config.dim, config.value_bins)
        self.layers = nn.ModuleList(ERetNetLayer(config, i) for i in range(config.n_layers))
        if config.decoders:
            self.gene_decoder = GeneDecoder(config.dim)
            self.cell_decoder = CellDecoder(config.dim)
        if config.zero_heads:
            self.gene_zero_decoder = GeneZeroDecoder(config.dim)
        if config.zero_heads or config.detection_head:
            self.cell_zero_decoder = CellZeroDecoder(config.dim)
        if config.n_clusters:
            self.annotation = AnnotationHead(config.dim, config.n_heads, config.n_clusters)

    @property
    def encoder_layers(self) -> list[ERetNetLayer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, ERetNetLayer)]

    def forward(self, batch: CellBatch) -> States:
        """Return the states of all cells and genes."""
        return self.encode(batch)

    def encode(self, batch: CellBatch, *, wanted: Wanted = "all") -> States:
        """Return last-layer states; the last layer asks only for the rows that are wanted.

        Parameters
        ----------
        batch
            Cells on the device of the network; may be empty, and cells may be.
        wanted
            ``"all"`` genes, the ``"scored"`` ones, or none but the ``"cell"``.

        Returns
        -------
        States of shape (cell, dim) and (wanted gene, dim); exact whatever is wanted.
        """
        layout = Layout.of(batch, self.config.n_prefix)
        if wanted == "all":
            x = self.last_states(batch, layout, None)
            return States(x[layout.prefix_rows[:, 0]], x[layout.gene_rows])
        asked = Asked.of(batch, layout, scored=wanted == "scored")
        x = self.last_states(batch, layout, asked)
        return States(x[asked.cells], x[asked.genes])

    def cluster_logits(self, batch: CellBatch) -> Float[Tensor, "cell cluster"]:
        """Return the annotation head's logit of each class for each cell; it reads all rows of the cell.

        Raises
        ------
        ValueError
            The network has no annotation head.
        """
        if not self.config.n_clusters:
            msg = "This network has no annotation head: ModelConfig.n_clusters is 0. Load weights that have one."
            raise ValueError(msg)
        layout = Layout.of(batch, self.config.n_prefix)
        return self.annotation(self.last_states(batch, layout, None), layout.lengths)

    def last_states(
        self, batch: CellBatch, layout: Layout, asked: Asked | None
    ) -> Float[Tensor, "query dim"]:
        """Run all layers; the last one only for the rows that are asked for, all rows of the batch without.

        Parameters
        ----------
        batch
            Cells on the device of the network.
        layout
            Where their tokens stand.
        asked
            Rows whose states are wanted; None for all, shape (row, dim).
        """
        x = self.embed_rows(batch, layout)
        everything, shown = Segments.same(layout.lengths), self.shown_rows(batch, layout)
        *layers, last = self.encoder_layers
        for i, layer in enumerate(layers):
            x = layer(x, everything, self._keys_of_layer(i, shown))
        visible = self._keys_of_layer(len(layers), shown)
        if asked is None:
            return last(x, everything, visible)
        return last(x, Segments(asked.per_cell, layout.lengths), visible, asked.rows)

    def embed_rows(self, batch: CellBatch, layout: Layout) -> Float[Tensor, "row dim"]:
        """Return the input states: prefix and genes of each cell in turn."""
        tokens = self.gene_embedding(batch.gene) + self.embed_values(batch)
        x = tokens.new_empty(layout.gene_rows.numel() + layout.prefix_rows.numel(), self.config.dim)
        x = x.index_copy(0, layout.gene_rows, tokens)
        x = x.index_copy(0, layout.prefix_rows.flatten(), self.embed_prefix(batch).to(x.dtype))
        return x

    def embed_values(self, batch: CellBatch) -> Float[Tensor, "token dim"]:
        """Return the value embedding of each gene; hidden and zero genes have learned ones."""
        values = self.value_encoder(batch.value)
        if batch.hidden is not None:
            values = torch.where(
                batch.hidden[:, None], self.mask_embedding.to(values.dtype), values
            )
        if batch.zero is not None:
            values = torch.where(batch.zero[:, None], self.zero_embedding.to(values.dtype), values)
        return values

    def embed_prefix(self, batch: CellBatch) -> Float[Tensor, "row dim"]:
        """Return [CLS] or [CLS, S, T] of each cell in turn."""
        cls = self.cls.expand(batch.n_cells, 1, -1)
        if not self.config.depth_tokens:
            return cls.flatten(0, 1)
        depth = self.depth_embedding + self.depth_encoder(batch.depth)
        return torch.cat([cls, depth], dim=1).flatten(0, 1)

    def shown_rows(self, batch: CellBatch, layout: Layout) -> Float[Tensor, " row"] | None:
        """Return 1 for every row but those of hidden genes; None when nothing is hidden."""
        if batch.hidden is None:
            return None
        shown = batch.value.new_ones(sum(layout.lengths))
        shown[layout.gene_rows] = (~batch.hidden).to(shown.dtype)
        return shown

    def _keys_of_layer(
        self, index: int, shown: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"] | None:
        """Return which rows are keys in a layer: the shown ones in the first half, all in the second."""
        return shown if index < self.config.n_layers // 2 else None
