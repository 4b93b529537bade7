"""The cells and genes of a network: which cells are read, and which sources and targets they express."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.cells import InMemoryCells
from cellfm.errors import DataError, GeneMatchError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.near import near_symbols
from cellfm.genes.species import has_mouse_style
from cellfm.tl._embed import match_genes
from cellfm.tl._network.known import N_SHOWN, read_names, tokens_of
from cellfm.tl._states import EmbedOptions

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Genes = Sequence[str] | str | Path
"""Names, or a file with one a line."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkCells:
    """Cells, and the genes they express.

    Attributes
    ----------
    cells
        Counts under tokens; cells without any known gene are left out.
    expressed
        Tokens, ascending, that at least `min_cells` of the cells express.
    min_cells
        As above.
    vocabulary
        Of the model.
    var_names, var_token
        Names of the columns of the data, and their tokens, 0 for none.
    """

    cells: InMemoryCells
    expressed: "NDArray[np.int64]"
    min_cells: int
    vocabulary: Vocabulary
    var_names: tuple[str, ...]
    var_token: "NDArray[np.int64]"

    def symbols(self, tokens: "NDArray[np.int64]") -> "NDArray[np.object_]":
        """Return the symbols of tokens.

        Parameters
        ----------
        tokens
            From 1.
        """
        return np.array(self.vocabulary.symbols, dtype=object)[tokens - 1]

    def named(self, genes: Genes, what: str) -> "NDArray[np.int64]":
        """Return the tokens of the genes among those named that the cells express, in ascending order.

        Parameters
        ----------
        genes
            Names, or a file with one a line.
        what
            What they are called in the message: ``"sources"`` or ``"targets"``.

        Raises
        ------
        DataError
            None of them is there.
        GeneMatchError
            They are those of another species.
        """
        names = read_names(genes) if isinstance(genes, str | Path) else tuple(genes)
        if not names:
            msg = f"No {what} were named; give at least one gene, or leave {what} out."
            raise DataError(msg)
        token = tokens_of(names, self.vocabulary)
        asked = np.unique([number for number in token.values() if number]).astype(np.int64)
        there = asked[np.isin(asked, self.expressed)]
        if not len(there):
            raise DataError(self._none_there(names, len(asked), what))
        return there

    def _none_there(self, names: Sequence[str], n_known: int, what: str) -> str:
        unknown = [name for name in names if not self._known(name)]
        near = [
            other
            for name in unknown[:N_SHOWN]
            for other in near_symbols(name, self.vocabulary.symbols, 2)
        ]
        hint = f" Near names: {', '.join(near)}." if near else ""
        if any(has_mouse_style(name) for name in names):
            hint += " Some look like mouse genes: map them to human symbols first."
        return (
            f"None of the {len(names):,} {what}, such as {', '.join(names[:N_SHOWN])}, is expressed in at least {self.min_cells} of the {len(self.cells):,} cells; "
            f"{n_known:,} of them are genes of the model.{hint} Give genes that these cells express, more cells, or a lower min_cells."
        )

    def _known(self, name: str) -> bool:
        try:
            return bool(tokens_of([name], self.vocabulary)[name])
        except GeneMatchError:
            return False


def read_cells(
    adata: "AnnData",
    rows: "NDArray[np.int64]",
    vocabulary: Vocabulary,
    options: EmbedOptions,
    *,
    min_cells: int,
) -> NetworkCells:
    """Read some cells.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    rows
        Which, ascending.
    vocabulary
        Of the model.
    options
        Where the counts are.
    min_cells
        Genes that fewer of the cells express are left out.

    Raises
    ------
    DataError
        No gene of the model is expressed in as many cells.
    CountsError, GeneMatchError
        As in `embed`.
    """
    part = adata[rows]
    part = part.to_memory() if adata.isbacked else part
    source, var = anndata_source(part, layer=options.layer, use_raw=options.use_raw)
    match = match_genes(var, vocabulary, options)
    cells = InMemoryCells.from_source(source, match.token, scale=options.scale)
    cells = cells.select(np.flatnonzero(cells.lengths))
    n_expressing = np.bincount(cells.gene, minlength=len(vocabulary) + 1)
    expressed = np.flatnonzero(n_expressing >= min_cells)
    if len(expressed) < 2:
        msg = f"{len(expressed)} genes of the model are expressed in at least {min_cells} of the {len(rows):,} cells; a network needs two. Give more cells, or lower min_cells."
        raise DataError(msg)
    return NetworkCells(
        cells=cells,
        expressed=expressed,
        min_cells=min_cells,
        vocabulary=vocabulary,
        var_names=tuple(str(name) for name in gene_names_of(var, options.gene_names)),
        var_token=match.token.astype(np.int64),
    )


def check_names(genes: Sequence[str], vocabulary: Vocabulary) -> None:
    """Refuse genes that a model does not know, before anything is computed.

    Parameters
    ----------
    genes
        Names.
    vocabulary
        Of the model.

    Raises
    ------
    DataError
        One is unknown; near names are suggested.
    """
    lookup = Lookup(vocabulary, GeneTable.load())
    for gene in genes:
        if not lookup.find(gene.strip()).token:
            near = near_symbols(gene, vocabulary.symbols)
            hint = f"; near names: {', '.join(near)}" if near else ""
            msg = f"The gene {gene!r} is not known; the model has {len(vocabulary):,} genes{hint}. Correct its name."
            raise DataError(msg)
