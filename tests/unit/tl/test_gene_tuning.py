from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.config.model import ModelConfig
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import ConfigError
from cellfm.genes import Vocabulary
from cellfm.genes.table import GeneTable
from cellfm.nn import CellFM, initialise
from cellfm.nn.gene_classifier import mean_by_gene
from cellfm.tl._genes.controls import RANDOM, TWIN
from cellfm.tl._genes.function_heads import fit
from cellfm.tl._genes.function_judge import CANDIDATE, FROZEN
from cellfm.tl._genes.function_through import TUNED, TUNED_TWIN, Through, Tick, read_through
from cellfm.tl._genes.function_tuned import GeneTuning, TunedGenes
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

pytest.importorskip("sklearn")

SYMBOLS = tuple(gene.symbol for gene in GeneTable.load().genes[:60])
TUNING = GeneTuning(n_cells=20, n_epochs=2, rank=2, lora_lr=1e-2)


@pytest.fixture(scope="module")
def model() -> Pretrained:
    config = ModelConfig(n_genes=len(SYMBOLS), dim=16, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    vocabulary = Vocabulary.from_symbols(SYMBOLS)
    return Pretrained(network=network, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None)  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (30, len(SYMBOLS))).astype(np.float32)
    counts[:, -2:] = 0  # genes of no cell
    counts[:, 0] += 1
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=list(SYMBOLS)))


def through(model: Pretrained, cells: AnnData, tuning: GeneTuning = TUNING) -> Through:
    genes = tl.gene_embeddings(model)
    return read_through(genes, cells, model, EmbedOptions(), tuning=tuning, seed=0, tick=Tick(None))


def tuned(model: Pretrained, cells: AnnData, tuning: GeneTuning = TUNING) -> TunedGenes:
    read = through(model, cells, tuning)
    return TunedGenes(model, read.cells, read.token[:50], tuning=tuning, tick=read.tick)


def planted(n: int = 50) -> np.ndarray:
    return (np.random.default_rng(1).random(n) < 0.5)[:, None]


def test_frozen_states_are_the_contextual_embedding(model: Pretrained, cells: AnnData) -> None:
    read = through(model, cells)
    assert len(read.cells) == 20
    assert list(np.flatnonzero(~read.expressed)) == [58, 59]
    drawn = np.sort(np.random.default_rng(0).permutation(30)[:20])
    expected = tl.gene_embeddings(model, cells[drawn], kind="contextual")
    made = TunedGenes(model, read.cells, read.token[:50], tuning=TUNING, tick=read.tick).states
    np.testing.assert_allclose(made, expected[list(SYMBOLS[:50])].X, rtol=1e-4, atol=1e-5)


def test_training_begins_with_the_regression_on_frozen_states(
    model: Pretrained, cells: AnnData
) -> None:
    genes, flags = tuned(model, cells), planted()
    module = genes._module(flags, genes.states, seed=0)
    scores = genes._means(module, genes._tokens)
    expected = fit(genes.states, flags, seed=0)(genes.states)
    np.testing.assert_allclose(scores.sigmoid().numpy(), expected, atol=1e-4)


