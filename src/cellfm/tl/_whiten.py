"""Fits the map that puts cell states in units of technical noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.tune_batches import ordered_batches
from cellfm.errors import DataError
from cellfm.tl._embed import match_genes
from cellfm.tl._states import MOST_CPU_TOKENS, EmbedOptions, as_model
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

N_CELLS = 2000
"""Cells it is fitted on at most."""
LEAST_CELLS_FOR_EACH = 2
"""Cells there must be for each number of a state."""
SHARES = (0.3, 0.7)
"""A cell's first half gets a share of its counts drawn between these, so that read depth counts as noise too."""


def fit_whitening(
    adata: "AnnData",
    model: Pretrained | str | Path,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    n_cells: int = N_CELLS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Whitening:
    """Find the directions in which cell states are well determined, without labels.

    The counts of each cell are split at random in two halves. What differs between the states of the halves is technical noise
    and read depth; the map divides by it and orders directions by what remains (minimum noise fraction, Green et al. 1988).
    Fit it to cells of the kind the model was trained on and keep it with the weights: then a cell's embedding stays a function
    of that cell alone.

    Parameters
    ----------
    adata
        Raw counts; in memory or backed.
    model
        From `cellfm.load`, or a weights folder or name.
    layer
        Layer with the counts instead of ``X``.
    use_raw
        Take the counts from ``adata.raw``.
    gene_names
        Column of ``var`` with symbols or Ensembl ids instead of ``var_names``.
    n_cells
        Draw so many cells.
    seed
        Of the draw and of the halves.
    progress
        Called with (cells encoded, of all).

    Returns
    -------
    The map; `cellfm.weights.whitening.write_whitening` puts it into a weights folder, where ``pool="whitened"`` finds it.

    Raises
    ------
    GeneMatchError, CountsError, DataError
        As in `embed`, or there are too few cells.

    Examples
    --------
    >>> whitening = cellfm.tl.fit_whitening(adata, "my-model")  # doctest: +SKIP
    """
    pretrained = as_model(model, None)
    drawn = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:n_cells])
    part = adata[drawn].to_memory() if adata.isbacked else adata[drawn]
    source, var = anndata_source(part, layer=layer, use_raw=use_raw)
    match = match_genes(var, pretrained.vocabulary, EmbedOptions(gene_names=gene_names))
    cells = InMemoryCells.from_source(source, match.token)
    return whitening_on(cells, pretrained, n_cells=n_cells, seed=seed, progress=progress)


def whitening_on(
    cells: InMemoryCells,
    model: Pretrained,
    *,
    n_cells: int = N_CELLS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Whitening:
    """Fit the whitening to cells whose counts are on the model's vocabulary.

    Parameters
    ----------
    cells
        Counts.
    model
        Weights.
    n_cells
        Draw so many of them.
    seed
        Of the draw and of the halves.
    progress
        Called with (cells encoded, of all).

    Raises
    ------
    DataError
        There are too few cells.
    """
    least = LEAST_CELLS_FOR_EACH * model.network.config.dim
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(_totals(cells) >= 2)
    if len(usable) < least:
        msg = (
            f"A whitening of states of width {model.network.config.dim} needs {least:,} cells with two counts or more; there are {len(usable):,}. "
            "Give more cells, such as a part of the corpus the model was trained on."
        )
        raise DataError(msg)
    drawn = cells.select(np.sort(rng.permutation(usable)[:n_cells]))
    parts = (drawn, *halves(drawn, rng))
    encoded = []
    for i, part in enumerate(parts):
        encoded.append(_states(model, part))
        if progress is not None:
            progress((i + 1) * len(drawn), len(parts) * len(drawn))
    return Whitening.fit(*encoded, weights_hash=model.hash)


def halves(cells: InMemoryCells, rng: np.random.Generator) -> tuple[InMemoryCells, InMemoryCells]:
    """Share out the counts of each cell between two, at random; together they are the cell.

    Parameters
    ----------
    cells
        Counts.
    rng
        Draws the shares and the counts.
    """
    count = cells.count.astype(np.int64)
    share = np.repeat(rng.uniform(*SHARES, size=len(cells)), cells.lengths)
    first = rng.binomial(count, share)
    return _with_counts(cells, first), _with_counts(cells, count - first)


def _with_counts(cells: InMemoryCells, count: "NDArray[np.int64]") -> InMemoryCells:
    """Return the cells with other counts; genes whose count is 0 go."""
    kept = count > 0
    before = np.concatenate([[0], np.cumsum(kept)])
    lengths = np.diff(before[cells.offsets])
    return replace(
        cells,
        gene=cells.gene[kept],
        count=count[kept].astype(np.float32),
        offsets=boundaries(lengths),
    )


def _totals(cells: InMemoryCells) -> "NDArray[np.float64]":
    before = np.concatenate([[0.0], np.cumsum(cells.count, dtype=np.float64)])
    return np.diff(before[cells.offsets])


@torch.inference_mode()
def _states(model: Pretrained, cells: InMemoryCells) -> "NDArray[np.float32]":
    network = model.network.eval()
    states = np.empty((len(cells), network.config.dim), np.float32)
    for batch, rows in ordered_batches(cells, token_budget=MOST_CPU_TOKENS):
        found = network.encode(batch.to(network.cls.device), wanted="cell")
        states[rows.numpy()] = found.cell.cpu().numpy()
    return states
