"""What the class queries of an annotation head attend to: the scores of the genes of each cell, as ranks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.nn.annotation import AnnotationHead, CrossRetentionLayer
from cellfm.nn.encoder import CellFM, Layout
from cellfm.nn.retention import Segments, feature_map


def rank_shares(scores: Float[Tensor, "*row gene"]) -> Float[Tensor, "*row gene"]:
    """Return the rank of each entry within its row over the length of the row, in (0, 1]; equal ones share their mean rank.

    A ReLU makes many products exactly 0: in the order they happen to stand in, these would get any rank.

    Parameters
    ----------
    scores
        Finite.
    """
    n = scores.shape[-1]
    ordered = scores.sort(dim=-1).values.contiguous()
    asked = scores.contiguous()
    below = torch.searchsorted(ordered, asked, right=False)
    up_to = torch.searchsorted(ordered, asked, right=True)
    return (below + up_to + 1).to(scores.dtype) / (2 * n)


class ClusterScores:
    r"""How strongly each class query attends to each gene of a cell, in the last cross-retention of the head.

    .. math:: s_{cg} = \frac{1}{H} \sum_{h=1}^{H} \frac{\mathrm{rank}_g\big(\phi(q_{ch}) \cdot \phi(k_{gh})\big)}{n},
        \qquad \phi = \mathrm{ReLU}

    with the rank (1 lowest, ties share their mean) among the n genes of that cell (Zeng et al. 2025, Methods; the released code divides by a fixed
    2,048 and ranks padding too). The rows before the genes, such as [CLS], are no genes and are not ranked. Retention adds
    :math:`\phi(q_{ch}) \cdot \phi(k_{gh})` times the value of each gene, so that the product is the weight of the gene, before the value, the norm and the gate.

    Parameters
    ----------
    network
        The encoder whose last states the head reads.
    heads
        One or several, of class queries, on the same states.
    """

    def __init__(self, network: CellFM, heads: Sequence[AnnotationHead]) -> None:
        self.network, self.heads = network, tuple(heads)

    @torch.inference_mode()
    def __call__(self, batch: CellBatch) -> list[list[Float[Tensor, "cluster gene"]]]:
        """Return for each head the scores of the genes of each cell in turn, for every class.

        Parameters
        ----------
        batch
            Cells on the device of the network, nothing hidden.
        """
        layout = Layout.of(batch, self.network.config.n_prefix)
        states = self.network.last_states(batch, layout, None)
        bounds = batch.offsets.tolist()
        return [
            self._of_head(*queries_and_keys(head, states, layout), bounds) for head in self.heads
        ]

    def _of_head(
        self,
        query: Float[Tensor, "cell cluster dim"],
        key: Float[Tensor, "token dim"],
        bounds: list[int],
    ) -> list[Float[Tensor, "cluster gene"]]:
        n_heads = self.network.config.n_heads
        by_head = torch.unflatten(key, 1, (n_heads, -1)).transpose(0, 1)
        asked = torch.unflatten(query, 2, (n_heads, -1)).transpose(1, 2)
        spans = zip(asked, bounds[:-1], bounds[1:], strict=True)
        return [
            rank_shares(torch.bmm(q, by_head[:, start:stop].mT)).mean(0) for q, start, stop in spans
        ]


def queries_and_keys(
    head: AnnotationHead, states: Float[Tensor, "row dim"], layout: Layout
) -> tuple[Float[Tensor, "cell cluster dim"], Float[Tensor, "token dim"]]:
    """Return φ of the queries of each cell, and of the keys of its genes, in the last cross-retention of a head.

    Parameters
    ----------
    head
        Of class queries.
    states
        Last states of all rows.
    layout
        Where the genes stand among them.
    """
    lengths = layout.lengths
    repeated = (len(head.clusters),) * len(lengths)
    among, across = Segments.same(repeated), Segments(repeated, lengths)
    x = head.clusters.repeat(len(lengths), 1)
    *before, last = head.layers
    for layer in before:
        x = layer(x, states, among, across)
    assert isinstance(last, CrossRetentionLayer)
    x = last.norm1(x + last.self_retention(x, x, among))
    cross = last.cross_retention
    query = torch.unflatten(feature_map(cross.query(x)), 0, (len(lengths), -1))
    return query, feature_map(cross.key(states[layout.gene_rows]))
