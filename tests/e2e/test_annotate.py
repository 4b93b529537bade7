"""A reference becomes an annotator, and a query gets its labels, on the command line."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from tests.e2e.conftest import Cellfm

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")


@pytest.fixture
def halves(simulated: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two halves of the simulated cells, with labels by the count of a gene."""
    adata = anndata.read_h5ad(simulated)
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs["depth"] = np.where(total > np.median(total), "deep", "shallow")
    paths = tmp_path / "ref.h5ad", tmp_path / "query.h5ad"
    adata[::2].copy().write_h5ad(paths[0])
    adata[1::2].copy().write_h5ad(paths[1])
    return paths


def test_train_then_annotate(
    cellfm: Cellfm, halves: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    reference, query = halves
    out = tmp_path / "annotator"
    outcome = cellfm("annotate", "train", reference, out, "--model", model, "--label", "depth")
    assert outcome.code == 0, outcome.err
    assert "PCA-50 + LR" in outcome.out
    assert f"wrote {out}" in outcome.out
    outcome = cellfm("annotate", query, "--model", out, "--truth", "depth")
    assert outcome.code == 0, outcome.err
    assert "query cells by truth and label" in outcome.out
    labelled = anndata.read_h5ad(tmp_path / "query.annotated.h5ad")
    assert set(labelled.obs["cellfm"]) <= {"deep", "shallow", "unknown"}
    assert (tmp_path / "query.annotated.confusion.tsv").read_text().startswith("truth (query)\t")
    again = cellfm("annotate", query, "--model", out)
    assert again.code == 2
    assert "exists already" in again.err


def test_refusals_write_nothing(
    cellfm: Cellfm, halves: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    reference, query = halves
    before = sorted(tmp_path.iterdir())
    calls = (
        ((), "labelled reference"),
        (("--reference", reference, "--model", model, "--label", "nil"), "no column 'nil'"),
        (("--reference", tmp_path / "none.h5ad", "--model", model), "There is no file"),
    )
    for words, message in calls:
        outcome = cellfm("annotate", query, *words)
        assert outcome.code == 2
        assert message in outcome.err
    assert sorted(tmp_path.iterdir()) == before


def test_plan_needs_no_files(cellfm: Cellfm, tmp_path: Path) -> None:
    outcome = cellfm("annotate", "train", "--plan", "800m", "--strength", "lora", "--rank", "4")
    assert outcome.code == 0, outcome.err
    for word in ("weights", "gradients", "optimiser", "activations", "total", "full fine-tune"):
        assert word in outcome.out
    assert "LoRA, rank 4: largest token budget that fits 16 GiB" in outcome.out
    outcome = cellfm("annotate", "train", "--plan", "900m")
    assert outcome.code == 2
    assert "There is no preset '900m'" in outcome.err
    outcome = cellfm("annotate", "train")
    assert outcome.code == 2
    assert "There is no SOURCE" in outcome.err
    assert not list(tmp_path.iterdir())
