"""What an embedding of genes has to beat: random weights, random vectors, and simple statistics of the same cells."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import check_counts
from cellfm.errors import ConfigError
from cellfm.tl._embed import match_genes
from cellfm.tl._genes.embeddings import gene_embeddings
from cellfm.tl._genes.labels import vocabulary_of
from cellfm.tl._response.gene_features import coexpression
from cellfm.tl._response.log_counts import CP10K
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

TWIN, RANDOM = "random weights", "random vectors"
STATISTICS, PCA, COEXPRESSION = "expression statistics", "PCA loadings", "co-expression SVD"
N_PCA, N_COEXPRESSION = 50, 128
MOST_CELLS = 5000
"""Cells that the simple statistics are taken of."""
BLOCK = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Controls:
    """Vectors of the same genes.

    Attributes
    ----------
    vectors
        Of each control, shape (gene, dim), once for each draw of random numbers.
    measured
        Whether the cells measure a gene, shape (gene,); True everywhere without cells.
    """

    vectors: "Mapping[str, Sequence[NDArray[np.float32]]]"
    measured: "NDArray[np.bool_]"


def make_controls(
    embeddings: "AnnData",
    *,
    model: "Pretrained | str | Path | None",
    twin: "AnnData | Sequence[AnnData] | None",
    adata: "AnnData | None",
    options: EmbedOptions,
    n_random: int,
    seed: int,
) -> Controls:
    """Make all controls that can be made.

    Parameters
    ----------
    embeddings
        Genes × dim.
    model
        The weights they are of.
    twin
        The same vectors by random weights, once or for several of them; None makes those that need no cells.
    adata
        Cells with counts.
    options
        Where the counts are, and what the genes are called.
    n_random
        Draws of random weights and of random vectors.
    seed
        Of random numbers and of the choice of cells.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal(embeddings.shape).astype(np.float32)]
    cells = rng.spawn(1)[0]
    drawn += [rng.standard_normal(embeddings.shape).astype(np.float32) for _ in range(n_random - 1)]
    vectors: dict[str, Sequence[NDArray[np.float32]]] = {RANDOM: drawn}
    if twin is None:
        twins = _twins(embeddings, model, n_random=n_random, seed=seed)
    else:
        twins = [_given(embeddings, each) for each in ([twin] if hasattr(twin, "obs") else twin)]
    if twins:
        vectors = {TWIN: twins, **vectors}
    if adata is None:
        return Controls(vectors=vectors, measured=np.ones(embeddings.n_obs, bool))
    counts, measured = gene_counts(embeddings, adata, options=options, rng=cells)
    for name, own in expression_vectors(counts, seed=seed).items():
        whole = np.zeros((embeddings.n_obs, own.shape[1]), np.float32)
        whole[measured] = own
        vectors[name] = [whole]
    return Controls(vectors=vectors, measured=measured)


def _twins(
    embeddings: "AnnData",
    model: "Pretrained | str | Path | None",
    *,
    n_random: int,
    seed: int,
) -> "list[NDArray[np.float32]]":
    note = embeddings.uns.get("cellfm", {})
    if "weights_hash" not in note:  # not of a CellFM model: nothing has a twin
        return []
    kind = str(note.get("kind", "static"))
    if kind not in ("static", "query"):
        msg = f"The embedding is {kind}, and its control is the same by random weights, which is not made here. Give twin=tl.gene_embeddings(random weights, …)."
        raise ConfigError(msg)
    pretrained = as_model(model, "cpu")
    if pretrained.hash != str(note["weights_hash"]):
        msg = f"The embedding is of weights {str(note['weights_hash'])[:12]}…, and model is {pretrained.hash[:12]}…. Give the weights it was made with: model=… (--model)."
        raise ConfigError(msg)
    row = embeddings.obs["token"].to_numpy(np.int64) - 1
    made = []
    for number in range(n_random):
        twin = gene_embeddings(
            random_twin(pretrained, seed=seed + number),
            kind="query" if kind == "query" else "static",
        )
        made.append(np.asarray(twin.X, np.float32)[row])
    return made


def _given(embeddings: "AnnData", twin: "AnnData") -> "NDArray[np.float32]":
    if list(twin.obs_names) != list(embeddings.obs_names):
        msg = f"The twin has {twin.n_obs:,} genes that are not the {embeddings.n_obs:,} of the embedding in their order. Make both of the same cells and genes."
        raise ConfigError(msg)
    return np.asarray(twin.X, np.float32)


def gene_counts(
    embeddings: "AnnData",
    adata: "AnnData",
    *,
    options: EmbedOptions,
    rng: np.random.Generator,
) -> "tuple[csr_matrix, NDArray[np.bool_]]":
    """Return counts of the embedding's genes in some cells that have any, shape (cell, measured gene), and which genes are measured.

    Parameters
    ----------
    embeddings
        Genes × dim.
    adata
        Cells × genes.
    options
        Where the counts are, and what the genes are called.
    rng
        Chooses the cells where there are many.
    """
    from scipy import sparse

    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    token = match_genes(var, vocabulary_of(embeddings), options).token
    known = np.flatnonzero(token)
    present, column = np.unique(token[known], return_inverse=True)
    # Two names of one gene are summed.
    move = sparse.csr_matrix(
        (np.ones(len(known)), (known, column)), shape=(len(token), len(present))
    )
    chosen = np.zeros(source.n_rows, bool)
    chosen[rng.permutation(source.n_rows)[:MOST_CELLS]] = True
    blocks = []
    for start in range(0, source.n_rows, BLOCK):
        stop = min(start + BLOCK, source.n_rows)
        block = source.read(start, stop)
        check_counts(block, first_row=start)
        blocks.append(sparse.csr_matrix(block)[chosen[start:stop]] @ move)
    counts = sparse.csr_matrix(sparse.vstack(blocks))
    measured = np.zeros(embeddings.n_obs, bool)
    measured[present - 1] = True
    return counts[np.asarray(counts.sum(axis=1)).ravel() > 0], measured


def expression_vectors(counts: "csr_matrix", *, seed: int) -> "Mapping[str, NDArray[np.float32]]":
    """Return what is known of genes by simple statistics of cells, shape (gene, dim) each.

    Expression statistics are log1p of the mean of counts per 10⁴, the share of cells with the gene, and log1p of the coefficient of
    variation (standard deviation / mean); PCA loadings and co-expression SVD are those of `coexpression` without and with
    standardisation, with at most 50 and 128 components.

    Parameters
    ----------
    counts
        Cells × genes; every cell has some.
    seed
        Of the decompositions.
    """
    from scipy import sparse

    total = np.asarray(counts.sum(axis=1)).ravel()
    values = sparse.csr_matrix(sparse.diags(CP10K / total) @ counts)
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    variation = np.sqrt(np.maximum(variance, 0.0)) / np.where(mean > 0, mean, 1.0)
    detection = np.asarray((counts > 0).mean(axis=0)).ravel()
    statistics = np.stack([np.log1p(mean), detection, np.log1p(variation)], axis=1)
    return {
        STATISTICS: statistics.astype(np.float32),
        PCA: coexpression(counts, n_components=N_PCA, standardise=False, seed=seed),
        COEXPRESSION: coexpression(counts, n_components=N_COEXPRESSION, seed=seed),
    }
