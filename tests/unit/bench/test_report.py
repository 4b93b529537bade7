import re
from dataclasses import replace

import pytest
from tests.benchmarks import BASE, full_run, group, write_run

from cellfm.bench import report
from cellfm.bench.compare import Run
from cellfm.bench.report_figures import bio_batch_figure, few_shot_figure
from cellfm.bench.report_tables import comparisons, questions, score_table, summarise
from cellfm.cli import bench_report
from cellfm.errors import DataError, EvidenceError

FAILED = replace(BASE, method="scvi", roles=("classical",), value=None, failed="no scvi <here>")


@pytest.fixture(autouse=True)
def _known_tasks(monkeypatch) -> None:
    """The text of a task comes from its module, which is not the matter of these tests."""
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    monkeypatch.setattr(report, "_about", lambda task: f"What {task} asks.")


def only(folder, rows):
    """The results of the only question, read from their files."""
    run = Run(write_run(folder, rows))
    (group_of,) = questions(run).values()
    return run, group_of


def lead_of(folder, rows) -> str:
    run = Run(write_run(folder, rows))
    by = questions(run)
    return report.lead(by, {question: comparisons(run, each) for question, each in by.items()})


def test_table_is_sorted_by_the_normalised_score_and_failed_is_last(tmp_path) -> None:
    run, rows = only(tmp_path, [FAILED, *group()])
    table = score_table(run, rows)
    names = [row[0].text for row in table.rows]
    assert names == ["oracle", "logistic", "pca", "cellfm", "random", "majority", "scvi"]
    assert (table.looks[3], table.looks[6]) == ("mark", "failed")
    assert (table.rows[6][2].text, table.rows[6][2].note) == ("failed", "no scvi <here>")
    assert table.rows[6][3] is None
    assert table.rows[3][3] == pytest.approx(0.7 / 0.9)
    assert "interval over 4 donors" in table.caption
    assert "0 is 0.100 (negative control), 1 is 1.000 (ceiling)" in table.caption


def test_sorted_by_the_normalised_score_where_less_is_better(tmp_path) -> None:
    rows = [
        replace(row, metric="mse", higher=False, normalised=(row.value - 1.0) / (0.1 - 1.0))
        for row in group()
    ]
    run, rows = only(tmp_path, rows)
    table = score_table(run, rows)
    assert table.rows[0][0].text == "majority"
    assert table.columns[2] == "MSE (lower is better)"


def test_a_failed_seed_is_told(tmp_path) -> None:
    rows = [*group(), *group(seed=1)]
    extra = replace(BASE, method="scvi", value=0.5, normalised=0.4)
    rows += [extra, replace(extra, seed=1, value=None, normalised=None, failed="no memory")]
    run, rows = only(tmp_path, rows)
    score = summarise(run, [row for row in rows if row.method == "scvi"])
    assert score.value == 0.5
    assert score.failed == "failed with 1 of 2 seeds: no memory"


def test_every_control_is_compared_whatever_a_task_declares(tmp_path) -> None:
    rows = [replace(row, against=("random",)) for row in group()]
    run, rows = only(tmp_path, rows)
    assert {each.against for each in comparisons(run, rows)} == {
        "random",
        "pca",
        "logistic",
        "majority",
    }


def test_lead_counts_losses_as_plainly_as_wins(tmp_path) -> None:
    text = lead_of(tmp_path, [*group(), FAILED])
    assert "against PCA, 1 not shown" not in text
    assert "against PCA, 1 not told apart of 1 (−0.010)" in text
    assert "against classical methods, 1 worse of 1 (−0.100)" in text
    assert "against random weights, 1 better of 1 (+0.200)" in text
    assert "**Failed**, and counted nowhere: scvi (annotation, islets)" in text


def test_lead_keeps_seen_cells_and_shared_donors_out_of_its_counts(tmp_path) -> None:
    text = lead_of(tmp_path, [*group(n_seen=171), *group(split="intra")])
    assert "**annotation**: nothing that may be a headline" in text
    assert "cells of islets were in the pretraining data" in text
    assert "cells of one donor on both sides of the split (annotation on islets)" in text
    assert "better of" not in text


