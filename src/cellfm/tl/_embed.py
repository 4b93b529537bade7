"""Cell embeddings on AnnData."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import RowSource
from cellfm.errors import DataError, OutputExistsError
from cellfm.genes import GeneMatch, GeneReport, Vocabulary, resolve
from cellfm.nn.kernels.cell_state import Precision
from cellfm.tl._states import (
    BLOCK,
    EmbedOptions,
    Empty,
    Groups,
    Pool,
    StateEncoder,
    as_model,
    check_key,
    provenance,
)
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]


def embed(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    key_added: str = "X_cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    empty: Empty = "error",
    max_genes: int | None = None,
    genes: bool | str = False,
    pool: Pool = "cls",
    precision: Precision = "fp32",
    device: str | None = None,
    token_budget: int | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Embed each cell by the state of its [CLS] token, or by the mean of its genes' states.

    A cell's embedding is a function of that cell's counts alone: batch, order, chunk and thread count
    do not change it (float32: 1e-5 relative). Every expressed gene is used; nothing is sampled.

    Parameters
    ----------
    adata
        Cells × genes in memory or backed; CSR, CSC or dense.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package.
    key_added
        Name of the result.
    layer
        Layer with the counts instead of ``X``.
    use_raw
        Take the counts from ``adata.raw``.
    gene_names
        Column of ``var`` with symbols or Ensembl ids instead of ``var_names``.
    scale
        ``"counts"``, or ``"log1p"`` for log-normalised values when no counts exist. The depth of the
        cells is then unknown: the depth tokens see the total of the normalisation in every cell.
    empty
        ``"error"`` refuses cells without any vocabulary gene, ``"nan"`` gives them NaN.
    max_genes
        Use only that many genes of a cell, the highest expressed ones.
    genes
        Also average the contextual states of each gene: over all cells (True), or over the cells of
        each group of a column of ``obs``. Needs every gene's state, which takes about three times as long.
    pool
        ``"cls"``; ``"mean"`` of the states of the expressed genes, which takes about three times as long; ``"both"`` side by
        side; or ``"whitened"``: the state of [CLS] in units of technical noise, best determined component first
        (`cellfm.tl.fit_whitening`), for weights that carry that map. It puts cells of one type nearer together.
    precision
        ``"fp32"``, or ``"mixed"``: products in bfloat16, about twice as fast, neighbours nearly the same.
    device
        ``"cpu"``, ``"cuda"``, …; default: where the model is, or a GPU if there is one.
    token_budget
        Genes encoded together; changes speed and memory only.
    min_matched
        Least fraction of the input's genes that must be in the vocabulary.
    overwrite
        Replace an existing result of that name.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    Nothing; writes

    ``obsm[key_added]``
        Cell states, float32 (cells, dim), twice as wide with both, narrower when whitened.
    ``varm[f"{key_added}_{group}"]``
        With `genes`: mean state of each gene over the cells that express it; group is ``mean`` or the
        group's name, with ``_`` for ``/``; NaN where a gene is never expressed or not in the vocabulary.
    ``uns["cellfm"][key_added]``
        Weights hash, versions, options, gene report.

    Raises
    ------
    GeneMatchError
        Too few genes are in the vocabulary, or they are a mouse's.
    CountsError
        The values are not on the scale they are said to be on.
    OutputExistsError
        The key exists and `overwrite` is false.
    DataError
        A layer or column is missing.

    Examples
    --------
    >>> model = cellfm.load("my-model")  # doctest: +SKIP
    >>> cellfm.tl.embed(adata, model)  # doctest: +SKIP
    >>> adata.obsm["X_cellfm"]  # doctest: +SKIP
    """
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        empty=empty,
        max_genes=max_genes,
        genes=genes,
        pool=pool,
        precision=precision,
        token_budget=token_budget,
        min_matched=min_matched,
    )
    check_key(key_added)
    groups = groups_of(adata.obs, genes=genes)
    keys = [f"{key_added}_{name}" for name in groups.names] if groups else []
    _refuse_existing(adata, key_added, keys, overwrite=overwrite)
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    if groups and list(var.index) != list(adata.var_names):
        msg = (
            f"genes={genes!r} writes to adata.varm, but the {len(var):,} genes of adata.raw are not the {adata.n_vars:,} of "
            "adata. Embed adata.raw.to_adata() instead."
        )
        raise DataError(msg)
    pretrained = as_model(model, device)
    match = match_genes(var, pretrained.vocabulary, options)
    encoder = StateEncoder(pretrained, match, options, n_cells=source.n_rows, groups=groups)
    adata.obsm[key_added] = encode_rows(encoder, source, progress=progress)
    if encoder.sums is not None:
        for name, table in encoder.sums.means().items():
            adata.varm[f"{key_added}_{name}"] = table
    adata.uns["cellfm"] = {
        **adata.uns.get("cellfm", {}),
        key_added: provenance(encoder, version=__version__),
    }


