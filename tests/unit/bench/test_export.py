import json
from dataclasses import replace

import pytest
from tests.benchmarks import full_run, group, write_run

from cellfm.bench.export import export
from cellfm.cli import bench_report
from cellfm.errors import EvidenceError, OutputExistsError

RESOURCES = {"submit", "exit_code", "duration_sec", "cpu_pct", "peak_memory_mb", "disk_read_mb", "disk_write_mb"}  # fmt: skip


def test_open_problems_entries_have_their_fields(tmp_path) -> None:
    path, lost = export(full_run(tmp_path), tmp_path / "op.json", form="open-problems")
    assert lost == ()
    entries = json.loads(path.read_text())
    fields = {"task_id", "dataset_id", "method_id", "metric_values", "scaled_scores", "mean_score", "resources"}  # fmt: skip
    assert all(set(entry) == fields and set(entry["resources"]) == RESOURCES for entry in entries)
    by = {(e["task_id"], e["dataset_id"], e["method_id"]): e for e in entries}
    assert len(by) == len(entries)
    ours = by["annotation", "islets/donor", "cellfm"]
    assert ours["metric_values"] == pytest.approx({"macro_f1": 0.8, "accuracy": 0.792})
    assert ours["mean_score"] == pytest.approx(0.7 / 0.9)
    assert ours["resources"]["peak_memory_mb"] == 1907
    assert ("few_shot", "islets/donor/5", "pca") in by


def test_open_problems_writes_what_failed_as_missing_and_not_as_0(tmp_path) -> None:
    path, _ = export(full_run(tmp_path), tmp_path / "op.json", form="open-problems")
    (failed,) = [e for e in json.loads(path.read_text()) if e["method_id"] == "scvi"]
    assert failed["metric_values"] == {"macro_f1": "NA"}
    assert failed["scaled_scores"] == {"macro_f1": "NA"}
    assert failed["mean_score"] == "NA"
    assert failed["resources"]["exit_code"] == 1


def test_open_problems_averages_seeds_and_keeps_weights_apart(tmp_path) -> None:
    rows = [*group(), *(replace(r, value=r.value / 2, normalised=0.0) for r in group(seed=1))]
    path, _ = export(write_run(tmp_path, rows), tmp_path / "op.json", form="open-problems")
    entry = json.loads(path.read_text())[0]
    assert entry["metric_values"]["macro_f1"] == pytest.approx(0.6)
    assert entry["scaled_scores"]["macro_f1"] == pytest.approx(0.35 / 0.9)
    write_run(tmp_path, [*group(), *group(weights="o" * 64)])
    export(tmp_path, path, form="open-problems", overwrite=True)
    assert "cellfm/oooooooooooo" in {e["method_id"] for e in json.loads(path.read_text())}


def test_cz_benchmarks_lists_hold_only_what_it_knows(tmp_path) -> None:
    path, lost = export(full_run(tmp_path), tmp_path / "cz.json", form="cz-benchmarks")
    assert lost == ("total", "bio", "batch")
    entries = json.loads(path.read_text())
    ours = entries[0]
    assert (ours["task"], ours["dataset"], ours["method"]) == ("annotation", "islets", "cellfm")
    assert [metric["metric_type"] for metric in ours["metrics"]] == ["f1", "accuracy"]
    assert ours["metrics"][0] == {"metric_type": "f1", "value": 0.8, "params": {"average": "macro"}}
    (failed,) = [entry for entry in entries if entry["method"] == "scvi"]
    assert (failed["metrics"], failed["failed"][:7]) == ([], "Missing")


def test_cz_benchmarks_reads_its_lists(tmp_path) -> None:
    types = pytest.importorskip("czbenchmarks.metrics.types")
    path, _ = export(full_run(tmp_path), tmp_path / "cz.json", form="cz-benchmarks")
    for entry in json.loads(path.read_text()):
        for metric in entry["metrics"]:
            types.MetricResult.model_validate(metric)


def test_command_says_what_is_left_out(tmp_path, capsys) -> None:
    bench_report.export(full_run(tmp_path), tmp_path / "cz.json", format="cz-benchmarks")
    assert "has no metric of this meaning: total, bio, batch" in capsys.readouterr().out


def test_export_refuses(tmp_path) -> None:
    target = tmp_path / "x.json"
    with pytest.raises(EvidenceError, match="no results"):
        export(tmp_path, target, form="open-problems")
    assert not target.exists()
    write_run(tmp_path, group())
    target.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"x\.json exists already"):
        export(tmp_path, target, form="open-problems")
    assert target.read_text() == "mine"