def test_lead_says_where_leakage_is_not_known(tmp_path) -> None:
    text = lead_of(tmp_path, group(n_seen=None))
    assert "For islets it is not known whether the weights have seen the cells." in text
    assert "1 worse of 1" in text


def test_few_units_make_a_rough_interval(tmp_path) -> None:
    assert "4 of 4 intervals rest on fewer than 30 units" in lead_of(tmp_path / "a", group())
    many = group(n_units=60, unit="batch")
    assert "rough" not in lead_of(tmp_path / "b", many)
    run, rows = only(tmp_path / "b", many)
    assert "interval over 60 batches; normalised" in score_table(run, rows).caption


def test_notes_of_a_method_stand_by_it_and_those_of_the_data_do_not(tmp_path) -> None:
    rows = [replace(row, notes=("6 types", f"C={row.value}")) for row in group()]
    run, rows = only(tmp_path, rows)
    table = score_table(run, rows)
    assert {row[0].text: row[0].note for row in table.rows}["cellfm"] == "frozen probe; C=0.8"
    question = next(iter(questions(run)))
    assert report._about_question(question, rows) == "Split: whole donors are held out. 6 types."


def test_page_has_all_parts(tmp_path) -> None:
    path = report.write_report(full_run(tmp_path))
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    body = text[text.index("<main>") :]
    assert "No headline</strong>: the weights were trained on 171 of these cells." in body
    assert "What integration asks." in body
    assert "MissingDependencyError: scvi cannot be imported" in body
    assert body.count('id="figure-') == 2
    assert "Bio guard: PCA" in body
    assert "not shown: includes\xa00" in body
    assert "intra (no headline)" in body
    assert "s" * 64 in body
    assert '<details id="' in body
    assert re.search(r"islets, donor split", body)


def test_bio_guard_is_below_pca(tmp_path) -> None:
    run = Run(full_run(tmp_path))
    (rows,) = [rows for question, rows in questions(run).items() if question.task == "integration"]
    figure = bio_batch_figure(run, rows)
    assert figure.layout.shapes[0].y0 == pytest.approx(0.81 * 0.9 - 0.02)
    candidates, controls = figure.data
    assert (list(candidates.text), candidates.y[0]) == (["cellfm"], pytest.approx(0.72))
    assert set(controls.text) == {"random", "pca", "logistic", "majority", "oracle"}
    assert few_shot_figure(run, rows) is None


def test_few_shot_curve_goes_over_the_labels(tmp_path) -> None:
    run = Run(full_run(tmp_path))
    (rows,) = [rows for question, rows in questions(run).items() if question.task == "few_shot"]
    figure = few_shot_figure(run, rows)
    curve = figure.data[0]
    assert (curve.name, list(curve.x)) == ("cellfm", [1, 5, 10])
    assert list(curve.y) == pytest.approx([0.4, 0.72, 0.76])
    assert all(x > 0 for x in (*curve.error_y.array, *curve.error_y.arrayminus))
    assert bio_batch_figure(run, rows) is None


def test_results_of_two_weights_are_kept_apart(tmp_path) -> None:
    run = Run(write_run(tmp_path, [*group(), *group(weights="o" * 64)]))
    assert len(questions(run)) == 2
    text = report.write_report(tmp_path).read_text()
    assert "islets, donor split, weights wwwwwwwwwwww" in text


def test_command_writes_the_page(tmp_path, capsys) -> None:
    out = write_run(tmp_path / "out", group())
    bench_report.report(out, to=tmp_path / "page.html")
    assert f"wrote {tmp_path / 'page.html'}" in capsys.readouterr().out.replace("\n", "")
    assert (tmp_path / "page.html").is_file()


def test_nothing_to_report_is_refused(tmp_path) -> None:
    with pytest.raises(EvidenceError, match="no results at"):
        report.write_report(tmp_path)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(DataError, match="empty list of results"):
        report.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
