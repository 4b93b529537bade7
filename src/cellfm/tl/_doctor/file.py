"""A count file: what is in it, what would work on it, and how long that takes here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import GuardedRows, RowSource, spread_blocks
from cellfm.errors import CellFMError
from cellfm.genes import GeneReport, Vocabulary, resolve
from cellfm.tl._count_file import H5AD, OpenMatrix, format_of, matrix_names, opened
from cellfm.tl._doctor import file_findings as words
from cellfm.tl._doctor.columns import ObsColumn, grouping_columns
from cellfm.tl._doctor.commands import Advice, Reading, advise, next_line
from cellfm.tl._doctor.cost import Cost, measure
from cellfm.tl._doctor.finding import Finding, size_text
from cellfm.tl._doctor.genes import NamedGenes, best_names
from cellfm.tl._doctor.matrix import BLOCK_ROWS, N_BLOCKS, WORDS, MatrixFacts, look_at
from cellfm.weights.folder import MINI, PACKAGED, find
from cellfm.weights.layout import read_description, read_vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BYTES_BY_COLUMNS = 2**30
"""A larger matrix stored by columns is not written to scratch files for the sake of an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found of a file; the fields are None where it was not got that far.

    Attributes
    ----------
    path, format, n_bytes
        The file.
    n_cells, n_genes
        Shape of the matrix that was chosen, or of the first.
    matrices
        What each holds.
    counts
        Name of the matrix with raw counts.
    scale
        ``"counts"``, or ``"log1p"`` where only such values are there.
    gene_names
        Column of ``var`` to name by ``--gene-names``; None for the index.
    genes
        How the genes match those of the model; its coverage is that of the cells looked at.
    n_duplicate_genes, n_duplicate_cells
        Names that are there more than once.
    n_empty, n_looked_at
        Cells without a count on any gene of the model, among so many.
    columns
        Columns of ``obs`` that group cells.
    cost
        Of embedding it here.
    commands
        What would work, and what would not.
    next
        Line to paste.
    findings
        All of it in words.
    """

    path: str
    format: str | None = None
    n_bytes: int = 0
    n_cells: int | None = None
    n_genes: int | None = None
    matrices: tuple[MatrixFacts, ...] = ()
    counts: str | None = None
    scale: Scale | None = None
    gene_names: str | None = None
    genes: GeneReport | None = None
    n_duplicate_genes: int | None = None
    n_duplicate_cells: int | None = None
    n_empty: int | None = None
    n_looked_at: int | None = None
    columns: tuple[ObsColumn, ...] = ()
    cost: Cost | None = None
    commands: tuple[Advice, ...] = ()
    next: str | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How to examine a file.

    Attributes
    ----------
    model
        Weights folder or name; None for those of the package.
    device
        Device to measure on.
    n_sample
        Cells to embed for the estimate.
    min_matched
        Least share of the genes that the model must know.
    """

    model: str | None = None
    device: str | None = None
    n_sample: int = 256
    min_matched: float = 0.3


