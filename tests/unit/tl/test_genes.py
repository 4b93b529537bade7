"""Vectors of genes, and which are near which."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import cellfm
from cellfm.config.model import ModelConfig
from cellfm.corpus.tokens import tokenize
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import Vocabulary, resolve
from cellfm.nn import CellFM, initialise
from cellfm.tl._genes.similar import families_of, lay_out
from cellfm.weights.folder import Pretrained
from tests.unit.tl.conftest import SYMBOLS

COLUMNS = ["token", "symbol", "hgnc_id", "ensembl_id", "locus_group", "locus_type"]


def contextual(model: Pretrained, adata: AnnData, **options: object) -> AnnData:
    return cellfm.tl.gene_embeddings(model, adata, kind="contextual", **options)


def naive(model: Pretrained, adata: AnnData) -> dict[str, np.ndarray]:
    """Mean state of each gene, cell by cell by the eager network."""
    token = resolve(list(adata.var_names), model.vocabulary).token
    states: dict[str, list[np.ndarray]] = {}
    for row in range(adata.n_obs):
        batch = tokenize(sparse.csr_matrix(adata.X[row]), token)
        with torch.no_grad():
            found = model.network.encode(batch).gene.numpy()
        for gene, state in zip(batch.gene.tolist(), found, strict=True):
            states.setdefault(SYMBOLS[gene - 1], []).append(state)
    return {name: np.stack(rows) for name, rows in states.items()}


@pytest.fixture
def decoding() -> Pretrained:
    config = ModelConfig(n_genes=3, dim=16, n_layers=1, n_heads=4, value_bins=8, decoders=True)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    vocabulary = Vocabulary.from_symbols(SYMBOLS[:3])
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="e" * 64, path=None
    )


def test_contextual_is_the_mean_over_the_cells_that_express_a_gene(adata, model):
    before = adata.copy()
    genes, expected = contextual(model, adata), naive(model, adata)
    assert set(genes.obs_names) == set(expected)
    assert list(genes.obs) == [*COLUMNS, "n_cells"]
    for name, states in expected.items():
        np.testing.assert_allclose(genes[name].X[0], states.mean(0), rtol=1e-4, atol=1e-5)
        assert genes.obs.loc[name, "n_cells"] == len(states)
        assert genes.obs.loc[name, "token"] == SYMBOLS.index(name) + 1
    assert genes.X.dtype == np.float32
    assert genes.uns["cellfm"]["weights_hash"] == model.hash
    assert genes.uns["cellfm"]["n_cells"].tolist() == [300]
    assert (adata.X != before.X).nnz == 0
    assert not adata.uns
    assert not adata.varm


def test_a_group_is_averaged_over_by_itself(adata, model):
    adata.obs["type"] = adata.obs["type"].cat.add_categories("NK")  # without cells
    inside = adata[adata.obs["type"] == "B"]
    genes, expected = contextual(model, adata, groupby="type", group="B"), naive(model, inside)
    for name, states in expected.items():
        np.testing.assert_allclose(genes[name].X[0], states.mean(0), rtol=1e-4, atol=1e-5)
    assert set(genes.obs["group"]) == {"B"}
    every = contextual(model, adata, groupby="type")
    own = every[every.obs["group"] == "B"]
    assert own.obs_names.tolist() == [f"{name}|B" for name in genes.obs_names]
    np.testing.assert_allclose(own.X, genes.X, rtol=1e-5, atol=1e-6)
    assert every.uns["cellfm"]["groups"].tolist() == ["B", "T"]
    coverage = adata[:, adata.var_names != "NOT-A-GENE"].X.sum() / adata.X.sum()
    assert every.uns["cellfm"]["genes"]["coverage"] == pytest.approx(coverage)


def test_cells_are_drawn_by_the_seed_and_unexpressed_genes_are_left_out(adata, model):
    dense = adata.X.toarray()
    dense[:, 3] = 0  # MS4A1
    adata.X = sparse.csr_matrix(dense)
    few = contextual(model, adata, n_cells=20)
    assert "MS4A1" not in few.obs_names
    assert few.obs["n_cells"].max() == 20
    np.testing.assert_array_equal(few.X, contextual(model, adata, n_cells=20).X)
    assert not np.allclose(few["ACTB"].X, contextual(model, adata, n_cells=20, seed=1)["ACTB"].X)


def test_a_backed_file_and_a_layer_give_the_same_and_progress_is_told(adata, model, tmp_path):
    import anndata

    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed, told = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"), []
    options = {"groupby": "type", "layer": "counts"}
    genes = contextual(model, backed, progress=lambda *at: told.append(at), **options)
    backed.file.close()
    np.testing.assert_allclose(genes.X, contextual(model, adata, **options).X, rtol=1e-6)
    assert told == [(100, 300), (300, 300)]
    genes.write_h5ad(tmp_path / "genes.h5ad")
    assert anndata.read_h5ad(tmp_path / "genes.h5ad").obs["group"].tolist()[0] == "B"


def test_raw_counts_and_another_column_of_names(adata, model):
    expected, other = contextual(model, adata, groupby="type", group="T"), adata.copy()
    other.var["symbol"] = list(other.var_names)
    other.var_names = [f"row{i}" for i in range(other.n_vars)]
    other.raw = other
    other = other[:, :3].copy()
    options = {"use_raw": True, "gene_names": "symbol"}
    found = contextual(model, other, groupby="type", group="T", **options)
    assert found.obs.equals(expected.obs)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-6)


def test_queries_predict_what_the_decoder_predicts(decoding):
    genes = cellfm.tl.gene_embeddings(decoding, kind="query")
    network, state = (
        decoding.network,
        torch.randn(5, 16, generator=torch.Generator().manual_seed(1)),
    )
    token = torch.tensor([1, 2, 3, 3, 1])
    with torch.no_grad():
        expected = network.cell_decoder(network.gene_embedding(token), state)
    found = (state.numpy() * genes.X[token.numpy() - 1]).sum(1)
    np.testing.assert_allclose(found, expected.numpy().ravel(), rtol=1e-5, atol=1e-6)
    assert list(genes.obs) == COLUMNS
    assert genes.uns["cellfm"] == {"weights_hash": "e" * 64, "kind": "query"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "mean"}, ConfigError, "kind is 'mean'"),
        ({"kind": "static"}, ConfigError, "the same in every cell"),
        ({"group": "B"}, ConfigError, "without the column"),
        ({"n_cells": 0}, ConfigError, "n_cells is 0"),
        ({"groupby": "kind"}, DataError, "no column 'kind' in obs; it has"),
        ({"groupby": "type", "group": "NK"}, DataError, "no entry 'NK'; it has B, T"),
        ({"groupby": "type", "group": ["B", "NK"]}, DataError, "no entry 'NK'"),
        ({"groupby": "nothing"}, DataError, "no cells to average over"),
    ],
)
def test_bad_options(adata, model, options, error, message):
    adata.obs["nothing"] = pd.Categorical([None] * adata.n_obs, categories=["x"])
    with pytest.raises(error, match=message):
        cellfm.tl.gene_embeddings(model, adata, **{"kind": "contextual", **options})


def test_what_is_missing_is_said(adata, model):
    with pytest.raises(ConfigError, match="none were given"):
        cellfm.tl.gene_embeddings(model, kind="contextual")
    network = CellFM(replace(model.network.config, decoders=False))
    bare = replace(model, network=network)
    with pytest.raises(WeightsError, match="have no decoders"):
        cellfm.tl.gene_embeddings(bare, kind="query")
    adata.X = sparse.csr_matrix(np.where(adata.var_names == "NOT-A-GENE", adata.X.toarray(), 0))
    with pytest.raises(DataError, match="None of the chosen cells expresses a gene"):
        contextual(model, adata)


def test_similar_genes_are_ranked_by_the_centred_cosine(model):
    genes = cellfm.tl.gene_embeddings(model)
    genes.X = genes.X + 10  # common to all: must not matter
    table = cellfm.tl.similar_genes(genes, "CD3E", n=4)
    x = genes.X.astype(np.float64) - genes.X.astype(np.float64).mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = pd.Series(x @ x[2], index=SYMBOLS).drop("CD3E").sort_values(ascending=False)
    assert table["gene"].tolist() == cosine.index[:4].tolist()
    np.testing.assert_allclose(table["cosine"], cosine[:4], rtol=1e-6)
    assert table["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(table["percentile"], 100 * np.array([10, 9, 8, 7]) / 11)
    assert set(table["locus_group"]) == {"protein-coding gene"}
    assert table.attrs == {"gene": "CD3E", "n_genes": 11}
    assert len(cellfm.tl.similar_genes(model, "ENSG00000198851", n=99)) == 11  # CD3E too


def test_similar_genes_of_cells_tell_over_how_many(adata, model):
    genes = contextual(model, adata, groupby="type", group="T")
    table = cellfm.tl.similar_genes(genes, "LYZ", n=3)
    assert table["n_cells"].tolist() == genes.obs.loc[table["gene"], "n_cells"].tolist()
    with pytest.raises(DataError, match=r"once for each group: \['B', 'T'\]"):
        cellfm.tl.similar_genes(contextual(model, adata, groupby="type"), "LYZ")
    with pytest.raises(DataError, match="'IL7R' is a gene, but has no vector here"):
        cellfm.tl.similar_genes(genes, "IL7R")


def test_families_are_the_largest_or_those_named(model):
    genes = cellfm.tl.gene_embeddings(model)
    assert set(genes.obs["locus_type"]) == {"gene with protein product"}
    genes.obs["symbol"] = ["RPL3", "RPL4", "RPL5", "HOXA1", "HOXA2", *SYMBOLS[5:]]
    assert families_of(genes, n=2) == {"RPL": ("RPL3", "RPL4", "RPL5"), "HOXA": ("HOXA1", "HOXA2")}
    assert families_of(genes, ["HOXA"]) == {"HOXA": ("HOXA1", "HOXA2")}
    groups = {"RPL3": "ribosome", "RPL4": "ribosome", "LYZ": "lysozymes"}
    assert families_of(genes, gene_groups=groups) == {"ribosome": ("RPL3", "RPL4")}
    with pytest.raises(DataError, match="of a family 'HOXB'; near names: HOXA"):
        families_of(genes, ["HOXB"])
    with pytest.raises(DataError, match="No two of the 2 genes are of one family"):
        families_of(genes[[0, 4]])


def test_unknown_genes_and_useless_tables_are_refused(model):
    genes = cellfm.tl.gene_embeddings(model)
    with pytest.raises(DataError, match=r"'CD3F' is not known.*near names: CD3E"):
        cellfm.tl.similar_genes(genes, "CD3F")
    with pytest.raises(ConfigError, match="n is 0"):
        cellfm.tl.similar_genes(genes, "CD3E", n=0)
    with pytest.raises(DataError, match="2 genes, 0 of them"):
        cellfm.tl.similar_genes(genes[:2], "ACTB")
    broken = genes.copy()
    broken.X[4] = np.nan
    with pytest.raises(DataError, match="1 of them with vectors that are not finite"):
        cellfm.tl.similar_genes(broken, "CD3E")
    del broken.obs["symbol"]
    with pytest.raises(DataError, match="no symbol in obs"):
        cellfm.tl.similar_genes(broken, "CD3E")
    with pytest.raises(ConfigError, match="n_neighbors is 1"):
        lay_out(genes, n_neighbors=1)
    with pytest.raises(DataError, match="12 genes cannot be laid out by 15"):
        lay_out(genes)
