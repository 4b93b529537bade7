"""Which matrix of a source holds the counts, and which genes its columns are."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import gene_names_of
from cellfm.corpus.counts import check_counts
from cellfm.corpus.readers.damage import reading, refusing
from cellfm.corpus.recover import recover_counts, total_columns
from cellfm.corpus.report import Trial
from cellfm.corpus.rows import GuardedRows, RowSource, spread_blocks
from cellfm.errors import CountsError, GeneMatchError, SourceError
from cellfm.genes import GeneMatch, Vocabulary, resolve
from cellfm.genes.species import is_other_species

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from cellfm.corpus.readers.reader import OpenedSource, Reader
    from cellfm.corpus.sources import SourceEntry

MAX_COUNT = 2**24 - 1
"""Largest count of a gene: the largest below which every integer is exact in float32."""

_SAMPLE_BLOCKS, _SAMPLE_ROWS = 16, 64

WAY_OUT = (
    "Name the layer with the raw counts in the source list (layer), or .raw (use_raw); if the counts were only normalised to a "
    "fixed total and logged, --recover takes them back where that is provably exact."
)
"""What a source without counts is told to do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Matrix that holds the counts, or the values that they are recovered from."""

    matrix: str
    source: "OpenedSource"
    trials: tuple[Trial, ...]
    recover: bool

    def recovery(self) -> str:
        """Say how recovered counts were proved."""
        if not self.recover:
            return ""
        totals = " and ".join(map(repr, total_columns(self.source.obs)))
        shown = (
            f"their sums are obs column {totals}"
            if totals
            else "no column of totals to compare with"
        )
        return f"log1p values undone; every value is reproduced within the rounding of float32; {shown}"


def choose_matrix(
    stack: ExitStack,
    reader: "Reader",
    entry: "SourceEntry",
    vocabulary: Vocabulary,
    *,
    min_matched: float,
    recover: bool,
) -> Chosen:
    """Open the first matrix whose sampled rows are counts; without any, the first that counts can be recovered from."""
    find = partial(resolve, vocabulary=vocabulary, min_matched=min_matched)
    trials: list[Trial] = []
    for undo in (False, True) if recover else (False,):
        for matrix in reader.matrices(entry):
            with ExitStack() as attempt:
                try:
                    source = attempt.enter_context(reader.open(entry, matrix, find))
                    n_rows = _check_sample(source.rows, entry, recover=undo)
                except SourceError as error:
                    trials.append(Trial(matrix=matrix, taken=False, reason=str(error)))
                    cause = error
                    continue
                what = "log1p values of counts" if undo else "counts"
                trials.append(
                    Trial(matrix=matrix, taken=True, reason=f"{n_rows:,} sampled rows hold {what}")
                )
                stack.push(attempt.pop_all())
                return Chosen(matrix=matrix, source=source, trials=tuple(trials), recover=undo)
    if len(trials) == 1:
        raise cause
    tried = " ".join(f"{trial.matrix}: {trial.reason}" for trial in trials)
    msg = f"No matrix of {entry.path} holds counts. {tried} Get the raw counts from whoever made the file, or take it out of the list."
    raise SourceError(msg) from cause


def _check_sample(rows: RowSource, entry: "SourceEntry", *, recover: bool) -> int:
    """Check rows from all over a matrix; return how many."""
    if not rows.n_rows or not rows.n_cols:
        msg = f"{entry.path} is empty: {rows.n_rows:,} cells and {rows.n_cols:,} genes; at least one of each was expected. Check the file, or leave it out."
        raise SourceError(msg)
    n_rows = 0
    with reading(entry.path):
        blocks = list(_sample(rows, whole_rows=recover))
    with refusing():
        for first, block in blocks:
            checked_counts(block, first, recover=recover)
            n_rows += block.shape[0]
    return n_rows


def _sample(rows: RowSource, *, whole_rows: bool) -> "Iterator[tuple[int, sparse.csr_matrix]]":
    """Yield a few blocks with the row that each begins at."""
    if isinstance(rows, GuardedRows) and not whole_rows:
        yield from rows.sample(_SAMPLE_BLOCKS, _SAMPLE_ROWS)
        return
    for start, stop in spread_blocks(rows.n_rows, _SAMPLE_BLOCKS, _SAMPLE_ROWS):
        yield start, rows.read(start, stop)


def checked_counts(
    block: "sparse.csr_matrix", first_row: int, *, recover: bool
) -> "sparse.csr_matrix":
    """Check that a block holds counts, or recover them."""
    if recover:
        block = recover_counts(block, first_row=first_row)
    else:
        check_counts(block, first_row=first_row, way_out=WAY_OUT)
    largest = block.data.max(initial=0)
    if largest > MAX_COUNT:
        msg = (
            f"The largest value is {int(largest)}, in rows {first_row} to {first_row + block.shape[0] - 1}; counts above {MAX_COUNT:,} are "
            "refused. Expected the reads or molecules of one gene in one cell. Is it a column of totals, or an overflow? Choose the matrix of counts."
        )
        raise CountsError(msg)
    return block


def find_genes(
    source: "OpenedSource", entry: "SourceEntry", vocabulary: Vocabulary, *, min_matched: float
) -> tuple[GeneMatch, str]:
    """Tokens of the genes, and which names gave them."""
    find = partial(resolve, vocabulary=vocabulary, min_matched=min_matched)
    with refusing():
        names = gene_names_of(source.var, entry.gene_names)
    try:
        if entry.gene_names is not None:
            return find(names), f"var column {entry.gene_names!r}"
        if source.other_names is None:
            return find(names), "var index"
        others = gene_names_of(source.var, source.other_names)
        names, n_others = _first_known(names, others, vocabulary)
        return find(names), f"symbols; {n_others:,} not known by theirs by {source.other_names}"
    except GeneMatchError as error:
        msg = f"{entry.path}: {error}{_column_hint(source.var, find)}"
        raise SourceError(msg) from error


def _first_known(
    names: list[object], others: list[object], vocabulary: Vocabulary
) -> tuple[list[object], int]:
    """Put the other name where only that is known; return how many."""
    find = partial(resolve, vocabulary=vocabulary, min_matched=0.0)
    missing = np.flatnonzero(find(names).token == 0)
    # names of other species beside human ones would make the majority of those that are missing
    candidates = ["" if is_other_species(str(others[i])) else others[i] for i in missing]
    if not any(candidates):
        return names, 0
    known = missing[find(candidates).token > 0]
    chosen = list(names)
    for i in known:
        chosen[i] = others[i]
    return chosen, len(known)


def _column_hint(var: "pd.DataFrame", find: Callable[[list[object]], GeneMatch]) -> str:
    """Name the columns of `var` that would do."""
    fit = []
    for column in var.columns:
        try:
            find(list(var[column]))
        except GeneMatchError:
            continue
        fit.append(str(column))
    if not fit:
        return ""
    return f" Its column {' and '.join(map(repr, fit))} would do: give gene_names={fit[0]} in the list of sources."
