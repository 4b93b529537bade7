"""Labels from a reference to a query, by every strength."""

import logging
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.config.model import ModelConfig
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import (
    CellFMError,
    ConfigError,
    DataError,
    GeneMatchError,
    OutputExistsError,
    WeightsError,
)
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.tl._annotator_heads import read_cells
from cellfm.tl._markers import _scored
from cellfm.tl._states import EmbedOptions
from cellfm.train.finetune import TuneConfig
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening
from tests.unit.tl.conftest import SYMBOLS

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")

TYPES = ("B cell", "CD4 T", "CD8 T", "mono")
# Mean counts of the twelve genes in each type.
MEANS = np.array(
    [
        [9, 9, 1, 30, 1, 1, 1, 1, 1, 1, 1, 20],
        [9, 9, 30, 1, 1, 1, 1, 1, 1, 25, 1, 20],
        [9, 9, 30, 1, 1, 9, 1, 1, 25, 1, 9, 20],
        [9, 9, 1, 1, 40, 1, 1, 20, 1, 1, 1, 20],
    ]
)
EXTRA = ("CD19", "CD79A", "CD14", "CST3", "FCER1A", "SELL", "CCR7", "S100A8", "GZMB", "PRF1")
SHORT = TuneConfig(n_epochs=5, patience=5, lr=1e-4, head_lr=1e-2, token_budget=256)


def cells(n_each: int, *, seed: int, types: tuple[str, ...] = TYPES, depth: int = 1) -> AnnData:
    rng = np.random.default_rng(seed)
    code = np.repeat([TYPES.index(name) for name in types], n_each)
    counts = rng.poisson(depth * MEANS[code]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "type": np.array(TYPES)[code],
            "side": np.where(code == 3, "myeloid", "lymphoid"),
            "tags": np.array(["B;blood", "T;blood", "T;blood", "blood"])[code],
            "donor": [f"d{number % 5}" for number in range(len(code))],
        },
        index=[f"s{seed}c{number}" for number in range(len(code))],
    )
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(SYMBOLS)))


@pytest.fixture(scope="module")
def model() -> Pretrained:
    """A random network, wide enough for its states to tell the types apart."""
    config = ModelConfig(n_genes=len(SYMBOLS), dim=64, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    vocabulary = Vocabulary.from_symbols(SYMBOLS)
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None
    )


@pytest.fixture(scope="module")
def reference() -> AnnData:
    return cells(40, seed=1)


@pytest.fixture
def query() -> AnnData:
    return cells(12, seed=2)


def written(adata: AnnData) -> tuple[set[str], set[str], set[str]]:
    return set(adata.obs), set(adata.obsm), set(adata.uns)


@pytest.mark.parametrize("strength", ["knn", "linear", "lora", "finetune"])
def test_every_strength_finds_the_types(strength: str, model: Pretrained) -> None:
    reference, query = cells(40, seed=1, depth=4), cells(12, seed=2, depth=4)  # plain to see
    tune = replace(SHORT, head_lr=1e-3)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    counts, labelled = query.X.copy(), reference.copy()
    result = tl.annotate(
        query, model, reference=reference, label="type", strength=strength, truth="type", tune=tune
    )
    assert (counts != query.X).nnz == 0
    assert set(reference.obs) == set(labelled.obs)
    assert not reference.uns
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    new = {"cellfm", "cellfm_probability", "cellfm_novelty", "cellfm_best", "cellfm_pca"}
    assert set(query.obs) - {"type", "side", "tags", "donor"} == new
    table = result.metrics.set_index(["data", "method"])
    assert table.loc[("query", "PCA-50 + LR"), "accuracy"] > 0.9
    assert table.loc[("query", f"CellFM {strength}"), "accuracy"] > 0.9
    assert query.obs["cellfm_probability"].between(0, 1).all()
    kept = query.obs["cellfm"] != "unknown"
    assert (query.obs["cellfm"].astype(str) == query.obs["cellfm_best"].astype(str))[kept].all()
    assert result.confusion.to_numpy().sum() == 48
    assert result.confusion.index.tolist() == list(TYPES)
    assert result.confusion.columns.tolist() == [*TYPES, "unknown"]
    assert result.confusion["unknown"].sum() == (~kept).sum()
    assert query.uns["cellfm"]["cellfm"]["weights_hash"] == model.hash
    assert result.states.shape == (48, 64)


