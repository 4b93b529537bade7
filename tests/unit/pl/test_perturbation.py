import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cellfm import pl
from cellfm.errors import DataError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

NAMES = ["IRF1", "JAK2", "JAK2+STAT1", "STAT1"]
GENES = (*(f"G{i}" for i in range(40)), "STAT1")
CEILING = "ceiling (half of the cells)"


def judged(*, pds=None, difference=None, ceiling=True, warnings=()) -> SimpleNamespace:
    """Return the shape of a cross-validation: a model, three controls, and a ceiling."""
    rng = np.random.default_rng(0)
    pds = {"cellfm": 0.7, "perturbed-mean": 0.5, "knn": 0.6, "random weights": 0.65} | (pds or {})
    difference = {"perturbed-mean": 0.1, "knn": 0.05, "random weights": 0.02} | (difference or {})
    rows = {name: {"n": 4, "pds": value, "wmse": 1 - value} for name, value in pds.items()}
    if ceiling:
        rows[CEILING] = {"n": 4, "pds": 0.9, "wmse": 0.1}
    table = pd.DataFrame(rows).T
    for metric in ("pds", "wmse"):
        table[f"{metric}_low"], table[f"{metric}_high"] = table[metric] - 0.1, table[metric] + 0.1
    table["centroid_accuracy"], table["mse"] = 0.5, 0.01
    table["difference"] = pd.Series(difference)
    table["difference_low"] = table["difference"] - 0.04
    table["difference_high"] = table["difference"] + 0.04
    delta = rng.normal(size=(len(NAMES), len(GENES)))
    delta[3] *= 3
    conditions = [SimpleNamespace(name=name, genes=tuple(name.split("+"))) for name in NAMES]
    truth = SimpleNamespace(
        genes=GENES,
        symbol=GENES,
        conditions=conditions,
        delta=delta,
        variance=np.full(delta.shape, 0.01),
        n_cells=np.array([10, 20, 30, 40]),
    )
    each = pd.DataFrame(
        {"pds": [0.1, 0.2, 0.3, np.nan], "wmse": [0.1] * 4}, index=pd.Index(NAMES, name="condition")
    )
    return SimpleNamespace(
        table=table,
        scores=pd.concat({"cellfm": each, "perturbed-mean": 2 * each}, names=["method"]),
        predicted=delta / 2,
        sd=np.full(delta.shape, 0.1),
        truth=truth,
        groups=("unseen_single", "seen", "combo_seen1", "unseen_single"),
        warnings=tuple(warnings),
        hash="h" * 64,
    )


def report(result, path, **options) -> str:
    file = pl.perturbation_report(result, path / "p.html", **options)
    text = file.read_text(encoding="utf-8")
    return text[text.index("<body>") :]


def plain(text: str) -> str:
    return re.sub(r"</?(strong|code)>", "", text)


def test_report_says_that_the_model_is_ahead_of_some_controls_only(tmp_path) -> None:
    text = plain(report(judged(), tmp_path))
    assert "ahead of the mean response, but not reliably of random weights." in text
    assert "is 0.700 [0.600, 0.800] (0.5 is chance, and outside the interval)" in text
    assert "Against perturbed-mean (0.500) the difference is +0.100 [+0.060, +0.140]" in text
    assert "The best control is random weights (0.650)" in text
    assert "nothing shows that what CellFM learned counts here" in text
    assert "One half of the cells predicts the other with 0.900" in text


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ({"random weights": 0.2}, "ahead of every control"),
        ({"perturbed-mean": 0.01}, "not told apart from the mean response"),
        ({"perturbed-mean": -0.2}, "behind the mean response: do not use its predictions"),
    ],
)
def test_verdict_follows_the_intervals(tmp_path, difference, verdict) -> None:
    text = plain(report(judged(difference=difference), tmp_path))
    assert f"The model is {verdict}" in text
    assert ("what CellFM learned counts." in text) == (verdict == "ahead of every control")


def test_verdict_at_chance(tmp_path) -> None:
    text = report(judged(pds={"cellfm": 0.55}), tmp_path)
    assert "0.5 is chance, and inside the interval" in text
    text = report(judged(pds={"cellfm": 0.3}), tmp_path)
    assert "0.5 is chance, and above the interval" in text


def test_collapse_and_what_was_left_out_are_told(tmp_path) -> None:
    result = judged(warnings=["All predictions are nearly alike."])
    training = {"seed": 0, "context": None, "contexts_held_out": ["A549", "K562"]}
    notes = ["3 cells <left> out", *result.warnings]
    text = report(result, tmp_path, notes=notes, training=training)
    assert "<strong>Warning</strong>: All predictions are nearly alike." in text
    assert text.count("All predictions are nearly alike.") == 1
    assert "3 cells &lt;left&gt; out" in text
    assert f"Splits {'h' * 64}." in text
    assert '<td data-sort="A549, K562">' in text
    assert "Nothing was left out." in report(judged(), tmp_path)


