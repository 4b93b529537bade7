"""Genes that a cell does not express, to ask the detection term about."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.draw import ABSENT, child, key_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells


def absent_genes(
    cells: "InMemoryCells",
    cell: "NDArray[np.integer]",
    gene: "NDArray[np.integer]",
    *,
    seed: int,
    epoch: int,
) -> "NDArray[np.int32]":
    """Draw a gene that the cell lacks for each of some of its genes.

    The candidate is the gene of a random cell of `cells`, so that a gene is asked about as often as it is expressed: which
    cells have it is then the question, not which genes are rare.

    Parameters
    ----------
    cells
        All genes of the cells that may be named.
    cell
        Position in `cells` of the cell of each entry.
    gene
        Its gene, so that entries of one cell draw apart.
    seed, epoch
        Another pair draws anew.

    Returns
    -------
    One token per entry; 0 where the candidate is expressed by the cell after all.
    """
    if not len(gene):
        return np.zeros(0, dtype=np.int32)
    key = child(key_of(seed, epoch, ABSENT), cells.cell)[cell]
    drawn = child(key, gene) % np.uint64(len(cells.gene))
    candidate = cells.gene[drawn.astype(np.int64)].astype(np.int64)
    width = np.int64(max(int(cells.gene.max()), 1) + 1)
    # cells are in order and the genes of each ascend: one sorted list of (cell, gene)
    listed = np.repeat(np.arange(len(cells)), cells.lengths) * width + cells.gene
    wanted = cell.astype(np.int64) * width + candidate
    at = np.minimum(np.searchsorted(listed, wanted), len(listed) - 1)
    return np.where(listed[at] == wanted, 0, candidate).astype(np.int32)
