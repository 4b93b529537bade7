"""From one file to counts on vocabulary genes, by rules that are written down; nothing is guessed silently."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.choose import MAX_COUNT, Chosen, checked_counts, choose_matrix, find_genes
from cellfm.corpus.fingerprint import fingerprint
from cellfm.corpus.metadata import Harmonised, harmonise
from cellfm.corpus.ragged import boundaries, vocabulary_counts
from cellfm.corpus.readers.damage import reading, refusing
from cellfm.corpus.readers.registry import find_reader
from cellfm.corpus.recover import check_totals
from cellfm.corpus.report import DROP_RULES, FileReport
from cellfm.corpus.sources import SourceEntry, digest, is_url
from cellfm.errors import ConfigError, SourceError
from cellfm.genes import GeneMatch, Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["BLOCK_ROWS", "MAX_COUNT", "CuratedCells", "Rules", "curate_file"]

BLOCK_ROWS = 4096
"""Rows read, and cells handed on, at a time."""

_MITOCHONDRIAL = "MT-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which cells are kept; all in terms of the counts on vocabulary genes.

    A cell without any count is dropped always. The limits are inclusive.

    Attributes
    ----------
    min_genes, max_genes
        Expressed genes.
    min_counts, max_counts
        Sum of the counts.
    max_mito
        Fraction of the counts on genes whose symbol starts with ``MT-``.
    recover
        Recover counts from log1p-normalised values where no matrix holds counts and they can be proved to be exact.
    min_matched
        Least fraction of a file's genes that must be in the vocabulary.
    """

    min_genes: int = 200
    max_genes: int | None = None
    min_counts: int | None = None
    max_counts: int | None = None
    max_mito: float | None = None
    recover: bool = False
    min_matched: float = 0.3

    def __post_init__(self) -> None:
        for name in ("min_genes", "max_genes", "min_counts", "max_counts"):
            limit = getattr(self, name)
            if limit is not None and limit < 0:
                msg = f"{name} is {limit}; it must be at least 0. Give a number in that range."
                raise ConfigError(msg)
        for name in ("max_mito", "min_matched"):
            fraction = getattr(self, name)
            if fraction is not None and not 0.0 <= fraction <= 1.0:
                msg = f"{name} is {fraction}; it is a fraction, from 0 to 1. Give a number in that range."
                raise ConfigError(msg)
        for low, high in (("min_genes", "max_genes"), ("min_counts", "max_counts")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                msg = f"{low} is {least} and {high} is {most}; no cell can pass both. Correct one."
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CuratedCells:
    """Counts of some cells on vocabulary genes, in the order of the file.

    Attributes
    ----------
    gene, count, offsets
        Cell *i* is ``offsets[i]:offsets[i + 1]``; tokens of at least 1 in ascending order, counts from 1 to `MAX_COUNT`.
    fingerprint
        Two words for each cell; see `cellfm.corpus.fingerprint`.
    row
        Row of each cell in the source.
    obs
        A string for each cell in each of the `METADATA` columns.
    """

    gene: "NDArray[np.int32]"
    count: "NDArray[np.uint32]"
    offsets: "NDArray[np.int64]"
    fingerprint: "NDArray[np.uint64]"
    row: "NDArray[np.int64]"
    obs: "Mapping[str, NDArray[np.object_]]"

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.row)


def curate_file(
    entry: SourceEntry,
    *,
    vocabulary: Vocabulary,
    rules: Rules,
    sink: Callable[[CuratedCells], None],
    block_rows: int = BLOCK_ROWS,
) -> FileReport:
    """Read one source, check everything and hand on the cells that pass the rules.

    Parameters
    ----------
    entry
        The source.
    vocabulary
        Genes of the corpus.
    rules
        Which cells are kept.
    sink
        Takes blocks of cells. What it was given before an error must be thrown away.
    block_rows
        Rows read at a time; the result does not depend on it.

    Returns
    -------
    The account.

    Raises
    ------
    SourceError
        The source cannot be used, and why.
    """
    began = time.perf_counter()
    _check_reachable(entry)
    reader = find_reader(entry.path, entry.format)
    sha256, n_bytes = digest(reader.files(entry.path), entry.path)
    with ExitStack() as stack:
        chosen = choose_matrix(
            stack, reader, entry, vocabulary, min_matched=rules.min_matched, recover=rules.recover
        )
        source = chosen.source
        match, genes_from = find_genes(source, entry, vocabulary, min_matched=rules.min_matched)
        metadata = harmonise(
            source.obs, given=entry.metadata, mapping=entry.mapping, path=entry.path
        )
        curation = _Curation(chosen, match, metadata, rules=rules, vocabulary=vocabulary)
        for cells in curation.run(entry, block_rows):
            sink(cells)
    return FileReport(
        name=entry.name,
        path=str(entry.path),
        licence=entry.licence,
        url=entry.url,
        sha256=sha256,
        n_bytes=n_bytes,
        format=reader.name,
        matrix=chosen.matrix,
        trials=chosen.trials,
        recovered=chosen.recovery(),
        genes_from=genes_from,
        n_cells_in=source.rows.n_rows,
        dropped=dict(curation.dropped),
        n_cells_curated=curation.n_cells,
        n_values=curation.n_values,
        genes=replace(match.report, coverage=curation.coverage).to_dict(),
        coverage=curation.coverage,
        metadata=metadata.origin,
        notes=(*source.notes, *curation.notes),
        seconds=time.perf_counter() - began,
    )


