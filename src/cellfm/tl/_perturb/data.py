"""What a perturbation data set must be: controls, conditions, contexts, counts; checked before anything is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.conditions import Condition, parse_condition
from cellfm.corpus.counts import Scale, check_counts
from cellfm.errors import DataError
from cellfm.genes import GeneMatch, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.near import near_symbols
from cellfm.genes.table import GeneTable
from cellfm.tl._embed import match_genes
from cellfm.tl._labels import label_column
from cellfm.tl._states import EmbedOptions

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

NO_COLUMN = "all"
"""Name of the one context, or batch, where no column was given."""
N_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbOptions:
    """Where an AnnData says what was done to which cell.

    Attributes
    ----------
    perturbation
        Column of ``obs``: ``ctrl``, ``GENE``, ``GENE+ctrl`` or ``GENE1+GENE2``.
    control
        What controls are called there, besides the usual names.
    context, batch
        Columns with the cell type or line, and with the replicate; None for none.
    drop
        Entries whose cells are left out.
    min_cells
        Conditions with fewer cells are left out.
    drop_unknown
        Leave out perturbations of genes that are not in the vocabulary, instead of refusing them.
    missing_singles
        Take doubles of which a gene was not perturbed alone.
    layer, use_raw, gene_names, min_matched
        As in `embed`. Counts are needed.
    """

    perturbation: str = "perturbation"
    control: str | None = None
    context: str | None = None
    batch: str | None = None
    drop: tuple[str, ...] = ()
    min_cells: int = 10
    drop_unknown: bool = False
    missing_singles: bool = False
    layer: str | None = None
    use_raw: bool = False
    gene_names: str | None = None
    min_matched: float = 0.3

    def reading(self) -> EmbedOptions:
        """How the counts are read."""
        scale: Scale = "counts"
        return EmbedOptions(
            layer=self.layer, use_raw=self.use_raw, gene_names=self.gene_names, scale=scale,
            min_matched=self.min_matched, empty="nan",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbData:
    """Checked cells.

    Attributes
    ----------
    counts
        Cell × gene.
    genes
        Names of the input.
    match
        Their tokens.
    symbol
        Vocabulary symbol of each gene, or the name of the input where it has no token.
    conditions
        Control first, then in order of their names.
    code
        Condition of each cell.
    contexts, batches
        Names, :data:`NO_COLUMN` alone without a column.
    context, batch
        Of each cell.
    cells
        Names of the cells.
    notes
        What was left out.
    """

    counts: "csr_matrix"
    genes: tuple[str, ...]
    match: GeneMatch
    symbol: tuple[str, ...]
    conditions: tuple[Condition, ...]
    code: "NDArray[np.int64]"
    contexts: tuple[str, ...]
    context: "NDArray[np.int64]"
    batches: tuple[str, ...]
    batch: "NDArray[np.int64]"
    cells: "NDArray[np.str_]"
    notes: tuple[str, ...] = ()

    def take(self, rows: "NDArray[np.integer] | NDArray[np.bool_]") -> "PerturbData":
        """Return some of the cells; conditions and contexts keep their numbers.

        Parameters
        ----------
        rows
            Numbers or flags of cells.
        """
        return replace(
            self,
            counts=self.counts[np.flatnonzero(rows) if rows.dtype == bool else rows],
            code=self.code[rows],
            context=self.context[rows],
            batch=self.batch[rows],
            cells=self.cells[rows],
        )

    @property
    def controls(self) -> "NDArray[np.int64]":
        """Rows of the control cells."""
        return np.flatnonzero(self.code == 0)


def read_perturbations(
    adata: "AnnData", vocabulary: Vocabulary, options: PerturbOptions
) -> PerturbData:
    """Read and check cells with perturbations.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    vocabulary
        Of the model: perturbed genes must be in it.
    options
        Columns and counts.

    Raises
    ------
    DataError
        A column is missing, an entry is no perturbation, there are no or too few controls, too few conditions are left, a
        perturbed gene is not in the vocabulary, or a double lacks its singles.
    CountsError
        The values are no counts.
    GeneMatchError
        Too few genes are known.
    """
    entries = label_column(adata.obs, options.perturbation, what="data")
    notes = []
    kept = (entries != "") & ~np.isin(entries, options.drop)
    if not kept.all():
        notes.append(f"{int((~kept).sum()):,} cells without a perturbation, or dropped by name")
    parsed = _parsed(sorted(set(entries[kept].tolist())), vocabulary, options)
    if options.drop_unknown:
        known = kept & np.array([name in parsed for name in entries.tolist()])
        if known.sum() < kept.sum():
            lost = sorted(set(entries[kept & ~known].tolist()))
            notes.append(
                f"{len(lost)} perturbations of genes outside the vocabulary left out: {', '.join(lost[:N_SHOWN])}"
            )
        kept = known
    kept, few = _enough_cells(entries, kept, parsed, options)
    notes += few
    conditions = sorted({parsed[name] for name in set(entries[kept].tolist())})
    _check_singles(conditions, options)
    rows = np.flatnonzero(kept)
    counts, genes, match = read_counts(adata, rows, vocabulary, options)
    place = {condition: number for number, condition in enumerate(conditions)}
    contexts, context = levels_of(adata, options.context, rows)
    batches, batch = levels_of(adata, options.batch, rows)
    return PerturbData(
        counts=counts,
        genes=genes,
        match=match,
        symbol=symbols_of(match, genes, vocabulary),
        conditions=tuple(conditions),
        code=np.array([place[parsed[str(entry)]] for entry in entries[rows]], np.int64),
        contexts=contexts,
        context=context,
        batches=batches,
        batch=batch,
        cells=np.asarray(adata.obs_names[rows].astype(str), dtype=str),
        notes=tuple(notes),
    )


def symbols_of(match: GeneMatch, names: Sequence[str], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the vocabulary symbol of each gene, its own name where it has no token.

    Parameters
    ----------
    match
        Tokens of the genes.
    names
        Of the input.
    vocabulary
        Of the model.
    """
    return tuple(
        vocabulary.symbols[token - 1] if token else name
        for token, name in zip(match.token.tolist(), names, strict=True)
    )


