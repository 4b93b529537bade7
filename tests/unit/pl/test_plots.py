import json
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm import optional, pl
from cellfm.errors import DataError, MissingDependencyError

HELD_OUT = [
    {"kind": "held_out", "step": s, "gene_loss": 1 / s, "cell_loss": 2 / s, "gene_mean_loss": 0.3}
    for s in (1, 2, 3)
]
TRAIN = [{"kind": "train", "step": s, "gene_loss": 1.1 / s} for s in (1, 2, 3)]


@pytest.fixture
def cells() -> AnnData:
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    obs = pd.DataFrame(
        {"kind": ["a", "b", None] * 10, "score": np.arange(30.0)},
        index=[f"c{i}" for i in range(30)],
    )
    return AnnData(np.ones((30, 3), np.float32), obs=obs, obsm={"X_umap": points})


def test_groups_get_a_legend_and_their_own_dots(cells: AnnData) -> None:
    axes = pl.embedding(cells, "umap", color="kind")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "NA"]
    drawn = {dots.get_label(): np.asarray(dots.get_offsets()) for dots in axes.collections}
    expected = cells.obsm["X_umap"][(cells.obs["kind"] == "a").to_numpy()]
    np.testing.assert_allclose(drawn["a"], expected)
    colors = {tuple(dots.get_facecolor()[0]) for dots in axes.collections}
    assert len(colors) == 3


def test_numbers_get_a_colour_bar_and_nan_cells_are_left_out(cells: AnnData) -> None:
    cells.obsm["X_umap"][:4] = np.nan
    axes = pl.embedding(cells, "X_umap", color="score")
    assert len(axes.collections[0].get_offsets()) == 26
    assert len(axes.figure.axes) == 2


def test_many_groups_have_different_colours(cells: AnnData) -> None:
    cells.obs["kind"] = [f"k{i}" for i in range(30)]
    axes = pl.embedding(cells, "umap", color="kind")
    assert len({tuple(dots.get_facecolor()[0]) for dots in axes.collections}) == 30


def test_embedding_draws_into_given_axes_and_saves(cells: AnnData, tmp_path) -> None:
    axes = pl.learning_curve(HELD_OUT)
    axes.clear()
    assert pl.embedding(cells, "umap", color="kind", ax=axes) is axes
    axes.figure.savefig(tmp_path / "a.png", dpi=50)
    from matplotlib.image import imread

    assert imread(tmp_path / "a.png")[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("basis", "color", "message"),
    [
        ("tsne", "kind", r"There is no basis 'tsne' in obsm; it has \['X_umap'\]"),
        ("umap", "type", r"There is no column 'type' in obs; it has \['kind', 'score'\]"),
        ("line", "kind", r"obsm\['X_line'\] has the shape \(30, 1\); two columns are needed"),
    ],
)
def test_embedding_says_what_is_there(cells: AnnData, basis, color, message) -> None:
    if basis == "line":
        cells.obsm["X_line"] = cells.obsm["X_umap"][:, :1]
    with pytest.raises(DataError, match=message):
        pl.embedding(cells, basis, color=color)


def test_learning_curve_draws_what_was_measured(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in TRAIN + HELD_OUT) + '{"torn')
    axes = pl.learning_curve(path)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["held out, gene-wise decoder"] == [[s, 1 / s] for s in (1, 2, 3)]
    assert lines["held out, each gene's mean"] == [[s, 0.3] for s in (1, 2, 3)]
    assert lines["training, gene-wise decoder"] == [[s, 1.1 / s] for s in (1, 2, 3)]


