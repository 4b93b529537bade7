"""How strongly every gene of the cells listens to one of them, marked or as it is."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.nn.encoder import CellFM
from cellfm.nn.kernels.marked_scores import marked_vectors
from cellfm.nn.kernels.pair_scores import LEAST_GENES, HeadVectors, head_vectors, pair_ranks
from cellfm.tl._network.cells import batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Mark = Literal["hidden", "none"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listening:
    """How strongly genes listen to one.

    Attributes
    ----------
    score
        (token,); mean rank over heads, layers and cells, 0.5 without any preference; NaN where no cell expresses both, and for the gene itself.
    n_cells
        (token,); cells that express both.
    """

    score: "NDArray[np.float64]"
    n_cells: "NDArray[np.int64]"


def cells_with(cells: InMemoryCells, token: int) -> "NDArray[np.int64]":
    """Return the ascending rows of the cells that express a gene, and enough others to rank.

    Parameters
    ----------
    cells
        Counts.
    token
        Of the gene.
    """
    place = np.flatnonzero(cells.gene == token)
    rows = np.searchsorted(cells.offsets, place, side="right") - 1
    return rows[cells.lengths[rows] >= LEAST_GENES]


def listening(network: CellFM, cells: InMemoryCells, token: int, *, mark: Mark) -> Listening:
    r"""Rank the genes of each cell that expresses a gene by :math:`\phi(q_i) \cdot \phi(k_{gene})`, and average.

    Ranks are those of :func:`cellfm.nn.kernels.pair_scores.pair_ranks` among targets: the queries have length 1, because the norm after the sum cancels
    their length. The mean is over heads and layers, then over the cells that express both; [CLS] and the depth tokens are no genes.

    Parameters
    ----------
    network
        On the device to compute on.
    cells
        On its vocabulary.
    token
        Of the gene.
    mark
        ``"hidden"``: its value is hidden (`marked_vectors`), and the layers in which it is heard count; ``"none"``: cells as they are, all layers.
    """
    n_rows = network.config.n_genes + 1
    total, count = np.zeros(n_rows), np.zeros(n_rows, np.int64)
    rows = cells_with(cells, token)
    for batch in batches(cells.select(rows)) if len(rows) else ():
        for gene, ranks in _ranks(network, batch, token, mark):
            total[gene] += ranks
            count[gene] += 1
    score = np.divide(total, count, out=np.full(n_rows, np.nan), where=count > 0)
    score[token] = np.nan
    return Listening(score=score, n_cells=count)


@torch.inference_mode()
def _ranks(
    network: CellFM, batch: CellBatch, token: int, mark: Mark
) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]":
    """Yield tokens and mean ranks of the genes of each cell."""
    device = network.cls.device
    moved = batch.to(device)
    layers = list(
        marked_vectors(network, moved, token) if mark == "hidden" else head_vectors(network, moved)
    )
    edges, gene = batch.offsets.tolist(), batch.gene.cpu()
    for start, stop in pairwise(edges):
        own = gene[start:stop]
        source = (own == token).nonzero()[:1, 0].to(device)
        everyone = torch.arange(stop - start, device=device)
        parts = [
            pair_ranks(
                HeadVectors(query=each.query[start:stop], key=each.key[start:stop]),
                source,
                everyone,
                ranked="targets",
            )[:, 0]
            for each in layers
        ]
        yield own.numpy(), torch.cat(parts).mean(0).double().cpu().numpy()