@pytest.fixture(scope="module")
def wide() -> Pretrained:
    """A random network over more genes than the reference has, with a whitening."""
    vocabulary = Vocabulary.from_symbols((*SYMBOLS, *EXTRA))
    config = ModelConfig(n_genes=len(vocabulary), dim=64, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    rng = np.random.default_rng(0)
    whitening = Whitening(
        mean=np.zeros(64, np.float32),
        matrix=np.linalg.qr(rng.normal(size=(64, 8)))[0].astype(np.float32),
        ratio=np.arange(9, 1, -1, dtype=np.float32),
        weights_hash="e" * 64,
    )
    return Pretrained(
        network=network,
        vocabulary=vocabulary,
        provenance={},
        hash="e" * 64,
        path=None,
        whitening=whitening,
    )


def with_more_genes(adata: AnnData, *, outside: int = 2) -> AnnData:
    """Return the cells with genes beside the reference's that make most of their counts."""
    rng = np.random.default_rng(5)
    names = [*EXTRA, *(f"NOVEL{number}" for number in range(outside))]
    more = rng.poisson(200.0, (adata.n_obs, len(names))).astype(np.float32)
    counts = sparse.hstack([more, adata.X]).tocsr()
    return AnnData(counts, obs=adata.obs.copy(), var=pd.DataFrame(index=[*names, *SYMBOLS]))


@pytest.mark.parametrize("strength", ["linear", "lora"])
def test_genes_that_the_reference_lacks_are_not_read(
    strength: str, wide: Pretrained, reference: AnnData, query: AnnData, tmp_path: Path
) -> None:
    annotator = tl.train_annotator(
        reference, wide, label="type", strength=strength, tune=replace(SHORT, n_epochs=1)
    )
    annotator.save(tmp_path / "a")
    loaded = tl.Annotator.load(tmp_path / "a", wide)
    assert loaded.genes.token.tolist() == list(range(1, len(SYMBOLS) + 1))
    more = with_more_genes(query)
    plain = tl.annotate(query, annotator=annotator)
    same = tl.annotate(more, annotator=loaded)
    pd.testing.assert_frame_equal(query.obs, more.obs)
    np.testing.assert_allclose(same.states, plain.states, rtol=1e-5, atol=1e-6)
    assert "10 query genes that are not in the reference" in same.gene_report
    assert "not in the reference" not in plain.gene_report
    assert more.uns["cellfm"]["cellfm"]["genes"]["n_not_in_reference"] == 10
    # read on all of its genes the query would look otherwise
    states = annotator.scorer.score(more, EmbedOptions()).states
    assert np.abs(states - plain.states).max() > 1e-3


def test_genes_outside_the_vocabulary_are_kept_for_pca(
    wide: Pretrained, reference: AnnData, query: AnnData
) -> None:
    """A gene of the reference that the network does not know still counts for PCA."""
    known = with_more_genes(reference, outside=1)[:, ["NOVEL0", *SYMBOLS]].copy()
    annotator = tl.train_annotator(known, wide, label="type")
    assert annotator.genes.outside == {"NOVEL0"}
    few, many = with_more_genes(query, outside=1), with_more_genes(query, outside=1)
    few = few[:, ["NOVEL0", *SYMBOLS]].copy()
    tl.annotate(few, annotator=annotator)
    tl.annotate(many, annotator=annotator)
    pd.testing.assert_frame_equal(few.obs, many.obs)


def test_a_query_without_a_gene_of_the_reference(
    wide: Pretrained, reference: AnnData, query: AnnData
) -> None:
    annotator = tl.train_annotator(reference, wide, label="type")
    other = with_more_genes(query)[:, list(EXTRA)].copy()
    with pytest.raises(GeneMatchError, match="None of the 10 vocabulary genes"):
        tl.annotate(other, annotator=annotator)
    assert not other.uns


def test_whitened_states_are_the_default_where_there_are_any(
    wide: Pretrained, model: Pretrained, reference: AnnData, query: AnnData
) -> None:
    assert tl.train_annotator(reference, model, label="type").scorer.pool == "cls"
    annotator = tl.train_annotator(reference, wide, label="type")
    assert annotator.scorer.pool == "whitened"
    assert tl.annotate(query, annotator=annotator).states.shape == (48, 8)
    as_was = tl.train_annotator(reference, wide, label="type", pool="cls")
    assert as_was.scorer.pool == "cls"
    # marker genes take the gradient of the same scores
    _, scores = _scored(annotator, 0)
    found = scores(plain_batch(read_cells(query, wide, EmbedOptions())[0]), torch.zeros(0))
    expected = annotator.scorer.score(query, EmbedOptions()).logits[0]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="pool is 'max'"):
        tl.train_annotator(reference, wide, label="type", pool="max")
    with pytest.raises(WeightsError, match="have none"):
        tl.train_annotator(reference, model, label="type", pool="whitened")


