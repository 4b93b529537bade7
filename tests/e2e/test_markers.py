"""An annotator is trained and its marker genes are written, on the command line."""

from pathlib import Path

import pandas as pd
import pytest
from anndata import read_h5ad

from tests.e2e.conftest import Cellfm

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")


def test_markers_of_an_annotator_become_a_table(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    annotator, target = tmp_path / "annotator", tmp_path / "markers.tsv"
    trained = cellfm("annotate", "train", simulated, annotator, "--model", model)
    assert trained.code == 0, trained.err
    words = (simulated, annotator, target, "--groupby", "cell_type")
    limits = ("--n-genes", 10, "--n-cells", 30)
    written = cellfm("markers", *words, *limits)
    assert written.code == 0, written.err
    assert f"wrote {target}: 20 rows" in written.out
    table = pd.read_csv(target, sep="\t")
    assert list(table.columns) == [
        "type",
        "rank",
        "gene",
        "attribution",
        "mean_in",
        "mean_out",
        "log2_fold_change",
        "detected_in",
        "detected_out",
        "auroc",
    ]
    assert list(table["type"].unique()) == ["type0", "type1"]
    assert list(table["rank"]) == [*range(1, 11)] * 2
    assert set(table["gene"]) <= set(read_h5ad(simulated).var_names)
    # The network is random, but the annotator has learnt from genes that differ.
    assert (table["attribution"] > 0).all()
    assert table["auroc"].mean() > 0.6
    before = target.read_bytes()
    refused = cellfm("markers", *words, *limits)
    assert refused.code == 2
    assert "exists already" in refused.err
    again = cellfm("markers", *words, *limits, "--overwrite")
    assert again.code == 0, again.err
    assert target.read_bytes() == before


def test_refusals_leave_nothing(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    refused = cellfm("markers", simulated, model, tmp_path / "markers.tsv")
    assert refused.code == 2
    assert "There is no artifact" in refused.err
    refused = cellfm("markers", tmp_path / "no.h5ad", model, tmp_path / "markers.tsv")
    assert refused.code == 2
    assert "There is no file" in refused.err
    assert not list(tmp_path.iterdir())