def test_learning_curve_of_one_of_several_sets() -> None:
    other = [
        {**line, "set": "donor=A", "gene_loss": 0.7, "pca_loss": 0.6, "untrained_gene_loss": 5.0}
        for line in HELD_OUT
    ]
    both = [{**line, "set": "cells"} for line in HELD_OUT] + other
    first = {line.get_label() for line in pl.learning_curve(both).lines}
    assert "held out, PCA" not in first
    axes = pl.learning_curve(both, held_out="donor=A")
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines["held out, gene-wise decoder"] == [0.7] * 3
    assert lines["held out, PCA"] == [0.6] * 3
    assert lines["held out, untrained network"] == [5.0] * 3
    assert axes.get_title() == "held out: donor=A"
    with pytest.raises(DataError, match=r"no held-out set 'B'.*they have \['cells', 'donor=A'\]"):
        pl.learning_curve(both, held_out="B")


def test_learning_curve_without_skipped_steps() -> None:
    lines = pl.learning_curve([*TRAIN, {"kind": "train", "step": 4, "skipped": 9}]).lines
    assert lines[0].get_xydata().tolist() == [[s, 1.1 / s] for s in (1, 2, 3)]


def test_learning_curve_refuses_other_files(tmp_path) -> None:
    with pytest.raises(DataError, match=r"There is no metrics file .*absent.*metrics\.jsonl"):
        pl.learning_curve(tmp_path / "absent")
    (tmp_path / "text").write_text("step loss\n")
    with pytest.raises(DataError, match=r"is not a metrics file: .*Give the metrics\.jsonl"):
        pl.learning_curve(tmp_path / "text")
    with pytest.raises(
        DataError, match="The metrics have 1 lines and none of kind train or held_out"
    ):
        pl.learning_curve([{"kind": "other"}])


def test_missing_package_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, cells: AnnData
) -> None:
    monkeypatch.setattr(
        optional, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    message = r"matplotlib cannot be imported; .*pip install 'cellfm\[analysis\]'"
    with pytest.raises(MissingDependencyError, match=message):
        pl.embedding(cells, "umap", color="kind")
    with pytest.raises(MissingDependencyError, match=message):
        pl.learning_curve(HELD_OUT)


def test_plots_leave_pyplot_alone() -> None:
    code = (
        "import sys; from cellfm import pl; assert 'matplotlib' not in sys.modules; "
        "pl.learning_curve([{'kind': 'train', 'step': 1, 'gene_loss': 1.0}]); "
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def bins(**changes: list[float]) -> pd.DataFrame:
    columns = {"n_cells": [10, 30], "probability": [0.9, 0.4], "accuracy": [0.8, 0.5]}
    return pd.DataFrame(columns | changes)


def test_notebooks_show_the_figure(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    before = matplotlib.get_backend()
    matplotlib.use("agg")
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
    try:
        figure = pl.embedding(cells, "X_umap", color="kind").figure
        assert [plt.figure(number) for number in plt.get_fignums()] == [figure]
    finally:
        plt.close("all")
        matplotlib.use(before)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    pl.embedding(cells, "X_umap", color="kind")
    assert plt.get_fignums() == []


def test_calibration_draws_accuracy_against_probability(tmp_path) -> None:
    axes = pl.calibration(bins())
    perfect, line = axes.get_lines()
    assert perfect.get_xdata()[1] == perfect.get_ydata()[1] == 1
    np.testing.assert_array_equal(line.get_xydata(), [[0.4, 0.5], [0.9, 0.8]])
    dots = axes.collections[0]
    np.testing.assert_array_equal(dots.get_offsets(), [[0.4, 0.5], [0.9, 0.8]])
    small, large = sorted(dots.get_sizes())
    assert (large - 12) == pytest.approx(3 * (small - 12))
    assert "40 cells" in axes.get_title()
    axes.figure.savefig(tmp_path / "a.png", dpi=50)
    other = pl.learning_curve(HELD_OUT)
    assert pl.calibration(bins(), ax=other) is other


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (bins().iloc[:0], "has no rows"),
        (bins().drop(columns="accuracy"), "lacks accuracy"),
        (bins(accuracy=[80.0, 50.0]), "not between 0 and 1"),
        (bins(probability=[float("nan"), 0.1]), "not between 0 and 1"),
    ],
)
def test_calibration_refuses_what_is_no_table_of_it(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pl.calibration(table)
