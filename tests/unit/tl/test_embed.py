import hashlib
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

import cellfm
from cellfm.corpus.tokens import tokenize
from cellfm.errors import (
    ConfigError,
    CountsError,
    DataError,
    GeneMatchError,
    OutputExistsError,
    ResumeError,
)
from cellfm.genes import resolve
from cellfm.tl import _embed_file

FP32 = 1e-5


def states(adata, model, **options) -> np.ndarray:
    copy = adata.copy()
    cellfm.tl.embed(copy, model, **options)
    return copy.obsm[options.get("key_added", "X_cellfm")]


def near(a, b, tolerance=FP32) -> bool:
    return bool((np.linalg.norm(a - b, axis=1) <= tolerance * np.linalg.norm(b, axis=1)).all())


def definition(adata, model) -> np.ndarray:
    """Cell states by the eager network, cell by cell."""
    token = resolve(list(adata.var_names), model.vocabulary).token
    batch = tokenize(sparse.csr_matrix(adata.X), token)
    with torch.no_grad():
        return np.concatenate(
            [model.network(batch.cells(i, i + 1)).cell.numpy() for i in range(batch.n_cells)]
        )


def test_equals_the_definition(adata, model):
    assert near(states(adata, model), definition(adata, model))


@pytest.mark.parametrize("change", ["csc", "dense", "int64", "float64", "reversed", "genes"])
def test_storage_and_order_change_nothing(adata, model, change):
    expected, other = states(adata, model), adata.copy()
    if change == "csc":
        other.X = other.X.tocsc()
    elif change == "dense":
        other.X = other.X.toarray()
    elif change == "reversed":
        other, expected = other[::-1].copy(), expected[::-1]
    elif change == "genes":
        other = other[:, np.random.default_rng(1).permutation(other.n_vars)].copy()
    else:
        other.X = other.X.astype(change)
    assert near(states(other, model), expected)


@pytest.mark.parametrize("token_budget", [1, 7, 100_000])
def test_token_budget_changes_nothing(adata, model, token_budget):
    assert near(states(adata, model, token_budget=token_budget), states(adata, model))


def test_thread_count_changes_nothing(adata, model):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = states(adata, model)
        torch.set_num_threads(2)
        two = states(adata, model)
    finally:
        torch.set_num_threads(before)
    assert near(one, two)


def test_layer_raw_and_gene_names(adata, model):
    expected = states(adata, model)
    other = adata.copy()
    other.layers["counts"] = other.X.copy()
    other.raw = adata
    other.var["symbol"] = list(other.var_names)
    other.var_names = [f"row{i}" for i in range(other.n_vars)]
    other.X = other.X * 0.5
    assert near(states(other, model, layer="counts", gene_names="symbol"), expected)
    assert near(states(other, model, use_raw=True), expected)
    with pytest.raises(CountsError, match="use_raw=True"):
        states(other, model, gene_names="symbol")
    with pytest.raises(GeneMatchError, match="gene_names="):
        states(other, model, layer="counts")
    with pytest.raises(DataError, match=r"no layer 'count'; adata has counts"):
        states(other, model, layer="count", gene_names="symbol")
    with pytest.raises(DataError, match="no column 'name' in var"):
        states(other, model, gene_names="name")
    with pytest.raises(DataError, match="choose one of the two"):
        states(other, model, layer="counts", use_raw=True)


def test_log_normalised_values_are_accepted_on_request(adata, model, caplog):
    logged = adata.copy()
    total = np.asarray(adata.X.sum(1)).ravel()
    logged.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / total[:, None] * 1e4))
    with pytest.raises(CountsError, match='scale="log1p"'):
        states(logged, model)
    assert states(logged, model, scale="log1p").shape == (300, 16)
    assert "read depth of the cells is lost" in caplog.text


def test_only_what_is_documented_is_written(adata, model):
    before = adata.copy()
    adata.uns["cellfm"] = {"other": {"kept": 1}}
    adata.obsm["X_pca"] = np.ones((300, 2))
    cellfm.tl.embed(adata, model)
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert set(adata.obsm) == {"X_pca", "X_cellfm"}
    assert set(adata.uns) == {"cellfm"}
    assert adata.uns["cellfm"]["other"] == {"kept": 1}
    note = adata.uns["cellfm"]["X_cellfm"]
    assert note["weights_hash"] == "f" * 64
    assert note["options"]["scale"] == "counts"
    assert note["genes"]["n_matched"] == 10
    outside = before.X[:, 8].sum() / before.X.sum()
    assert note["genes"]["coverage"] == pytest.approx(1 - outside)


def test_existing_result_is_not_overwritten_unasked(adata, model):
    cellfm.tl.embed(adata, model)
    with pytest.raises(OutputExistsError, match=r"obsm\['X_cellfm'\] already"):
        cellfm.tl.embed(adata, model)
    cellfm.tl.embed(adata, model, overwrite=True)


