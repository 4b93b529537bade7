"""`cellfm bench` on a small dataset, by the command line."""

import json

import pytest

from tests.unit.bench.toy import GENES, toy_cells

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")

YAML = "name: toy\npath: cells.h5ad\nlabel: cell_type\ndonor: donor\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    from cellfm.genes import Vocabulary
    from cellfm.weights import folder as weights

    folder = tmp_path_factory.mktemp("bench")
    toy_cells(90).write_h5ad(folder / "cells.h5ad")
    (folder / "toy.yaml").write_text(YAML)
    (folder / "intra.yaml").write_text("name: intra\npath: cells.h5ad\nlabel: cell_type\n")
    model = weights.new("debug", Vocabulary.from_symbols(GENES))
    weights.save(
        folder / "model", model.network, model.vocabulary, card="", provenance=model.provenance
    )
    return folder


def test_run_prints_and_writes_results_and_goes_on(cellfm, files, tmp_path) -> None:
    common = ("bench", "run", "--out", tmp_path / "out", "--model", files / "model")
    words = (*common, "--tasks", "annotation", "--datasets", files / "toy.yaml")
    first = cellfm(*words)
    assert first.code == 0, first.err
    assert "annotation on toy: donor split, seed 0" in first.out
    assert "toy · annotation · cellfm+knn" in first.err
    by_method = {row["method"]: row for row in _rows(tmp_path) if row["primary"]}
    # a gene tells each type: regression on genes finds that, permuted labels and the majority do not
    assert by_method["hvg+l2"]["value"] > 0.8
    assert by_method["pca50+linear"]["value"] > 0.8
    assert by_method["shuffled-labels"]["value"] < 0.6
    assert by_method["majority"]["normalised"] == 0.0
    assert by_method["cellfm+linear"]["setting"] == "frozen_probe"
    assert by_method["cellfm+linear"]["unit"] == "donor"
    again = cellfm(*words)
    assert again.code == 0
    assert "0 methods run" in again.out
    few = cellfm(*common, "--tasks", "few_shot", "--datasets", files / "intra.yaml")
    assert few.code == 0, few.err
    assert "annotation" not in few.out
    assert "no headline), 10 labelled cells of each type" in few.out
    settings = {row["setting"] for row in _rows(tmp_path) if row["task"] == "few_shot"}
    assert settings == {"few_shot(1)", "few_shot(5)", "few_shot(10)"}
    assert {row["task"] for row in _rows(tmp_path)} == {"annotation", "few_shot"}


def _rows(folder):
    lines = (folder / "out" / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_list_names_tasks_methods_and_datasets(cellfm) -> None:
    listed = cellfm("bench", "list")
    assert listed.code == 0, listed.err
    for word in ("annotation", "few_shot", "hvg+l2", "sklearn", "simulated-types"):
        assert word in listed.out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--tasks", "knitting"), "no task 'knitting'"),
        (("--tasks", "annotation", "--datasets", "nothing.yaml"), "no dataset file nothing.yaml"),
        (("--tasks", "annotation", "--methods", "magic-wand"), "magic-wand"),
        (("--tasks", "annotation", "--seeds", "0"), "seeds is 0"),
    ],
)
def test_refusals(cellfm, tmp_path, words, what) -> None:
    refused = cellfm("bench", "run", "--out", tmp_path / "out", *words)
    assert refused.code == 2
    assert what in refused.err
    assert not (tmp_path / "out").exists()
