"""Genes that listen to a gene that is marked as perturbed, beside what its known targets would make of any list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, DataError
from cellfm.tl._genes.embeddings import _draw_cells, _gene_obs
from cellfm.tl._genes.influence_judge import (
    EXPRESSION,
    LESS,
    MARKED,
    PEARSON,
    TWIN,
    UNMARKED,
    compare_lists,
    verdict_of,
)
from cellfm.tl._genes.influence_scores import Listening, Mark, cells_with, listening
from cellfm.tl._genes.similar import _row_of
from cellfm.tl._network.controls import correlations, expression, levels
from cellfm.tl._network.genes import NetworkCells, read_cells
from cellfm.tl._network.known import Edge, read_known_network, tokens_of
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InfluencedGenes:
    """Genes that listen to a gene.

    Attributes
    ----------
    gene
        Symbol of the gene that was marked.
    table
        A row for each gene; see :func:`influenced_genes`.
    comparison
        A row for each way to rank genes: how many of the first 20, 50 and 100 are known targets (``overlap_20``, …), how many of as many expressed genes drawn at
        random would be (``expected_20``, ``sd_20``: hypergeometric mean and standard deviation) and with which chance as many or more (``p_20``). The row
        *other genes marked* is the mean over other genes, with the share of them that do as well, and one, as p. None without known targets.
    n_cells
        Cells that express the gene.
    n_known
        Known targets among the ranked genes; 0 without a table of them.
    """

    gene: str
    table: "pd.DataFrame"
    comparison: "pd.DataFrame | None"
    n_cells: int
    n_known: int

    @property
    def verdict(self) -> str:
        """What the overlap shows and what it does not."""
        if self.comparison is None:
            return "No known targets were given: whether these genes are influenced is not shown."
        return verdict_of(self.gene, self.comparison)


def influenced_genes(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path,
    gene: str,
    *,
    groupby: str | None = None,
    group: str | Sequence[str] | None = None,
    known: "str | Path | pd.DataFrame | None" = None,
    mark: Mark = "hidden",
    n_genes: int | None = None,
    n_cells: int = 200,
    min_cells: int = 10,
    n_others: int = 20,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> InfluencedGenes:
    r"""Rank the genes that listen to a gene that is marked as perturbed, in control cells (Zeng et al. 2025, *gene–gene relationships*).

    In each cell that expresses the gene, every other gene i is ranked by :math:`\phi(q_i) \cdot \phi(k_{gene})`, the weight with which retention adds the value of
    the gene to it; ranks are averaged over heads, layers and cells (:func:`cellfm.tl._genes.influence_scores.listening`). The publication names the perturbed
    gene to the network without saying how; here its value is hidden and its name stays. The perturbation models of this package mark nothing in the network (they
    predict responses from vectors of genes), so that none is asked for.

    Genes that listen to everything come first for any gene: `background` is what they score with other genes marked. A known target list matches any list of
    well-studied, highly expressed genes: read an overlap beside the expected one and the controls.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, in memory or backed; control cells, or a choice of them by `groupby` and `group`.
    model
        From `cellfm.load`, or a weights folder or name.
    gene
        Symbol, earlier symbol, alias or Ensembl id.
    groupby, group
        Column of ``obs`` and its entry or entries whose cells are read; all cells without.
    known
        Known targets: a table with source and target, such as TRRUST or a list of ChIP peaks by gene (path, or columns ``source`` and ``target``).
    mark
        ``"hidden"``, or ``"none"`` for the attention in cells as they are.
    n_genes
        Genes in the table; None for all.
    n_cells
        Cells that express the gene which are read, drawn at random when there are more.
    min_cells
        Genes that fewer of these express are not ranked.
    n_others
        Other genes, expressed in about as many cells, that are marked in turn for `background`; 0 for none. Each takes as long as the gene itself.
    layer, use_raw, gene_names, scale, min_matched, device
        As in `embed`.
    seed
        Of the choice of cells and of other genes, and of random weights.
    progress
        Called with (rankings done, rankings in all).

    Returns
    -------
    `InfluencedGenes`. Its table has ``rank`` (from 1), ``gene`` (vocabulary symbol), ``score`` (0.5 without any preference), ``background`` (mean score with other
    genes marked), ``difference``, ``n_cells`` (that express both), ``mean_expression`` (log1p of counts per 10⁴), ``pearson``, ``locus_group``, and ``known``.
    Nothing is written.

    Raises
    ------
    ConfigError
        A number or `mark` makes no sense.
    DataError
        The gene is unknown (near names are suggested) or expressed in too few cells, or has no known targets among the ranked genes.
    GeneMatchError, CountsError
        As in `embed`.

    Examples
    --------
    >>> cellfm.tl.influenced_genes(
    ...     adata, "mini", "SPI1", known="trrust.tsv"
    ... ).verdict  # doctest: +SKIP
    """
    _check(mark, n_genes=n_genes, n_cells=n_cells, min_cells=min_cells, n_others=n_others)
    edges = None if known is None else _edges_of(known)
    pretrained = as_model(model, device)
    token = _row_of(gene, pretrained.vocabulary) + 1
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched)  # fmt: skip
    drawn = _draw_cells(adata.obs, groupby=groupby, group=group, n_cells=len(adata.obs) or 1, seed=seed)  # fmt: skip
    rows = np.sort(np.concatenate(list(drawn.values())))
    read = read_cells(adata, rows, pretrained.vocabulary, options, min_cells=1)
    study = _Study(model=pretrained, read=read, token=token, mark=mark, n_cells=n_cells, min_cells=min_cells, seed=seed)  # fmt: skip
    study.check()
    targets = None if edges is None else study.targets(edges)
    return study.result(targets, n_genes=n_genes, n_others=n_others, progress=progress)


def _check(mark: str, *, n_genes: int | None, n_cells: int, min_cells: int, n_others: int) -> None:
    if mark not in get_args(Mark):
        msg = f"mark is {mark!r}; it must be one of {', '.join(map(repr, get_args(Mark)))}. Choose one of these."
        raise ConfigError(msg)
    if min(n_cells, min_cells) < 1 or n_others < 0 or (n_genes is not None and n_genes < 1):
        msg = f"n_genes is {n_genes}, n_cells {n_cells}, min_cells {min_cells} and n_others {n_others}; n_others must be at least 0, the others at least 1. Give a number in that range."
        raise ConfigError(msg)


def _edges_of(known: "str | Path | pd.DataFrame") -> Sequence[Edge]:
    if isinstance(known, str | Path):
        return read_known_network(known)
    if missing := [name for name in ("source", "target") if name not in known]:
        msg = f"The known targets have no column {missing[0]!r}; found {', '.join(map(str, known.columns)) or 'none'}. Name the columns source and target."
        raise DataError(msg)
    pairs = zip(known["source"].astype(str), known["target"].astype(str), strict=True)
    return tuple(Edge(source, target, "") for source, target in pairs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Study:
    """A gene, and the cells it is looked at in."""

    model: Pretrained
    read: NetworkCells
    token: int
    mark: Mark
    n_cells: int
    min_cells: int
    seed: int

    @property
    def symbol(self) -> str:
        return self.model.vocabulary.symbols[self.token - 1]

    def check(self) -> None:
        """Refuse a gene that too few cells express."""
        found = len(cells_with(self.read.cells, self.token))
        if found < self.min_cells:
            msg = (
                f"{self.symbol} is expressed in {found:,} of the {len(self.read.cells):,} cells that are read; at least {self.min_cells} are needed (min_cells, --min-cells). "
                "Give more cells, or other ones by groupby and group (--groupby, --group)."
            )
            raise DataError(msg)

    def targets(self, edges: Sequence[Edge]) -> "NDArray[np.int64]":
        """Return the tokens of the known targets of the gene."""
        token = tokens_of((name for edge in edges for name in edge[:2]), self.model.vocabulary)
        found = {token[edge.target] for edge in edges if token[edge.source] == self.token}
        found -= {0, self.token}
        if not found:
            sources = sorted({edge.source for edge in edges})
            msg = f"The table of known targets has none of {self.symbol} that is a gene of the model; it has {len(edges):,} rows of {len(sources):,} sources, such as {', '.join(sources[:5])}. Mark one of these, or give another table."
            raise DataError(msg)
        return np.array(sorted(found), np.int64)

    def listen(self, model: Pretrained, token: int, mark: Mark) -> Listening:
        """Rank genes by how they listen to one, in some of the cells that express it."""
        rows = cells_with(self.read.cells, token)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.n_cells])
        return listening(model.network, self.read.cells.select(chosen), token, mark=mark)

    def others(self, n: int) -> "NDArray[np.int64]":
        """Return other genes that about as many cells express."""
        count = np.bincount(self.read.cells.gene, minlength=len(self.model.vocabulary) + 1)
        tokens = np.flatnonzero(count >= self.min_cells)
        tokens = tokens[tokens != self.token]
        near = np.argsort(np.abs(np.log(count[tokens] / count[self.token])), kind="stable")
        pool = tokens[near[: 5 * n]]
        return np.random.default_rng([self.seed, 1]).permutation(pool)[:n]

    def result(
        self,
        targets: "NDArray[np.int64] | None",
        *,
        n_genes: int | None,
        n_others: int,
        progress: Progress | None,
    ) -> InfluencedGenes:
        """Rank, and compare with known targets."""
        others = self.others(n_others)
        n_all = 1 + len(others) + (targets is not None) * (1 + (self.mark != "none"))
        tell = _Counter(progress, n_all)
        ours = tell(self.listen(self.model, self.token, self.mark))
        ranked = np.flatnonzero((ours.n_cells >= self.min_cells) & np.isfinite(ours.score))
        if not len(ranked):
            msg = f"No other gene is expressed in at least {self.min_cells} of the cells that express {self.symbol}. Lower min_cells (--min-cells), or give more cells."
            raise DataError(msg)
        known = np.zeros(0, np.int64) if targets is None else np.intersect1d(targets, ranked)
        if targets is not None and not len(known):
            msg = f"None of the {len(targets):,} known targets of {self.symbol} is among the {len(ranked):,} genes that are ranked. Give more cells, or lower min_cells (--min-cells)."
            raise DataError(msg)
        background = [tell(self.listen(self.model, int(one), self.mark)).score for one in others]
        mean = _mean(background, len(ours.score))
        values = expression(self.read.cells, len(self.model.vocabulary))
        pearson = correlations(values, np.array([self.token]), ranked)[0]
        scores = {MARKED: ours.score[ranked]}
        if len(others):
            scores[LESS] = (ours.score - mean)[ranked]
        if targets is not None:
            if self.mark != "none":
                scores[UNMARKED] = tell(self.listen(self.model, self.token, "none")).score[ranked]
            twin = random_twin(self.model, seed=self.seed)
            twin.network.to(self.model.network.cls.device)
            scores[TWIN] = tell(self.listen(twin, self.token, self.mark)).score[ranked]
        scores |= {PEARSON: np.abs(pearson), EXPRESSION: levels(values, ranked)}
        is_known = np.isin(ranked, known)
        table = self._table(
            ranked,
            ours,
            background=mean,
            pearson=pearson,
            level=scores[EXPRESSION],
            known=None if targets is None else is_known,
        )
        return InfluencedGenes(
            gene=self.symbol,
            table=table.head(n_genes) if n_genes else table,
            comparison=None
            if targets is None
            else compare_lists(scores, [each[ranked] for each in background], is_known),
            n_cells=len(cells_with(self.read.cells, self.token)),
            n_known=len(known),
        )

    def _table(
        self,
        ranked: "NDArray[np.int64]",
        ours: Listening,
        *,
        background: "NDArray[np.float64]",
        pearson: "NDArray[np.float32]",
        level: "NDArray[np.float64]",
        known: "NDArray[np.bool_] | None",
    ) -> "pd.DataFrame":
        import pandas as pd

        obs = _gene_obs(self.model.vocabulary).iloc[ranked - 1]
        table = pd.DataFrame(
            {
                "gene": obs["symbol"].to_numpy(),
                "score": ours.score[ranked],
                "background": background[ranked],
                "difference": (ours.score - background)[ranked],
                "n_cells": ours.n_cells[ranked],
                "mean_expression": level,
                "pearson": pearson,
                "locus_group": obs["locus_group"].to_numpy(),
            }
        )
        if known is not None:
            table["known"] = known
        table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
        table.insert(0, "rank", np.arange(1, len(table) + 1))
        return table


class _Counter:
    """Tells how many rankings are done."""

    def __init__(self, progress: Progress | None, n_all: int) -> None:
        self.progress, self.n_all, self.done = progress, n_all, 0

    def __call__(self, found: Listening) -> Listening:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.n_all)
        return found


def _mean(scores: "Sequence[NDArray[np.float64]]", n: int) -> "NDArray[np.float64]":
    """Return the mean over the lists that have a gene; NaN for one that none has."""
    if not scores:
        return np.full(n, np.nan)
    table = np.stack(scores)
    there = np.isfinite(table)
    total = np.where(there, table, 0.0).sum(axis=0)
    return np.divide(total, there.sum(axis=0), out=np.full(n, np.nan), where=there.any(axis=0))
