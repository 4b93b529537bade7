"""Which cells of a dataset a model was pretrained on: nothing may be claimed of cells that it has seen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.counts import Scale, check_counts
from cellfm.corpus.fingerprint import fingerprint
from cellfm.corpus.ragged import vocabulary_counts
from cellfm.genes import Vocabulary, resolve
from cellfm.weights.folder import Pretrained
from cellfm.weights.seen import load_seen

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

BLOCK = 4096
"""Rows read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCount:
    """Cells of a dataset, and those of them that a model was trained on.

    Attributes
    ----------
    n_cells
        Cells of the dataset.
    n_seen
        Those with the very counts of a training cell; None where that cannot be known.
    reason
        Why it cannot be known; empty where it is.
    """

    n_cells: int
    n_seen: int | None
    reason: str = ""


def seen_cells(
    adata: "AnnData",
    model: Pretrained,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
) -> SeenCount:
    """Count the cells of a dataset that a model was trained on.

    A cell is found if it has the same count on every gene of the default vocabulary as a training cell. A dataset with
    fewer genes than the file it was taken from, or with corrected counts, is therefore not found: 0 says that these counts
    were not seen, not that the cells behind them were not.

    Parameters
    ----------
    adata
        Cells × genes.
    model
        Weights; those in memory only have no list.
    layer, use_raw, gene_names, scale
        As in :func:`cellfm.tl.embed`.

    Raises
    ------
    CountsError
        The values are not on the scale they are said to be on.
    DataError
        A layer or column is missing.
    WeightsError
        The list of the weights is damaged.
    """
    seen = None if model.path is None else load_seen(model.path)
    if seen is None:
        return _unknown(adata, "the weights carry no list of their training cells")
    if scale != "counts":
        return _unknown(adata, "the dataset has no counts, which cells are compared by")
    vocabulary = Vocabulary.from_hgnc()
    if seen.vocabulary_hash != vocabulary.hash:
        why = "the list of the weights was made with the gene table of another version of cellfm"
        return _unknown(adata, why)
    numbers = cell_fingerprints(
        adata, vocabulary, layer=layer, use_raw=use_raw, gene_names=gene_names
    )
    return SeenCount(n_cells=adata.n_obs, n_seen=int(seen.contains(numbers).sum()))


def cell_fingerprints(
    adata: "AnnData",
    vocabulary: Vocabulary,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
) -> "NDArray[np.uint64]":
    """Return lane 1 of the fingerprint of each cell, shape (cell,); 0 for one without a count on these genes.

    Parameters
    ----------
    adata
        Cells × genes with counts.
    vocabulary
        Genes that count.
    layer, use_raw, gene_names
        As in :func:`cellfm.tl.embed`.
    """
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    token = resolve(gene_names_of(var, gene_names), vocabulary, min_matched=0.0).token
    found = [np.zeros(0, dtype=np.uint64)]
    for start in range(0, source.n_rows, BLOCK):
        block = source.read(start, min(start + BLOCK, source.n_rows))
        check_counts(block, first_row=start)
        cells = vocabulary_counts(block, token)
        found.append(fingerprint(cells.gene, cells.count.astype(np.uint64), cells.offsets)[:, 1])
    return np.concatenate(found)


def _unknown(adata: "AnnData", reason: str) -> SeenCount:
    return SeenCount(n_cells=adata.n_obs, n_seen=None, reason=reason)
