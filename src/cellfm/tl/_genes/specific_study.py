"""Genes of types as they are ranked, compared and listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import DataError
from cellfm.tl._genes.specific_cells import LNCRNA, Chosen, Kinds
from cellfm.tl._genes.specific_judge import LEVEL, Expression, Lists, compare, enrichment_table, tau
from cellfm.tl._genes.specific_scores import Attention
from cellfm.tl._markers import _Genes

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RankBy = Literal["specific", "attention"]

SPECIFIC, PLAIN, UNTRAINED = "attention, type less rest", "attention", "untrained queries, type less rest"  # fmt: skip
MIXED = "the same queries in cells of all types"
ATTRIBUTION, MEAN, RATIO = "attribution", "mean expression", "fold change (ceiling)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpecificGenes:
    """Genes of each type, and how far the lists can be trusted.

    Attributes
    ----------
    table
        A row for each type and gene; see :func:`specific_genes`.
    enrichment
        For each type: candidates, those differentially expressed, and how many of them the longer list holds (``hits``), beside as many candidates at
        random and the same with shuffled labels; all candidates, whatever their locus group.
    group_enrichment
        The same for the locus group alone; None without one.
    comparison
        A row for each way to rank candidates; see :func:`cellfm.tl._genes.specific_judge.compare`.
    shuffled
        Share of differentially expressed genes in the lists of each shuffled labelling, mean over types.
    notes
        What was left out.
    """

    table: "pd.DataFrame"
    enrichment: "pd.DataFrame"
    group_enrichment: "pd.DataFrame | None"
    comparison: "pd.DataFrame"
    shuffled: "NDArray[np.float64]"
    notes: tuple[str, ...] = ()

    @property
    def observed(self) -> float:
        """Share of differentially expressed genes in the lists, mean over types with any."""
        return float(self.comparison["precision"].iloc[0])

    @property
    def p(self) -> float:
        """Share of shuffled labellings, and one, that do as well; NaN where no list says anything."""
        if not np.isfinite(self.observed):
            return float("nan")
        return float((1 + (self.shuffled >= self.observed).sum()) / (1 + len(self.shuffled)))

    @property
    def verdict(self) -> str:
        """What the figures show and what they do not."""
        rows = self.comparison.astype(float)
        precision = dict(zip(rows.index, rows["precision"].tolist(), strict=True))
        low = dict(zip(rows.index, rows["low"].tolist(), strict=True))
        if not np.isfinite(self.observed):
            return "No type has twice as many candidates as are listed, some of them differentially expressed: nothing can be said about the lists. List fewer (n_listed), or give more cells."
        above = "above" if self.p <= LEVEL else "not above"
        told = (
            f"Of the genes listed {self.observed:.1%} are differentially expressed, {above} shuffled labels ({self.shuffled.mean():.1%}, p = {self.p:.2g}); "
            f"by mean expression {precision[MEAN]:.1%}, by untrained queries {precision[UNTRAINED]:.1%}, by the same queries in cells of all types {precision[MIXED]:.1%}."
        )
        if self.p > LEVEL:
            return f"{told} Verdict: that the lists go beyond shuffled labels is not shown."
        unbeaten = [name for name in (MEAN, UNTRAINED, MIXED) if not low[name] > 0]
        if unbeaten:
            return f"{told} Verdict: above shuffled labels, but not shown to be above: {'; '.join(unbeaten)}."
        return f"{told} Verdict: above shuffled labels and all controls."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """All that is known of every type and token."""

    genes: _Genes
    kinds: Kinds
    chosen: Chosen
    attention: Attention
    shuffled: Attention
    mixed: Attention
    untrained: Attention
    attribution: "NDArray[np.float64] | None"
    expression: Expression
    min_cells: int

    def result(
        self,
        wanted: "NDArray[np.bool_]",
        locus_group: str | None,
        rank_by: RankBy,
        *,
        n_genes: int | None,
        n_listed: int,
        seed: int,
    ) -> SpecificGenes:
        """Rank and compare."""
        scores = self._scores(rank_by)
        first = next(iter(scores.values()))
        expressed = self.attention.n_cells >= self.min_cells
        raised = self.expression.raised
        lists = Lists(candidate=expressed, right=raised, n=n_listed)
        own = Lists(
            candidate=expressed & wanted, right=raised, n=min(n_genes or n_listed, n_listed)
        )
        if not own.candidate.any():
            msg = f"No gene of the locus group {locus_group!r} is expressed by at least {self.min_cells} of the scored cells of a type. Lower min_cells (--min-cells), or give other cells."
            raise DataError(msg)
        hits, own_hits = self._shuffled_hits((lists, own), rank_by)
        names = self.chosen.names
        used = lists.telling
        shares = (hits / np.maximum(lists.lengths, 1))[:, used]
        is_counted = wanted if locus_group else self.kinds.are(LNCRNA)
        shown = Lists(candidate=own.candidate, right=raised, n=n_genes or own.candidate.shape[1])
        return SpecificGenes(
            table=self._table(shown, first),
            enrichment=enrichment_table(lists, first, hits, names),
            group_enrichment=None
            if locus_group is None
            else enrichment_table(own, first, own_hits, names),
            comparison=compare(lists, scores, is_counted, repeated=self._mixed(rank_by), seed=seed),
            shuffled=shares.mean(axis=1) if used.any() else np.full(len(hits), np.nan),
            notes=self.chosen.notes,
        )

    def _scores(self, rank_by: RankBy) -> "Mapping[str, NDArray[np.floating]]":
        """Return each way to rank genes, shape (type, token); the first is the one asked for."""
        specific = self.attention.specific
        ours: dict[str, NDArray[np.floating]] = {
            SPECIFIC: specific,
            PLAIN: self.attention.mean,
        }
        if rank_by == "attention":
            ours = dict(reversed(ours.items()))
        ours[UNTRAINED] = self.untrained.specific
        if self.attribution is not None:
            ours[ATTRIBUTION] = self.attribution
        return ours | {MEAN: self.expression.mean_in, RATIO: self.expression.log2_fold_change}

    def _mixed(self, rank_by: RankBy) -> "Mapping[str, Sequence[NDArray[np.floating]]]":
        own = self.mixed
        drawings = own.mean if rank_by == "attention" else own.specific
        return {MIXED: list(drawings)}

    def _shuffled_hits(self, lists: Sequence[Lists], rank_by: RankBy) -> "list[NDArray[np.int64]]":
        """Return the hits of lists under each shuffled labelling, (labelling, type)."""
        hits: list[list[NDArray[np.int64]]] = [[] for _ in lists]
        for labelling in range(len(self.shuffled.mean)):  # one at a time is in memory
            own = self.shuffled.labelled(labelling)
            score = own.mean if rank_by == "attention" else own.specific
            for each, found in zip(lists, hits, strict=True):
                found.append(each.hits(score))
        return [np.stack(each) for each in hits]

    def _table(self, lists: Lists, score: "NDArray[np.floating]") -> "pd.DataFrame":
        import pandas as pd

        known = np.where(self.attention.n_cells >= self.min_cells, self.attention.mean, 0.0)
        across = tau(known), tau(self.expression.mean_in)
        parts = [
            self._of_type(one, lists.top(score, one), *across)
            for one in range(len(self.chosen.names))
        ]
        return pd.concat(parts, ignore_index=True)

    def _of_type(
        self,
        one: int,
        tokens: "NDArray[np.int64]",
        tau_attention: "NDArray[np.float64]",
        tau_expression: "NDArray[np.float64]",
    ) -> "pd.DataFrame":
        """Return the rows of one type."""
        import pandas as pd

        attention = self.attention.mean[one, tokens]
        specific = self.attention.specific[one, tokens]
        ours: dict[str, object] = {
            "type": self.chosen.names[one],
            "rank": np.arange(1, len(tokens) + 1),
            "gene": self.genes.name[tokens],
            "symbol": self.kinds.symbol[tokens],
            "locus_group": self.kinds.group[tokens],
            "locus_type": self.kinds.type[tokens],
            "attention": attention,
            "attention_rest": self.attention.rest[one, tokens],
            "specific": specific,
            "n_cells": self.attention.n_cells[one, tokens],
            "tau": tau_attention[tokens],
            "tau_expression": tau_expression[tokens],
        }
        if self.attribution is not None:
            ours["attribution"] = self.attribution[one, tokens]
        expression = self.expression
        fields = (
            "mean_in",
            "mean_out",
            "log2_fold_change",
            "detected_in",
            "detected_out",
            "auroc",
            "p",
            "q",
        )
        return pd.DataFrame(
            ours | {name: getattr(expression, name)[one, tokens] for name in fields}
        )
