from dataclasses import replace

import numpy as np
import pytest
from tests.unit.bench.toy import toy_cells, toy_dataset

from cellfm.bench.registry import TASKS, load_task
from cellfm.bench.resample import interval
from cellfm.bench.task import MINIMUM, Answer
from cellfm.bench.tasks.annotation import TASK
from cellfm.bench.tasks.few_shot import N_SETS, SHOTS
from cellfm.bench.tasks.few_shot import TASK as FEW_SHOT
from cellfm.bench.tasks.labelled import label_cases
from cellfm.corpus.split import TEST, VALIDATION, whole_groups
from cellfm.errors import DataError

pytest.importorskip("sklearn")


def oracle(case, view) -> Answer:
    code = case.code
    return Answer(arrays={"probability": np.eye(len(case.classes))[code]})


def guess(case, view, seed: int) -> Answer:
    drawn = np.random.default_rng(seed).integers(0, len(case.classes), len(case.part))
    return Answer(arrays={"probability": np.eye(len(case.classes))[drawn]})


@pytest.mark.parametrize("name", [name for name in TASKS if name in ("annotation", "few_shot")])
def test_tasks_load_and_require_their_controls(name) -> None:
    task = load_task(name)
    assert task.required >= MINIMUM | {"shuffled_labels"}


def test_each_donor_is_held_out_once_and_validation_is_of_other_donors() -> None:
    (case,) = TASK.cases(toy_dataset(), seed=0)
    views = TASK.views(case)
    assert [view.fold for view in views] == sorted(
        ["d1", "d2", "d3"], key=[v.fold for v in views].index
    )
    tested = np.stack([view.part == TEST for view in views])
    assert (tested.sum(axis=0) == 1).all()
    for view in views:
        assert set(case.group[view.part == TEST]) == {view.fold}
        assert (view.part == VALIDATION).any()
        assert set(view.labels[view.part == TEST]) == {""}
    assert case.split == "donor"


def test_protocols_follow_the_columns() -> None:
    def donors(n: int):
        def make():
            adata = toy_cells(120)
            adata.obs["donor"] = [f"d{i}" for i in np.arange(120) // 3 % n]
            adata.obs["batch"] = np.where(np.arange(120) < 60, "b1", "b2")
            return adata

        return make

    def splits(**options):
        return [case.split for case in label_cases(replace(toy_dataset(), **options), seed=0)]

    assert splits(donor=None) == ["intra"]
    assert splits(maker=donors(2)) == ["intra"]  # two donors cannot be told from chance
    assert splits(maker=donors(4), batch="batch") == ["donor", "batch"]
    (many,) = label_cases(replace(toy_dataset(), maker=donors(12)), seed=0)
    assert len(many.folds) == 5
    assert all(whole_groups((fold.part == TEST).astype(np.int8), many.group) for fold in many.folds)


def test_rare_types_are_left_out_and_said() -> None:
    def make():
        adata = toy_cells()
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
        adata.obs.iloc[:2, 0] = "pDC"
        return adata

    (case,) = label_cases(replace(toy_dataset(), maker=make), seed=0)
    assert case.classes == ("B", "NK", "T")
    assert len(case.part) == case.adata.n_obs == len(case.rows) == 88
    assert "1 types with fewer than 3 cells left out: 2 cells" in case.notes


def test_datasets_without_two_types_are_refused() -> None:
    assert "no labels" in TASK.refuses(toy_dataset(label=None))
    only = replace(toy_dataset(), drop={"cell_type": ("B", "NK")})
    assert "1 types" in TASK.refuses(only)
    assert TASK.refuses(toy_dataset()) is None


def test_oracle_has_each_metrics_best_and_guessing_has_chance() -> None:
    (case,) = TASK.cases(toy_dataset(), seed=0)
    views = TASK.views(case)
    best = TASK.score(case, [oracle(case, view) for view in views])
    for metric in TASK.metrics:
        assert best.scores[metric.name].value == pytest.approx(metric.best)
        assert (best.scores[metric.name].unit, best.scores[metric.name].n_units) == ("donor", 3)
    values = [
        TASK.score(case, [guess(case, view, seed) for view in views]).scores["macro_f1"].value
        for seed in range(20)
    ]
    assert np.mean(values) == pytest.approx(1 / 3, abs=0.05)
    assert best.extra["confusion"] == [[30, 0, 0], [0, 30, 0], [0, 0, 30]]


def test_answers_of_another_shape_are_refused() -> None:
    (case,) = TASK.cases(toy_dataset(), seed=0)
    views = TASK.views(case)
    with pytest.raises(DataError, match="finite probabilities"):
        TASK.score(case, [Answer(arrays={"probability": np.zeros((5, 3))}) for _ in views])
    nan = Answer(arrays={"probability": np.full((90, 3), np.nan)})
    with pytest.raises(DataError, match="finite probabilities"):
        TASK.score(case, [nan for _ in views])


def test_few_shot_views_have_k_labels_of_each_type() -> None:
    cases = list(FEW_SHOT.cases(toy_dataset(), seed=0))
    assert [case.k for case in cases] == list(SHOTS)
    for case in cases:
        views = FEW_SHOT.views(case)
        assert len(views) == N_SETS * 3
        for view in views:
            assert np.bincount(view.code[view.known]).tolist() == [case.k] * 3
        assert not np.array_equal(views[0].known, views[3].known)
    best = FEW_SHOT.score(cases[0], [oracle(cases[0], view) for view in FEW_SHOT.views(cases[0])])
    assert best.scores["macro_f1"].value == 1.0


def test_few_shot_interval_counts_the_draw_of_labels() -> None:
    case = next(iter(FEW_SHOT.cases(toy_dataset(), seed=0)))
    views = FEW_SHOT.views(case)
    # two draws of labels that go well and three that do not: no draw of cells tells that
    answers = [oracle(case, v) if i < 6 else guess(case, v, i // 3) for i, v in enumerate(views)]
    score = FEW_SHOT.score(case, answers).scores["accuracy"]
    assert 0.5 < score.value < 0.7
    low, high = interval(score.draws)
    assert low < 0.45
    assert high > 0.8
