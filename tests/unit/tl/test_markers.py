"""Marker genes: planted ones come first, figures are those of scanpy and sklearn, what cannot be attributed is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.corpus.tune_batches import ordered_batches
from cellfm.errors import ConfigError, DataError
from cellfm.nn.classifier import CellClassifier, new_head
from cellfm.nn.heads import initialise_head
from cellfm.tl._annotator import Annotator, ColumnModel
from cellfm.tl._annotator_heads import FrozenScorer, TunedScorer, fit_votes, read_cells
from cellfm.tl._classical import fit_linear
from cellfm.tl._embed import frozen_states
from cellfm.tl._labels import Labels
from cellfm.tl._markers import _scored
from cellfm.tl._states import EmbedOptions
from cellfm.tl._tune import TunedClassifier, TuneShape
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening

pytest.importorskip("sklearn")

MARKER = {"B": "MS4A1", "NK": "NKG7", "T": "CD3E"}
TYPES = tuple(MARKER)


@pytest.fixture
def typed(adata: AnnData) -> AnnData:
    """Three types; each expresses one gene that the others do not."""
    counts = adata.X.toarray()
    kind = np.arange(300) % 3
    names = list(adata.var_names)
    columns = [names.index(MARKER[name]) for name in TYPES]
    counts[:, columns] = 0
    counts[np.arange(300), np.array(columns)[kind]] = 300
    adata.X = sparse.csr_matrix(counts)
    adata.obs["cell_type"] = np.array(TYPES)[kind]
    return adata


@pytest.fixture
def whitened(typed: AnnData, model: Pretrained) -> Pretrained:
    """The model with a whitening."""
    states, _ = frozen_states(typed, model, EmbedOptions())
    noise = np.random.default_rng(0).normal(0, 1, (2, *states.shape)) * states.std(0) / 4
    whitening = Whitening.fit(states, states + noise[0], states + noise[1], weights_hash=model.hash)
    return replace(model, whitening=whitening)


def labels(adata: AnnData, separator: str | None = None) -> Labels:
    code = np.array([TYPES.index(name) for name in adata.obs["cell_type"]])
    return Labels(name="cell_type", classes=TYPES, code=code, separator=separator, n_missing=0)


def annotator(model: Pretrained, scorer, of: Labels, strength: str = "linear") -> Annotator:
    """An annotator without what labelling needs beside scores."""
    column = ColumnModel(labels=of, judge=None, pca=None, pca_judge=None, tables={})
    return Annotator(
        model=model,
        strength=strength,
        scorer=scorer,
        genes=None,
        profiles=None,
        columns=(column,),
        reference={},
    )


def linear(adata: AnnData, model: Pretrained, pool: str = "cls") -> Annotator:
    states, _ = frozen_states(adata, model, EmbedOptions(pool=pool))
    of = labels(adata)
    head = fit_linear(states, of.code, n_classes=3, seed=0)
    return annotator(model, FrozenScorer(model=model, pool=pool, heads=(head,)), of)


@pytest.mark.parametrize("pool", ["cls", "both", "whitened"])
def test_planted_markers_come_first(
    typed: AnnData, model: Pretrained, whitened: Pretrained, pool: str
) -> None:
    before = typed.copy()
    trained = linear(typed, whitened if pool == "whitened" else model, pool)
    table = tl.marker_genes(typed, trained, groupby="cell_type", n_genes=3, n_cells=40)
    first = table[table["rank"] == 1].set_index("type")
    assert dict(first["gene"]) == MARKER
    assert (first["attribution"] > 0).all()
    assert (first["auroc"] == 1).all()
    assert (first["detected_in"] == 1).all()
    assert (first["detected_out"] == 0).all()
    assert len(table) == 9
    assert (table.groupby("type")["attribution"].diff().dropna() <= 0).all()
    assert list(typed.obs) == list(before.obs)
    assert not typed.uns


def test_integrals_find_the_planted_markers(typed: AnnData, model: Pretrained) -> None:
    table = tl.marker_genes(
        typed,
        linear(typed, model),
        groupby="cell_type",
        n_genes=3,
        n_cells=10,
        method="integrated",
        n_steps=8,
    )
    # Of a random network another gene may come before.
    assert all(MARKER[name] in set(genes["gene"]) for name, genes in table.groupby("type"))


def test_scores_of_whitened_states_are_those_of_the_annotator(
    typed: AnnData, whitened: Pretrained
) -> None:
    trained = linear(typed, whitened, "whitened")
    scores = _scored(trained, 0)[1]
    cells, _ = read_cells(typed, whitened, EmbedOptions())
    (batch, rows), *_ = ordered_batches(cells, np.arange(20), token_budget=10_000, max_genes=None)
    states, _ = frozen_states(typed, whitened, EmbedOptions(pool="whitened"))
    expected = trained.scorer.heads[0].logits(states[rows.numpy()])
    found = scores(batch, torch.ones_like(batch.value)).detach().numpy()
    assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_tuned_classifiers_are_attributed_too(typed: AnnData, model: Pretrained) -> None:
    head = new_head("clusters", model.network, 3)
    initialise_head(head, torch.Generator().manual_seed(0))
    module = CellClassifier(model.network, [head]).eval()
    shape = TuneShape(strength="finetune", head="clusters", rank=0, n_classes=(3,))
    tuned = TunedClassifier(module=module, shape=shape, weights_hash=model.hash, result=None)
    trained = annotator(model, TunedScorer(model=model, tuned=tuned), labels(typed), "finetune")
    table = tl.marker_genes(typed, trained, groupby="cell_type", n_genes=None, n_cells=10)
    assert set(table["type"]) == set(TYPES)
    assert table["attribution"].abs().min() > 0


def test_expression_is_that_of_scanpy_and_sklearn(typed: AnnData, model: Pretrained) -> None:
    sc = pytest.importorskip("scanpy")
    metrics = pytest.importorskip("sklearn.metrics")
    table = tl.marker_genes(
        typed, linear(typed, model), groupby="cell_type", n_genes=None, n_cells=50
    )
    known = typed[:, [name != "NOT-A-GENE" for name in typed.var_names]].copy()
    values = known.copy()
    sc.pp.normalize_total(values, target_sum=1e4)
    sc.pp.log1p(values)
    for name in TYPES:
        ours = table[table["type"] == name].set_index("gene")
        inside = (typed.obs["cell_type"] == name).to_numpy()
        for gene in ("ACTB", MARKER[name], "CD8A"):
            x = values[:, gene].X.toarray()[:, 0]
            assert ours.loc[gene, "mean_in"] == pytest.approx(x[inside].mean(), rel=1e-4)
            assert ours.loc[gene, "mean_out"] == pytest.approx(x[~inside].mean(), abs=1e-5)
            assert ours.loc[gene, "detected_in"] == pytest.approx((x[inside] > 0).mean())
            assert ours.loc[gene, "auroc"] == pytest.approx(metrics.roc_auc_score(inside, x))
            counts = [np.expm1(x[rows]).mean() + 1e-9 for rows in (inside, ~inside)]
            expected = np.log2(counts[0] / counts[1])
            assert ours.loc[gene, "log2_fold_change"] == pytest.approx(expected, abs=1e-3)


def test_the_annotators_own_calls_are_the_default(typed: AnnData, model: Pretrained) -> None:
    trained = linear(typed, model)
    states, _ = frozen_states(typed, model, EmbedOptions())
    typed.obs["called"] = np.array(TYPES)[trained.scorer.heads[0].logits(states).argmax(1)]
    own = tl.marker_genes(typed, trained, n_cells=30, seed=3)
    named = tl.marker_genes(typed, trained, groupby="called", n_cells=30, seed=3)
    pd.testing.assert_frame_equal(own, named)


def test_what_cannot_be_attributed_is_refused(typed: AnnData, model: Pretrained) -> None:
    trained = linear(typed, model)
    typed.obs["colour"] = "red"
    cases = [
        ({"label": "tissue"}, DataError, "no label column 'tissue'; it has cell_type"),
        ({"groupby": "celltype"}, DataError, "no column 'celltype'"),
        ({"groupby": "colour"}, DataError, "found red.*the annotator knows B, NK, T"),
        ({"n_cells": 0}, ConfigError, "at least 1"),
        ({"method": "shap"}, ConfigError, "'gradient' or 'integrated'"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            tl.marker_genes(typed, trained, **arguments)
    states, _ = frozen_states(typed, model, EmbedOptions())
    of = labels(typed)
    votes = fit_votes(states, of, np.arange(300), seed=0)
    by_votes = annotator(model, FrozenScorer(model=model, pool="cls", heads=(votes,)), of, "knn")
    with pytest.raises(ConfigError, match="no gradient"):
        tl.marker_genes(typed, by_votes)
    several = annotator(model, trained.scorer, labels(typed, separator="|"))
    with pytest.raises(ConfigError, match="exclude each other"):
        tl.marker_genes(typed, several)