def resolve_targets(genes: Sequence[str], vocabulary: Vocabulary) -> dict[str, str]:
    """Return the vocabulary symbol of each gene.

    Parameters
    ----------
    genes
        Symbols, previous symbols, aliases or Ensembl ids.
    vocabulary
        Of the model.

    Raises
    ------
    DataError
        Some are not in it; near names are suggested.
    """
    lookup = Lookup(vocabulary, GeneTable.load())
    token = {gene: lookup.find(gene).token for gene in genes}
    unknown = sorted(gene for gene, number in token.items() if not number)
    if unknown:
        near = [
            f"{gene} (near: {', '.join(found)})"
            if (found := near_symbols(gene, vocabulary.symbols))
            else gene
            for gene in unknown[:N_SHOWN]
        ]
        more = f" and {len(unknown) - N_SHOWN} more" if len(unknown) > N_SHOWN else ""
        msg = (
            f"{len(unknown)} of {len(token)} perturbed genes are not among the {len(vocabulary):,} genes of the model: {'; '.join(near)}{more}. "
            "Correct their names, or leave these perturbations out (drop_unknown=True, --drop-unknown)."
        )
        raise DataError(msg)
    return {gene: vocabulary.symbols[number - 1] for gene, number in token.items()}


def _parsed(
    names: Sequence[str], vocabulary: Vocabulary, options: PerturbOptions
) -> dict[str, Condition]:
    """Read the entries, with the genes under their vocabulary symbols."""
    extra = () if options.control is None else (options.control,)
    raw = {name: parse_condition(name, controls=extra) for name in names}
    if all(each.genes for each in raw.values()):
        shown = ", ".join(map(repr, names[:N_SHOWN])) or "none"
        msg = (
            f"No cell of obs[{options.perturbation!r}] is a control; its entries are {shown}{', …' if len(names) > N_SHOWN else ''}. "
            "Responses are measured against unperturbed cells: say what they are called (control=…, --control), or choose another column."
        )
        raise DataError(msg)
    genes = sorted({gene for each in raw.values() for gene in each.genes})
    if options.drop_unknown:
        lookup = Lookup(vocabulary, GeneTable.load())
        genes = [gene for gene in genes if lookup.find(gene).token]
    symbol = resolve_targets(genes, vocabulary)
    return {
        name: Condition.of(symbol[gene] for gene in each.genes)
        for name, each in raw.items()
        if symbol.keys() >= set(each.genes)
    }


