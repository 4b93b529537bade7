"""The genes of an annotator's reference: a query is read on these alone, so that the read depths of the two are comparable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.errors import GeneMatchError
from cellfm.genes import GeneMatch, GeneReport
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.genes import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryGenes:
    """What of a query is read.

    Attributes
    ----------
    match
        Token of each column, 0 for what the network does not read.
    kept
        Columns that the reference has too, for PCA: those of its tokens, and of its genes outside the vocabulary.
    n_dropped
        Matched columns whose gene the reference lacks.
    n_reference
        Vocabulary genes of the reference.
    """

    match: GeneMatch
    kept: "NDArray[np.bool_]"
    n_dropped: int
    n_reference: int

    def text(self, report: GeneReport) -> str:
        """Return the gene report of a query for people; shares of counts are about the genes that were read.

        Parameters
        ----------
        report
            With the coverage of the query's cells.
        """
        n_read = len(np.unique(self.match.token[self.match.token > 0]))
        share = "" if report.coverage is None else f", with {report.coverage:.1%} of its counts"
        if not self.n_dropped and n_read == self.n_reference:
            return report.to_text()
        lines = [
            f"  read: {n_read:,} of the {self.n_reference:,} vocabulary genes of the reference{share}"
        ]
        if self.n_dropped:
            lines.append(
                f"  left out: {self.n_dropped:,} query genes that are not in the reference"
            )
        whole = GeneReport(
            **{
                name: getattr(report, name)
                for name in GeneReport.__dataclass_fields__
                if name != "coverage"
            }
        )
        return "\n".join([whole.to_text(), *lines])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceGenes:
    """Which genes the reference has, whether expressed or not.

    Attributes
    ----------
    token
        Tokens of its vocabulary genes, ascending, each once.
    outside
        Names of its genes that have no token; the network does not read them, but PCA does.
    """

    token: "NDArray[np.int32]"
    outside: frozenset[str]

    @classmethod
    def of(
        cls, adata: "AnnData", vocabulary: "Vocabulary", options: EmbedOptions
    ) -> "ReferenceGenes":
        """Take the genes of a reference.

        Parameters
        ----------
        adata
            The reference.
        vocabulary
            Genes of the network.
        options
            How to read it.

        Raises
        ------
        GeneMatchError
            Too few genes are in the vocabulary.
        """
        names, match = _matched(adata, vocabulary, options)
        pairs = zip(names, match.token, strict=True)
        return cls(
            token=np.unique(match.token[match.token > 0]),
            outside=frozenset(name for name, token in pairs if not token),
        )

    def of_query(
        self, adata: "AnnData", vocabulary: "Vocabulary", options: EmbedOptions
    ) -> QueryGenes:
        """Find what of a query is read.

        Parameters
        ----------
        adata
            The query.
        vocabulary
            Genes of the network.
        options
            How to read it.

        Raises
        ------
        GeneMatchError
            Too few genes are in the vocabulary, or none is in the reference.
        """
        names, match = _matched(adata, vocabulary, options)
        shared = np.isin(match.token, self.token)  # 0 is none of them
        if not shared.any():
            msg = (
                f"None of the {match.report.n_matched:,} vocabulary genes of the query is among the {len(self.token):,} of the reference. "
                "Labels can only be carried over on common genes; choose a reference that measures the same ones."
            )
            raise GeneMatchError(msg)
        outside = np.fromiter((name in self.outside for name in names), bool, len(names))
        token = np.where(shared, match.token, 0).astype(np.int32)
        return QueryGenes(
            match=GeneMatch(token=token, report=match.report),
            kept=shared | (outside & (match.token == 0)),
            n_dropped=int(((match.token > 0) & ~shared).sum()),
            n_reference=len(self.token),
        )


def reference_genes(token: "NDArray[np.integer]", outside: Iterable[object]) -> ReferenceGenes:
    """Build the genes of a reference from what was stored.

    Parameters
    ----------
    token, outside
        As in `ReferenceGenes`.
    """
    return ReferenceGenes(token=token.astype(np.int32), outside=frozenset(map(str, outside)))


def _matched(
    adata: "AnnData", vocabulary: "Vocabulary", options: EmbedOptions
) -> tuple[Sequence[str], GeneMatch]:
    _, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    names = [str(name) for name in gene_names_of(var, options.gene_names)]
    return names, match_genes(var, vocabulary, options)
