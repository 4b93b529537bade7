"""Networks of genes: how strongly sources bear on targets in some cells, as a table, a graph or a matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.near import near_symbols
from cellfm.tl._network import controls, export
from cellfm.tl._network.genes import Genes, NetworkCells
from cellfm.tl._network.pairs import PairScores
from cellfm.tl._network.scoring import Asked, Method, Progress, Scored, score_pairs
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

N_MATCHED = 200
"""Targets, expressed like an edge's own, that its p compares with."""
N_EDGES = 10_000
KEY = "cellfm_network"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneNetwork:
    """Scores of pairs in some cells.

    Attributes
    ----------
    scores
        Of each source and target.
    effect
        What a knock-out of the source takes from the target, or the gradient, with its sign, shape (source, target); None for other methods.
    correlation
        Pearson's of the two genes over the same cells (log1p of counts per 10⁴), shape (source, target).
    level
        Mean of each target over the cells, on the same scale.
    n_cells
        Cells that were read.
    described
        The cells in words.
    vocabulary
        Of the model; the genes are under its symbols.
    """

    scores: PairScores
    effect: "NDArray[np.float32] | None"
    correlation: "NDArray[np.float32]"
    level: "NDArray[np.float64]"
    n_cells: int
    described: str
    vocabulary: Vocabulary

    def table(self, n: int | None = N_EDGES) -> "pd.DataFrame":
        """Return the strongest pairs, strongest first.

        Parameters
        ----------
        n
            How many; None for all that have a score.

        Returns
        -------
        A row for each pair:

        ``source``, ``target``
            Symbols.
        ``score``
            By the method.
        ``rank``
            Among all pairs with a score, from 1; ties have the mean of their ranks.
        ``p``
            Of a target expressed like this one: of the 200 targets (or all, if fewer) whose mean expression is nearest, the share whose score with the same source is as high, (1 + b) / (1 + n).
            So it is of the null that the score owes to the source and to how much the target is expressed, and never below 1/201; it is no p of regulation, and where most
            pairs of a source are real its targets do not stand out.
        ``effect``
            For knock-outs and gradients: the mean change with its sign, positive where the source raises the prediction of the target.
        ``pearson``
            Correlation of the two genes in the same cells: its sign, and what the score is beside it.
        ``n_cells``
            Cells the pair was scored in: at least ten, but for the embedding table, which no cell has a part in.
        """
        from scipy.stats import rankdata

        there = np.flatnonzero(np.isfinite(self.scores.score))
        flat = self.scores.score.ravel()[there]
        order = np.argsort(-flat, kind="stable")[: len(flat) if n is None else n]
        rank = rankdata(-flat)[order]
        return self._rows(there[order], rank)

    def _rows(self, place: "NDArray[np.int64]", rank: "NDArray[np.float64]") -> "pd.DataFrame":
        import pandas as pd

        row, column = np.divmod(place, len(self.scores.targets))
        table = pd.DataFrame(
            {
                "source": self.scores.sources[row],
                "target": self.scores.targets[column],
                "score": self.scores.score[row, column],
                "rank": rank,
                "p": matched_p(self.scores.score, self.level, row, column),
                "pearson": self.correlation[row, column],
                "n_cells": self.scores.n_cells[row, column],
            }
        )
        if self.effect is not None:
            table.insert(5, "effect", self.effect[row, column])
        return table

    def neighbourhood(self, gene: str, *, n: int = 15) -> "pd.DataFrame":
        """Return the strongest pairs of a gene: its targets if it is a source, and its sources if it is a target.

        Parameters
        ----------
        gene
            Symbol, earlier symbol, alias or Ensembl id.
        n
            At most so many of each.

        Returns
        -------
        As `table`, with the column ``gene``, what was asked for under its symbol.

        Raises
        ------
        DataError
            The gene is not in the network; near names are suggested.
        """
        symbol = self._symbol(gene)
        score = self.scores.score
        width = len(self.scores.targets)
        row = np.flatnonzero(self.scores.sources == symbol)
        column = np.flatnonzero(self.scores.targets == symbol)
        places = []
        if len(row):
            places.append(row[0] * width + _best(score[row[0]], n))
        if len(column):
            places.append(_best(score[:, column[0]], n) * width + column[0])
        place = np.unique(np.concatenate(places))
        flat = score.ravel()[place]
        place = place[np.argsort(-flat, kind="stable")]
        there = np.sort(-score[np.isfinite(score)])
        rank = np.searchsorted(there, -score.ravel()[place]) + 1.0
        return self._rows(place, rank).assign(gene=symbol)

    def _symbol(self, gene: str) -> str:
        inside = list(dict.fromkeys([*self.scores.sources.tolist(), *self.scores.targets.tolist()]))
        token = Lookup(self.vocabulary, GeneTable.load()).find(gene.strip()).token
        symbol = self.vocabulary.symbols[token - 1] if token else gene
        if symbol in inside:
            return symbol
        near = near_symbols(symbol, inside)
        hint = f"; near names: {', '.join(near)}" if near else ""
        why = "is a gene of the model, but too few of these cells express it, or it was not asked for" if token else "is not known"  # fmt: skip
        msg = f"The gene {gene!r} {why}; the network has {len(inside):,} genes{hint}. Give one of them, or name it among sources or targets."
        raise DataError(msg)

    def write_varp(
        self,
        adata: "AnnData",
        key_added: str = KEY,
        *,
        n: int | None = 100_000,
        gene_names: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the strongest pairs to ``adata.varp[key_added]``.

        Parameters
        ----------
        adata
            Whose genes they are written for; by `gene_names`, as in `gene_network`.
        key_added
            Name of the result.
        n
            Pairs; None for all.
        gene_names
            Column of ``var`` with names instead of the index.
        overwrite
            Replace an existing result of that name.

        Returns
        -------
        Nothing; writes

        ``varp[key_added]``
            Sparse, gene × gene, row the source, column the target: the share of all scored pairs that are not stronger, so 1 for the strongest, and 0 where nothing is
            written. Of several columns for one gene the first has it.
        ``uns["cellfm"][key_added]``
            Method, cells, number of pairs.

        Raises
        ------
        OutputExistsError
            The key exists and `overwrite` is false.
        """
        export.write_varp(
            self.table(n),
            adata,
            key_added,
            n_scored=int(np.isfinite(self.scores.score).sum()),
            note={"method": self.scores.method, "cells": self.described, "n_cells": self.n_cells},
            vocabulary=self.vocabulary,
            gene_names=gene_names,
            overwrite=overwrite,
        )

    def to_graphml(self, path: str | Path, *, n: int = 1000) -> None:
        """Write the strongest pairs as GraphML, for Cytoscape, igraph, networkx or Gephi.

        Parameters
        ----------
        path
            File to write, complete or not at all.
        n
            Pairs.
        """
        export.write_graphml(self.table(n), Path(path))


def _best(scores: "NDArray[np.float32]", n: int) -> "NDArray[np.int64]":
    """Places of the highest scores, those without a score left out."""
    order = np.argsort(-scores, kind="stable")
    return order[np.isfinite(scores[order])][:n]


def matched_p(
    score: "NDArray[np.float32]",
    level: "NDArray[np.float64]",
    row: "NDArray[np.int64]",
    column: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    """Return the p of some pairs among targets of the same source that are expressed like theirs.

    Parameters
    ----------
    score
        (source, target); NaN for none.
    level
        Of each target, by which they are matched.
    row, column
        The pairs.
    """
    n = len(level)
    order = np.argsort(level, kind="stable")
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    width = min(N_MATCHED + 1, n)
    ordered = score[:, order]
    p = np.empty(len(row))
    for at in range(0, len(row), 20_000):
        part = slice(at, at + 20_000)
        start = np.clip(place[column[part]] - width // 2, 0, n - width)
        others = ordered[row[part, None], start[:, None] + np.arange(width)]
        own = score[row[part], column[part]][:, None]
        # The pair itself is among them: it is the 1 of (1 + b) / (1 + n).
        p[part] = (others >= own).sum(axis=1) / np.isfinite(others).sum(axis=1)
    return p


def gene_network(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    sources: Genes,
    targets: Genes | None = None,
    method: Method = "retention",
    groupby: str | None = None,
    group: str | None = None,
    n_cells: int | None = None,
    heads: Sequence[str] | None = None,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> GeneNetwork:
    """Score how strongly sources, such as transcription factors, bear on targets, as a model sees it in some cells.

    A score is what the model makes of genes that occur together. Whether it finds regulation better than a correlation does, `check_network` says.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, in memory or backed; it is not changed.
    model
        From `cellfm.load`, or a weights folder or name; None for the model of the package.
    sources, targets
        Names of genes, or a file with one a line; those that the cells express are taken. Without targets all genes that they express.
    method
        ``"retention"``: how much the target reads of the source, as a rank among all genes of the cell. ``"knockout"``: how far taking the source out of the input
        moves the prediction of the target. ``"gradient"``: how steeply the prediction of the target depends on the source. ``"embedding"``: cosine of the genes' vectors in the embedding table, the
        same in all cells; ``"contextual"``: of their mean states in the cells. The last two are symmetric.
    groupby, group
        Column of ``obs`` and the entry whose cells are taken; all cells without.
    n_cells
        Cells, drawn at random when there are more; None for 2,000, with knock-outs 100, with gradients 200.
    heads
        Names of the heads to average, such as ``"layer 1 head 0"``, for a method with heads; None for all.
    min_cells
        Genes that fewer of the cells express are left out.
    layer, use_raw, gene_names, scale, min_matched, device
        As in `embed`.
    seed
        Of the choice of cells.
    progress
        Called with (done, in all).

    Returns
    -------
    Scores, with a table, the neighbourhood of a gene, and writers for ``varp`` and GraphML.

    Raises
    ------
    ConfigError
        An unknown method or head.
    DataError
        None of the sources or targets is expressed, or there is no such group.
    CountsError, GeneMatchError
        As in `embed`.

    Examples
    --------
    >>> network = cellfm.tl.gene_network(adata, sources=["SPI1", "CEBPB"])  # doctest: +SKIP
    >>> network.table(20), network.neighbourhood("SPI1")  # doctest: +SKIP
    """
    asked = Asked(
        method=method, groupby=groupby, group=group, n_cells=n_cells, min_cells=min_cells, seed=seed
    )
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched, empty="nan"
    )  # fmt: skip
    pretrained = as_model(model, device)
    cells = asked.read(adata, pretrained.vocabulary, options)
    source = cells.named(sources, "sources")
    target = cells.expressed if targets is None else cells.named(targets, "targets")
    scored = score_pairs(
        pretrained, cells, source, target, method=method, by_head=heads is not None, progress=progress
    )  # fmt: skip
    if heads is not None:
        scored = replace(scored, scores=scored.scores.of_heads(heads))
    return network_of(scored, cells, source, target, described=asked.described)


def network_of(
    scored: Scored,
    cells: NetworkCells,
    sources: "NDArray[np.int64]",
    targets: "NDArray[np.int64]",
    *,
    described: str,
) -> GeneNetwork:
    """Put scores beside the correlations of the same cells.

    Parameters
    ----------
    scored
        Of the pairs.
    cells
        Counts.
    sources, targets
        Tokens.
    described
        The cells in words.
    """
    values = controls.expression(cells.cells, len(cells.vocabulary))
    return GeneNetwork(
        scores=scored.scores,
        effect=scored.effect,
        correlation=controls.correlations(values, sources, targets),
        level=controls.levels(values, targets),
        n_cells=len(cells.cells),
        described=described,
        vocabulary=cells.vocabulary,
    )