def test_share_of_the_way_goes_from_the_trivial_to_the_ceiling(tmp_path) -> None:
    # PDS (0.7 − 0.5) / (0.9 − 0.5), weighted MSE likewise; the ceiling of centroid accuracy is no better and does not count
    row = re.search(r'<tr class="mark">.*?</tr>', report(judged(), tmp_path), re.DOTALL).group()
    assert row.endswith('class="number">0.500</td></tr>')
    text = report(judged(ceiling=False), tmp_path)
    assert "There is no ceiling: too few cells to halve." in text


def test_each_perturbation_has_its_row_and_its_points(tmp_path) -> None:
    text = report(judged(), tmp_path)
    assert "pair, one gene seen" in text
    assert '<td data-sort="STAT1">STAT1</td>' in text
    assert text.count('"name":"prediction"') == len(NAMES)
    assert text.count('"name":"perturbed gene"') == 2
    assert text.count('"method":"update"') == len(NAMES)
    # the perturbation with the largest response is shown first
    assert '"active":3' in text
    assert "predicted " in text
    assert "http" not in text.replace("https://plot.ly", "").replace("https://plotly.com", "")


def test_report_without_intervals_of_genes(tmp_path) -> None:
    result = judged()
    result.sd[:] = np.nan
    assert "NaN" not in report(result, tmp_path)


def test_table_without_its_control_is_refused(tmp_path) -> None:
    result = judged()
    result.table = result.table.drop(index="perturbed-mean")
    with pytest.raises(DataError, match="no row 'perturbed-mean'; it has 'cellfm', 'knn'"):
        pl.perturbation_report(result, tmp_path / "p.html")
    with pytest.raises(DataError, match=r"was read from a folder, .* --report"):
        pl.perturbation_report(None, tmp_path / "p.html")
    assert not list(tmp_path.iterdir())


def test_transfer_has_its_table_where_there_is_one(tmp_path) -> None:
    assert "Into another context" not in report(judged(), tmp_path)
    table = pd.DataFrame({"pds": [0.61, 0.6]}, ["cellfm", "same response"])
    text = report(judged(), tmp_path, transfer=table)
    assert text.index("Into another context") < text.index("same response")
    assert text.count('class="mark"') == 4


def test_only_the_genes_that_move_are_drawn(monkeypatch) -> None:
    from cellfm.pl import _perturbation_figure

    monkeypatch.setattr(_perturbation_figure, "MOST_GENES", 5)
    result = judged()
    figure = _perturbation_figure.responses_figure(
        names=["A"],
        genes=GENES,
        targets=[[]],
        predicted=result.predicted[:1],
        sd=result.sd[:1],
        true=result.truth.delta[:1],
        true_sd=result.sd[:1],
    )
    # one perturbation alone has no others to be compared with
    assert [trace.name for trace in figure.data] == ["prediction"]
    largest = sorted(np.sort(np.abs(result.truth.delta[0]))[-5:])
    np.testing.assert_allclose(np.sort(np.abs(figure.data[0].x)), largest, atol=1e-4)
    with pytest.raises(DataError, match="There are 0 perturbations"):
        _perturbation_figure.responses_figure(
            names=[], genes=(), targets=[], predicted=np.zeros((0, 0)), sd=np.zeros((0, 0)),
            true=np.zeros((0, 0)), true_sd=np.zeros((0, 0)),
        )  # fmt: skip


def test_deltas_name_the_genes_that_move_most() -> None:
    true = np.array([0.1, -2.0, 1.0, 0.0])
    axes = pl.perturbation_deltas(
        true / 2, true, ["a", "b", "c", "d"], sd=np.full(4, 0.1), n_labels=2, title="STAT1"
    )
    assert [text.get_text() for text in axes.texts] == ["b", "c"]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), np.column_stack([true, true / 2]))
    assert axes.get_title() == "STAT1  r = 1.00"
    assert axes.get_ylabel() == "predicted"
    again = pl.perturbation_deltas(0 * true, true, ["a", "b", "c", "d"], ax=axes)
    assert again is axes
    assert "r =" not in axes.get_title()


def test_names_do_not_lie_on_each_other() -> None:
    true = np.array([-2.0, -1.95, 1.0])
    axes = pl.perturbation_deltas(np.array([0.5, 0.5, 1.0]), true, ["a", "b", "c"])
    assert [text.get_text() for text in axes.texts] == ["a", "c"]
    axes = pl.perturbation_deltas(np.array([0.5, -0.5, 1.0]), true, ["a", "b", "c"])
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]


def test_deltas_refuse_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="there are 2 gene names"):
        pl.perturbation_deltas(np.zeros(3), np.zeros(3), ["a", "b"])
    with pytest.raises(DataError, match="NaN or infinite"):
        pl.perturbation_deltas(np.array([np.nan]), np.zeros(1), ["a"])
