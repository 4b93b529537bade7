import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm.bench.demo import METHODS, demo_config, run_demo
from cellfm.bench.demo_cells import demo_cells
from cellfm.bench.demo_report import verdict
from cellfm.bench.probe import PROBES, Difference, Estimate, ProbeRow, ProbeTable
from cellfm.cli import run
from cellfm.errors import ConfigError, DataError, OutputExistsError
from cellfm.train import HeldOutScore
from tests.e2e import simulate
from tests.e2e.conftest import Cellfm

# umap-learn says on import that it looked for TensorFlow, which nothing here uses
pytestmark = pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")

FILES = ("README.md", "embedded.h5ad", "table.json", "table.md", "umap.png")
TRAINED = (*FILES, "curve.png", "metrics.jsonl", "model")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run(["demo", str(out)]) == 0
    return out


def test_writes_everything_and_leaves_nothing_else(bundled: Path) -> None:
    assert sorted(path.name for path in bundled.iterdir()) == sorted(FILES)
    assert [path.name for path in bundled.parent.iterdir()] == ["demo"]
    assert (bundled / "umap.png").read_bytes().startswith(b"\x89PNG")


def test_table_has_all_methods_with_intervals_and_provenance(bundled: Path) -> None:
    facts = json.loads((bundled / "table.json").read_text())
    rows = {(row["method"], row["probe"]): row["macro_f1"] for row in facts["probes"]["rows"]}
    assert set(rows) == {(method, probe) for method in METHODS for probe in PROBES}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows.values())
    pairs = {(d["against"], d["probe"]) for d in facts["probes"]["differences"]}
    assert pairs == {(method, probe) for method in ("random weights", "PCA") for probe in PROBES}
    assert facts["n_train"] + facts["n_test"] == 700
    assert facts["n_test"] == facts["probes"]["rows"][0]["n_test"] == 209
    assert len(facts["split_sha256"]) == 64
    assert facts["seed"] == 0
    assert set(facts["seconds"]) == {"cells", "recovery", "embedding", "probes", "picture"}
    assert {"cellfm", "torch", "scanpy"} < set(facts["versions"])
    text = (bundled / "table.md").read_text()
    assert all(f"| {method} | {probe} |" in text for method, probe in rows)
    assert all(f"- {sentence}" in text for sentence in facts["verdict"])


def test_embedded_file_says_which_cells_were_held_out(bundled: Path) -> None:
    adata = anndata.read_h5ad(bundled / "embedded.h5ad")
    test = (adata.obs["split"] == "test").to_numpy()
    assert {key: adata.obsm[key].shape for key in METHODS.values()} == {
        "X_cellfm": (700, 128),
        "X_random": (700, 128),
        "X_pca": (700, 50),
    }
    for key in ("X_umap_cellfm", "X_umap_pca"):
        assert np.array_equal(np.isfinite(adata.obsm[key]).all(axis=1), test)
    # Components fitted on the training cells have their mean at 0 there, and only there.
    assert np.abs(adata.obsm["X_pca"][~test].mean(axis=0)).max() < 1e-4
    assert np.abs(adata.obsm["X_pca"][test].mean(axis=0)).max() > 1e-2
    hashes = {adata.uns["cellfm"][key]["weights_hash"] for key in ("X_cellfm", "X_random")}
    assert len(hashes) == 2


def test_existing_folder_is_kept(cellfm: Cellfm, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    outcome = cellfm("demo", tmp_path, "--steps", "1")
    assert outcome.code == 2
    assert "exists already" in outcome.err
    # Not even on request is something replaced that is no demo.
    with pytest.raises(OutputExistsError, match=r"holds no table\.json"):
        run_demo(tmp_path, steps=1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_own_counts_without_labels_give_a_picture_and_no_table(
    cellfm: Cellfm, tmp_path: Path
) -> None:
    source = simulate.counts(tmp_path / "few.h5ad", n_cells=60)
    outcome = cellfm("demo", tmp_path / "out", "--input", source, "--steps", "1")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(TRAINED)
    assert "No labels were given, so nothing was probed" in outcome.out
    assert json.loads((tmp_path / "out" / "table.json").read_text())["probes"] is None
    assert (tmp_path / "out" / "umap.png").is_file()
    outcome = cellfm("demo", tmp_path / "out", "--input", source, "--label", "nope", "--overwrite")
    assert outcome.code == 2
    assert "There is no column 'nope' in obs" in outcome.err
    assert (tmp_path / "out" / "umap.png").is_file()


def test_split_is_seeded_and_keeps_the_share_of_each_type() -> None:
    first, again, other = (demo_cells(None, None, seed=seed) for seed in (0, 0, 1))
    assert first.split_hash == again.split_hash != other.split_hash
    labels = first.adata.obs["bulk_labels"]
    share = (~first.train).astype(float)
    for kind in labels.cat.categories:
        assert abs(share[(labels == kind).to_numpy()].mean() - 0.3) < 0.15


def test_unusable_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*absent"):
        demo_cells(tmp_path / "absent", None, seed=0)
    with pytest.raises(DataError, match=r"'x' was given without an input; .* 'bulk_labels'"):
        demo_cells(None, "x", seed=0)
    few = anndata.AnnData(np.ones((9, 4), np.float32))
    few.write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(DataError, match=r"There are 9 cells; the demo needs at least 50"):
        demo_cells(tmp_path / "few.h5ad", None, seed=0)
    with pytest.raises(ConfigError, match="steps is -1; it must be at least 0"):
        run_demo(tmp_path / "out", steps=-1)


def test_everything_scored_is_hidden() -> None:
    """Otherwise the gene-mean line is beaten by looking."""
    assert demo_config(100, seed=0).data.hidden_fraction == 1.0


def test_verdict_does_not_spin() -> None:
    loss = HeldOutScore(
        name="cells",
        gene_loss=0.5,
        cell_loss=0.3,
        baselines={"gene_mean": 0.4},
        gene_r2=None,
        n_scored=9,
    )
    scores = {"CellFM": 0.5, "random weights": 0.4, "PCA": 0.7}
    rows = tuple(
        ProbeRow(
            method=m,
            probe="kNN",
            macro_f1=Estimate(value=v, low=v, high=v),
            n_train=9,
            n_test=9,
            chosen="",
        )
        for m, v in scores.items()
    )
    gains = {"random weights": (0.1, -0.1, 0.3), "PCA": (-0.2, -0.3, -0.1)}
    differences = tuple(
        Difference(
            method="CellFM", against=m, probe="kNN", macro_f1=Estimate(value=v, low=low, high=high)
        )
        for m, (v, low, high) in gains.items()
    )
    text = verdict(ProbeTable(rows=rows, differences=differences, n_classes=3), loss)
    assert "gene-wise decoder 0.500, not below the 0.400" in text[0]
    assert "cell-wise decoder 0.300, below the 0.400" in text[0]
    assert text[1].endswith("PCA (0.700), then CellFM (0.500), then random weights (0.400).")
    assert "includes 0, so neither is shown to be better" in text[2]
    assert "CellFM is worse: the interval excludes 0" in text[3]
