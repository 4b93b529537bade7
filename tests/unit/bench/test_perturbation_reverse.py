"""Reverse search: ranks by hand, exact intervals, and that queries have no names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.unit.bench.test_perturbation import SCREEN, context_of, screen

from cellfm.bench.metrics.conditions import clopper_pearson, condition_scores, retrieval_table
from cellfm.bench.registry import load_task
from cellfm.bench.task import Answer, Task
from cellfm.bench.tasks.reverse import ReverseView
from cellfm.bench.tasks.screens import PerturbationCase
from cellfm.corpus.conditions import Condition
from cellfm.errors import DataError


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("reverse")


@pytest.fixture(scope="module")
def cases(task: Task) -> dict[str, PerturbationCase]:
    found = {case.split: case for case in task.cases(screen(SCREEN), seed=0)}
    assert list(found) == ["singles", "doubles"]
    return found  # type: ignore[return-value]


def test_ranks_by_hand() -> None:
    score = np.array([[0.9, 0.5, 0.5, 0.1], [0.3, 0.3, 0.3, 0.3], [0.1, 0.2, 0.3, 0.4 + 1e-12]])
    right = np.eye(4, dtype=bool)[[1, 0, 3]]
    relevant = right | np.eye(4, dtype=bool)[[0, 1, 0]]
    found = retrieval_table(score, right, relevant)
    np.testing.assert_allclose(found["mrr"], [1 / 2.5, 1 / 2.5, 1.0])
    np.testing.assert_allclose(found["mean_rank"], [0.5, 0.5, 0.0])
    np.testing.assert_array_equal(found["hit_1"], [0, 0, 1])
    np.testing.assert_array_equal(found["hit_5"], [1, 1, 1])
    np.testing.assert_array_equal(found["relevant_hit_1"], [1, 0, 1])
    # Rounding errors are no knowledge.
    noise = 1e-13 * np.random.default_rng(0).normal(size=score.shape)
    again = retrieval_table(score + noise, right, relevant)
    np.testing.assert_array_equal(again["mean_rank"], found["mean_rank"])


def test_exact_intervals_are_those_of_the_papers_shares() -> None:
    assert clopper_pearson(9, 11) == pytest.approx((0.482, 0.977), abs=1e-3)
    assert clopper_pearson(7, 11) == pytest.approx((0.308, 0.891), abs=1e-3)
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.308), abs=1e-3)
    assert clopper_pearson(10, 10) == pytest.approx((0.692, 1.0), abs=1e-3)


def test_means_leave_out_what_does_not_apply() -> None:
    table = pd.DataFrame(
        {"a": [1.0, np.nan, 3.0], "b": [np.nan] * 3}, index=pd.Index(["p", "q", "p"])
    )
    scores = condition_scores(table, seed=0)
    assert set(scores) == {"a"}
    assert scores["a"].value == 2.0
    assert scores["a"].n_units == 1


def test_queries_have_no_names(task: Task, cases: dict[str, PerturbationCase]) -> None:
    for case in cases.values():
        for view, fold in zip(task.views(case), case.folds, strict=True):
            assert isinstance(view, ReverseView)
            assert view.asked == ()
            assert not set(fold.asked) & set(view.data.conditions)
            assert {each for fold in case.folds for each in fold.asked} <= set(view.candidates)
            assert len(view.candidates) == 12 + 12 * 11 // 2
            # All queries are there, in another order than that of the names.
            rows = {row.tobytes() for row in fold.truth[0].delta}
            assert {row.tobytes() for row in view.query} == rows
    orders = [
        (view.query == fold.truth[0].delta).all()
        for case in cases.values()
        for view, fold in zip(task.views(case), case.folds, strict=True)
    ]
    assert not all(orders)


def oracle(view: ReverseView, truth: dict[bytes, Condition]) -> Answer:
    own = [truth[row.tobytes()] for row in view.query]
    score = np.array([[float(each == name) for each in view.candidates] for name in own])
    return Answer(arrays={"score": score})


def test_the_truth_is_first_and_knowing_nothing_is_chance(
    task: Task, cases: dict[str, PerturbationCase]
) -> None:
    case = cases["doubles"]
    views = task.views(case)
    truth = {
        row.tobytes(): each
        for fold in case.folds
        for row, each in zip(fold.truth[0].delta, fold.asked, strict=True)
    }
    found = task.score(case, [oracle(view, truth) for view in views])
    for metric in task.metrics:
        assert found.scores[metric.name].value == metric.best
    assert "hit_1: 10 of 10, exact 95 % interval 69% to 100%" in found.notes
    same = [Answer(arrays={"score": np.zeros((len(v.query), len(v.candidates)))}) for v in views]
    assert task.score(case, same).scores["mean_rank"].value == pytest.approx(0.5)
    bad = [Answer(arrays={"score": np.zeros((1, 1))})] * len(views)
    with pytest.raises(DataError, match="An answer must be scores of shape"):
        task.score(case, bad)


def test_all_methods_answer(task: Task, cases: dict[str, PerturbationCase], tmp_path: Path) -> None:
    case = replace(cases["doubles"], folds=cases["doubles"].folds[:2])
    context, views = context_of(case.dataset, tmp_path), task.views(case)
    found = {
        method.name: task.score(case, [method.run(view, context) for view in views]).scores
        for method in task.methods
        if "labels" not in method.name and method.name != "random-weights"
    }
    assert found["ceiling"]["mrr"].value > 0.5
    # Pairs are sums: the sum of the singles finds them among 78 candidates.
    for name in ("additive", "cellfm"):
        assert found[name]["mean_rank"].value < 0.15
        assert found[name]["mrr"].value > found["random"]["mrr"].value
    assert 0.2 < found["random"]["mean_rank"].value < 0.8


def test_a_mean_is_chance_among_the_unseen_and_not_among_all(task: Task, tmp_path: Path) -> None:
    """What a method was fitted on it can rule out: the reason for the ranks among the unseen."""
    dataset = screen(replace(SCREEN, n_doubles=0, n_singles=20))
    (case,) = task.cases(dataset, seed=0)
    context, views = context_of(dataset, tmp_path), task.views(case)
    (additive,) = [method for method in task.methods if method.name == "additive"]
    found = task.score(case, [additive.run(view, context) for view in views]).scores
    assert found["mean_rank"].value == pytest.approx(0.5)
    assert abs(found["all_mean_rank"].value - 0.5) > 0.05