def _check_reachable(entry: SourceEntry) -> None:
    """Refuse a source that is not there before a reader is chosen by its name."""
    if is_url(entry.path):
        msg = f"{entry.path} is an address (unreachable source); sources are files on disk. Download it and give the file."
        raise SourceError(msg)
    with reading(entry.path):
        entry.path.stat()


class _Curation:
    """Runs over a source once and keeps count.

    Parameters
    ----------
    chosen, match, metadata, rules, vocabulary
        What was decided before.
    """

    def __init__(
        self,
        chosen: Chosen,
        match: GeneMatch,
        metadata: Harmonised,
        *,
        rules: Rules,
        vocabulary: Vocabulary,
    ) -> None:
        self.dropped = dict.fromkeys(DROP_RULES, 0)
        self.n_cells = self.n_values = 0
        self.notes: tuple[str, ...] = ()
        self._chosen, self._metadata, self._rules = chosen, metadata, rules
        self._known_total = self._whole_total = 0.0
        columns, n_columns = chosen.source.columns, chosen.source.rows.n_cols
        self._token = np.zeros(n_columns, dtype=np.int32)
        self._token[slice(None) if columns is None else columns] = match.token
        self._is_gene = None if columns is None else np.isin(np.arange(n_columns), columns)
        symbols = np.array(["", *vocabulary.symbols])
        self._is_mito = np.char.startswith(np.char.upper(symbols), _MITOCHONDRIAL)
        if rules.max_mito is not None and not self._is_mito[match.token].any():
            self.notes = ("No mitochondrial gene is in the file: max_mito had nothing to go by.",)

    @property
    def coverage(self) -> float | None:
        """Fraction of all counts that are on vocabulary genes."""
        return self._known_total / self._whole_total if self._whole_total else None

    def run(self, entry: SourceEntry, block_rows: int) -> Iterator[CuratedCells]:
        """Yield the cells that pass; no block is empty."""
        source = self._chosen.source
        for start in range(0, source.rows.n_rows, block_rows):
            with reading(entry.path):
                block = source.rows.read(start, min(start + block_rows, source.rows.n_rows))
            with refusing():
                block = checked_counts(block, start, recover=self._chosen.recover)
                if self._chosen.recover:
                    check_totals(block, source.obs, first_row=start)
            cells = self._curate(block, start)
            if len(cells):
                yield cells
        if not self._known_total:
            msg = f"{entry.path} is empty: no cell has a count on any gene of the vocabulary. Expected counts; is {self._chosen.matrix} the right matrix? Choose the matrix with the raw counts."
            raise SourceError(msg)

    def _curate(self, block: "sparse.csr_matrix", first_row: int) -> CuratedCells:
        """Take the vocabulary counts of the rows that pass the rules."""
        counts = vocabulary_counts(block, self._token)
        self._add_totals(block, counts.count)
        kept = self._kept(counts.gene, counts.count, counts.offsets)
        gene, count, lengths = counts.gene, counts.count, counts.lengths
        if not kept.all():
            entries = np.repeat(kept, lengths)
            gene, count, lengths = gene[entries], count[entries], lengths[kept]
        largest = count.max(initial=0)
        if largest > MAX_COUNT:
            msg = f"The counts of columns that are one gene add up to {largest:.0f} in rows from {first_row}; counts above {MAX_COUNT:,} are refused. Check that the matrix holds counts, and choose another if not."
            raise SourceError(msg)
        offsets, whole = boundaries(lengths), count.astype(np.uint32)
        row = first_row + np.flatnonzero(kept)
        self.n_cells += len(row)
        self.n_values += len(gene)
        return CuratedCells(
            gene=gene.astype(np.int32, copy=False),
            count=whole,
            offsets=offsets,
            fingerprint=fingerprint(gene, whole, offsets),
            row=row,
            obs={name: column[row] for name, column in self._metadata.columns.items()},
        )

    def _add_totals(self, block: "sparse.csr_matrix", known: "NDArray[np.float32]") -> None:
        """Keep count of all counts and of those on vocabulary genes, in double precision."""
        whole = block.data if self._is_gene is None else block.data[self._is_gene[block.indices]]
        self._whole_total += float(whole.sum(dtype=np.float64))
        self._known_total += float(known.sum(dtype=np.float64))

    def _kept(
        self,
        gene: "NDArray[np.int32]",
        count: "NDArray[np.float32]",
        offsets: "NDArray[np.int64]",
    ) -> "NDArray[np.bool_]":
        """Whether each cell passes; those that do not are counted under the first rule that they break."""
        rules, n_genes = self._rules, np.diff(offsets)
        breaks = {"empty": n_genes == 0, "min_genes": n_genes < rules.min_genes}
        if rules.max_genes is not None:
            breaks["max_genes"] = n_genes > rules.max_genes
        if (rules.min_counts, rules.max_counts, rules.max_mito) != (None, None, None):
            total = _sums(count, offsets)
            if rules.min_counts is not None:
                breaks["min_counts"] = total < rules.min_counts
            if rules.max_counts is not None:
                breaks["max_counts"] = total > rules.max_counts
            if rules.max_mito is not None:
                mito = _sums(count * self._is_mito[gene], offsets)
                breaks["max_mito"] = mito > rules.max_mito * total
        kept = np.ones(len(n_genes), dtype=np.bool_)
        for rule in DROP_RULES:
            if rule in breaks:
                self.dropped[rule] += int((kept & breaks[rule]).sum())
                kept &= ~breaks[rule]
        return kept


def _sums(values: "NDArray[np.float32]", offsets: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Sum of each cell, exact for counts."""
    running = np.zeros(len(values) + 1)
    np.cumsum(values, dtype=np.float64, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]
