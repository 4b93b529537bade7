"""A count file becomes embeddings on the command line."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from cellfm.tl import _states
from tests.e2e.conftest import Cellfm
from tests.e2e.simulate import N_CELLS, N_GENES, N_STRANGE

ROOT = Path(__file__).resolve().parents[2]

KILLED_HALFWAY = """
import contextlib, os, signal, sys
from cellfm import cli
from cellfm.cli import progress
from cellfm.tl import _states

_states.routing_pays = lambda width: False

@contextlib.contextmanager
def bar(what, *, unit):
    yield lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done < total else None

progress.progress_bar = bar
cli.run(sys.argv[1:])
"""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_embed_writes_a_copy_with_states(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    before, target = digest(simulated), tmp_path / "out.h5ad"
    outcome = cellfm("embed", simulated, target, "--model", model)
    assert outcome.code == 0, outcome.err
    assert f"{N_GENES - N_STRANGE} of {N_GENES} input genes matched" in outcome.out
    assert "STRANGE0" in outcome.out
    assert "cells/s" in outcome.out
    assert f'wrote {target}: obsm["X_cellfm"], {N_CELLS} × 32' in outcome.out
    assert digest(simulated) == before
    source, result = anndata.read_h5ad(simulated), anndata.read_h5ad(target)
    states = result.obsm["X_cellfm"]
    assert states.shape == (N_CELLS, 32)
    assert states.dtype == np.float32
    assert np.isfinite(states).all()
    assert (source.X != result.X).nnz == 0
    assert list(result.obs_names) == list(source.obs_names)
    notes = result.uns["cellfm"]["X_cellfm"]
    assert notes["weights_hash"] == digest(model / "model.safetensors")
    assert notes["options"]["scale"] == "counts"
    assert notes["genes"]["n_matched"] == N_GENES - N_STRANGE
    assert 0.9 < notes["genes"]["coverage"] < 1.0
    assert list(tmp_path.iterdir()) == [target]


def test_existing_output_is_kept_unless_asked(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.h5ad"
    target.write_text("mine")
    refused = cellfm("embed", simulated, target, "--model", model)
    assert refused.code == 2
    assert str(target) in refused.err
    assert "overwrite" in refused.err
    assert target.read_text() == "mine"
    assert cellfm("embed", simulated, target, "--model", model, "--overwrite").code == 0
    assert "X_cellfm" in anndata.read_h5ad(target).obsm


def test_options_reach_the_result(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.h5ad"
    words = [
        "--gene-names",
        "ensembl",
        "--genes=cell_type",
        "--key-added",
        "mine",
        "--max-genes",
        50,
    ]
    assert cellfm("embed", simulated, target, "--model", model, *words).code == 0
    result = anndata.read_h5ad(target)
    assert result.obsm["mine"].shape == (N_CELLS, 32)
    assert {"mine_type0", "mine_type1"} <= set(result.varm)
    notes = result.uns["cellfm"]["mine"]
    assert notes["genes"]["n_matched"] == N_GENES
    assert notes["options"]["max_genes"] == 50


def test_killed_run_goes_on_to_the_identical_result(
    cellfm: Cellfm,
    simulated: Path,
    model: Path,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The probe of the processor decides between two product routines by speed; here it must decide alike.
    monkeypatch.setattr(_states, "routing_pays", lambda width: False)
    whole, target = tmp_path / "whole.h5ad", tmp_path / "killed.h5ad"
    words = ["--model", model, "--token-budget", 1000]
    assert cellfm("embed", simulated, whole, *words).code == 0
    command = [sys.executable, "-c", KILLED_HALFWAY, "embed", simulated, target, *words]
    killed = subprocess.run(
        list(map(str, command)), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert (tmp_path / "killed.h5ad.partial").is_dir()
    resumed = cellfm("embed", simulated, target, *words)
    assert resumed.code == 0, resumed.err
    assert f"of these from an earlier run │ {_states.BLOCK}" in resumed.out
    first, second = anndata.read_h5ad(whole), anndata.read_h5ad(target)
    np.testing.assert_array_equal(first.obsm["X_cellfm"], second.obsm["X_cellfm"])
    assert (
        first.uns["cellfm"]["X_cellfm"]["genes"]["coverage"]
        == second.uns["cellfm"]["X_cellfm"]["genes"]["coverage"]
    )
    assert sorted(tmp_path.iterdir()) == [target, whole]


def test_log_normalised_input_is_refused_with_the_way_out(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.h5ad"
    words = ["embed", simulated, target, "--model", model, "--layer", "logged"]
    refused = cellfm(*words)
    assert refused.code == 2
    assert "log1p-normalised" in refused.err
    assert "--scale log1p" in refused.err
    assert "Traceback" not in refused.err
    assert not target.exists()
    assert cellfm(*words, "--scale", "log1p").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "{tmp}/absent.h5ad", "{tmp}/out.h5ad", "--model", "{model}"], "absent.h5ad"),
        (["embed", "{model}/card.md", "{tmp}/out.h5ad", "--model", "{model}"], "cannot be opened as HDF5"),
        (["embed", "{counts}", "{tmp}/out.h5ad", "--model", "nowhere"], "There are no weights at 'nowhere'"),
        (["embed", "{counts}", "{tmp}/out.h5ad", "--model", "{model}", "--layer", "spliced"], "no layer 'spliced'"),
        (["embed", "{counts}", "{tmp}/out.h5ad", "--model", "{model}", "--gene-names", "id"], "no column 'id'"),
        (["embed", "{counts}", "{counts}", "--model", "{model}"], "simulated.h5ad"),
        (["embed", "{counts}", "{counts}", "--model", "{model}", "--overwrite"], "simulated.h5ad"),
        (["genes", "check", "{model}/card.md"], "cannot be opened as HDF5"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path, *, words: list[str], message: str
) -> None:
    before = digest(simulated)
    filled = [word.format(tmp=tmp_path, model=model, counts=simulated) for word in words]
    outcome = cellfm(*filled)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert digest(simulated) == before
    assert not (tmp_path / "out.h5ad").exists()


def test_pbmc3k(cellfm: Cellfm, shared_data: Path, model: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "pbmc3k" / "pbmc3k.h5ad")[:200].copy()
    adata.write_h5ad(tmp_path / "pbmc.h5ad")
    outcome = cellfm("embed", tmp_path / "pbmc.h5ad", tmp_path / "out.h5ad", "--model", model)
    assert outcome.code == 0, outcome.err
    n_matched = re.search(r"([\d,]+) of 13,714 input genes matched", outcome.out)
    assert n_matched is not None
    assert int(n_matched[1].replace(",", "")) > 12_000
    states = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_cellfm"]
    assert states.shape == (200, 32)
    assert np.isfinite(states).all()
    assert states.std(axis=0).min() > 0.0


def test_mouse_genes_are_refused(cellfm: Cellfm, model: Path, tmp_path: Path) -> None:
    names = ["Actb", "Cd3e", "Gapdh", "Malat1", "Cd19", "Ms4a1", "Lyz2", "Cd8a", "Foxp3", "Nkg7"]
    adata = anndata.AnnData(sparse.csr_matrix(np.ones((3, len(names)), np.float32)))
    adata.var_names = names
    adata.write_h5ad(tmp_path / "mouse.h5ad")
    outcome = cellfm("embed", tmp_path / "mouse.h5ad", tmp_path / "out.h5ad", "--model", model)
    assert outcome.code == 2
    assert "mouse" in outcome.err
