"""Pretraining on the command line, and what its run folder holds."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm import tl
from cellfm.config import PretrainConfig
from cellfm.config import load as load_config
from cellfm.errors import ConfigError, DataError, OutputExistsError, ResumeError
from cellfm.genes import Vocabulary
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
    words = ["pretrain", "debug", "optim.lr=2e-3", "--data", simulated, "--out", run]
    outcome = cellfm(*words)
    assert outcome.code == 0, outcome.err
    assert "20 steps done" in outcome.out
    assert "each gene's mean" in outcome.out
    assert f"wrote {run / 'model'}" in outcome.out
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
    words = ["pretrain", "debug", "schedule.n_steps=2", "--data", simulated, "--out", run]
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
        (["debug", "--layer", "spliced"], "no layer 'spliced'"),
        (["debug", "--layer", "logged"], "log1p-normalised"),
    ],
)
def test_mistakes_are_explained(
    cellfm: Cellfm, simulated: Path, tmp_path: Path, *, words: list[str], message: str
) -> None:
    outcome = cellfm("pretrain", *words, "--data", simulated, "--out", tmp_path / "run")
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

    def stop(done: int, total: int) -> None:
        if done == 7:
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
        progress=lambda done, total: seen.append((done, total)),
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
    assert result.held_out is None
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