def test_labels_of_a_fold_do_not_reach_its_prediction(model: Pretrained, cells: AnnData) -> None:
    genes, flags = tuned(model, cells), planted()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    fold = np.arange(50) % 2
    changed = np.where((fold == 0)[:, None], ~flags, flags)
    one, again, other = (genes.out_of_fold(each, fold, 0) for each in (flags, flags, changed))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one[fold == 0], other[fold == 0])
    assert not np.array_equal(one[fold == 1], other[fold == 1])
    after = model.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_training_learns_its_genes(
    model: Pretrained, cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels at random: there is nothing in them for genes held back, which here are made to like the last epoch."""
    tuning = replace(TUNING, n_epochs=30, head_lr=1e-2)
    genes, flags = tuned(model, cells, tuning), planted()
    losses = iter(range(100, 0, -1))
    monkeypatch.setattr(genes, "_loss", lambda *_: float(next(losses)))
    p = genes.fit(flags, np.ones(50, bool), seed=0)(genes._tokens)
    held = np.random.default_rng(0).permutation(50)[:10]
    seen = np.setdiff1d(np.arange(50), held)
    start = fit(genes.states[seen], flags[seen], seed=0)(genes.states)
    loss = {name: -np.log(np.where(flags, q, 1 - q)) for name, q in (("p", p), ("start", start))}
    assert loss["p"][seen].mean() < loss["start"][seen].mean() - 0.05


def test_frozen_prediction_stays_where_no_epoch_is_better(
    model: Pretrained, cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    genes, flags = tuned(model, cells), planted()
    losses = iter(range(100))
    monkeypatch.setattr(genes, "_loss", lambda *_: float(next(losses)))
    p = genes.fit(flags, np.ones(50, bool), seed=0)(genes._tokens)
    np.testing.assert_allclose(p, fit(genes.states, flags, seed=0)(genes.states), atol=1e-6)


def test_means_by_gene_by_hand(model: Pretrained, cells: AnnData) -> None:
    values = torch.tensor([[1.0], [3.0], [5.0]])
    mean, count = mean_by_gene(values, torch.tensor([0, 2, 0]), 3)
    assert mean.flatten().tolist() == [3.0, 0.0, 3.0]
    assert count.tolist() == [2.0, 0.0, 1.0]
    # Every gene is averaged over just the cells that express it.
    read = through(model, cells)
    genes = TunedGenes(model, read.cells, read.token[:50], tuning=TUNING, tick=read.tick)
    batch = plain_batch(read.cells)
    made = genes._means(lambda part: part.value[part.scored][:, None], np.array([7, 3]))
    expected = [float(batch.value[batch.gene == token].mean()) for token in (7, 3)]
    np.testing.assert_allclose(made[:, 0], expected, rtol=1e-5)


def test_fine_tuning_is_judged_beside_frozen_and_random(model: Pretrained, cells: AnnData) -> None:
    genes = tl.gene_embeddings(model)
    flags = genes.X[:, 0] > 0
    names = np.array(SYMBOLS)
    labels = {"yes": names[flags], "no": names[~flags]}
    seen: list[tuple[int, int]] = []
    options = {"adata": cells, "model": model, "families": False, "n_random": 1, "n_folds": 2}
    found = tl.classify_genes(genes, labels, tuning=TUNING, progress=lambda *at: seen.append(at), **options)  # fmt: skip
    table = found.table.loc["random"]
    assert list(table.index[:6]) == [TUNED, TUNED_TWIN, FROZEN, CANDIDATE, TWIN, RANDOM]
    assert set(table["n"]) == {58}  # the two others are of no cell
    assert np.isnan(table.loc[TUNED, "p"])
    assert table.loc[FROZEN, "difference"] == pytest.approx(table.loc[TUNED, "auroc"] - table.loc[FROZEN, "auroc"])  # fmt: skip
    assert "Fine-tuning " in found.verdict
    assert found.predictions.empty  # all genes of these cells are labelled
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.filterwarnings("error")
def test_unusable_choices_are_refused(model: Pretrained, cells: AnnData) -> None:
    genes = tl.gene_embeddings(model)
    labels = {"yes": SYMBOLS[:25], "no": SYMBOLS[25:50]}
    with pytest.raises(ConfigError, match="Fine-tuning takes the states of genes in cells"):
        tl.classify_genes(genes, labels, model=model, tuning=TUNING)
    with pytest.raises(ConfigError, match="fine-tuned with a linear head"):
        tl.classify_genes(genes, labels, model=model, adata=cells, tuning=TUNING, head="mlp")
    strange = AnnData(genes.X, obs=genes.obs)
    with pytest.raises(ConfigError, match="weights that are not named"):
        tl.classify_genes(strange, labels, model=model, adata=cells, tuning=TUNING)
    for wrong in ({"n_cells": 0}, {"rank": 0}, {"lora_lr": 0.0}):
        with pytest.raises(ConfigError):
            GeneTuning(**wrong)
