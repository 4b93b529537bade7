"""A simulated screen is learned from, perturbations are predicted and searched, on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

from cellfm.cli import run
from tests.e2e.conftest import Cellfm

WORDS = ("--min-cells", 5, "--folds", 3, "--drop-unknown")


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    words = (
        "--cells 900 --genes 100 --types 2 --lineages 2 --perturbations 8 --doubles 6 --coupling 1"
    )
    assert run(["simulate", str(path), *words.split()]) == 0
    return path


@pytest.fixture(scope="module")
def trained(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    words = [str(word) for word in ("perturb", "train", screen, out, *WORDS)]
    assert run(words) == 0
    return out


def test_training_prints_the_table_with_its_controls(
    cellfm: Cellfm, screen: Path, tmp_path: Path
) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    out, report = tmp_path / "out", tmp_path / "report.html"
    made = cellfm("perturb", "train", screen, out, *WORDS, "--report", report)
    assert made.code == 0, made.err
    for name in ("cellfm", "random weights", "no-change", "perturbed-mean", "additive", "bilinear-pca", "knn", "ceiling"):  # fmt: skip
        assert f"  {name}" in made.out
    assert "Unseen conditions are recognised" in made.out
    assert f"wrote {out}, {out / 'scores.tsv'}, {out / 'responses.tsv'}, {report}" in made.out
    scores = pd.read_csv(out / "scores.tsv", sep="\t")
    assert {"method", "condition", "pds", "l2_top1000"} <= set(scores.columns)
    responses = pd.read_csv(out / "responses.tsv", sep="\t")
    assert list(responses.columns) == ["condition", "gene", "predicted", "predicted_sd", "measured", "measured_sd"]  # fmt: skip
    assert "<html" in report.read_text(encoding="utf-8")[:200]
    refused = cellfm("perturb", "train", screen, out, *WORDS)
    assert refused.code == 2
    assert "exists already" in refused.err


def test_prediction_writes_cells_and_interactions(
    cellfm: Cellfm, screen: Path, trained: Path, tmp_path: Path
) -> None:
    names = read_h5ad(screen, backed="r").obs["perturbation"].cat.categories
    single = next(name for name in names if "+" not in name and name != "control")
    double = next(name for name in names if "+" in name)
    target = tmp_path / "predicted.h5ad"
    words = (single, double, "--cells", 20, "--no-transfer")
    made = cellfm("perturb", "predict", trained, screen, target, *words)
    if made.code and "not among" in made.err:
        pytest.skip("the simulator's first genes are not all in the packaged model")
    assert made.code == 0, made.err
    cells = read_h5ad(target)
    assert (cells.obs["perturbation"] == single).sum() == 20
    assert np.issubdtype(cells.X.dtype, np.integer)
    table = pd.read_csv(tmp_path / "predicted.interactions.tsv", sep="\t")
    assert list(table["perturbation"]) == ["+".join(sorted(double.split("+")))]
    assert "pairs against the sum of their genes" in made.out
    refused = cellfm("perturb", "predict", trained, screen, target, single)
    assert refused.code == 2
    assert "exists already" in refused.err
    refused = cellfm("perturb", "predict", trained, screen, tmp_path / "x.h5ad", "STAT11")
    assert refused.code == 2
    assert "STAT11 (near: STAT1" in refused.err
    assert not (tmp_path / "x.h5ad").exists()


def test_reverse_search_writes_every_candidate(
    cellfm: Cellfm, screen: Path, trained: Path, tmp_path: Path
) -> None:
    target = tmp_path / "ranked.tsv"
    adata = read_h5ad(screen, backed="r")
    name = adata.obs["perturbation"].value_counts().drop("control").index[0]
    words = ("perturb", "reverse", trained, screen, target, "--groupby", "perturbation")
    made = cellfm(*words, "--to", name, "--start", "control")
    assert made.code == 0, made.err
    table = pd.read_csv(target, sep="\t")
    assert table["rank"].is_monotonic_increasing
    assert {"score", "seen", "additive_rank", "centroid_rank"} <= set(table.columns)
    assert "candidates" in made.out
    refused = cellfm(*words, "--to", "nothing", "--overwrite")
    assert refused.code == 2
    assert "has 0 cells 'nothing'" in refused.err
    assert len(pd.read_csv(target, sep="\t")) == len(table)


def test_refusals_leave_nothing(
    cellfm: Cellfm, simulated: Path, trained: Path, tmp_path: Path
) -> None:
    refused = cellfm("perturb", "train", simulated, tmp_path / "out")
    assert refused.code == 2
    assert "There is no column 'perturbation' in obs" in refused.err
    refused = cellfm("perturb", "predict", tmp_path, simulated, tmp_path / "x.h5ad", "CD3E")
    assert refused.code == 2
    assert "There is no artifact" in refused.err
    assert not list(tmp_path.iterdir())
