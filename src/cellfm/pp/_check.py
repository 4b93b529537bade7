"""Whether genes and counts are what a model needs, and what becomes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.counts import Scale
from cellfm.corpus.counts import check_counts as check_block
from cellfm.corpus.rows import RowSource, h5ad_source
from cellfm.errors import CountsError
from cellfm.genes import GeneReport, Vocabulary, resolve
from cellfm.weights.folder import Pretrained, find
from cellfm.weights.layout import read_description, read_vocabulary

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]

BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """What a file holds, seen with the genes of a model."""

    n_cells: int
    """Rows of the matrix."""
    report: GeneReport
    """What became of the genes; without coverage if the values are not on the scale."""
    problem: CountsError | None
    """Why the values are refused, if they are."""
    n_empty: int
    """Cells without a count on any gene of the vocabulary."""
    median_total: float
    """Median over the cells of the sum of the counts on vocabulary genes."""


def check_counts(
    adata: "AnnData",
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: Scale = "counts",
) -> None:
    """Check that all values are on the scale they are said to be on.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    layer
        Layer with the counts, instead of ``X``.
    use_raw
        Take the counts of ``adata.raw``.
    scale
        ``"counts"`` or ``"log1p"``.

    Raises
    ------
    CountsError
        They are not; the message says where, what they look like and what to do.
    DataError
        There is no such layer or raw.

    Examples
    --------
    >>> cellfm.pp.check_counts(adata, layer="counts")  # doctest: +SKIP
    """
    source, _ = anndata_source(adata, layer=layer, use_raw=use_raw)
    _read(source, scale=scale)


def match_genes(
    adata: "AnnData",
    model: Pretrained | Vocabulary | str | Path | None = None,
    *,
    gene_names: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    scale: Scale = "counts",
    min_matched: float = 0.3,
) -> GeneReport:
    """Report how the genes of an AnnData match those of a model.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    model
        From `cellfm.load`, a weights folder or name, or a vocabulary; None: that of models trained from scratch.
    gene_names
        Column of ``var`` with symbols or Ensembl ids, instead of ``var_names``.
    layer
        Layer with the counts, instead of ``X``; they weigh the genes in the coverage.
    use_raw
        Take the counts and genes of ``adata.raw``.
    scale
        What the values are.
    min_matched
        Least fraction of the genes that must be known; 0 accepts any.

    Returns
    -------
    The report; its ``to_text()`` is for people.

    Raises
    ------
    GeneMatchError
        Too few genes are known, or they are a mouse's.
    CountsError
        The values are not on the scale they are said to be on.
    DataError
        There is no such layer, raw or column.

    Examples
    --------
    >>> print(cellfm.pp.match_genes(adata, model).to_text())  # doctest: +SKIP
    """
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    vocabulary, names = _vocabulary(model), gene_names_of(var, gene_names)
    resolve(names, vocabulary, min_matched=min_matched)  # refuses before the counts are read
    totals = _read(source, scale=scale)
    return resolve(names, vocabulary, totals=totals, min_matched=min_matched).report


def check_file(
    source: Path | str,
    model: Pretrained | Vocabulary | str | Path | None = None,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    progress: Progress | None = None,
) -> FileCheck:
    """Check genes and values of an h5ad file of any size.

    Parameters
    ----------
    source
        h5ad file.
    model, layer, use_raw, gene_names, scale, min_matched
        As in `match_genes`.
    progress
        Called with (cells read, cells in all).

    Returns
    -------
    Gene report, and the problem with the values if there is one.

    Raises
    ------
    GeneMatchError
        Too few genes are known, or they are a mouse's.
    DataError
        The file is missing or damaged, or lacks the layer, raw or column.

    Examples
    --------
    >>> cellfm.pp.check_file("pbmc.h5ad", "weights/cellfm-80m").report.coverage  # doctest: +SKIP
    """
    vocabulary = _vocabulary(model)
    with h5ad_source(source, layer=layer, use_raw=use_raw) as (rows, _, var):
        names = gene_names_of(var, gene_names)
        match = resolve(names, vocabulary, min_matched=min_matched)
        known = np.zeros(rows.n_rows)
        try:
            totals = _read(
                rows, scale=scale, progress=progress, known=match.token > 0, cell_totals=known
            )
        except CountsError as error:
            return FileCheck(
                n_cells=rows.n_rows,
                report=match.report,
                problem=error,
                n_empty=0,
                median_total=float("nan"),
            )
    return FileCheck(
        n_cells=len(known),
        report=resolve(names, vocabulary, totals=totals, min_matched=min_matched).report,
        problem=None,
        n_empty=int((known == 0).sum()),
        median_total=float(np.median(known)) if len(known) else float("nan"),
    )


def _read(
    source: RowSource,
    *,
    scale: Scale,
    progress: Progress | None = None,
    known: "NDArray[np.bool_] | None" = None,
    cell_totals: "NDArray[np.float64] | None" = None,
) -> "NDArray[np.float64]":
    """Check all rows and return the sum of each column; fill in each cell's sum over known columns."""
    totals = np.zeros(source.n_cols)
    for start in range(0, source.n_rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, source.n_rows)
        block = source.read(start, stop)
        check_block(block, first_row=start, scale=scale)
        counts = (np.expm1(block.data) if scale == "log1p" else block.data).astype(np.float64)
        totals += np.bincount(block.indices, weights=counts, minlength=source.n_cols)
        if cell_totals is not None and known is not None:
            row = np.repeat(np.arange(stop - start), np.diff(block.indptr))
            weight = counts * known[block.indices]
            cell_totals[start:stop] = np.bincount(row, weights=weight, minlength=stop - start)
        if progress is not None:
            progress(stop, source.n_rows)
    return totals


def _vocabulary(model: Pretrained | Vocabulary | str | Path | None) -> Vocabulary:
    """Return a model's gene list without reading its weights."""
    if model is None:
        return Vocabulary.from_hgnc()
    if isinstance(model, Vocabulary):
        return model
    if isinstance(model, Pretrained):
        return model.vocabulary
    folder = find(model)
    return read_vocabulary(folder, read_description(folder))