def _enough_cells(
    entries: "NDArray[np.str_]",
    kept: "NDArray[np.bool_]",
    parsed: dict[str, Condition],
    options: PerturbOptions,
) -> "tuple[NDArray[np.bool_], list[str]]":
    """Leave out conditions with few cells, and say which; refuse few controls."""
    n_cells: dict[Condition, int] = {}
    for entry, number in zip(*np.unique(entries[kept], return_counts=True), strict=True):
        n_cells[parsed[str(entry)]] = n_cells.get(parsed[str(entry)], 0) + int(number)
    if n_cells[Condition()] < options.min_cells:
        msg = f"There are {n_cells[Condition()]} control cells; at least {options.min_cells} are needed. Give more, or lower min_cells."
        raise DataError(msg)
    few = {each for each, number in n_cells.items() if number < options.min_cells}
    shown = ", ".join(sorted(each.name for each in few)[:N_SHOWN])
    notes = [f"{len(few)} conditions with fewer than {options.min_cells} cells left out: {shown}"]
    if len(few) == len(n_cells) - 1:
        most = max((number for each, number in n_cells.items() if each.genes), default=0)
        msg = f"No perturbation has {options.min_cells} cells; the most are {most}. Lower min_cells, or choose another column than obs[{options.perturbation!r}]."
        raise DataError(msg)
    enough = [name not in parsed or parsed[name] not in few for name in entries.tolist()]
    return kept & np.array(enough), notes if few else []


def _check_singles(conditions: Sequence[Condition], options: PerturbOptions) -> None:
    there = set(conditions)
    lacking = [each.name for each in conditions if not there.issuperset(each.singles)]
    if lacking and not options.missing_singles:
        shown = ", ".join(lacking[:N_SHOWN]) + (", …" if len(lacking) > N_SHOWN else "")
        msg = (
            f"{len(lacking)} double perturbations have a gene that was not perturbed alone: {shown}. What is additive cannot be told of them. "
            "Leave them out by name (drop=…, --drop), or say missing_singles=True (--missing-singles)."
        )
        raise DataError(msg)


def read_counts(
    adata: "AnnData", rows: "NDArray[np.int64]", vocabulary: Vocabulary, options: PerturbOptions
) -> "tuple[csr_matrix, tuple[str, ...], GeneMatch]":
    """Read some rows block by block, and check them.

    Parameters
    ----------
    adata
        Cells × genes.
    rows
        Which cells.
    vocabulary
        Of the model.
    options
        Where the counts are.

    Returns
    -------
    Counts, names of the genes, and their tokens.

    Raises
    ------
    DataError
        A cell has no counts.
    CountsError
        The values are no counts.
    GeneMatchError
        Too few genes are known.
    """
    from scipy import sparse

    reading = options.reading()
    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    match = match_genes(var, vocabulary, reading)
    blocks = []
    for start in range(0, source.n_rows, 4096):
        stop = min(start + 4096, source.n_rows)
        inside = rows[(rows >= start) & (rows < stop)] - start
        if len(inside):
            block = source.read(start, stop)
            check_counts(block, first_row=start, scale=reading.scale)
            blocks.append(sparse.csr_matrix(block)[inside].astype(np.float32))
    counts = sparse.vstack(blocks, format="csr")
    empty = np.flatnonzero(np.diff(counts.indptr) == 0)
    if len(empty):
        msg = f"{len(empty):,} cells have no counts at all, the first is row {rows[empty[0]]}. Filter them (scanpy.pp.filter_cells(adata, min_counts=1))."
        raise DataError(msg)
    return counts, tuple(str(name) for name in gene_names_of(var, options.gene_names)), match


def levels_of(
    adata: "AnnData", column: str | None, rows: "NDArray[np.int64]"
) -> "tuple[tuple[str, ...], NDArray[np.int64]]":
    """Return the entries of a column, and which of them each row has.

    Parameters
    ----------
    adata
        With the column in ``obs``.
    column
        Its name; None for one entry, :data:`NO_COLUMN`.
    rows
        Which cells.

    Raises
    ------
    DataError
        There is no such column.
    """
    if column is None:
        return (NO_COLUMN,), np.zeros(len(rows), np.int64)
    entries = label_column(adata.obs, column, what="data")[rows]
    names, code = np.unique(np.where(entries == "", "unnamed", entries), return_inverse=True)
    return tuple(map(str, names)), code.astype(np.int64)
