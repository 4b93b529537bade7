from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cellfm.bench.datasets import BUILT_IN, Dataset
from cellfm.bench.drug_cells import FAMILIES, make_treated, simulated_drugs
from cellfm.bench.registry import load_task
from cellfm.bench.states import States
from cellfm.bench.task import Answer, Context
from cellfm.bench.tasks.drugs import TASK, DrugCase, DrugView
from cellfm.corpus.split import TEST
from cellfm.genes import Vocabulary
from cellfm.weights.folder import new

N_CELLS, N_GENES = 3600, 120


@pytest.fixture(scope="module")
def case() -> DrugCase:
    pytest.importorskip("rdkit")
    dataset = simulated_drugs("class", n_cells=N_CELLS, n_genes=N_GENES)
    return next(c for c in TASK.cases(dataset, seed=0) if c.split == "context")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def context(case: DrugCase, tmp_path_factory: pytest.TempPathFactory) -> Context:
    model = new("debug", Vocabulary.from_symbols(list(case.dataset.cells.var_names[:100])))
    folder: Path = tmp_path_factory.mktemp("work")
    return Context(model=model, states=States(folder), seed=0, work=folder)


def test_worlds_do_what_they_say() -> None:
    families = np.repeat(np.arange(len(FAMILIES)), [len(each) for each in FAMILIES.values()])
    for world, alike in (("class", True), ("own", False)):
        made = make_treated(world, n_cells=300, n_genes=N_GENES)
        effect = made.varm["perturbation_effect"][:, 1:].reshape(N_GENES, -1, 3)
        assert (np.abs(effect[:, :, 2]).sum(axis=0) > np.abs(effect[:, :, 0]).sum(axis=0)).all()
        r = np.corrcoef(effect[:, :, 2].T)
        same = (families[:, None] == families) & ~np.eye(len(families), dtype=bool)
        assert bool(r[same].mean() > 0.6) == alike
    assert not make_treated("null", n_cells=300, n_genes=N_GENES).varm["perturbation_effect"].any()
    assert set(make_treated("null", n_cells=300, n_genes=N_GENES).obs.dose) == {0.0, 0.1, 1.0, 10.0}
    assert {f"simulated-drugs-{world}" for world in ("class", "own", "null")} <= set(BUILT_IN)


def test_views_hold_no_answer(case: DrugCase) -> None:
    for view, split in zip(TASK.views(case), case.splits, strict=True):
        assert isinstance(view, DrugView)
        asked = {case.data.treatments[i] for i in np.flatnonzero(split.part == TEST)}
        assert set(view.asked) == asked
        assert not asked & set(view.data.treatments)
        codes = case.data.code[np.searchsorted(case.data.rows, view.rows)]
        assert not (split.part[codes[codes >= 0]] == TEST).any()
        n_control = (case.data.code < 0).sum()
        assert (view.data.code < 0).sum() == pytest.approx(n_control / 2, abs=2)
        assert list(view.adata.obs) == []


def test_oracle_wins_and_nothing_has_nought(case: DrugCase) -> None:
    views = TASK.views(case)
    truth = dict(zip(case.truth.treatments, case.truth.delta, strict=True))
    best = [Answer(arrays={"delta": np.stack([truth[t] for t in v.asked])}) for v in views]  # type: ignore[attr-defined]
    none = [Answer(arrays={"delta": np.zeros((len(v.asked), N_GENES))}) for v in views]  # type: ignore[attr-defined]
    good, bad = TASK.score(case, best).scores, TASK.score(case, none).scores
    assert good["r2"].value == pytest.approx(1.0)
    assert bad["r2"].value == bad["r2_top50"].value == pytest.approx(0.0)
    assert good["e_distance"].value < bad["e_distance"].value
    assert good["r2"].unit == "drug"
    assert good["r2"].n_units == 24
    assert len(good["r2"].draws) == 500
    cells = [
        Answer(arrays={**a.arrays, "cells": np.zeros((len(v.asked), 60, N_GENES), np.float32)})
        for a, v in zip(none, views, strict=True)
    ]  # type: ignore[attr-defined]
    assert TASK.score(case, cells).scores["e_distance"].value > 2 * bad["e_distance"].value


@pytest.mark.parametrize("name", ["same-drug-shift", "fingerprint-ridge", "cellfm", "random-weights", "pca-head", "ceiling"])  # fmt: skip
def test_methods_answer(case: DrugCase, context: Context, name: str) -> None:
    method = next(m for m in TASK.methods if m.name == name)
    scores = TASK.score(case, [method.run(view, context) for view in TASK.views(case)]).scores
    assert set(scores) == {metric.name for metric in TASK.metrics}
    assert -1 < scores["r2_top50"].value < 1
    if name in ("cellfm", "ceiling"):  # each drug was seen in two other contexts
        assert scores["r2_top50"].value > 0.05


def test_task_is_registered_and_refuses() -> None:
    assert load_task("drugs") is TASK
    dataset = Dataset(name="x", maker=lambda: None)  # type: ignore[arg-type, return-value]
    assert TASK.refuses(dataset) == "it names no column with drugs"
    log = replace(simulated_drugs("null"), scale="log1p")
    assert TASK.refuses(log) == "responses are measured on raw counts"
