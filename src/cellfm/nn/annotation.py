"""The cluster-query annotation head: learned class queries read the cell by cross-retention."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cellfm.nn.primitives import NORM_EPSILON, GatedLinearUnit, Projection, unset
from cellfm.nn.retention import Retention, Segments

N_LAYERS = 2  # of the published head


class CrossRetentionLayer(nn.Module):
    """Class queries attend to each other, then to the cell, then pass a gated unit; plain post-norm residuals."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.self_retention = Retention(dim, n_heads)
        self.cross_retention = Retention(dim, n_heads)
        self.glu = GatedLinearUnit(dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=NORM_EPSILON) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "query dim"],
        states: Float[Tensor, "row dim"],
        among: Segments,
        across: Segments,
    ) -> Float[Tensor, "query dim"]:
        """Return the next queries; each cell has its own copy of them."""
        x = self.norm1(queries + self.self_retention(queries, queries, among))
        x = self.norm2(x + self.cross_retention(x, states, across))
        return self.norm3(x + self.glu(x))


class AnnotationHead(nn.Module):
    """One learned query a class; its last state, projected to a number, is the class's logit (Zeng et al. 2025).

    Parameters
    ----------
    dim, n_heads
        Of the encoder.
    n_clusters
        Number of classes.
    """

    def __init__(self, dim: int, n_heads: int, n_clusters: int) -> None:
        super().__init__()
        self.clusters = unset(n_clusters, dim)
        self.layers = nn.ModuleList(CrossRetentionLayer(dim, n_heads) for _ in range(N_LAYERS))
        self.classifier = Projection(dim, 1)

    def forward(
        self, states: Float[Tensor, "row dim"], lengths: tuple[int, ...]
    ) -> Float[Tensor, "cell cluster"]:
        """Return class logits from the rows of each cell (``lengths[i]`` rows: [CLS] and its genes)."""
        n_clusters, n_cells = len(self.clusters), len(lengths)
        repeated = (n_clusters,) * n_cells
        x = self.clusters.repeat(n_cells, 1)
        for layer in self.layers:
            x = layer(x, states, Segments.same(repeated), Segments(repeated, lengths))
        return torch.unflatten(self.classifier(x).squeeze(-1), 0, (n_cells, n_clusters))
