"""Ordered lists of genes: the meaning of a network's tokens."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellfm.errors import VocabularyError
from cellfm.genes.foreign import read_symbols
from cellfm.genes.table import GeneTable

COLUMNS = ("token", "symbol", "hgnc_id", "ensembl_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Genes a network knows; gene *i* has token ``i + 1``, token 0 is padding.

    Attributes
    ----------
    symbols
        Names of the genes, in the order of the embedding table. Not all need be approved today.
    hgnc_ids
        HGNC id of each gene, or an empty string.
    ensembl_ids
        Ensembl id of each gene without version, or an empty string.
    """

    symbols: tuple[str, ...]
    hgnc_ids: tuple[str, ...]
    ensembl_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = (len(self.symbols), len(self.hgnc_ids), len(self.ensembl_ids))
        if len(set(lengths)) != 1:
            msg = (
                f"The columns of a vocabulary differ in length: {lengths[0]} symbols, {lengths[1]} "
                f"HGNC ids, {lengths[2]} Ensembl ids. Give one of each for every gene."
            )
            raise VocabularyError(msg)
        _check_symbols(self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def hash(self) -> str:
        """SHA-256 of the ordered symbols; the same genes in another order are another vocabulary."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    @staticmethod
    def from_symbols(symbols: Sequence[str], *, table: GeneTable | None = None) -> "Vocabulary":
        """Make a vocabulary of symbols in their order; known ids are filled in.

        Parameters
        ----------
        symbols
            Distinct gene symbols, approved now or formerly.
        table
            Gene table to take the ids from; the one of the package by default.
        """
        table = GeneTable.load() if table is None else table
        genes = [table.identify(symbol) for symbol in symbols]
        return Vocabulary(
            symbols=tuple(symbols),
            hgnc_ids=tuple("" if gene is None else gene.hgnc_id for gene in genes),
            ensembl_ids=tuple("" if gene is None else gene.ensembl_id for gene in genes),
        )

    @staticmethod
    def from_hgnc(
        locus_groups: Sequence[str] = ("protein-coding gene", "non-coding RNA"),
        *,
        locus_types: Sequence[str] = ("immunoglobulin gene", "T cell receptor gene"),
        table: GeneTable | None = None,
    ) -> "Vocabulary":
        """Make a vocabulary of all approved genes of some kinds, in the order of their HGNC number.

        Parameters
        ----------
        locus_groups
            HGNC locus groups to take whole.
        locus_types
            HGNC locus types to take besides; by default the immune receptor genes, which HGNC has in
            its group ``"other"`` and which blood and tumours are full of.
        table
            Gene table to take the genes from; the one of the package by default.
        """
        table = GeneTable.load() if table is None else table
        _check_known(locus_groups, {gene.locus_group for gene in table.genes}, "locus group")
        _check_known(locus_types, {gene.locus_type for gene in table.genes}, "locus type")
        groups, types = frozenset(locus_groups), frozenset(locus_types)
        genes = [g for g in table.genes if g.locus_group in groups or g.locus_type in types]
        return Vocabulary(
            symbols=tuple(gene.symbol for gene in genes),
            hgnc_ids=tuple(gene.hgnc_id for gene in genes),
            ensembl_ids=tuple(gene.ensembl_id for gene in genes),
        )

    @staticmethod
    def read(path: str | Path) -> "Vocabulary":
        """Read a ``genes.tsv`` written by :meth:`write`; every deviation is an error."""
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"The gene list {path} cannot be read: {error}. It must be a text file. Check the path, or get the file again."
            raise VocabularyError(msg) from error
        if tuple(lines[0].split("\t")) != COLUMNS:
            msg = (
                f"{path} starts with {lines[0][:80]!r}; the tab-separated columns "
                f"{', '.join(COLUMNS)} were expected. Gene lists of other programs are read with "
                "Vocabulary.read_foreign. Give a genes.tsv of this package, or use that function."
            )
            raise VocabularyError(msg)
        rows = [_fields(path, token, line) for token, line in enumerate(lines[1:], start=1)]
        symbols, hgnc_ids, ensembl_ids = zip(*rows, strict=True) if rows else ((), (), ())
        try:
            return Vocabulary(symbols=symbols, hgnc_ids=hgnc_ids, ensembl_ids=ensembl_ids)
        except VocabularyError as error:
            error.add_note(f"The gene list is {path}.")
            raise

    def write(self, path: str | Path) -> None:
        """Write ``genes.tsv``: token, symbol, HGNC id and Ensembl id of each gene."""
        path = Path(path)
        rows = zip(self.symbols, self.hgnc_ids, self.ensembl_ids, strict=True)
        lines = ["\t".join(COLUMNS), *("\t".join((str(i), *row)) for i, row in enumerate(rows, 1))]
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        partial.replace(path)

    @staticmethod
    def read_foreign(path: str | Path, *, table: GeneTable | None = None) -> "Vocabulary":
        """Read the gene list that came with foreign weights; the order of its rows is kept.

        Parameters
        ----------
        path
            Comma- or tab-separated file, maybe gzipped. The symbols are in the column
            ``HGNC_gene``, else in ``symbol``, else in the first column.
        table
            Gene table to take the ids from; the one of the package by default.
        """
        table = GeneTable.load() if table is None else table
        path = Path(path)
        symbols = read_symbols(path, is_gene=lambda name: table.identify(name) is not None)
        try:
            return Vocabulary.from_symbols(symbols, table=table)
        except VocabularyError as error:
            error.add_note(f"The gene list is {path}.")
            raise


def _check_symbols(symbols: tuple[str, ...]) -> None:
    if not symbols:
        msg = "A vocabulary without genes was asked for; it needs at least one. Name some genes."
        raise VocabularyError(msg)
    first: dict[str, int] = {}
    for token, symbol in enumerate(symbols, start=1):
        if not symbol or symbol != symbol.strip() or not symbol.isprintable():
            msg = (
                f"Gene {token} of the vocabulary is named {symbol!r}; a symbol must not be empty, "
                "nor start or end with a space, nor hold tabs or line breaks. Correct the list."
            )
            raise VocabularyError(msg)
        if symbol in first:
            msg = (
                f"{symbol!r} is gene {first[symbol]} and gene {token} of the vocabulary; each "
                "symbol must be there once. Is this the right gene list? Remove one of the two, or choose the list that came with the weights."
            )
            raise VocabularyError(msg)
        first[symbol] = token


def _check_known(asked: Sequence[str], known: set[str], kind: str) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        msg = f"There is no {kind} {unknown[0]!r}; HGNC has {', '.join(sorted(known))}. Choose one of these."
        raise VocabularyError(msg)


def _fields(path: Path, token: int, line: str) -> tuple[str, str, str]:
    """Symbol and ids of one line; its token must be the one its place says."""
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        msg = (
            f"Line {token + 1} of {path} has {len(fields)} columns: {line[:80]!r}; {len(COLUMNS)} "
            f"({', '.join(COLUMNS)}) were expected. The file is damaged; get it again."
        )
        raise VocabularyError(msg)
    if fields[0] != str(token):
        msg = (
            f"Line {token + 1} of {path} has token {fields[0]!r}; {token} was expected. Lines were "
            "lost, added or sorted; get the file again."
        )
        raise VocabularyError(msg)
    return fields[1], fields[2], fields[3]
