import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.benchmarks import BASE, group, write_run

from cellfm.bench.compare import Run, compare, over_seeds, paired
from cellfm.bench.result import Result
from cellfm.cli import bench_report
from cellfm.errors import DataError, EvidenceError

UNPAIRED_WIDTH = 0.35
"""Width of the interval if the resamples were not the same: 2 · 1.96 · √2 · 0.1 is 0.55."""


def one(run: Path, against: str, **asked):
    (found,) = compare(run, method="cellfm", against=against, **asked)
    return found


def test_difference_is_taken_in_the_same_resamples(tmp_path) -> None:
    found = one(write_run(tmp_path, group()), "logistic")
    assert found.difference == pytest.approx(-0.1)
    assert found.low < found.difference < found.high
    assert found.high - found.low < UNPAIRED_WIDTH / 2
    assert (found.verdict, found.n_units, found.unit, found.n_seeds) == ("worse", 4, "donor", 1)
    assert "-0.100" in found.sentence
    assert found.sentence.endswith("worse: the interval excludes 0.")


def test_verdicts_follow_the_interval(tmp_path) -> None:
    write_run(tmp_path, group())
    assert one(tmp_path, "random").verdict == "better"
    near = one(tmp_path, "pca")
    assert near.verdict == "not shown"
    assert "neither is shown to be better" in near.sentence


def test_less_is_better_where_it_is(tmp_path) -> None:
    write_run(tmp_path, group(metric="mse", higher=False))
    assert one(tmp_path, "logistic").verdict == "better"
    assert one(tmp_path, "random").verdict == "worse"


def test_without_draws_there_is_no_interval(tmp_path) -> None:
    found = one(write_run(tmp_path, group(), n_draws=0), "random")
    assert (found.low, found.high, found.verdict) == (None, None, "no interval")
    assert found.difference == pytest.approx(0.2)


def test_seeds_are_resampled_too() -> None:
    draws = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(over_seeds(draws[:1]), draws[0])
    many = over_seeds(np.repeat(draws, 500, axis=1))
    # two of two seeds with replacement: 0, ½ and 1 with the chances ¼, ½ and ¼
    values, n = np.unique(many, return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(n / n.sum(), [0.25, 0.5, 0.25], atol=0.05)
    np.testing.assert_array_equal(over_seeds(draws), over_seeds(draws))


def test_seeds_are_matched_and_averaged(tmp_path) -> None:
    rows = [*group(), *(replace(row, value=row.value / 2) for row in group(seed=1))]
    found = one(write_run(tmp_path, rows), "random")
    assert found.n_seeds == 2
    assert found.value == pytest.approx(0.6)
    assert found.difference == pytest.approx(0.15)


def test_only_what_is_asked_for_is_compared(tmp_path) -> None:
    rows = [*group(), *group(dataset="other", dataset_hash="e" * 64), *group(task="few_shot", k=5)]
    rows += [replace(row, metric="accuracy", primary=False) for row in group()]
    write_run(tmp_path, rows)
    assert len(compare(tmp_path, method="cellfm", against="pca")) == 3
    assert one(tmp_path, "pca", task="few_shot").k == 5
    assert one(tmp_path, "pca", dataset="other").dataset == "other"
    assert one(tmp_path, "pca", metric="accuracy").metric == "accuracy"


def test_folders_are_compared(tmp_path) -> None:
    new = write_run(tmp_path / "new", group())
    old = [replace(row, weights="o" * 64, value=row.value - 0.05) for row in group()]
    write_run(tmp_path / "old", old)
    (found,) = compare(new, tmp_path / "old", method="cellfm", against="cellfm")
    assert found.difference == pytest.approx(0.05)
    assert found.weights == "w" * 64


def test_one_folder_pairs_results_of_the_same_weights(tmp_path) -> None:
    other = [replace(row, weights="o" * 64, value=row.value - 0.05) for row in group()]
    write_run(tmp_path, [*group(), *other])
    found = compare(tmp_path, method="cellfm", against="random")
    assert [each.weights[0] for each in found] == ["w", "o"]
    assert all(each.n_seeds == 1 for each in found)
    with pytest.raises(DataError, match="results of 2 different weights"):
        compare(tmp_path, tmp_path, method="cellfm", against="cellfm")


def test_other_cells_are_refused(tmp_path) -> None:
    new = write_run(tmp_path / "new", group())
    write_run(tmp_path / "old", group(split_hash="t" * 64))
    with pytest.raises(DataError, match=r"not scored on the same cells of islets .* split hash"):
        compare(new, tmp_path / "old", method="cellfm", against="cellfm")


def test_what_is_not_there_is_refused(tmp_path) -> None:
    write_run(tmp_path, group())
    with pytest.raises(DataError, match="no results of 'scgpt'; it has those of cellfm, logistic"):
        compare(tmp_path, method="scgpt", against="pca")
    with pytest.raises(DataError, match="no case that 'cellfm' and 'pca'"):
        compare(tmp_path, method="cellfm", against="pca", task="none")
    with pytest.raises(EvidenceError, match="no results at"):
        compare(tmp_path / "none", method="cellfm", against="pca")


def test_lost_draws_are_an_error_and_not_a_missing_interval(tmp_path) -> None:
    write_run(tmp_path, group())
    next((tmp_path / "outcomes").rglob("cellfm-*")).unlink()
    with pytest.raises(EvidenceError, match="cannot be read as an outcome"):
        compare(tmp_path, method="cellfm", against="pca")


def test_what_failed_is_not_compared(tmp_path) -> None:
    failed: Result = replace(BASE, method="scvi", roles=("classical",), value=None, failed="no")
    run = Run(write_run(tmp_path, [*group(), failed]))
    rows = {row.method: [row] for row in run.results}
    assert paired(run, rows["cellfm"], run, rows["scvi"]) is None
    with pytest.raises(DataError, match="no case"):
        compare(tmp_path, method="cellfm", against="scvi")


def test_command_prints_table_and_sentence(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    write_run(tmp_path, group())
    bench_report.compare(tmp_path, method="cellfm", against="logistic")
    out = capsys.readouterr().out
    assert "-0.100" in out
    assert "worse" in out
    assert "4 × donor" in out
    assert "annotation on islets" in out
    assert "neither is shown to be better" in out


def test_fixture_holds_what_a_run_writes(tmp_path) -> None:
    write_run(tmp_path, group())
    content = json.loads(next((tmp_path / "outcomes").rglob("*.json")).read_text())
    assert set(content) == {"draws", "extra"}
