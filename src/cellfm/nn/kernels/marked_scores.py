"""Whom the genes of a cell listen to when one of them is marked: its value hidden, its name shown."""

from collections.abc import Iterator
from dataclasses import replace

from einops import rearrange

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM, Layout
from cellfm.nn.kernels.pair_scores import HeadVectors
from cellfm.nn.retention import Segments, feature_map


def marked_vectors(network: CellFM, batch: CellBatch, token: int) -> Iterator[HeadVectors]:
    r"""Yield :math:`\phi(XW_q)` and :math:`\phi(XW_k)` of the genes in the layers in which a marked gene is a key.

    The marked gene keeps its name and its place in the set; its value is replaced by the learned embedding of hidden values, as in pretraining. The
    network reads hidden genes from layer ``n_layers // 2`` on, so that nothing is yielded of the layers before.

    Parameters
    ----------
    network
        In evaluation mode.
    batch
        Plain cells on its device.
    token
        Of the marked gene; cells without it are as they are.
    """
    layout = Layout.of(batch, network.config.n_prefix)
    marked = replace(batch, hidden=batch.gene == token)
    x, everything = network.embed_rows(marked, layout), Segments.same(layout.lengths)
    shown = network.shown_rows(marked, layout)
    layers = network.encoder_layers
    for i, layer in enumerate(layers):
        heard = i >= len(layers) // 2
        if heard:
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
        if i + 1 < len(layers):
            x = layer(x, everything, None if heard else shown)
