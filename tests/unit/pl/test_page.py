import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm import optional, pl
from cellfm.errors import DataError, MissingDependencyError
from cellfm.pl._page import Bar, Page, Section, Shown, Table, paragraphs, write_page

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def written(path: Path, *sections: Section, lead: str = "Lead.") -> str:
    file = write_page(Page(title="A & B", lead=lead, sections=sections), path / "page.html")
    return file.read_text(encoding="utf-8")


def test_text_is_escaped_and_marked() -> None:
    assert paragraphs("a <b>\nc\n\n- `x<y`\n- **z**") == (
        "<p>a &lt;b&gt; c</p>\n<ul><li><code>x&lt;y</code></li><li><strong>z</strong></li></ul>"
    )


def test_table_keeps_what_it_is_sorted_by_apart_from_what_it_shows(tmp_path) -> None:
    table = Table(
        columns=("method", "score", "seconds"),
        rows=[
            ["ours <1>", Bar(value=-0.25, low=-0.5, high=0.125, left=-1, lines=(0,)), 1234],
            ["other", Shown(text="failed", note="no memory"), None],
        ],
        looks={0: "mark", 1: "failed"},
    )
    text = written(tmp_path, Section(title="S", tables=[table]))
    assert "ours &lt;1&gt;" in text
    assert "−0.250  [−0.500, 0.125]" in text
    assert 'data-sort="-0.25" class="number"' in text
    assert '<td data-sort="" class="number">failed<small>no memory</small></td>' in text
    assert '<td data-sort="1234" class="number">1,234</td>' in text
    assert '<tr class="mark">' in text
    assert '<tr class="failed">' in text
    # the axis is 112 wide from 4: −0.25 of −1 … 1 is at 4 + 112 · 0.375
    assert '<circle cx="46.0"' in text


def test_data_frame_keeps_its_named_index(tmp_path) -> None:
    frame = pd.DataFrame({"n": [1, 2]}, index=pd.Index(["a", "b"], name="type"))
    text = written(tmp_path, Section(title="S", tables=[frame, frame.reset_index(drop=True)]))
    assert text.count('<td data-sort="a">a</td>') == 1
    assert len(re.findall("<table>", text)) == 2


