"""Pretraining on the command line, and what its run folder holds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm import tl
from cellfm.cli import run as run_command
from cellfm.config import PretrainConfig
from cellfm.config import load as load_config
from cellfm.errors import ConfigError, DataError, OutputExistsError, ResumeError
from cellfm.genes import Vocabulary
from cellfm.train import RunProgress
from cellfm.weights.folder import load
from tests.e2e import simulate
from tests.e2e.conftest import Cellfm


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def vocabulary(simulated: Path) -> Vocabulary:
    """Only the genes of the data: a small table trains in no time."""
    return Vocabulary.from_symbols(list(anndata.read_h5ad(simulated).var_names)[:-5])


def test_pretrain_makes_a_run_and_a_model(cellfm: Cellfm, simulated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "debug", simulated, "optim.lr=2e-3", "--out", run]
    outcome = cellfm(*words)
    assert outcome.code == 0, outcome.err
    assert "20 steps done" in outcome.out
    assert "gene's mean" in outcome.out
    assert f"wrote {run / 'model'}, {run / 'metrics.jsonl'}" in outcome.out
    (table,) = [
        line.split() for line in outcome.out.splitlines() if line.strip().startswith("cells")
    ]
    score = metrics(run)[-1]
    names = ["gene_loss", "cell_loss", "untrained_gene_loss", "gene_mean_loss", "pca_loss"]
    assert table[:7] == [
        "cells",
        f"{score['n_scored']:,}",
        *(f"{score[name]:.4f}" for name in names),
    ]
    assert "step 10 of 20: cells gene-wise" in outcome.err
    config = json.loads((run / "config.json").read_text())
    assert config["optim"]["lr"] == 2e-3
    assert config["model"]["n_genes"] == len(Vocabulary.from_hgnc())
    assert (
        Vocabulary.read(run / "genes.tsv").hash
        == json.loads((run / "run.json").read_text())["vocabulary"]
    )
    data = json.loads((run / "data.json").read_text())
    assert data["n_cells"] == simulate.N_CELLS
    assert data["genes"]["n_matched"] == simulate.N_GENES - simulate.N_STRANGE
    assert 0.9 < data["genes"]["coverage"] < 1.0
    losses = [line["loss"] for line in metrics(run) if line["kind"] == "train"]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    pretrained = load(run / "model")
    assert pretrained.network.config.n_genes == config["model"]["n_genes"]
    assert pretrained.provenance["n_steps"] == "20"
    card = (run / "model" / "card.md").read_text()
    for part in ("simulated.h5ad", "each gene's mean", "Licence", "20 steps"):
        assert part in card
    embedded = cellfm("embed", simulated, tmp_path / "out.h5ad", "--model", run / "model")
    assert embedded.code == 0, embedded.err


def test_existing_run_is_only_gone_on_with_when_asked(
    cellfm: Cellfm, simulated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "debug", simulated, "schedule.n_steps=2", "--out", run]
    assert cellfm(*words).code == 0
    weights = (run / "model" / "model.safetensors").read_bytes()
    refused = cellfm(*words)
    assert refused.code == 2
    assert "--resume" in refused.err
    assert cellfm(*words, "--resume").code == 0
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    other = cellfm(*words, "--resume", "run.seed=1")
    assert other.code == 2
    assert "run.seed (0 there, 1 now)" in other.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["debug", "model.n_layrs=3"], "Did you mean 'n_layers'?"),
        (["debgu"], "Did you mean 'debug'?"),
        (["debug", "optim.lr"], "not of the form key=value"),
        (["debug", "optim.lr=fast"], "optim.lr"),
        (
            ["debug", "data.thin=true", "--layer", "logged", "--scale", "log1p"],
            "Set data.thin=false",
        ),
        (["debug", "--device", "abacus"], "The device 'abacus' cannot be used"),
        (["debug", "data.where=[tissue=blood]"], "data.where choose cells by the metadata"),
        (["debug", "--layer", "spliced"], "no layer 'spliced'"),
        (["debug", "--layer", "logged"], "log1p-normalised"),
    ],
)
def test_mistakes_are_explained(
    cellfm: Cellfm, simulated: Path, tmp_path: Path, *, words: list[str], message: str
) -> None:
    outcome = cellfm("pretrain", words[0], simulated, *words[1:], "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


class Stop(Exception):
    """Ends a run in the middle."""


def test_resume_equals_the_straight_run(
    simulated: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(simulated)
    config = load_config(PretrainConfig, "debug", ["run.checkpoint_every=4", "schedule.n_steps=12"])
    straight = tl.pretrain(adata, config, tmp_path / "straight", vocabulary=vocabulary)

    def stop(now: RunProgress) -> None:
        if now.step == 7:
            raise Stop

    with pytest.raises(Stop):
        tl.pretrain(adata, config, tmp_path / "torn", vocabulary=vocabulary, progress=stop)
    assert not (tmp_path / "torn" / "model").exists()
    seen: list[tuple[int, int]] = []
    resumed = tl.pretrain(
        adata,
        config,
        tmp_path / "torn",
        resume=True,  # the genes come from the run's own genes.tsv
        progress=lambda now: seen.append((now.step, now.n_steps)),
    )
    assert seen == [(step, 12) for step in range(5, 13)]  # from the checkpoint of step 4
    assert resumed.held_out == straight.held_out
    one, two = load(tmp_path / "straight" / "model"), load(tmp_path / "torn" / "model")
    assert one.hash == two.hash
    assert one.vocabulary == two.vocabulary == vocabulary


def test_other_data_cannot_be_resumed(
    simulated: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(simulated)
    config = load_config(PretrainConfig, "debug", ["schedule.n_steps=1", "schedule.warmup_steps=0"])
    tl.pretrain(adata, config, tmp_path / "run", vocabulary=vocabulary)
    with pytest.raises(ResumeError, match=r"a run on other counts: 600 cells.*there, 599 cells"):
        tl.pretrain(adata[1:].copy(), config, tmp_path / "run", resume=True)


def test_folder_that_is_no_run(simulated: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(simulated)
    config = load_config(PretrainConfig, "debug")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ResumeError, match="holds no run"):
        tl.pretrain(adata, config, tmp_path, vocabulary=vocabulary, resume=True)
    with pytest.raises(OutputExistsError, match="not empty"):
        tl.pretrain(adata, config, tmp_path, vocabulary=vocabulary)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_log1p_data_train_without_thinning(
    simulated: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(simulated)
    steps = ["schedule.n_steps=2", "data.held_out=0"]
    config = load_config(PretrainConfig, "debug", [*steps, "data.thin=false"])
    options = {"layer": "logged", "scale": "log1p", "vocabulary": vocabulary}
    result = tl.pretrain(adata, config, tmp_path / "run", **options)
    assert result.finished
    assert result.held_out == ()
    assert "No cells were held out" in (tmp_path / "run" / "model" / "card.md").read_text()
    thinned = load_config(PretrainConfig, "debug", [*steps, "data.thin=true"])
    with pytest.raises(ConfigError, match="no counts to thin"):
        tl.pretrain(adata, thinned, tmp_path / "other", **options)


def test_empty_cells_are_left_out(simulated: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(simulated)
    dense = adata.X.toarray()
    dense[:3] = 0.0
    config = load_config(PretrainConfig, "debug", ["schedule.n_steps=2"])
    empty = anndata.AnnData(np.zeros_like(dense), var=adata.var)
    adata.X = dense
    tl.pretrain(adata, config, tmp_path / "run", vocabulary=vocabulary)
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (data["n_cells"], data["n_empty"]) == (simulate.N_CELLS - 3, 3)
    with pytest.raises(DataError, match="None of the 600 cells has a count"):
        tl.pretrain(empty, config, tmp_path / "none", vocabulary=vocabulary)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two files with two donors each."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, seed in {"first": 1, "second": 2}.items():
        path = simulate.counts(folder / f"{name}.h5ad", n_cells=300, seed=seed)
        adata = anndata.read_h5ad(path)
        adata.obs["donor"] = [f"{name}{i % 2}" for i in range(adata.n_obs)]
        adata.write_h5ad(path)
    words = [folder / "first.h5ad", folder / "second.h5ad", folder / "store", "--min-genes", 1]
    assert run_command([str(word) for word in ["corpus", "build", *words]]) in (0, None)
    return folder / "store"


def test_pretrain_on_a_store(cellfm: Cellfm, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = ["data.held_out_datasets=[second]", "data.held_out=0.1", "data.weights.first=2"]
    words = ["pretrain", "debug", store, *chosen, "data.lanes=2", "--out", run]
    outcome = cellfm(*words, "schedule.n_steps=8")
    assert outcome.code == 0, outcome.err
    assert {line["set"] for line in metrics(run) if line["kind"] == "held_out"} == {
        "dataset=second",
        "cells",
    }
    data = json.loads((run / "data.json").read_text())
    assert data["sha256"] == json.loads((store / "corpus.json").read_text())["hash"]
    assert data["n_held_out"]["dataset=second"] == 300
    assert data["n_train"] + data["n_held_out"]["cells"] == 300
    assert load(run / "model").vocabulary == Vocabulary.read(store / "genes.tsv")
    assert "the corpus store" in (run / "model" / "card.md").read_text()
    again = cellfm(*words, "schedule.n_steps=8", "--resume")
    assert again.code == 0, again.err
    other = cellfm(*words, "schedule.n_steps=8", "--resume", "data.held_out=0.2")
    assert other.code == 2
    assert "or another choice of cells" in other.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.held_out_datasets=[secnd]"], "There is no dataset 'secnd' in the corpus. Did you"),
        (["--layer", "counts"], "is a corpus store: its counts and genes are fixed"),
        (["run.trackers=[wandb]"], "which is not installed: pip install wandb"),
    ],
)
def test_mistakes_with_a_store_are_explained(
    cellfm: Cellfm, store: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    outcome = cellfm("pretrain", "debug", store, *words, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err


def test_data_that_are_forgotten_or_not_there(cellfm: Cellfm, tmp_path: Path) -> None:
    for words, message in {
        (): "The data come after the recipe, but there is none",
        ("optim.lr=1e-3",): "but 'optim.lr=1e-3' is a change to the recipe",
        (tmp_path / "absent.h5ad",): "There is no ",
    }.items():
        outcome = cellfm("pretrain", "debug", *words)
        assert outcome.code == 2
        assert message in outcome.err


def test_a_run_has_a_folder_of_its_own_name(
    cellfm: Cellfm, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["schedule.n_steps=1", "schedule.warmup_steps=0"]
    assert cellfm("pretrain", "debug", simulated, *words).code == 0
    assert (tmp_path / "runs" / "debug-simulated" / "model").is_dir()


def test_plan(cellfm: Cellfm, store: Path) -> None:
    outcome = cellfm("pretrain", "--plan", "800m", "cells=100e6", "gpus=32", "gpu=h200")
    assert outcome.code == 0, outcome.err
    assert "100,000,000 cells on 32" in outcome.out
    of_store = cellfm("pretrain", "--plan", "mini", store, "gpu=cpu")
    assert of_store.code == 0, of_store.err
    assert "mini: 600 cells" in of_store.out


@pytest.mark.slow
def test_sigterm_saves_and_says_so(simulated: Path, tmp_path: Path) -> None:
    """From outside, as a batch system does; the same command with --resume goes on."""
    run = tmp_path / "run"
    words = ["pretrain", "debug", simulated, "schedule.n_steps=100000", "--out", run, "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", "import cellfm.cli; cellfm.cli.main()", *map(str, words)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # of the first evaluation
        assert line.startswith("step 10 of"), line
        break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "")
    assert "Ended by SIGTERM" in err
    assert "--resume" in err
    newest = max((run / "checkpoints").iterdir())
    assert json.loads((newest / "state.json").read_text())["step"] == int(newest.name[5:])
    assert not list((run / "checkpoints").glob(".*"))
