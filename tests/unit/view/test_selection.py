import csv
import io

import numpy as np
import pytest

from cellfm.errors import DataError
from cellfm.view import selection
from cellfm.view.cells import Cells
from cellfm.view.options import ViewOptions


@pytest.fixture
def cells(path):
    cells = Cells(path, ViewOptions())
    yield cells
    cells.close()


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_selections_are_checked():
    content = np.array([5, 2, 5], "<u4").tobytes()
    assert selection.as_selection(content, 6).tolist() == [2, 5]
    with pytest.raises(DataError, match="11 bytes"):
        selection.as_selection(content[:-1], 6)
    with pytest.raises(DataError, match="does not fit a file of 5"):
        selection.as_selection(content, 5)
    with pytest.raises(DataError, match="A selection of 0 cells"):
        selection.as_selection(b"", 5)


def test_composition(cells):
    parts = selection.composition(cells, np.arange(15, 40), "kind")
    assert [(p.group, p.n, p.share, p.share_of_all) for p in parts] == [
        ("B", 20, 0.8, 0.5),
        ("T", 5, 0.2, 0.5),
    ]
    assert selection.composition(cells, np.array([0]), "note")[0].group == "no value"
    with pytest.raises(DataError, match="holds numbers"):
        selection.composition(cells, np.array([0]), "depth")


def test_markers_are_what_was_planted(cells, monkeypatch):
    pytest.importorskip("scanpy")
    table = selection.marker_table(cells, np.arange(20, 40), quiet)
    assert table["gene"].iloc[0] == "MS4A1"
    best = table.iloc[0]
    assert best["detected_in"] == 1.0
    assert best["mean_in"] > best["mean_out"]
    assert best["log2_fold_change"] > 1
    assert best["p_adjusted"] < 0.01
    shown = cells.rows(np.arange(40)).toarray()
    assert best["mean_in"] == pytest.approx(shown[20:, 3].mean(), rel=1e-5)
    assert best["detected_out"] == pytest.approx((shown[:20, 3] > 0).mean())
    monkeypatch.setattr(selection, "MOST_TESTED", 10)  # cells are drawn
    assert selection.marker_table(cells, np.arange(20, 40), quiet)["gene"].iloc[0] == "MS4A1"


def test_too_few_cells_for_a_test(cells):
    pytest.importorskip("scanpy")
    for rows in (np.arange(2), np.arange(38)):
        with pytest.raises(DataError, match="at least three of each"):
            selection.marker_table(cells, rows, quiet)


def test_table_of_cells(cells):
    points = cells.states("X_umap")
    text = selection.cell_table(cells, np.array([3, 7]), points, "X_umap")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["barcode"] for row in rows] == ["cell3", "cell7"]
    assert float(rows[1]["umap_2"]) == pytest.approx(points[7, 1])
    assert rows[0]["kind"] == "T"
    assert "umap_1" not in selection.cell_table(cells, np.array([3]), None, "")
