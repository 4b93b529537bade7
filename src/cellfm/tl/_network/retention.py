"""Scores of pairs by the retention itself: how far up a source stands among all genes that a target reads."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.nn.kernels.pair_scores import (
    LEAST_GENES,
    HeadVectors,
    Ranked,
    head_vectors,
    pair_ranks,
)
from cellfm.nn.kernels.workers import workers
from cellfm.tl._network.cells import (
    TOKEN_BUDGET,
    Cells,
    Held,
    PairGenes,
    PairSums,
    batches,
    refuse_nothing,
)
from cellfm.tl._network.pairs import PairScores
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]


def retention_scores(
    model: Pretrained,
    cells: Cells,
    sources: "NDArray[np.integer]",
    targets: "NDArray[np.integer]",
    *,
    ranked: Ranked = "sources",
    by_head: bool = False,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress | None = None,
) -> PairScores:
    r"""Score pairs by what the retention of the network reads: a target asks, its sources answer.

    In a cell, a layer and a head, target i reads source j with weight :math:`a_{ij} = \phi(q_i) \cdot \phi(k_j)`, :math:`\phi = \mathrm{ReLU}` (the
    retention of Zeng et al. 2025, Methods). Its rank :math:`r_{ij}` among **all** genes of the cell that i reads (`pair_ranks`: 0 the least, 1 the
    most, ties in the middle, i itself left out) is averaged over heads and layers, and over the cells that express both. Without any preference a
    pair has 0.5.

    Why this rank by default: the norm that follows the weighted sum cancels the length of every query, so that to the network the weights of one
    target have a meaning only relative to one another; and as it is among all genes, the score of a pair does not depend on which others are
    asked for. A source that every target reads much stands high in all of its column: compare with a prior of genes.

    Cells are streamed. Memory: 8 bytes a pair (and head, with `by_head`) for sums, 4 for counts and 4 (and 4 a head) for the result
    (`retention_bytes`), for each thread 3 MB and the ranks of one cell's own pairs, and what encoding one batch takes, some 100 MB for ``mini``.
    It does not grow with the number of cells.

    Parameters
    ----------
    model
        Weights, on the device to compute on.
    cells
        Counts in memory or batches of cells, such as those of a stream; each is read once.
    sources, targets
        Tokens.
    ranked
        ``"sources"``, as above; or ``"targets"``: the rank of a target among all genes of the cell that read the source, with queries of length 1.
    by_head
        Also keep the score of each head.
    token_budget
        Genes encoded together; changes speed and memory only.
    progress
        Called with (cells done, cells in all, as far as known).

    Raises
    ------
    ConfigError
        Sources or targets are none, twice there, or not the model's.
    DataError
        There are no cells.
    """
    genes = PairGenes.of(model, sources, targets)
    n_parts = model.network.config.n_layers * model.network.config.n_heads
    sums = PairSums(genes, n_parts if by_head else 1)
    n_all = len(cells) if isinstance(cells, InMemoryCells) else 0
    done = 0
    for batch in batches(cells, token_budget=token_budget):
        for held, ranks in _cell_ranks(model, batch, genes, ranked=ranked, by_head=by_head):
            sums.add(held, ranks)
        done += batch.n_cells
        if progress is not None:
            progress(done, max(done, n_all))
    refuse_nothing(done)
    return _result(model, genes, sums, by_head=by_head)


def retention_bytes(n_sources: int, n_targets: int, *, n_heads: int = 0) -> int:
    """Return the bytes that `retention_scores` holds for so many pairs, whatever the number of cells.

    Parameters
    ----------
    n_sources, n_targets
        Genes.
    n_heads
        Layers × heads whose scores are kept; 0 without `by_head`.
    """
    return n_sources * n_targets * (8 * max(1, n_heads) + 4 + 4 * (1 + n_heads))


def _cell_ranks(
    model: Pretrained, batch: CellBatch, genes: PairGenes, *, ranked: Ranked, by_head: bool
) -> "Iterator[tuple[Held, NDArray[np.floating]]]":
    """Yield the ranks of each cell's pairs, shape (head, source, target), or their mean over heads."""
    device = model.network.cls.device
    edges = batch.offsets.tolist()
    with torch.inference_mode():
        layers = list(head_vectors(model.network, batch.to(device)))

    def ranks(i: int) -> "tuple[Held, NDArray[np.floating]] | None":
        start, stop = edges[i], edges[i + 1]
        held = genes.held(batch.gene[start:stop].cpu().numpy())
        if stop - start < LEAST_GENES or not len(held.source) or not len(held.target):
            return None
        places = [torch.from_numpy(at).to(device) for at in (held.source, held.target)]
        with torch.inference_mode():
            found = torch.cat(
                [
                    pair_ranks(
                        HeadVectors(query=one.query[start:stop], key=one.key[start:stop]),
                        *places,
                        ranked=ranked,
                    )
                    for one in layers
                ]
            )
            found = found if by_head else found.mean(0, keepdim=True)
        return held, found.cpu().numpy()

    with workers(device) as pool:
        yield from (one for one in pool.map(ranks, range(batch.n_cells)) if one is not None)


def _result(model: Pretrained, genes: PairGenes, sums: PairSums, *, by_head: bool) -> PairScores:
    config = model.network.config
    names, targets = genes.symbols(model)
    means = sums.means()
    heads = tuple(
        f"layer {i} head {j}" for i in range(config.n_layers) for j in range(config.n_heads)
    )
    return PairScores(
        sources=names,
        targets=targets,
        score=means.mean(0, dtype=np.float32) if by_head else means[0],
        n_cells=sums.n_cells,
        method="retention",
        heads=heads if by_head else (),
        by_head=means if by_head else None,
    )
