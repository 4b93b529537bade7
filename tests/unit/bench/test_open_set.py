"""Metrics and task of unknown cell types."""

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm.bench.metrics import novelty
from cellfm.bench.task import Answer, Case
from cellfm.bench.tasks import open_set
from cellfm.corpus.split import TEST
from cellfm.errors import DataError

if TYPE_CHECKING:
    from cellfm.bench.datasets import Dataset

METRICS = (
    novelty.auroc,
    novelty.average_precision,
    novelty.false_positive_rate,
    novelty.risk_coverage_area,
)


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    novel = rng.random(400) < 0.3
    return np.round(rng.normal(size=400) + novel, 1), novel  # rounded: with ties


def test_equals_sklearn(cells: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    score, novel = cells
    weights = np.random.default_rng(1).integers(0, 4, (3, 400)).astype(float)
    for row, weight in enumerate(weights):
        expected = metrics.roc_auc_score(novel, score, sample_weight=weight)
        assert novelty.auroc(score, novel, weights=weights)[row] == pytest.approx(expected)
        expected = metrics.average_precision_score(novel, score, sample_weight=weight)
        found = novelty.average_precision(score, novel, weights=weights)[row]
        assert found == pytest.approx(expected)
        fpr, tpr, _ = metrics.roc_curve(novel, score, sample_weight=weight, drop_intermediate=False)
        expected = fpr[np.argmax(tpr >= 0.95)]
        found = novelty.false_positive_rate(score, novel, weights=weights)[row]
        assert found == pytest.approx(expected)


def test_oracle_and_chance(cells: tuple[np.ndarray, np.ndarray]) -> None:
    _, novel = cells
    oracle = [float(metric(novel.astype(float), novel)[0]) for metric in METRICS]
    assert oracle[:3] == [1.0, 1.0, 0.0]
    rng = np.random.default_rng(2)
    chance = np.mean([[m(rng.random(400), novel)[0] for m in METRICS] for _ in range(200)], axis=0)
    assert chance == pytest.approx([0.5, novel.mean(), 0.95, novel.mean()], abs=0.02)


def test_risk_coverage_by_hand() -> None:
    score, wrong = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])
    found = novelty.risk_coverage_area(score, wrong)
    assert found == pytest.approx([(0 + 1 / 2 + 1 / 3 + 2 / 4) / 4])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_order_of_cells_and_weights(metric: object, cells: tuple[np.ndarray, np.ndarray]) -> None:
    score, novel = cells
    order = np.random.default_rng(3).permutation(400)
    assert metric(score[order], novel[order]) == pytest.approx(metric(score, novel))
    twice = np.r_[np.arange(400), np.arange(50)]
    weights = np.r_[np.full(50, 2.0), np.ones(350)][None]
    expected = metric(score[twice], novel[twice])
    assert metric(score, novel, weights=weights) == pytest.approx(expected)


def test_nothing_novel_is_nan() -> None:
    score, none = np.arange(3.0), np.zeros(3, bool)
    for metric in METRICS[:3]:
        assert np.isnan(metric(score, none)).all()


class FakeDataset:
    """What the task looks at."""

    name, label, batch, donor, scale = "fake", "type", None, None, "counts"

    def __init__(self, labels: list[str]) -> None:
        obs = pd.DataFrame({"type": labels}, index=[f"c{i}" for i in range(len(labels))])
        counts = np.random.default_rng(0).poisson(2.0, (len(labels), 3)).astype(np.float32)
        self.cells = AnnData(counts, obs=obs)

    def blind(self) -> "FakeDataset":
        """Return the same without the cells, as methods are given it."""
        other = copy(self)
        del other.cells
        return other


def dataset(labels: list[str]) -> "Dataset":
    return FakeDataset(labels)  # type: ignore[return-value]


@pytest.fixture
def case() -> Case:
    labels = ["A"] * 60 + ["B"] * 40 + ["C"] * 30 + ["D"] * 4
    return next(open_set.TASK.cases(dataset(labels), seed=0))


def test_views_hide_the_type_left_out(case: Case) -> None:
    views = open_set.TASK.views(case)
    assert [view.fold for view in views] == ["A", "B", "C"]  # D is too small
    for view in views:
        of_type = case.labels == view.fold
        assert (view.part[of_type] == TEST).all()
        assert not view.known[of_type].any()
        assert set(view.labels[view.part == TEST]) == {""}
        assert (view.part[~of_type] == case.part[~of_type]).all()


def test_oracle_beats_a_random_score(case: Case) -> None:
    views = open_set.TASK.views(case)
    perfect = [
        Answer(arrays={"novelty": (case.labels == view.fold) * 1.0, "label": case.code})
        for view in views
    ]
    outcome = open_set.TASK.score(case, perfect)
    assert outcome.scores["auroc"].value == 1.0
    assert outcome.scores["fpr95"].value == 0.0
    assert outcome.extra["left_out"] == ["A", "B", "C"]
    random = [open_set.random_score(view, None) for view in views]
    chance = open_set.TASK.score(case, random)
    assert chance.scores["auroc"].value == pytest.approx(0.5, abs=0.15)
    assert chance.scores["risk_coverage"].value > outcome.scores["risk_coverage"].value
    assert len(chance.scores["auroc"].draws) == len(outcome.scores["auroc"].draws) > 100


def test_scores_find_a_cluster_of_its_own(case: Case) -> None:
    """Points far from all others are strange by distance, under a label that is left out."""
    pytest.importorskip("sklearn")
    centre = {"A": (0, 0), "B": (6, 0), "C": (0, 6), "D": (6, 6)}
    rng = np.random.default_rng(0)
    points = np.array([centre[name] for name in case.labels]) + rng.normal(size=(134, 2))
    made = open_set.EMBEDDINGS["cellfm"]
    fixed = type(made)(
        name="points", summary="", role="candidate", of=lambda *_: points.astype(np.float32)
    )
    for score in ("knn", "mahalanobis"):
        answers = [
            open_set.Recognised(embedding=fixed, score=score)(view, None)
            for view in open_set.TASK.views(case)
        ]
        assert open_set.TASK.score(case, answers).scores["auroc"].value > 0.9
    method = open_set.Recognised(embedding=fixed, score="softmax", shuffle=True)
    shuffled = [method(view, None) for view in open_set.TASK.views(case)]
    assert open_set.TASK.score(case, shuffled).scores["risk_coverage"].value > 0.5


def test_a_wrong_answer_is_refused(case: Case) -> None:
    bad = Answer(arrays={"novelty": np.full(134, np.nan), "label": case.code})
    with pytest.raises(DataError, match="finite novelty"):
        open_set.TASK.score(case, [bad] * 3)


def test_refuses() -> None:
    assert open_set.TASK.refuses(dataset(["A"] * 30 + ["B"] * 30)) is not None
    assert open_set.TASK.refuses(dataset(["A"] * 30 + ["B"] * 30 + ["C"] * 2)) is None
    unlabelled = dataset(["A"])
    unlabelled.label = None
    assert "no labels" in (open_set.TASK.refuses(unlabelled) or "")


def test_roles_are_covered() -> None:
    roles = frozenset().union(*(method.roles for method in open_set.TASK.methods))
    assert roles >= open_set.TASK.required