def test_many_unknown_cells_are_said(
    model: Pretrained, query: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    lacking = cells(40, seed=1, types=TYPES[:3])
    strange = query[query.obs["type"] == "mono"].copy()
    with caplog.at_level(logging.WARNING):
        result = tl.annotate(strange, model, reference=lacking, label="type", novelty="mahalanobis")
    share = (strange.obs["cellfm"] == "unknown").mean()
    assert share > 0.5
    assert "query cells are unknown in 'type'" in caplog.text
    assert any("query cells are unknown" in note for note in result.notes)
    fine = tl.annotate(query, model, reference=cells(40, seed=1), label="type")
    assert not fine.notes


def test_the_same_seed_gives_the_same_labels(
    model: Pretrained, reference: AnnData, query: AnnData
) -> None:
    again = query.copy()
    for adata in (query, again):
        tl.annotate(adata, model, reference=reference, label="type", seed=3)
    pd.testing.assert_frame_equal(query.obs, again.obs)


def test_a_type_that_the_reference_lacks_is_unknown(model: Pretrained, query: AnnData) -> None:
    lacking = cells(40, seed=1, types=TYPES[:3])
    result = tl.annotate(query, model, reference=lacking, label="type", truth="type")
    row = result.metrics.set_index(["data", "method"]).loc[("query", "CellFM linear")]
    assert row["auroc_unknown"] > 0.9
    assert row["n_cells"] == 36
    new, old = (query.obs["type"] == "mono", query.obs["type"] != "mono")
    unknown = query.obs["cellfm"] == "unknown"
    assert unknown[new].mean() > 0.4
    assert unknown[old].mean() < 0.3
    assert result.abstentions["unknown"].sum() == unknown.sum()
    every = tl.annotate(
        query, model, reference=lacking, label="type", unknown=False, overwrite=True
    )
    assert "unknown" not in set(every.adata.obs["cellfm"])


@pytest.mark.parametrize("novelty", ["mahalanobis", "knn", "energy"])
@pytest.mark.parametrize("strength", ["knn", "linear"])
def test_a_saved_annotator_says_the_same(
    strength: str,
    novelty: str,
    model: Pretrained,
    reference: AnnData,
    query: AnnData,
    tmp_path: Path,
) -> None:
    annotator = tl.train_annotator(
        reference, model, label="type", strength=strength, novelty=novelty
    )
    annotator.save(tmp_path / "a")
    loaded = tl.Annotator.load(tmp_path / "a", model)
    other = query.copy()
    tl.annotate(query, annotator=annotator)
    tl.annotate(other, annotator=loaded)
    pd.testing.assert_frame_equal(query.obs, other.obs)
    for name, table in annotator.columns[0].tables.items():
        again = loaded.columns[0].tables[name]
        pd.testing.assert_frame_equal(
            again.reset_index(drop=True), table.reset_index(drop=True), check_dtype=False
        )


@pytest.mark.parametrize(("strength", "head"), [("lora", "clusters"), ("finetune", "mlp")])
def test_a_saved_tuned_annotator_says_the_same(
    strength: str,
    head: str,
    model: Pretrained,
    reference: AnnData,
    query: AnnData,
    tmp_path: Path,
) -> None:
    annotator = tl.train_annotator(
        reference,
        model,
        label=["type", "side"],
        strength=strength,
        head=head,
        rank=2,
        tune=replace(SHORT, n_epochs=1),
    )
    annotator.save(tmp_path / "a")
    other = query.copy()
    tl.annotate(query, annotator=annotator)
    tl.annotate(other, model, annotator=tmp_path / "a")
    pd.testing.assert_frame_equal(query.obs, other.obs)
    assert {"cellfm_type", "cellfm_side_best"} <= set(query.obs)


def test_wrong_annotator_for_the_weights(
    model: Pretrained, reference: AnnData, query: AnnData, tmp_path: Path
) -> None:
    annotator = tl.train_annotator(reference, model, label="type")
    annotator.save(tmp_path / "a")
    network = initialise(CellFM(model.network.config), torch.Generator().manual_seed(9)).eval()
    other = replace(model, network=network, hash="a" * 64)
    for given in (annotator, tmp_path / "a"):
        with pytest.raises(WeightsError, match=r"wrong annotator for the weights.*ffffffffffff"):
            tl.annotate(query, other, annotator=given)
    assert set(query.obs) == {"type", "side", "tags", "donor"}
    with pytest.raises(OutputExistsError):
        annotator.save(tmp_path / "a")
    with pytest.raises(WeightsError, match="no artifact"):
        tl.Annotator.load(tmp_path, model)


def test_several_columns_and_several_labels(
    model: Pretrained, reference: AnnData, query: AnnData
) -> None:
    result = tl.annotate(query, model, reference=reference, label=["type", "side"], key_added="k")
    assert [column.key for column in result.columns] == ["k_type", "k_side"]
    assert (query.obs["k_side_best"] == query.obs["side"]).mean() > 0.85
    result = tl.annotate(
        query, model, reference=reference, label="tags", multilabel=";", truth="tags"
    )
    assert set(query.obs["cellfm_best"]) <= {"B;blood", "T;blood", "blood", "B;T;blood"}
    assert result.metrics["accuracy"].min() > 0.8


@pytest.mark.parametrize("strength", ["knn", "lora"])
def test_several_labels_at_other_strengths(
    strength: str, model: Pretrained, reference: AnnData, query: AnnData
) -> None:
    result = tl.annotate(
        query,
        model,
        reference=reference,
        label="tags",
        multilabel=";",
        strength=strength,
        tune=SHORT,
        truth="tags",
    )
    assert result.columns[0].classes == ("B", "T", "blood")
    row = result.metrics.set_index(["data", "method"]).loc[("query", f"CellFM {strength}")]
    assert row["macro_f1"] > 0.6


def test_uncertain_cells_get_a_coarser_label(model: Pretrained) -> None:
    """CD4 and CD8 T cells that cannot be told apart are T cells."""
    blurred = cells(40, seed=1)
    rng = np.random.default_rng(0)
    t_cells = blurred.obs["type"].isin(["CD4 T", "CD8 T"]).to_numpy()
    blurred.X = sparse.csr_matrix(
        rng.poisson(np.where(t_cells[:, None], MEANS[1], blurred.X.toarray())).astype(np.float32)
    )
    query = blurred[rng.permutation(len(blurred))[:80]].copy()
    tl.annotate(query, model, reference=blurred, label="type", parents={"CD4 T": "T", "CD8 T": "T"})
    coarse = query.obs["cellfm_coarse"].astype(str)
    of_t = query.obs["type"].isin(["CD4 T", "CD8 T"])
    assert (coarse[of_t] == "T").mean() > 0.3
    assert (coarse[~of_t] == "T").mean() < 0.1


def test_donors_are_not_split(model: Pretrained, reference: AnnData) -> None:
    annotator = tl.train_annotator(reference, model, label="type", donor_key="donor")
    assert annotator.reference["split_by"] == "donor"
    assert annotator.reference["n_test"] == 32  # a whole donor
    few = reference.copy()
    few.obs["donor"] = np.where(np.arange(len(few)) % 2, "a", "b")
    annotator = tl.train_annotator(few, model, label="type", donor_key="donor")
    assert annotator.reference["split_by"] == "cells within each label"


def test_cells_without_a_label_are_counted_and_left_out(
    model: Pretrained, reference: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    holes = reference.copy()
    labels = holes.obs["type"].astype(object)
    labels.iloc[:10] = np.nan
    labels.iloc[10] = "lonely"
    holes.obs["type"] = labels
    with caplog.at_level(logging.WARNING):
        annotator = tl.train_annotator(holes, model, label="type")
    assert "10 of 160 reference cells have no label" in caplog.text
    assert "'lonely' have one cell each" in caplog.text
    assert len(annotator.notes) == 2
    assert annotator.reference["n_cells"] == 150
    assert "lonely" in annotator.columns[0].labels.classes
    assert "lonely" not in annotator.columns[0].tables["confusion"].index


def bad_inputs() -> list[object]:
    def mouse(adata: AnnData) -> AnnData:
        adata.var_names = [name.capitalize() for name in SYMBOLS]
        return adata

    def foreign(adata: AnnData) -> AnnData:
        adata.var_names = [f"NOPE{number}" for number in range(12)]
        return adata

    def relabel(adata: AnnData, value: object) -> AnnData:
        adata.obs["type"] = value
        return adata

    one = {"reference": cells(40, seed=1)}
    return [
        pytest.param({"reference": relabel(cells(9, seed=1), "T")}, DataError, "one label only", id="one class"),
        pytest.param({"reference": relabel(cells(9, seed=1), np.nan)}, DataError, "None of the 36", id="all NaN"),
        pytest.param({**one, "label": "nothing"}, DataError, "no column 'nothing'", id="no column"),
        pytest.param({**one, "donor_key": "who"}, DataError, "no column 'who'", id="no donors"),
        pytest.param({**one, "truth": "real"}, DataError, "no column 'real' in obs of the query", id="no truth"),
        pytest.param({"reference": mouse(cells(9, seed=1))}, GeneMatchError, "mouse|Mouse", id="mouse"),
        pytest.param({"reference": foreign(cells(9, seed=1))}, GeneMatchError, "genes", id="other genes"),
        pytest.param({"reference": cells(9, seed=1)[:0].copy()}, DataError, "reference has 0 cells", id="empty"),
        pytest.param({"reference": cells(1, seed=1)}, DataError, "leave none for", id="too few"),
        pytest.param({}, ConfigError, "either a reference", id="nothing"),
        pytest.param({**one, "strength": "strong"}, ConfigError, "strength is 'strong'", id="strength"),
        pytest.param({**one, "novelty": "magic"}, ConfigError, "novelty is 'magic'", id="novelty"),
        pytest.param({**one, "head": "big"}, ConfigError, "head is 'big'", id="head"),
        pytest.param({**one, "label": []}, ConfigError, "label is", id="no labels"),
        pytest.param({**one, "multilabel": " "}, ConfigError, "multilabel is", id="separator"),
        pytest.param({**one, "label": ["tags", "type"], "multilabel": ";", "strength": "lora"}, ConfigError, "one such column", id="two multi"),
        pytest.param({**one, "label": "tags", "multilabel": ";", "parents": {"B": "T"}}, ConfigError, "need one label a cell", id="parents multi"),
        pytest.param({**one, "parents": {"alpha": "endocrine"}}, DataError, "has a parent", id="other parents"),
        pytest.param({**one, "key_added": "a/b"}, ConfigError, "without slashes", id="key"),
        pytest.param({**one, "key_added": "side", "overwrite": False}, OutputExistsError, "already", id="taken"),
        pytest.param({**one, "layer": "raw"}, DataError, "no layer 'raw'", id="layer"),
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), bad_inputs())
def test_bad_input_is_refused_and_nothing_written(
    given: dict[str, object],
    error: type[CellFMError],
    message: str,
    model: Pretrained,
    query: AnnData,
) -> None:
    before = written(query)
    with pytest.raises(error, match=message):
        tl.annotate(query, model, **{"label": "type", **given})
    assert written(query) == before


def test_bad_queries(model: Pretrained, reference: AnnData, query: AnnData) -> None:
    with pytest.raises(DataError, match="query has 0 cells"):
        tl.annotate(query[:0].copy(), model, reference=reference, label="type")
    foreign = query.copy()
    foreign.var_names = [f"NOPE{number}" for number in range(12)]
    with pytest.raises(GeneMatchError):
        tl.annotate(foreign, model, reference=reference, label="type")
    assert not foreign.uns
    with pytest.raises(ConfigError, match="not both"):
        tl.annotate(query, model, reference=reference, annotator="x")
    with pytest.raises(GeneMatchError) as caught:
        tl.annotate(query, model, reference=foreign, label="type")
    assert "This is about the reference." in caught.value.__notes__


def test_file_is_annotated_like_memory(
    model: Pretrained, reference: AnnData, query: AnnData, tmp_path: Path
) -> None:
    for name, adata in (("ref", reference), ("query", query)):
        adata.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    before = (tmp_path / "query.h5ad").read_bytes()
    tl.annotate(query, model, reference=reference, label="type")
    result = tl.annotate_file(
        tmp_path / "query.h5ad", None, model, reference=tmp_path / "ref.h5ad", label="type"
    )
    assert (tmp_path / "query.h5ad").read_bytes() == before
    found = anndata.read_h5ad(tmp_path / "query.annotated.h5ad")
    for column in query.obs:
        assert found.obs[column].tolist() == query.obs[column].tolist()
    np.testing.assert_array_equal(found.obsm["X_cellfm"], query.obsm["X_cellfm"])
    assert (found.X != query.X).nnz == 0
    assert found.uns["cellfm"]["cellfm"]["weights_hash"] == model.hash
    table = pd.read_csv(tmp_path / "query.annotated.confusion.tsv", sep="\t", index_col=0)
    assert table.index.name == "truth (reference test)"
    assert table.to_numpy().tolist() == result.columns[0].reference_confusion.to_numpy().tolist()


def test_bad_files(model: Pretrained, query: AnnData, tmp_path: Path) -> None:
    path, text = tmp_path / "q.h5ad", tmp_path / "text.h5ad"
    query.write_h5ad(path)
    text.write_text("no h5ad")
    with pytest.raises(DataError, match="There is no file"):
        tl.annotate_file(tmp_path / "none.h5ad", None, model, reference=path)
    with pytest.raises(DataError, match="cannot be read"):
        tl.annotate_file(path, None, model, reference=text, label="type")
    with pytest.raises(ConfigError, match="same file"):
        tl.annotate_file(path, path, model, reference=path)
    with pytest.raises(OutputExistsError, match="exists already"):
        tl.annotate_file(path, text, model, reference=path)
    with pytest.raises(OutputExistsError, match="Only an annotator"):
        tl.train_annotator_file(path, tmp_path, model, label="type", overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["q.h5ad", "text.h5ad"]
