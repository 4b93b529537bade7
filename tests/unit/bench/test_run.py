import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.bench.toy import (
    Toy,
    half_right,
    method,
    methods,
    never_right,
    toy_dataset,
    toy_model,
)

from cellfm.bench.outcomes import read_draws
from cellfm.bench.registry import check_task
from cellfm.bench.result import ResultTable, normalised, read_results
from cellfm.bench.run import RunOptions, chosen_methods, run_bench
from cellfm.corpus.split import TEST
from cellfm.errors import ConfigError, DataError, EvidenceError

MODEL = toy_model()


def bench(out: Path, task: Toy | None = None, **options: object):
    return run_bench([task or Toy()], [toy_dataset()], MODEL, out, options=RunOptions(**options))


def test_results_have_all_that_the_rules_ask_for(tmp_path) -> None:
    done = bench(tmp_path)
    assert (done.held_back, done.refused, done.n_run) == ((), (), 6)
    ours = next(row for row in read_results(tmp_path) if row.method == "ours")
    assert (ours.value, ours.negative, ours.positive, ours.normalised) == (0.5, 0.0, 1.0, 0.5)
    assert ours.low < 0.5 < ours.high
    assert (ours.n_units, ours.unit, ours.seed, ours.weights) == (90, "cell", 0, MODEL.hash)
    assert ours.dataset_hash == toy_dataset().hash
    assert ours.gene_coverage == 1.0
    assert ours.peak_memory > 0
    assert {"python", "cellfm", "numpy"} <= set(ours.versions)
    assert ours.notes[-1] == "half"
    assert len(read_draws(tmp_path, ours)["hits"]) == 50


def test_normalised_is_never_clipped() -> None:
    assert normalised(0.1, 0.3, 0.5) == pytest.approx(-1.0)
    assert normalised(0.9, 0.3, 0.5) == pytest.approx(3.0)
    assert normalised(0.9, 0.5, 0.5) is None
    assert normalised(None, 0.3, 0.5) is None


@pytest.mark.parametrize(
    "role", ["random_weights", "pca", "classical", "shuffled_labels", "negative"]
)
def test_results_without_a_control_cannot_be_made_or_read(tmp_path, role) -> None:
    rows = [row for row in bench(tmp_path).table if role not in row.roles]
    with pytest.raises(EvidenceError, match=f"have no {role}"):
        ResultTable(rows)
    lines = [line for line in (tmp_path / "results.jsonl").read_text().splitlines() if role not in json.loads(line)["roles"]]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    with pytest.raises(EvidenceError, match=f"have no {role}"):
        read_results(tmp_path)


def test_a_result_that_claims_to_need_nothing_needs_the_minimum(tmp_path) -> None:
    ours = next(row for row in bench(tmp_path).table if row.method == "ours")
    with pytest.raises(EvidenceError, match="classical"):
        ResultTable([replace(ours, required=())])


def test_two_tries_are_no_result(tmp_path) -> None:
    rows = list(bench(tmp_path).table)
    with pytest.raises(EvidenceError, match="twice"):
        ResultTable([*rows, rows[0]])


def test_a_failed_method_is_a_row_and_never_zero(tmp_path) -> None:
    def breaks(case, context):
        msg = "no memory left"
        raise RuntimeError(msg)

    def bare(case, context):
        return half_right(case, context)

    task = Toy(
        methods=methods(
            method("ours", "candidate"),
            method("broken", "candidate", run=breaks),
            method("absent", "candidate", run=bare, needs=("no_such_package",)),
        )
    )
    rows = {row.method: row for row in bench(tmp_path, task).table}
    assert rows["broken"].value is None
    assert rows["broken"].normalised is None
    assert rows["broken"].failed == "RuntimeError: no memory left"
    assert rows["broken"].text == "failed"
    assert "no_such_package" in rows["absent"].failed
    assert read_results(tmp_path).rows  # failures are written and read


def test_a_failed_control_holds_its_group_back(tmp_path) -> None:
    def breaks(case, context):
        msg = "no PCA today"
        raise RuntimeError(msg)

    good = [each for each in Toy().methods if each.name != "pca"]
    done = bench(tmp_path, Toy(methods=(*good, method("pca", "pca", run=breaks))))
    assert len(done.table) == 0
    assert len(done.held_back) == 1
    assert "pca (pca failed: RuntimeError: no PCA today)" in done.held_back[0]
    assert (tmp_path / "results.jsonl").read_text() == ""
    repaired = bench(tmp_path)  # what failed is tried again, the rest is used
    assert (repaired.n_run, repaired.n_reused) == (1, 5)
    assert len(repaired.table) == 6


