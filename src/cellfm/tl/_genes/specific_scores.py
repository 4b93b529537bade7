"""Attention of class queries summed over the cells of each type, and over the same cells with their labels shuffled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.tune_batches import ordered_batches
from cellfm.nn.encoder import CellFM
from cellfm.nn.kernels.cluster_scores import ClusterScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells
    from cellfm.nn.annotation import AnnotationHead

Progress = Callable[[int, int], None]

TOKENS = 16384
"""Genes of a batch."""
PRIOR_CELLS = 20
"""Cells with a neutral score that are added to those of a type before types are compared."""
NEUTRAL = 0.5
"""What a gene gets on average whose place among the genes of a cell says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attention:
    """Mean rank share of genes in the cells of each type that express them, each asked by the query of the type.

    Attributes
    ----------
    mean
        (…, type, token) in (0, 1]; 0 where no cell of the type expresses the gene.
    n_cells
        (…, type, token); cells of the type that were scored and express it.
    """

    mean: "NDArray[np.float32]"
    n_cells: "NDArray[np.int32]"

    def labelled(self, which: slice | int) -> "Attention":
        """Return that of some labellings.

        Parameters
        ----------
        which
            Which of the first axis.
        """
        return Attention(mean=self.mean[which], n_cells=self.n_cells[which])

    @property
    def shrunk(self) -> "NDArray[np.float32]":
        r"""Mean as if `PRIOR_CELLS` more cells had given ½, :math:`(n A + n_0 / 2) / (n + n_0)`; ½ where no cell expresses the gene.

        The mean of few cells goes far by chance: without this, the lists are of rarely expressed genes, also with shuffled labels.
        """
        n = self.n_cells.astype(np.float32)
        return (n * self.mean + np.float32(PRIOR_CELLS * NEUTRAL)) / (n + np.float32(PRIOR_CELLS))

    @property
    def rest(self) -> "NDArray[np.float32]":
        """Mean of the other types, shrunk, shape (…, type, token)."""
        shrunk = self.shrunk
        return (shrunk.sum(axis=-2, keepdims=True) - shrunk) / max(shrunk.shape[-2] - 1, 1)

    @property
    def specific(self) -> "NDArray[np.float32]":
        r"""Attention in a type less that in the rest, both shrunk, :math:`\tilde A_{tg} - \frac{1}{T-1}\sum_{u \ne t} \tilde A_{ug}`."""
        return self.shrunk - self.rest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labellings:
    """What cells are asked, and under what type the answer is counted.

    Attributes
    ----------
    head
        Of class queries.
    asked
        (labelling, row); place of the type whose query asks the cell.
    filed
        (labelling, row); place of the type under which the answer is counted.
    """

    head: "AnnotationHead"
    asked: "NDArray[np.int64]"
    filed: "NDArray[np.int64]"


class _Sums:
    """Adds up the scores of cells under one or several labellings."""

    def __init__(self, under: Labellings, types: "NDArray[np.int64]", n_tokens: int) -> None:
        self.under, self.types = under, types
        self.labelling = np.arange(len(under.filed))[:, None]
        shape = (len(under.filed), len(types), n_tokens)
        self.total, self.count = np.zeros(shape, np.float32), np.zeros(shape, np.int32)

    def add(self, cell: int, gene: "NDArray[np.int64]", scores: "NDArray[np.float32]") -> None:
        filed = self.under.filed[:, cell, None]
        # No gene is there twice in a cell: nothing is added twice to one place.
        self.total[self.labelling, filed, gene] += scores[self.types[self.under.asked[:, cell]]]
        self.count[self.labelling, filed, gene] += 1

    def mean(self) -> Attention:
        np.divide(self.total, self.count, out=self.total, where=self.count > 0)
        return Attention(mean=self.total, n_cells=self.count)


def attention_of_types(
    network: CellFM,
    labellings: Sequence[Labellings],
    cells: "InMemoryCells",
    rows: "NDArray[np.int64]",
    *,
    types: "NDArray[np.int64]",
    n_tokens: int,
    progress: Progress | None = None,
) -> list[Attention]:
    """Score cells under several heads and labellings in one pass.

    Memory: 8 bytes for each labelling, type and token; nothing is kept of a cell.

    Parameters
    ----------
    network
        The encoder.
    labellings
        Of one or several heads.
    cells
        On the vocabulary of the network.
    rows
        Ascending rows of `cells` that are scored.
    types
        Class of the heads of each type.
    n_tokens
        Tokens of the vocabulary, and one.
    progress
        Called with (cells done, cells in all).
    """
    scores = ClusterScores(network, [each.head for each in labellings])
    device = next(network.parameters()).device
    sums = [_Sums(each, types, n_tokens) for each in labellings]
    done = 0
    for batch, _ in ordered_batches(cells, rows, token_budget=TOKENS):
        found = scores(batch.to(device))
        genes = np.split(batch.gene.numpy(), batch.offsets[1:-1].numpy())
        for own, of_head in zip(sums, found, strict=True):
            for i, (gene, each) in enumerate(zip(genes, of_head, strict=True)):
                own.add(done + i, gene, each.float().cpu().numpy())
        done += batch.n_cells
        if progress is not None:
            progress(done, len(rows))
    return [own.mean() for own in sums]