def test_nothing_is_written_on_failure(adata, model):
    adata.X[250, 0] = 0.5
    with pytest.raises(CountsError):
        cellfm.tl.embed(adata, model)
    assert not adata.obsm
    assert not adata.uns


def test_empty_cells(adata, model):
    dense = adata.X.toarray()
    dense[17] = 0
    dense[260, :] = 0
    dense[260, 8] = 5  # counts, but none on a vocabulary gene
    adata.X = sparse.csr_matrix(dense)
    with pytest.raises(CountsError, match=r'rows 17.*empty="nan"'):
        cellfm.tl.embed(adata, model)
    found = states(adata, model, empty="nan")
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [17, 260]


def test_max_genes_keeps_the_highest(adata, model):
    assert not near(states(adata, model, max_genes=3), states(adata, model))
    assert near(states(adata, model, max_genes=11), states(adata, model))


def test_contextual_gene_states_are_means_over_expressing_cells(adata, model):
    expected_cells = states(adata, model)
    cellfm.tl.embed(adata, model, genes="type")
    assert set(adata.varm) == {"X_cellfm_B", "X_cellfm_T"}
    token = resolve(list(adata.var_names), model.vocabulary).token
    batch = tokenize(sparse.csr_matrix(adata.X), token)
    with torch.no_grad():
        gene_states = model.network(batch).gene.numpy()
    cell = np.repeat(np.arange(300), batch.offsets.diff().numpy())
    is_b = (adata.obs["type"] == "B").to_numpy()[cell]
    for column, t in enumerate(token):
        found = adata.varm["X_cellfm_B"][column]
        if t == 0:
            assert np.isnan(found).all()
        else:
            expected = gene_states[(batch.gene.numpy() == t) & is_b].mean(0)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert near(adata.obsm["X_cellfm"], expected_cells)


def test_group_names_with_slashes_survive_the_file(adata, model, tmp_path):
    adata.obs["type"] = adata.obs["type"].cat.rename_categories({"T": "CD4+/CD25 T", "B": "B"})
    adata.write_h5ad(tmp_path / "in.h5ad")
    cellfm.tl.embed_file(tmp_path / "in.h5ad", tmp_path / "out.h5ad", model, genes="type")
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert set(out.varm) == {"X_cellfm_B", "X_cellfm_CD4+_CD25 T"}
    adata.obs["type"] = adata.obs["type"].cat.rename_categories({"B": "CD4+_CD25 T"})
    with pytest.raises(DataError, match="Rename one of them"):
        cellfm.tl.embed(adata, model, genes="type")


def test_contextual_states_need_the_genes_of_adata(adata, model):
    other = adata[:, :9].copy()
    other.raw = adata
    with pytest.raises(DataError, match="to_adata"):
        cellfm.tl.embed(other, model, genes=True, use_raw=True)
    with pytest.raises(DataError, match="no column 'kind' in obs"):
        cellfm.tl.embed(adata, model, genes="kind")
    with pytest.raises(ConfigError, match="leave one of the two out"):
        cellfm.tl.embed(adata, model, genes=True, precision="mixed")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": "cpm"}, "scale is 'cpm'"),
        ({"key_added": "a/b"}, "without slashes"),
        ({"empty": "drop"}, "empty is"),
        ({"token_budget": 0}, "at least 1"),
        ({"precision": "int8"}, "must be one of 'fp32', 'mixed'"),
    ],
)
def test_bad_options(adata, model, option, message):
    with pytest.raises(ConfigError, match=message):
        cellfm.tl.embed(adata, model, **option)


def test_static_gene_embeddings(model):
    genes = cellfm.tl.gene_embeddings(model)
    assert genes.shape == (12, 16)
    assert genes.obs.loc["LYZ", "token"] == 5
    np.testing.assert_array_equal(
        genes["LYZ"].X[0], model.network.gene_embedding.weight[5].detach()
    )
    assert genes.obs.loc["ACTB", "locus_group"] == "protein-coding gene"


# Files


@pytest.fixture
def file(adata, tmp_path) -> Path:
    path = tmp_path / "in.h5ad"
    adata.write_h5ad(path)
    return path


