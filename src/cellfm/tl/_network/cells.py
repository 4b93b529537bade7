"""What all scores of pairs share: cells as batches, checked genes, where they stand in a cell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.ragged import cut
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cells = InMemoryCells | Iterable[CellBatch]
"""Counts in memory, or batches that come from anywhere, one at a time."""

TOKEN_BUDGET = 6144
"""Genes encoded together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairGenes:
    """Sources and targets of a network by token.

    Attributes
    ----------
    sources, targets
        Tokens, each at most once.
    row, column
        Row of each token among the sources, column among the targets; -1 for none.
    """

    sources: "NDArray[np.int64]"
    targets: "NDArray[np.int64]"
    row: "NDArray[np.int32]"
    column: "NDArray[np.int32]"

    @classmethod
    def of(
        cls,
        model: Pretrained,
        sources: "NDArray[np.integer]",
        targets: "NDArray[np.integer]",
    ) -> "PairGenes":
        """Check the tokens.

        Raises
        ------
        ConfigError
            There are none, one is there twice, or is not one of the model's.
        """
        n = len(model.vocabulary)
        places = [_places(t, n, name) for t, name in ((sources, "sources"), (targets, "targets"))]
        return cls(
            sources=np.asarray(sources, np.int64),
            targets=np.asarray(targets, np.int64),
            row=places[0],
            column=places[1],
        )

    def symbols(self, model: Pretrained) -> "tuple[NDArray[np.object_], NDArray[np.object_]]":
        """Return the names of sources and targets."""
        names = np.array(model.vocabulary.symbols, dtype=object)
        return names[self.sources - 1], names[self.targets - 1]

    def blank_selves(self, score: "NDArray[np.floating]", n_cells: "NDArray[np.integer]") -> None:
        """Put NaN, and no cells, where source and target are the same gene; shapes (..., source, target)."""
        own = self.column[self.sources]
        same = np.flatnonzero(own >= 0)
        score[..., same, own[same]] = np.nan
        n_cells[same, own[same]] = 0

    def held(self, gene: "NDArray[np.int64]") -> "Held":
        """Return which of the genes of a cell are sources or targets."""
        row, column = self.row[gene], self.column[gene]
        source, target = np.flatnonzero(row >= 0), np.flatnonzero(column >= 0)
        return Held(source=source, target=target, row=row[source], column=column[target])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """Sources and targets that one cell expresses.

    Attributes
    ----------
    source, target
        Their places in the cell.
    row, column
        Their places among all sources and all targets.
    """

    source: "NDArray[np.int64]"
    target: "NDArray[np.int64]"
    row: "NDArray[np.int32]"
    column: "NDArray[np.int32]"

    @property
    def pairs(self) -> "tuple[NDArray[np.int32], NDArray[np.int32]]":
        """Index of the pairs in a (source, target) table."""
        return self.row[:, None], self.column[None, :]


class PairSums:
    """Sums over cells of some numbers for each pair, and in how many cells it was seen.

    Parameters
    ----------
    genes
        Sources and targets.
    n_parts
        Numbers for each pair.
    """

    def __init__(self, genes: PairGenes, n_parts: int) -> None:
        shape = (len(genes.sources), len(genes.targets))
        self.genes = genes
        self.total = np.zeros((n_parts, *shape), np.float64)
        self.n_cells = np.zeros(shape, np.int32)

    @property
    def n_bytes(self) -> int:
        """Memory of sums and counts."""
        return self.total.nbytes + self.n_cells.nbytes

    def add(self, held: Held, values: "NDArray[np.floating]") -> None:
        """Add the values of the pairs of one cell, shape (part, source, target)."""
        pairs = held.pairs
        self.n_cells[pairs] += 1
        for total, value in zip(self.total, values, strict=True):
            total[pairs] += value

    def means(self) -> "NDArray[np.float32]":
        """Return the mean of each part, shape (part, source, target); NaN for pairs never seen and of a gene with itself."""
        mean = np.empty(self.total.shape, np.float32)
        with np.errstate(invalid="ignore"):  # 0 / 0 is a pair that was never seen
            for one, total in zip(mean, self.total, strict=True):
                np.divide(total, self.n_cells, out=one, casting="same_kind")
        self.genes.blank_selves(mean, self.n_cells)
        return mean


def _places(tokens: "NDArray[np.integer]", n_genes: int, name: str) -> "NDArray[np.int32]":
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not len(tokens) or not np.issubdtype(tokens.dtype, np.integer):
        msg = f"{name} has shape {tokens.shape} and type {tokens.dtype}; a list of at least one gene's token was expected. Give a number in that range."
        raise ConfigError(msg)
    if tokens.min() < 1 or tokens.max() > n_genes:
        msg = f"{name} has tokens from {tokens.min()} to {tokens.max()}; those of this model's genes are 1 to {n_genes}. Use the tokens of this model's vocabulary."
        raise ConfigError(msg)
    place = np.full(n_genes + 1, -1, np.int32)
    place[tokens] = np.arange(len(tokens), dtype=np.int32)
    if (place >= 0).sum() < len(tokens):
        found, times = np.unique(tokens, return_counts=True)
        msg = f"{name} has token {found[times > 1][0]} more than once; give each gene once."
        raise ConfigError(msg)
    return place


def batches(cells: Cells, *, token_budget: int = TOKEN_BUDGET) -> Iterator[CellBatch]:
    """Yield cells in batches, one at a time; those that are batches already pass.

    Parameters
    ----------
    cells
        Counts in memory, or batches.
    token_budget
        Genes of a batch that is made here.
    """
    if not isinstance(cells, InMemoryCells):
        yield from cells
        return
    for start, stop in pairwise(cut(cells.offsets, token_budget).tolist()):
        yield plain_batch(cells.select(np.arange(start, stop)))


def draw(cells: InMemoryCells, n_cells: int | None, *, seed: int) -> InMemoryCells:
    """Return that many cells drawn at random, in their order; all when there are no more, or `n_cells` is None.

    Raises
    ------
    ConfigError
        No cell was asked for.
    """
    if n_cells is None or n_cells >= len(cells):
        return cells
    if n_cells < 1:
        msg = f"n_cells is {n_cells}; at least one cell is needed. Give more of them."
        raise ConfigError(msg)
    chosen = np.random.default_rng(seed).permutation(len(cells))[:n_cells]
    return cells.select(np.sort(chosen))


def refuse_nothing(n_cells: int) -> None:
    """Refuse to score pairs over no cells.

    Raises
    ------
    DataError
        There were none.
    """
    if not n_cells:
        msg = "There are no cells to score pairs in. Give other cells."
        raise DataError(msg)


def target_queries(model: Pretrained, genes: PairGenes) -> Tensor:
    r"""Return :math:`\sigma(W g)` of the targets, shape (target, dim): times the state of a cell it is their predicted ``log1p(counts per 10⁴)``.

    Raises
    ------
    WeightsError
        The network has no decoders.
    """
    if not model.network.config.decoders:
        msg = (
            f"This score is of predicted expression, and {model.path or 'these weights in memory'} have no decoders. "
            "Take weights that kept theirs, or the retention score."
        )
        raise WeightsError(msg)
    network = model.network
    with torch.inference_mode():
        token = torch.from_numpy(genes.targets).to(network.cls.device)
        return network.cell_decoder.map(network.gene_embedding(token)).sigmoid()