def test_page_asks_nothing_of_the_network(tmp_path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().set_title('a "picture"')
    text = written(tmp_path, Section(title="S", figures=[figure]))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "a &quot;picture&quot;" in text
    assert "http" not in text
    assert "plotly" not in text.lower()
    assert len(text) < 100_000


def test_interactive_figure_brings_its_script_once(tmp_path) -> None:
    graph = pytest.importorskip("plotly.graph_objects")
    figure = graph.Figure(graph.Scatter(x=[1, 2], y=[1, 2], text=["</script><b>", "b"]))
    text = written(tmp_path, Section(title="S", figures=[figure, figure]))
    assert text.count('id="figure-') == 2
    assert 'src="http' not in text
    assert 4_000_000 < len(text) < 6_000_000
    assert "</script><b>" not in text


def test_same_page_is_the_same_file_and_no_half_of_it_is_left(tmp_path) -> None:
    section = Section(title="S", text="x", folded=True)
    first = written(tmp_path, section)
    assert written(tmp_path, section) == first
    assert "<details" in first
    broken = Section(title="S", figures=[SimpleNamespace()])
    with pytest.raises(AttributeError):
        written(tmp_path, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == first


def test_row_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="Row 1 of the table 'T' has 1 cells for 2 columns"):
        Table(columns=("a", "b"), rows=[[1, 2], [1]], caption="T")


def test_missing_package_names_its_extra(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cellfm\[report\]'"):
        written(tmp_path, Section(title="S"))


TYPES = ["B", "T", "NK"]


def annotated(*, truth: bool = True, states: bool = True) -> SimpleNamespace:
    """Return the shape of an annotation's result: 60 cells, of which 6 unknown."""
    rng = np.random.default_rng(0)
    code = np.arange(60) % 3
    label = np.array(TYPES, dtype=object)[code]
    label[:6] = "unknown"
    obs = pd.DataFrame(
        {"kind": pd.Categorical(label), "kind_probability": rng.uniform(size=60)},
        index=[f"c{i}" for i in range(60)],
    )
    obsm = {"X_kind": rng.normal(size=(60, 2)).astype(np.float32)} if states else {}
    metrics = pd.DataFrame(
        {
            "data": ["query"] * 2,
            "method": ["CellFM linear", "PCA-50 + LR"],
            "n_cells": [60, 60],
            "macro_f1": [0.7, 0.8],
            "ece": [0.1, np.nan],
        }
    )
    if not truth:
        metrics["data"] = "reference test"
    confusion = pd.DataFrame(18 * np.eye(3, 4, dtype=int) + 2, TYPES, [*TYPES, "unknown"])
    abstentions = pd.DataFrame(
        {
            "label": TYPES,
            "n_cells": 20,
            "novel": 1,
            "uncertain": 1,
            "unknown": 2,
            "share_unknown": 0.1,
        }
    )
    column = SimpleNamespace(
        name="cell_type",
        key="kind",
        metrics=metrics,
        confusion=confusion if truth else None,
        reference_confusion=confusion,
        abstentions=abstentions,
        calibration=pd.DataFrame(
            {"n_cells": [3, 9], "probability": [0.4, 0.9], "accuracy": [0.5, 0.8]}
        ),
    )
    return SimpleNamespace(
        adata=AnnData(np.ones((60, 2), np.float32), obs=obs, obsm=obsm),
        columns=(column,),
        strength="linear",
        weights_hash="f" * 64,
        gene_report="10 genes\n8 of them known",
        reference_gene_report="12 genes",
        notes=("One cell was left out.",),
    )


def test_annotation_report_says_who_is_ahead(tmp_path) -> None:
    text = pl.annotation_report(annotated(), tmp_path / "a.html").read_text()
    assert "6 of 60 cells (10.0%) are unknown" in text
    assert (
        "On the query, macro-F1 is 0.700, below the 0.800 of PCA-50 + LR (60 cells; no interval)"
        in text
    )
    assert "8 of them known" in text
    assert "One cell was left out." in text
    assert text.count("<img ") == 3
    assert "share of the cells of each type" in text


def test_annotation_report_without_truth_or_states(tmp_path) -> None:
    text = pl.annotation_report(
        annotated(truth=False, states=False), tmp_path / "a.html"
    ).read_text()
    assert "the test part of the reference, not of the query" in text
    assert "There is no picture of the cells" in text
    assert text.count("<img ") == 2


def test_annotation_report_draws_a_sample_of_many_cells(tmp_path, monkeypatch) -> None:
    from cellfm.pl import _annotation

    monkeypatch.setattr(_annotation, "MOST_CELLS", 40)
    text = pl.annotation_report(annotated(), tmp_path / "a.html").read_text()
    assert "40 cells drawn at random of 60 cells" in text


def test_annotation_report_refuses_an_unknown_basis(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no basis 'X_none' in obsm; it has \['X_kind'\]"):
        pl.annotation_report(annotated(), tmp_path / "a.html", basis="X_none")
    assert not list(tmp_path.iterdir())


def test_confusion_shows_shares_of_rows() -> None:
    table = pd.DataFrame([[3, 1], [0, 0]], ["A", "B"], ["A", "B"])
    axes = pl.confusion(table)
    np.testing.assert_allclose(
        axes.images[0].get_array().filled(np.nan), [[0.75, 0.25], [np.nan] * 2]
    )
    assert [text.get_text() for text in axes.texts] == ["0.75", "0.25"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["A (4)", "B (0)"]
    assert pl.confusion(table, ax=axes) is axes


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame(), "0 rows and 0 columns"),
        (pd.DataFrame([["x"]]), "something else than numbers"),
        (pd.DataFrame([[-1.0]]), "negative or missing"),
    ],
)
def test_confusion_refuses_what_is_no_table_of_counts(table, message) -> None:
    with pytest.raises(DataError, match=message):
        pl.confusion(table)