def frozen_states(
    adata: "AnnData",
    model: Pretrained,
    options: EmbedOptions,
    *,
    progress: Progress | None = None,
) -> "tuple[NDArray[np.float32], GeneReport]":
    """Return the states of all cells, shape (cell, dim), and the gene report; writes nothing.

    Parameters
    ----------
    adata
        Cells × genes.
    model
        Weights, on the device to compute on.
    options
        How to read and compute.
    progress
        Called with (cells done, cells in all).
    """
    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    match = match_genes(var, model.vocabulary, options)
    encoder = StateEncoder(model, match, options, n_cells=source.n_rows)
    return encode_rows(encoder, source, progress=progress), encoder.report


def encode_rows(
    encoder: StateEncoder, source: RowSource, *, progress: Progress | None = None
) -> "NDArray[np.float32]":
    """Return the states of all rows of a source, block by block.

    Parameters
    ----------
    encoder
        Made for as many rows.
    source
        The count matrix.
    progress
        Called with (cells done, cells in all).
    """
    states = np.empty((source.n_rows, encoder.dim), np.float32)
    for start in range(0, source.n_rows, BLOCK):
        stop = min(start + BLOCK, source.n_rows)
        states[start:stop] = encoder.encode(source.read(start, stop), start)
        if progress is not None:
            progress(stop, source.n_rows)
    return states


def match_genes(var: "pd.DataFrame", vocabulary: Vocabulary, options: EmbedOptions) -> GeneMatch:
    """Resolve ``var_names``, or the column that was asked for."""
    names = gene_names_of(var, options.gene_names)
    return resolve(names, vocabulary, min_matched=options.min_matched)


def groups_of(obs: "pd.DataFrame", *, genes: bool | str) -> Groups | None:
    """Return the groups to average gene states over."""
    if genes is False:
        return None
    if genes is True:
        return Groups(names=("mean",), code=np.zeros(len(obs), np.int64))
    if genes not in obs.columns:
        msg = f"There is no column {genes!r} in obs; it has {list(map(str, obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    categories = obs[genes].astype("category").cat
    # A slash would make a folder inside the h5ad file.
    names = tuple(str(name).replace("/", "_") for name in categories.categories)
    if len(set(names)) < len(names):
        msg = f"Two groups of obs[{genes!r}] have the same name once / is written as _: {sorted(names)}. Rename one of them."
        raise DataError(msg)
    return Groups(names=names, code=categories.codes.to_numpy().astype(np.int64))


def _refuse_existing(adata: "AnnData", key: str, varm_keys: list[str], *, overwrite: bool) -> None:
    taken = [f"obsm[{key!r}]"] if key in adata.obsm else []
    taken += [f"varm[{name!r}]" for name in varm_keys if name in adata.varm]
    if taken and not overwrite:
        msg = f"adata has {', '.join(taken)} already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)
