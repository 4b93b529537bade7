"""What a pretraining run starts its gene table at."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.config import DataConfig, ModelConfig, ObjectiveConfig, PretrainConfig, ScheduleConfig
from cellfm.corpus.baselines import Baselines
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.tl import _pretrain_job
from cellfm.weights.folder import load

N_CELLS, UNSEEN = 90, "IL7R"


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.from_symbols(
        ["ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7", "PPBP", "CD8A", UNSEEN, "GNLY", "B2M"]
    )


@pytest.fixture
def adata(vocabulary: Vocabulary) -> AnnData:
    rng = np.random.default_rng(0)
    names = [symbol for symbol in vocabulary.symbols if symbol != UNSEEN]
    counts = rng.poisson(1.0, (N_CELLS, len(names))).astype(np.float32)
    counts[:, :2] += 1
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=names))


@pytest.fixture
def config() -> PretrainConfig:
    """One step of no length: the weights stay where they start."""
    return PretrainConfig(
        model=ModelConfig(
            n_genes=1, dim=16, n_layers=1, n_heads=2, value_bins=8, detection_head=True
        ),
        data=DataConfig(token_budget=60, genes_per_cell=6, gene_start="pca", lanes=2),
        objective=ObjectiveConfig(detection=0.5),
        schedule=ScheduleConfig(n_steps=4, warmup_steps=4),
    )


def changed(config: PretrainConfig, **data: object) -> PretrainConfig:
    return replace(config, data=replace(config.data, **data))


@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_seen_genes_start_at_the_table_and_others_at_random(
    adata, vocabulary, config, tmp_path, monkeypatch, held_out
):
    """With held-out cells, whose judges are the same fit, and without any."""
    started, fitted = [], []
    real, fit = _pretrain_job.train, Baselines.fit

    def watch(config, *rest, **options):
        started.append(options["gene_start"])
        return real(config, *rest, **options)

    def keep(*cells, **options):
        fitted.append(fit(*cells, **options))
        return fitted[-1]

    monkeypatch.setattr(_pretrain_job, "train", watch)
    monkeypatch.setattr(Baselines, "fit", keep)
    still = replace(config, optim=replace(config.optim, lr=1e-30))
    config = changed(still, held_out=held_out)
    tl.pretrain(adata, config, tmp_path / "run", vocabulary=vocabulary, device="cpu")
    (table,), (baselines,) = started, fitted
    assert torch.equal(table, torch.from_numpy(baselines.gene_table(16, seed=0)))
    found = load(tmp_path / "run" / "model").network.gene_embedding.weight.detach()
    fresh = initialise(
        CellFM(replace(config.model, n_genes=len(vocabulary))), torch.Generator().manual_seed(0)
    ).gene_embedding.weight.detach()
    unseen = 1 + list(vocabulary.symbols).index(UNSEEN)
    given = [row for row in range(1, len(vocabulary) + 1) if row != unseen]
    assert bool(table[given].any(dim=1).all())
    torch.testing.assert_close(found[given], table[given], rtol=1e-6, atol=0)
    rest = [0, unseen, *range(len(vocabulary) + 1, len(found))]
    torch.testing.assert_close(found[rest], fresh[rest], rtol=1e-6, atol=0)


def test_a_random_start_fits_nothing_without_held_out_cells(
    adata, vocabulary, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(Baselines, "fit", None)
    config = changed(config, gene_start="random", held_out=0.0)
    assert tl.pretrain(adata, config, tmp_path / "run", vocabulary=vocabulary).finished


def test_other_processes_take_the_table_of_the_first(config, vocabulary, tmp_path):
    """They have fitted nothing, and give what the first one sends them."""

    class Second:
        def broadcast(self, tensor):
            assert tensor.shape == (12, 16)
            assert not tensor.any()
            return tensor.fill_(3.0)

    config = replace(config, model=replace(config.model, n_genes=11))
    job = _pretrain_job.PretrainJob(
        config=config,
        out=tmp_path,
        vocabulary=vocabulary,
        world=Second(),
        origin="",
        resume=False,
    )
    assert bool((job._gene_start(None) == 3.0).all())


def test_a_resumed_run_does_not_start_again(adata, vocabulary, config, tmp_path):
    """With all three: detection, drawn genes and the table."""

    class Stop(Exception):
        pass

    def stop(now):
        if now.step == 2:
            raise Stop

    config = replace(config, run=replace(config.run, checkpoint_every=1))
    straight = tl.pretrain(adata, config, tmp_path / "straight", vocabulary=vocabulary)
    with pytest.raises(Stop):
        tl.pretrain(adata, config, tmp_path / "torn", vocabulary=vocabulary, progress=stop)
    resumed = tl.pretrain(adata, config, tmp_path / "torn", resume=True)
    assert resumed.held_out == straight.held_out
    one, two = (load(tmp_path / name / "model") for name in ("straight", "torn"))
    assert one.hash == two.hash
    assert one.network.config.detection_head
