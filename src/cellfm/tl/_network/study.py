"""Does a model's network find known regulation, and more of it than correlations do? Every method on the same cells and pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, DataError
from cellfm.optional import require
from cellfm.tl._network import controls
from cellfm.tl._network.compare import Scores, compare
from cellfm.tl._network.genes import Genes, NetworkCells
from cellfm.tl._network.known import Edge, KnownNetwork, known_among, read_known_network
from cellfm.tl._network.metrics import Standing
from cellfm.tl._network.network import GeneNetwork, network_of
from cellfm.tl._network.pairs import PairScores
from cellfm.tl._network.scoring import Asked, Method, Progress, score_pairs
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

CANDIDATE, BEST_HEADS, TWIN = "cellfm", "cellfm, best heads", "random weights"
ALL, SAMPLED, HELD_OUT = "all pairs", "sampled targets", "held-out sources"
LEAST_EDGES = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkCheck:
    """A network, and how it compares with what is known.

    Attributes
    ----------
    network
        Scores of all pairs, by all heads.
    comparison
        A row for each universe and method, the candidate first in each. Universes: ``all pairs``; ``sampled targets``, a sample of the targets with a known
        source, on which GENIE3 was fitted; with heads selected, ``held-out sources``, which had no part in the selection. Columns: numbers of sources, pairs and true
        edges, the metrics of :mod:`~cellfm.tl._network.metrics` with intervals over sources, ``null_epr`` and ``p`` of networks with the same degrees,
        and the differences candidate − method with intervals, paired.
    heads
        AUPRC ratio of each head for the sources it was selected by, and whether it was; None without selection.
    known
        The part of the known network that was tested.
    """

    network: GeneNetwork
    comparison: "pd.DataFrame"
    heads: "pd.DataFrame | None"
    known: KnownNetwork

    @property
    def verdict(self) -> str:
        """What the comparison shows and what it does not."""
        universe = self.comparison.index.get_level_values("universe")
        said = [name for name in (ALL, HELD_OUT) if name in universe]
        return " ".join(
            _verdict(self.comparison[universe == name].droplevel("universe"), name) for name in said
        )

    def table(self, n: int | None = 10_000) -> "pd.DataFrame":
        """Return the strongest pairs as `GeneNetwork.table` does, with the column ``known``: whether the pair is an edge of the known network, NaN where its source is not in it.

        Parameters
        ----------
        n
            How many; None for all.
        """
        return mark_known(self.network.table(n), self.known)


def mark_known(table: "pd.DataFrame", known: KnownNetwork) -> "pd.DataFrame":
    """Return a table of pairs with the column ``known``.

    Parameters
    ----------
    table
        With source and target.
    known
        Edges.
    """
    row, column = np.nonzero(known.true)
    true = set(zip(known.sources[row].tolist(), known.targets[column].tolist(), strict=True))
    inside, reach = set(known.sources.tolist()), set(known.targets.tolist())
    pairs = zip(table["source"], table["target"], strict=True)
    return table.assign(
        known=[float(pair in true) if pair[0] in inside and pair[1] in reach else np.nan for pair in pairs]
    )  # fmt: skip


def _verdict(part: "pd.DataFrame", universe: str) -> str:
    own, pearson = part.iloc[0], part.loc[controls.PEARSON]
    low, high = pearson["epr_difference_low"], pearson["epr_difference_high"]
    difference = f"{pearson['epr_difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
    if low > 0:
        beside = f"above |Pearson| in the same cells by {difference}"
    elif high < 0:
        beside = f"below |Pearson| in the same cells ({pearson['epr']:.2f}; {difference})"
    else:
        beside = f"not shown to be above |Pearson| in the same cells ({pearson['epr']:.2f}; {difference})"
    null = "" if np.isnan(own["p"]) else (
        f" Networks with the same degrees reach {own['null_epr']:.2f} by the same scores (p {own['p']:.3g}): that much owes to which genes have many edges."
    )  # fmt: skip
    return (
        f"Of {own['n_edges']:.0f} known edges among {own['n_pairs']:,.0f} pairs ({universe}), {part.index[0]} finds {own['epr']:.2f} [{own['epr_low']:.2f}, {own['epr_high']:.2f}] "
        f"times as many among its best pairs as random scores would (EPR): {beside}.{null}"
    )


def check_network(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    known: "str | Path | pd.DataFrame",
    sources: Genes | None = None,
    targets: Genes | None = None,
    method: Method = "retention",
    groupby: str | None = None,
    group: str | None = None,
    n_cells: int | None = None,
    n_heads: int = 0,
    n_genie3: int = 300,
    n_permutations: int = 1000,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> NetworkCheck:
    """Make a network and compare it with a known one, beside correlations, expression levels, tree ensembles and random weights.

    All methods are scored on the same cells and pairs: sources of the known network with at least one edge × genes that the cells express, genes with themselves left out. What is not in the known network counts as
    false, though much of it is only unknown; so scores are lower than the truth, for all methods alike.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, in memory or backed; it is not changed.
    model
        From `cellfm.load`, or a weights folder or name; None for the model of the package.
    known
        Known network: a table with the columns source, target and perhaps mode, or a file of them, with a header or, as TRRUST, without.
    sources
        Names of genes, or a file with one a line, that the network is made of; those of the known network without.
    targets, method, groupby, group, n_cells, min_cells
        As in `gene_network`.
    n_heads
        So many heads are selected by their AUPRC for half of the known network's sources, drawn at random, and averaged; they are tested on the other half, in a universe of
        its own. 0 for no selection.
    n_genie3
        Targets, drawn from those with a known source, for which GENIE3 is fitted, about 0.2 s each; all methods are tested on these too. 0 leaves it out.
    n_permutations
        Networks with the same degrees.
    layer, use_raw, gene_names, scale, min_matched, device
        As in `embed`.
    seed
        Of all draws, of random weights and of trees.
    progress
        Called with (done, in all).

    Returns
    -------
    The network, the comparison and its verdict.

    Raises
    ------
    DataError
        The known network has fewer than 10 edges among the genes, or heads are to be selected by fewer than four sources.
    ConfigError
        Heads of a method without heads, or a negative number.
    CountsError, GeneMatchError
        As in `embed`; also if the known network is another species'.
    MissingDependencyError
        scikit-learn is missing, which GENIE3 needs.

    Examples
    --------
    >>> check = cellfm.tl.check_network(adata, known="trrust_rawdata.human.tsv")  # doctest: +SKIP
    >>> check.comparison, check.verdict  # doctest: +SKIP
    """
    _check(n_heads=n_heads, n_genie3=n_genie3, n_permutations=n_permutations, method=method)
    asked = Asked(
        method=method, groupby=groupby, group=group, n_cells=n_cells, min_cells=min_cells, seed=seed
    )
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched, empty="nan"
    )  # fmt: skip
    pretrained = as_model(model, device)
    edges = _edges_of(known)
    cells = asked.read(adata, pretrained.vocabulary, options)
    named = [edge.source for edge in edges] if sources is None else sources
    target = cells.expressed if targets is None else cells.named(targets, "targets")
    source = cells.named(named, "sources")
    part = known_among(
        edges, cells.symbols(source), cells.symbols(target), cells.vocabulary, least=LEAST_EDGES
    )
    if sources is None:  # those without an edge here have no part in the comparison
        source = source[np.isin(cells.symbols(source), part.sources)]
    bench = Bench(
        model=pretrained, cells=cells, known=part, targets=target, method=method, seed=seed,
        n_heads=n_heads, n_genie3=n_genie3, n_permutations=n_permutations, progress=progress,
    )  # fmt: skip
    scored = score_pairs(
        pretrained, cells, source, target, method=method, by_head=n_heads > 0, progress=bench.tell(0)
    )  # fmt: skip
    return bench.result(network_of(scored, cells, source, target, described=asked.described))


def _check(*, n_heads: int, n_genie3: int, n_permutations: int, method: str) -> None:
    if min(n_heads, n_genie3, n_permutations) < 0:
        msg = f"n_heads is {n_heads}, n_genie3 {n_genie3} and n_permutations {n_permutations}; none of them can be negative. Give numbers of 0 or more."
        raise ConfigError(msg)
    if n_heads and method != "retention":
        msg = f"Heads are to be selected, and method={method!r} has none. Say method='retention', or n_heads=0."
        raise ConfigError(msg)
    if n_genie3:
        require("sklearn")


def _edges_of(known: "str | Path | pd.DataFrame") -> tuple[Edge, ...]:
    if isinstance(known, str | Path):
        return read_known_network(known)
    if missing := [name for name in ("source", "target") if name not in known]:
        msg = f"The known network has no column {missing[0]!r}; it has {', '.join(map(str, known.columns)) or 'none'}. Name them source and target."
        raise DataError(msg)
    mode = known["mode"].astype(str) if "mode" in known else [""] * len(known)
    rows = zip(known["source"].astype(str), known["target"].astype(str), mode, strict=True)
    return tuple(Edge(*row) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """All that is compared on the same cells.

    Attributes
    ----------
    model, cells, known, method, seed, n_heads, n_genie3, n_permutations, progress
        As in `check_network`.
    targets
        Tokens of the targets of `known`.
    """

    model: Pretrained
    cells: NetworkCells
    known: KnownNetwork
    targets: "NDArray[np.int64]"
    method: str
    seed: int
    n_heads: int
    n_genie3: int
    n_permutations: int
    progress: Progress | None

    def tell(self, number: int) -> Progress | None:
        """Return what the passes over the cells report to: the model's is 0, that of random weights 1."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(number * total + done, 2 * total)

    def result(self, network: GeneNetwork) -> NetworkCheck:
        """Compare.

        Parameters
        ----------
        network
            Of the model.
        """
        import pandas as pd

        known = self.known
        every = {CANDIDATE: network.scores.take(known.sources, known.targets), **self.others()}
        parts = [self.compare(every, known, ALL)]
        heads = None
        if self.n_genie3:
            parts.append(self._on_sampled_targets(every))
        if self.n_heads:
            heads, held, best = self.select(network.scores)
            part = known.of_sources(held)
            chosen = {BEST_HEADS: best} | {name: score[held] for name, score in every.items()}
            parts.append(self.compare(chosen, part, HELD_OUT))
        return NetworkCheck(network=network, comparison=pd.concat(parts), heads=heads, known=known)

    def others(self) -> "dict[str, NDArray[np.float32]]":
        """Return the scores of the controls for the pairs of the known network."""
        known, cells = self.known, self.cells
        values = controls.expression(cells.cells, len(cells.vocabulary))
        place = {name: token for token, name in enumerate(cells.vocabulary.symbols, start=1)}
        source = np.array([place[name] for name in known.sources.tolist()], np.int64)
        twin = random_twin(self.model, seed=self.seed)
        random = score_pairs(
            twin, cells, source, self.targets, method=self.method, progress=self.tell(1)
        ).scores
        return {
            controls.PEARSON: np.abs(controls.correlations(values, source, self.targets)),
            controls.SPEARMAN: np.abs(
                controls.correlations(values, source, self.targets, ranks=True)
            ),
            **controls.level_scores(values, source, self.targets),
            TWIN: random.take(known.sources, known.targets),
        }

    def _on_sampled_targets(self, every: "Scores") -> "pd.DataFrame":
        rng = np.random.default_rng(self.seed)
        columns = rng.permutation(np.flatnonzero(self.known.true.any(axis=0)))[: self.n_genie3]
        columns = np.sort(columns)
        part = self.known.of_targets(columns)
        rows = np.flatnonzero(np.isin(self.known.sources, part.sources))
        place = {name: token for token, name in enumerate(self.cells.vocabulary.symbols, start=1)}
        # All sources are regressors, also those without an edge to these targets.
        source = np.array([place[name] for name in self.known.sources.tolist()], np.int64)
        values = controls.expression(self.cells.cells, len(self.cells.vocabulary))
        trees = controls.genie3(values, source, self.targets[columns], seed=self.seed)
        scores = {name: score[np.ix_(rows, columns)] for name, score in every.items()}
        return self.compare(scores | {controls.GENIE3: trees[rows]}, part, SAMPLED)

    def select(
        self, scores: PairScores
    ) -> "tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.float32]]":
        """Select heads by half of the sources; return them, the places of the other half, and its scores by the heads that were selected."""
        import pandas as pd

        known = self.known
        if len(known.sources) < 4:
            msg = f"Heads are to be selected by half of the sources, and only {len(known.sources)} of the known network are here; at least 4 are needed. Say n_heads=0 (--n-heads 0)."
            raise DataError(msg)
        order = np.random.default_rng(self.seed).permutation(len(known.sources))
        train, held = np.sort(order[::2]), np.sort(order[1::2])
        part = known.of_sources(train)
        seen = scores.take_heads(part.sources, part.targets)
        ratio = [float(Standing.of(score, part).scores()[0, 1]) for score in seen]
        best = np.argsort(-np.array(ratio), kind="stable")[: self.n_heads]
        chosen = np.isin(np.arange(len(ratio)), best)
        table = pd.DataFrame(
            {"auprc_ratio": ratio, "selected": chosen}, index=pd.Index(scores.heads, name="head")
        )
        other = known.of_sources(held)
        return table, held, scores.take_heads(other.sources, other.targets)[best].mean(axis=0)

    def compare(self, every: "Scores", known: KnownNetwork, universe: str) -> "pd.DataFrame":
        """Return a row for each method.

        Parameters
        ----------
        every
            Scores of the pairs of `known` by each method, the candidate first.
        known
            True edges.
        universe
            Name of the pairs.
        """
        return compare(every, known, universe, n_permutations=self.n_permutations, seed=self.seed)