def test_file_equals_memory_and_input_is_untouched(adata, model, file, tmp_path):
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    done = []
    summary = cellfm.tl.embed_file(
        file, tmp_path / "out.h5ad", model, genes=True, progress=lambda n, of: done.append((n, of))
    )
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert near(out.obsm["X_cellfm"], states(adata, model))
    assert out.varm["X_cellfm_mean"].shape == (11, 16)
    assert out.uns["cellfm"]["X_cellfm"]["genes"]["n_matched"] == 10
    assert (out.X != adata.X).nnz == 0
    assert done == [(256, 300), (300, 300)]
    assert (summary.n_cells, summary.dim, summary.resumed_from) == (300, 16, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


@pytest.mark.parametrize("layout", ["csc", "dense"])
def test_file_of_any_layout(adata, model, tmp_path, layout):
    expected = states(adata, model)
    adata.X = adata.X.tocsc() if layout == "csc" else adata.X.toarray()
    adata.write_h5ad(tmp_path / "in.h5ad")
    cellfm.tl.embed_file(tmp_path / "in.h5ad", tmp_path / "out.h5ad", model)
    assert near(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_cellfm"], expected)


def test_backed_anndata(adata, model, file):
    backed = anndata.read_h5ad(file, backed="r")
    cellfm.tl.embed(backed, model)
    assert near(backed.obsm["X_cellfm"], states(adata, model))
    backed.file.close()


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


@pytest.mark.parametrize("genes", [False, True])
def test_interrupted_file_is_gone_on_with_and_identical(
    adata, model, file, tmp_path, monkeypatch, genes
):
    monkeypatch.setattr(_embed_file, "BLOCK", 64)
    monkeypatch.setattr(_embed_file, "SUMS_EVERY", 0.0)
    cellfm.tl.embed_file(file, tmp_path / "straight.h5ad", model, genes=genes)

    def kill(n_done, _):
        if n_done >= 128:
            raise Killed

    with pytest.raises(Killed):
        cellfm.tl.embed_file(file, tmp_path / "out.h5ad", model, genes=genes, progress=kill)
    assert not (tmp_path / "out.h5ad").exists()
    summary = cellfm.tl.embed_file(file, tmp_path / "out.h5ad", model, genes=genes)
    assert summary.resumed_from == 128
    a, b = (anndata.read_h5ad(tmp_path / name) for name in ("straight.h5ad", "out.h5ad"))
    np.testing.assert_array_equal(a.obsm["X_cellfm"], b.obsm["X_cellfm"])
    assert (
        a.uns["cellfm"]["X_cellfm"]["genes"]["coverage"]
        == b.uns["cellfm"]["X_cellfm"]["genes"]["coverage"]
    )
    if genes:
        np.testing.assert_array_equal(a.varm["X_cellfm_mean"], b.varm["X_cellfm_mean"])
    assert not list(tmp_path.glob("*.partial"))


def test_partial_work_of_another_job_is_refused(model, file, tmp_path, monkeypatch):
    monkeypatch.setattr(_embed_file, "BLOCK", 64)

    def kill(*_):
        raise Killed

    target = tmp_path / "out.h5ad"
    with pytest.raises(Killed):
        cellfm.tl.embed_file(file, target, model, progress=kill)
    with pytest.raises(ResumeError, match="max_genes differ"):
        cellfm.tl.embed_file(file, target, model, max_genes=4)
    note = tmp_path / "out.h5ad.partial" / "progress.json"
    note.write_text("{")
    with pytest.raises(ResumeError, match="is damaged"):
        cellfm.tl.embed_file(file, target, model)
    assert cellfm.tl.embed_file(file, target, model, max_genes=4, overwrite=True).resumed_from == 0


def test_files_that_are_in_the_way(adata, model, file, tmp_path):
    with pytest.raises(OutputExistsError, match="same file"):
        cellfm.tl.embed_file(file, file, model, overwrite=True)
    (tmp_path / "out.h5ad").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        cellfm.tl.embed_file(file, tmp_path / "out.h5ad", model)
    assert (tmp_path / "out.h5ad").read_text() == "mine"
    cellfm.tl.embed_file(file, tmp_path / "made" / "for_it" / "out.h5ad", model)
    assert (tmp_path / "made" / "for_it" / "out.h5ad").is_file()
    with pytest.raises(DataError, match="no file"):
        cellfm.tl.embed_file(tmp_path / "absent.h5ad", tmp_path / "other.h5ad", model)
    cellfm.tl.embed(adata, model)
    adata.write_h5ad(tmp_path / "embedded.h5ad")
    with pytest.raises(OutputExistsError, match=r"has obsm\['X_cellfm'\]"):
        cellfm.tl.embed_file(tmp_path / "embedded.h5ad", tmp_path / "again.h5ad", model)
    cellfm.tl.embed_file(tmp_path / "embedded.h5ad", tmp_path / "again.h5ad", model, overwrite=True)
    assert not list(tmp_path.glob("*.partial"))


def test_bad_counts_leave_nothing_behind(adata, model, tmp_path):
    adata.X[0, 0] = -1.0
    adata.write_h5ad(tmp_path / "in.h5ad")
    with pytest.raises(CountsError, match="negative"):
        cellfm.tl.embed_file(tmp_path / "in.h5ad", tmp_path / "out.h5ad", model)
    assert [p.name for p in tmp_path.iterdir()] == ["in.h5ad"]