def examine_file(path: Path, question: Question) -> Examination:
    """Look into a count file, without loading a matrix whole where its format lets that be.

    Parameters
    ----------
    path
        h5ad, 10x h5, folder of Cell Ranger, csv or tsv.
    question
        How.

    Raises
    ------
    WeightsError
        There are no such weights.
    """
    folder = PACKAGED / MINI if question.model is None else find(question.model)
    vocabulary = read_vocabulary(folder, read_description(folder))
    try:
        format_name = format_of(path)
        names = matrix_names(path, format_name)
    except CellFMError as error:
        return Examination(path=str(path), findings=(words.unreadable(path, str(error)),))
    look = _Look(path=path, format=format_name, vocabulary=vocabulary, question=question)
    matrices = look.matrices(names)
    if not matrices:
        return Examination(path=str(path), format=format_name, n_bytes=look.n_bytes, findings=tuple(look.findings))  # fmt: skip
    chosen = _choose(matrices)
    look.findings += words.scale_findings(matrices, chosen)
    with opened(path, format_name, chosen.name, vocabulary) as source:
        tables = look.tables(source, chosen)
        cost = look.cost(source.rows, tables)
    commands = tuple(advise(look.reading(chosen, tables)))
    return Examination(
        path=str(path),
        format=format_name,
        n_bytes=look.n_bytes,
        n_cells=chosen.n_rows,
        n_genes=chosen.n_cols,
        matrices=matrices,
        counts=chosen.name if chosen.kind == "counts" else None,
        scale=tables.scale,
        gene_names=tables.named.column,
        genes=tables.report,
        n_duplicate_genes=tables.named.n_duplicates,
        n_duplicate_cells=tables.n_duplicate_cells,
        n_empty=None if tables.expressed is None else int((tables.expressed == 0).sum()),
        n_looked_at=None if tables.expressed is None else len(tables.expressed),
        columns=tables.columns,
        cost=cost,
        commands=commands,
        next=next_line(commands),
        findings=tuple(look.findings),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tables:
    """What the chosen matrix and its tables say."""

    named: NamedGenes
    scale: Scale | None
    report: GeneReport | None
    expressed: "NDArray[np.int64] | None"
    """Genes of the model in each cell looked at."""
    n_duplicate_cells: int
    columns: tuple[ObsColumn, ...]


class _Look:
    """Steps of an examination, and the findings so far."""

    def __init__(self, *, path: Path, format: str, vocabulary: Vocabulary, question: Question) -> None:  # fmt: skip
        self.path, self.format, self.vocabulary, self.question = path, format, vocabulary, question
        files = path.rglob("*") if path.is_dir() else [path]
        self.n_bytes = sum(file.stat().st_size for file in files if file.is_file())
        self.findings: list[Finding] = []

    def matrices(self, names: tuple[str, ...]) -> tuple[MatrixFacts, ...]:
        """Look at each; those that cannot be read, or are empty, make a finding only."""
        found: list[MatrixFacts] = []
        for name in names:
            try:
                with opened(self.path, self.format, name, self.vocabulary) as source:
                    facts, notes = look_at(source.rows, name), source.notes
            except CellFMError as error:
                self.findings.append(words.unreadable(self.path, str(error)))
                continue
            if not found:
                text = f"{self.format}, {size_text(self.n_bytes)}, {facts.n_rows:,} cells × {facts.n_cols:,} genes"
                self.findings += [Finding(topic="file", text=each) for each in (text, *notes)]
            if facts.n_rows and facts.n_cols:
                found.append(facts)
                text = f"{WORDS[facts.kind]}: {facts.evidence}"
                self.findings.append(Finding(topic=name, text=text))
            else:
                text = f"{name} is empty: {facts.n_rows:,} cells and {facts.n_cols:,} genes"
                todo = "check the filter that left nothing, and write the file again"
                self.findings.append(Finding(topic="file", level="problem", text=text, todo=todo))
        return tuple(found)

    def tables(self, source: OpenMatrix, chosen: MatrixFacts) -> _Tables:
        """Look at genes, cells and columns of the chosen matrix."""
        named = best_names(source.var, self.vocabulary, min_matched=self.question.min_matched)
        scales: dict[str, Scale] = {"counts": "counts", "log1p": "log1p", "logged": "log1p"}
        scale = scales.get(chosen.kind)
        report, expressed = None if named.match is None else named.match.report, None
        if named.match is not None and scale is not None and self._readable(source.rows):
            totals, expressed = _sums(source.rows, named.match.token > 0, scale)
            names = source.var.index if named.column is None else source.var[named.column]
            report = resolve(list(names), self.vocabulary, totals=totals, min_matched=self.question.min_matched).report  # fmt: skip
        self.findings += words.gene_findings(named, report)
        n_duplicates = int(source.obs.index.duplicated().sum())
        self.findings += words.name_findings(named, n_duplicates)
        if expressed is not None:
            n_empty, mean = int((expressed == 0).sum()), float(expressed.mean())
            self.findings.append(words.cell_finding(n_empty, len(expressed), mean))
        columns = grouping_columns(source.obs, self.vocabulary)
        self.findings += words.column_findings(columns)
        return _Tables(
            named=named,
            scale=scale,
            report=report,
            expressed=expressed,
            n_duplicate_cells=n_duplicates,
            columns=columns,
        )

    def cost(self, rows: RowSource, tables: _Tables) -> Cost | None:
        """Measure what embedding takes, where it would work."""
        if tables.named.match is None or tables.scale is None:
            return None
        if tables.expressed is None:
            self.findings.append(words.no_estimate(self.n_bytes))
            return None
        try:
            cost = measure(
                rows,
                tables.named.match,
                model=self.question.model,
                device=self.question.device,
                scale=tables.scale,
                genes_per_cell=float(tables.expressed.mean()),
                n_sample=self.question.n_sample,
                n_bytes=self.n_bytes,
            )
        except CellFMError as error:  # such as rows between those looked at that are no counts
            self.findings.append(Finding(topic="embed", level="problem", text=str(error)))
            return None
        self.findings += words.cost_findings(cost, self.path)
        return cost

    def reading(self, chosen: MatrixFacts, tables: _Tables) -> Reading:
        """Return how commands are to read the file."""
        return Reading(
            path=self.path,
            is_h5ad=self.format == H5AD,
            matrix=chosen.name,
            kind=chosen.kind,
            gene_names=tables.named.column,
            genes_known=tables.named.match is not None,
            has_empty=tables.expressed is not None and not tables.expressed.all(),
            columns=tables.columns,
            model=self.question.model,
        )

    def _readable(self, rows: RowSource) -> bool:
        """Whether rows can be had without writing a large matrix to scratch files."""
        by_columns = isinstance(rows, GuardedRows) and rows.by_columns
        return not by_columns or self.n_bytes <= MOST_BYTES_BY_COLUMNS


def _choose(matrices: tuple[MatrixFacts, ...]) -> MatrixFacts:
    """Take the first with counts, else the first that can be used at all, else the first."""
    for kind in ("counts", "log1p", "logged"):
        for facts in matrices:
            if facts.kind == kind:
                return facts
    return matrices[0]


def _sums(
    rows: RowSource, known: "NDArray[np.bool_]", scale: Scale
) -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """Return the sum of each column and the known genes of each row, over rows from all over a matrix."""
    totals, expressed = np.zeros(rows.n_cols), []
    for start, stop in spread_blocks(rows.n_rows, N_BLOCKS, BLOCK_ROWS):
        block = rows.read(start, stop)
        counts = (np.expm1(block.data) if scale == "log1p" else block.data).astype(np.float64)
        totals += np.bincount(block.indices, weights=counts, minlength=rows.n_cols)
        row = np.repeat(np.arange(stop - start), np.diff(block.indptr))
        seen = known[block.indices] & (block.data != 0)
        expressed.append(np.bincount(row[seen], minlength=stop - start))
    return totals, np.concatenate(expressed)
