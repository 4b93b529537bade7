"""Tables of counts in text: csv and tsv, cells × genes or genes × cells."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.reader import GeneFinder, OpenedSource, only_matrix
from cellfm.corpus.readers.text import is_gzipped, open_text, plain_name
from cellfm.corpus.rows import row_source
from cellfm.errors import GeneMatchError, SourceError

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from cellfm.corpus.sources import SourceEntry

SUFFIXES = (".csv", ".tsv", ".txt")
_SEPARATORS = ("\t", ",", ";", " ")
_CHUNK_VALUES = 1 << 24  # pandas takes its time for each column of each chunk


class TableReader:
    """One row of names above, one column of names at the left, counts between; loaded into memory as a sparse matrix."""

    name = "csv"

    def accepts(self, path: Path) -> bool:
        """Whether the name says so."""
        return plain_name(path).endswith(SUFFIXES)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file."""
        return (path,)

    def matrices(self, entry: "SourceEntry") -> tuple[str, ...]:
        """Return the only matrix."""
        return only_matrix(entry, self.name)

    @contextmanager
    def open(
        self, entry: "SourceEntry", matrix: str, find_genes: GeneFinder
    ) -> Iterator[OpenedSource]:
        """Load the table and turn it so that cells are rows."""
        del matrix
        import pandas as pd

        table = _load(entry.path)
        genes_above, note = _orientation(table, find_genes, entry.path)
        cells, genes = table.left, table.above
        if not genes_above:
            cells, genes = genes, cells
        yield OpenedSource(
            rows=row_source(table.values if genes_above else table.values.T.tocsr()),
            obs=pd.DataFrame(index=pd.Index(cells)),
            var=pd.DataFrame(index=pd.Index(genes)),
            notes=(note,),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """A table as it is in the file."""

    above: list[str]
    left: list[str]
    values: "sparse.csr_matrix"


def _orientation(table: _Table, find_genes: GeneFinder, path: Path) -> tuple[bool, str]:
    """Whether the names above are the genes, decided by which names are known."""
    known: dict[str, int] = {}
    problems: dict[str, str] = {}
    for side, names in (("columns", table.above), ("rows", table.left)):
        try:
            known[side] = find_genes(names).report.n_matched
        except GeneMatchError as error:
            problems[side] = str(error)
    if not known:
        msg = f"Neither columns nor rows of {path} are named by human genes. Columns: {problems['columns']} Rows: {problems['rows']}. Name the genes by symbol or Ensembl id, on one side."
        raise SourceError(msg)
    if len(known) > 1:
        msg = (
            f"Both columns and rows of {path} are named by human genes ({known['columns']:,} and {known['rows']:,} are known); "
            "expected cells on one side. It is no table of cells, or the cells must be renamed. Check the file."
        )
        raise SourceError(msg)
    side, n_known = next(iter(known.items()))
    n_names = len(table.above if side == "columns" else table.left)
    form = "cells × genes" if side == "columns" else "genes × cells"
    return (
        side == "columns",
        f"Read as {form}: {n_known:,} of {n_names:,} names of {side} are known.",
    )


def _load(path: Path) -> _Table:
    """Read the table in chunks of rows and keep what is not zero."""
    from scipy import sparse

    above, separator, n_fields = _header(path)
    left: list[str] = []
    blocks: list[sparse.csr_matrix] = []
    with reading(path, "the table"):
        try:
            for chunk in _chunks(path, separator, n_fields):
                left.extend(chunk["0"].fillna(""))
                blocks.append(sparse.csr_matrix(chunk.iloc[:, 1:].to_numpy()))
        except ValueError as error:
            if not str(error).startswith("could not convert"):
                raise
            msg = f"{path} holds text among the counts ({error}); expected a number in every field. Take columns that describe cells or genes out of it."
            raise SourceError(msg) from error
    return _Table(above=above, left=left, values=sparse.vstack(blocks, format="csr"))


def _chunks(path: Path, separator: str, n_fields: int) -> "Iterator[pd.DataFrame]":
    """Parse the lines below the header; the first field is a name, an empty one no number."""
    import pandas as pd

    columns = [str(number) for number in range(n_fields)]
    types: dict[str, type] = dict.fromkeys(columns, np.float64) | {"0": str}
    yield from pd.read_csv(
        path,
        sep=separator,
        header=None,
        names=columns,
        skiprows=1,
        dtype=types,
        keep_default_na=False,
        na_values=[""],
        compression="gzip" if is_gzipped(path) else None,
        encoding="utf-8-sig",
        chunksize=max(1, _CHUNK_VALUES // n_fields),
        index_col=False,
        low_memory=False,
    )


def _header(path: Path) -> tuple[list[str], str, int]:
    """Names above, the separator, and the fields of a row."""
    with reading(path, "the header"), open_text(path) as file:
        lines = [line.rstrip("\r\n") for line in islice(file, 2)]
        if len(lines) < 2 or not all(lines):
            msg = f"{path} is empty; expected a line of names and a line of counts for each cell or gene. Check the path, or get the file again."
            raise SourceError(msg)
        separator = max(
            _SEPARATORS, key=lambda mark: (lines[1].count(mark) > 0, -_SEPARATORS.index(mark))
        )
        names, first = (next(csv.reader([line], delimiter=separator)) for line in lines)
    if len(first) < 2 or len(names) not in (len(first), len(first) - 1):
        msg = (
            f"The first line of {path} has {len(names):,} fields and the second {len(first):,}, separated by {separator!r}; expected names "
            "above, a name at the left of each row, and numbers separated by tabs, commas, semicolons or spaces. Convert the table to that form."
        )
        raise SourceError(msg)
    return names[len(names) - len(first) + 1 :], separator, len(first)