def test_a_run_goes_on_where_it_stopped(tmp_path) -> None:
    class Interrupt(KeyboardInterrupt):
        pass

    def stops(case, context):
        raise Interrupt

    whole = bench(tmp_path / "whole").table.to_lines()
    rest = [each for each in Toy().methods if each.name != "pca"]
    stopped = Toy(methods=(*rest[:2], method("pca", "pca", run=stops), *rest[2:]))
    with pytest.raises(Interrupt):
        bench(tmp_path / "cut", stopped)
    assert not (tmp_path / "cut" / "results.jsonl").exists()
    done = bench(tmp_path / "cut")
    assert (done.n_run, done.n_reused) == (4, 2)

    def values(lines: str) -> list[tuple[object, ...]]:
        rows = map(json.loads, lines.splitlines())
        return sorted((row["method"], row["value"], row["low"], row["normalised"]) for row in rows)

    assert values(done.table.to_lines()) == values(whole)
    again = bench(tmp_path / "cut")
    assert (again.n_run, again.n_reused) == (0, 6)
    assert bench(tmp_path / "cut", fresh=True).n_run == 6
    changed = Toy(methods=methods(method("ours", "candidate", detail="pool=mean")))
    assert bench(tmp_path / "cut", changed).n_run == 1


def test_methods_do_not_see_the_labels_of_the_test_part(tmp_path) -> None:
    seen = []

    def looks(case, context):
        seen.append(case)
        return half_right(case, context)

    bench(tmp_path, Toy(methods=methods(method("ours", "candidate", run=looks))))
    view = seen[0]
    assert set(view.labels[view.part == TEST]) == {""}
    assert set(view.labels[view.part != TEST]) == {"B", "NK", "T"}
    assert (view.code[view.part == TEST] == -1).all()
    assert not view.known[view.part == TEST].any()
    assert list(view.adata.obs.columns) == ["donor"]
    assert not view.adata.uns
    assert view.dataset.hash == toy_dataset().hash
    with pytest.raises(DataError, match="does not give the cells"):
        view.dataset.load()
    with pytest.raises(DataError, match="does not give the cells"):
        view.dataset.cells  # noqa: B018 - a property


def test_controls_run_whatever_is_asked_for() -> None:
    task = Toy(
        methods=methods(
            method("ours", "candidate"),
            method("other", "candidate"),
            method("slow", "candidate", trains=True),
            method("slow pca", "pca", trains=True),
            method("of corpus", "pca", corpus=True),
        )
    )
    controls = {"random_weights", "pca", "classical", "shuffled_labels", "never"}
    names = {m.name for m in chosen_methods(task, RunOptions(methods=("ours",)))}
    assert names == {"ours"} | controls
    assert {m.name for m in chosen_methods(task, RunOptions())} == {"ours", "other"} | controls
    slow = {m.name for m in chosen_methods(task, RunOptions(slow=True))}
    assert slow == {"ours", "other", "slow", "slow pca"} | controls


def test_refusals(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no_method"):
        bench(tmp_path, methods=("no_method",))
    with pytest.raises(ConfigError, match="seeds"):
        RunOptions(seeds=0)
    with pytest.raises(ConfigError, match="Two datasets"):
        run_bench([Toy()], [toy_dataset(), toy_dataset()], MODEL, tmp_path)
    with pytest.raises(EvidenceError, match="does not require"):
        check_task(Toy(required=frozenset({"pca"})))
    with pytest.raises(EvidenceError, match="No method of the task"):
        check_task(Toy(methods=(method("never", "negative", run=never_right),)))
    with pytest.raises(EvidenceError, match="names the controls"):
        check_task(Toy(negative="nothing"))
    with pytest.raises(EvidenceError, match="two methods of one name"):
        check_task(Toy(methods=(*Toy().methods, *Toy().methods)))
    (tmp_path / "results.jsonl").write_text('{"format": 1}\n')
    with pytest.raises(EvidenceError, match="Line 1"):
        read_results(tmp_path)
    with pytest.raises(EvidenceError, match="no results at"):
        read_results(tmp_path / "nowhere")


def test_a_task_may_refuse_a_dataset(tmp_path) -> None:
    dataset = replace(toy_dataset(), label=None)
    done = run_bench([Toy()], [dataset], MODEL, tmp_path)
    assert done.refused == ("toy on toy: it has no labels",)
    assert len(done.table) == 0


def test_seeds_are_groups_of_their_own(tmp_path) -> None:
    done = bench(tmp_path, seeds=2)
    assert len(done.table.groups()) == 2
    draws = [read_draws(tmp_path, row)["hits"] for row in done.table if row.method == "ours"]
    assert not np.array_equal(*draws)
