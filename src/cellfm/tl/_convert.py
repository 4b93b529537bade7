"""Counts of any readable format → h5ad, which all commands on cells take."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfm.corpus.counts import check_counts
from cellfm.errors import CountsError
from cellfm.genes import Vocabulary
from cellfm.tl._count_file import OpenMatrix, format_of, matrix_names, opened
from cellfm.weights.atomic import refuse_existing, replacing

BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSummary:
    """What `convert_file` did."""

    target: Path
    n_cells: int
    n_genes: int
    matrix: str
    """Matrix of the source that was taken."""
    notes: tuple[str, ...]
    """What its reader left out or decided."""


def convert_file(
    source: Path | str, target: Path | str, *, overwrite: bool = False
) -> ConvertSummary:
    """Write the raw counts of a file as h5ad, cells × genes by rows.

    Parameters
    ----------
    source
        10x h5, folder of Cell Ranger (or its matrix.mtx), csv or tsv of either orientation, or h5ad, of which the first of ``X``,
        ``layers/counts``, other layers and ``raw`` that holds counts is taken.
    target
        h5ad file to write: counts in ``X``, cells in ``obs``, genes in ``var``. The counts are held in memory.
    overwrite
        Replace an existing target.

    Returns
    -------
    What was written.

    Raises
    ------
    DataError
        The source is not there, damaged, or of a format that is not read.
    CountsError
        No matrix of it holds raw counts.
    OutputExistsError
        The target exists and `overwrite` is false.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target, overwrite=overwrite)
    vocabulary, format_name = Vocabulary.from_hgnc(), format_of(source)
    refused: list[str] = []
    for matrix in matrix_names(source, format_name):
        with opened(source, format_name, matrix, vocabulary) as found:
            try:
                _write(found, target)
            except CountsError as error:
                refused.append(f"{matrix}: {error}")
                continue
            n_cells, n_genes = found.rows.n_rows, found.rows.n_cols
            return ConvertSummary(target=target, n_cells=n_cells, n_genes=n_genes, matrix=matrix, notes=found.notes)  # fmt: skip
    msg = f"No matrix of {source} holds raw counts, so nothing was written. {' '.join(refused)} Get the raw counts from whoever made the file."
    raise CountsError(msg)


def _write(found: OpenMatrix, target: Path) -> None:
    """Check the counts and write them."""
    from anndata import AnnData
    from scipy import sparse

    blocks = []
    for start in range(0, found.rows.n_rows, BLOCK_ROWS):
        block = found.rows.read(start, min(start + BLOCK_ROWS, found.rows.n_rows))
        check_counts(block, first_row=start)
        blocks.append(block.astype(np.float32))
    empty = sparse.csr_matrix((0, found.rows.n_cols), dtype=np.float32)
    counts = sparse.vstack(blocks, format="csr") if blocks else empty
    with replacing(target) as new:
        AnnData(counts, obs=found.obs, var=found.var).write_h5ad(new, compression="gzip")
