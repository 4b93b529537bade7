"""Predicted responses: what methods see, how they are judged, and that nobody wins where nothing happens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.bench.toy import toy_dataset

from cellfm.bench.datasets import BUILT_IN, Dataset, read_dataset
from cellfm.bench.methods import responses as methods
from cellfm.bench.methods.responses import ResponseView
from cellfm.bench.registry import load_task
from cellfm.bench.resample import interval
from cellfm.bench.states import States
from cellfm.bench.task import Answer, Context, Outcome, Task
from cellfm.bench.tasks.screens import PerturbationCase
from cellfm.corpus.simulate import PerturbationConfig, SimulationConfig, simulate
from cellfm.errors import DataError
from cellfm.genes import Vocabulary
from cellfm.tl._response.responses import Responses
from cellfm.weights.folder import new

WORLD = SimulationConfig(
    n_cells=1000, n_genes=90, n_types=1, n_lineages=1, n_programs=4, n_batches=1, n_donors=1
)
SCREEN = PerturbationConfig(n_singles=12, n_doubles=10, coupling=0.9, interacting=0.0, effect=1.5)


def screen(asked: PerturbationConfig, **changes: object) -> Dataset:
    config = replace(WORLD, perturbations=asked, **changes)
    keys = {"context": "cell_type"} if config.n_types > 1 else {}
    return Dataset(
        name="screen", maker=lambda: simulate(config), perturbation="perturbation", **keys
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("perturbation")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return screen(SCREEN)


@pytest.fixture(scope="module")
def cases(task: Task, dataset: Dataset) -> dict[str, PerturbationCase]:
    found = {case.split: case for case in task.cases(dataset, seed=0)}
    assert all(isinstance(case, PerturbationCase) for case in found.values())
    return found  # type: ignore[return-value]


def context_of(dataset: Dataset, work: Path) -> Context:
    symbols = list(dataset.cells.var_names[:80])
    model = new("debug", Vocabulary.from_symbols(symbols))
    return Context(model=model, states=States(work), seed=0, work=work)


@pytest.fixture(scope="module")
def context(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context_of(dataset, tmp_path_factory.mktemp("work"))


def run(task: Task, case: PerturbationCase, context: Context, *names: str) -> dict[str, Outcome]:
    views = task.views(case)
    return {
        method.name: task.score(case, [method.run(view, context) for view in views])
        for method in task.methods
        if method.name in names
    }


def test_each_condition_is_predicted_once_and_nothing_of_it_is_seen(
    task: Task, cases: dict[str, PerturbationCase], dataset: Dataset
) -> None:
    assert list(cases) == ["singles", "doubles"]
    obs = dataset.cells.obs["perturbation"].astype(str)
    for protocol, case in cases.items():
        size = 1 if protocol == "singles" else 2
        every = {each for each in case.data.conditions if len(each.genes) == size}
        asked = [each for fold in case.folds for each in fold.asked]
        assert sorted(asked) == sorted(every)
        views = task.views(case)
        assert len(views) == len(case.folds) == 5
        for view in views:
            assert isinstance(view, ResponseView)
            held = {gene for each in view.asked for gene in each.genes}
            names = {each.name for each in view.data.conditions}
            shown = set(obs.iloc[view.rows]) - {"control"}
            assert {"+".join(sorted(name.split("+"))) for name in shown} | {"ctrl"} == names
            assert not {each.name for each in view.asked} & names
            if protocol == "singles":
                assert not held & {gene for each in view.data.conditions for gene in each.genes}
            assert not len(view.adata.obs.columns)
            assert (view.data.counts != view.adata.X).nnz == 0
            with pytest.raises(DataError, match="does not give the cells"):
                view.dataset.load()


def test_controls_score_as_documented(
    task: Task, cases: dict[str, PerturbationCase], context: Context
) -> None:
    case = cases["singles"]
    found = run(task, case, context, "no-change", "perturbed-mean", "ceiling")
    for name in ("no-change", "perturbed-mean"):
        for metric in ("pds", "centroid_accuracy"):
            assert found[name].scores[metric].value == pytest.approx(0.5)
    mean = found["perturbed-mean"].scores
    assert mean["pearson_delta_ref"].value == pytest.approx(0.0)
    assert mean["r2_weighted"].value == pytest.approx(0.0)
    assert mean["pds"].unit == "condition"
    assert mean["pds"].n_units == 12
    assert found["no-change"].scores["nmae"].value == pytest.approx(1.0)
    ceiling = found["ceiling"]
    assert ceiling.scores["centroid_accuracy"].value > 0.9
    assert ceiling.scores["r2_weighted"].value > 0.5
    assert "collapsed in 5 of 5 folds" in found["perturbed-mean"].notes
    assert not any("collapsed" in note for note in ceiling.notes)
    assert len(ceiling.extra["conditions"]) == len(ceiling.extra["values"]["pds"]) == 12


def test_the_truth_beats_the_ceiling_and_wrong_names_are_chance(
    task: Task, cases: dict[str, PerturbationCase]
) -> None:
    case = cases["singles"]
    true = [
        Answer(arrays={"delta": (fold.truth[0].delta + fold.truth[1].delta) / 2})
        for fold in case.folds
    ]
    oracle = task.score(case, true)
    assert oracle.scores["pds"].value == oracle.scores["centroid_accuracy"].value == 1.0
    assert oracle.scores["r2_weighted"].value > 0.8
    turned = [Answer(arrays={"delta": answer.arrays["delta"][::-1]}) for answer in true]
    wrong = task.score(case, turned)
    assert wrong.scores["pds"].value < 0.6
    bad = [Answer(arrays={"delta": answer.arrays["delta"][:, 1:]}) for answer in true]
    with pytest.raises(DataError, match="An answer must be deltas of shape"):
        task.score(case, bad)


def test_all_methods_answer(
    task: Task, cases: dict[str, PerturbationCase], context: Context
) -> None:
    names = [method.name for method in task.methods if not method.trains]
    case = replace(cases["doubles"], folds=cases["doubles"].folds[:2])
    found = run(task, case, context, *names)
    assert set(found) == set(names)
    for outcome in found.values():
        assert set(outcome.scores) >= {"pds", "centroid_accuracy", "r2_weighted", "l2_top1000"}
        low, high = interval(outcome.scores["pds"].draws) or (2.0, -1.0)
        assert low <= outcome.scores["pds"].value <= high
    # The singles of an additive pair are known.
    for name in ("additive", "cellfm"):
        assert found[name].scores["centroid_accuracy"].value > 0.9
    gain = found["cellfm"].scores["pds"].value - found["shuffled-labels"].scores["pds"].value
    assert gain > 0.2
    assert any(note.startswith("chose ") for note in found["cellfm"].notes)


def test_coupled_singles_can_be_predicted_from_coexpression(
    task: Task, cases: dict[str, PerturbationCase], context: Context
) -> None:
    found = run(task, cases["singles"], context, "knn", "kernel-coexpression")
    assert found["knn"].scores["centroid_accuracy"].value > 0.6
    assert found["kernel-coexpression"].scores["centroid_accuracy"].value > 0.6


def test_nobody_wins_a_null_world(task: Task, tmp_path: Path) -> None:
    nothing = replace(SCREEN, n_doubles=0, n_singles=20, effect=0.0, efficiency=0.0)
    dataset = screen(nothing)
    (case,) = task.cases(dataset, seed=0)
    assert isinstance(case, PerturbationCase)
    names = ("no-change", "perturbed-mean", "bilinear-pca", "bilinear-cellfm", "knn", "kernel-coexpression", "ceiling")  # fmt: skip
    found = run(task, case, context_of(dataset, tmp_path), *names)
    for name, outcome in found.items():
        for metric, chance in (("pds", 0.5), ("centroid_accuracy", 0.5), ("pearson_delta_ref", 0.0)):  # fmt: skip
            low, _ = interval(outcome.scores[metric].draws) or (-9.0, 9.0)
            assert low <= chance + 1e-9, (name, metric)
        assert outcome.scores["r2_weighted"].value < 0.02
        assert "nmae" not in outcome.scores  # no gene is significant


def test_contexts_are_held_out_whole(task: Task, tmp_path: Path) -> None:
    dataset = screen(replace(SCREEN, n_doubles=0, context=0.5), n_types=2, n_cells=1200)
    cases = {case.split: case for case in task.cases(dataset, seed=0)}
    assert list(cases) == ["singles", "contexts"]
    case = cases["contexts"]
    assert isinstance(case, PerturbationCase)
    for fold, view in zip(case.folds, task.views(case), strict=True):
        assert isinstance(view, ResponseView)
        inside = view.data.context == view.data.contexts.index(fold.name)
        assert inside.any()
        assert (view.data.code[inside] == 0).all()
        assert set(view.asked) <= set(view.data.conditions)
    found = run(task, case, context_of(dataset, tmp_path), "additive", "perturbed-mean", "ceiling")
    assert found["perturbed-mean"].scores["pds"].value == pytest.approx(0.5)
    assert found["additive"].scores["pds"].value > 0.8


def test_shuffling_keeps_singles_among_singles(cases: dict[str, PerturbationCase]) -> None:
    train = Responses.of(cases["singles"].data)
    turned = methods.shuffled(train, seed=0)
    assert turned.conditions == train.conditions
    pairs = np.array([len(each.genes) == 2 for each in train.conditions])
    for own in (pairs, ~pairs):
        moved = {row.tobytes() for row in turned.delta[own]}
        assert moved == {row.tobytes() for row in train.delta[own]}
    assert (turned.delta != train.delta).any(axis=1).mean() > 0.7
    np.testing.assert_array_equal(methods.shuffled(train, seed=0).delta, turned.delta)


def test_what_is_no_screen_is_refused(task: Task, dataset: Dataset) -> None:
    assert task.refuses(dataset) is None
    assert "no perturbations" in str(task.refuses(toy_dataset()))
    assert "raw counts" in str(task.refuses(replace(dataset, scale="log1p")))
    few = screen(replace(SCREEN, n_singles=4, n_doubles=0), n_cells=200)
    assert "4 perturbations with at least 20 cells; 8 are needed" in str(task.refuses(few))


def test_datasets_say_what_is_perturbed(tmp_path: Path) -> None:
    assert {f"simulated-perturbations-{world}" for world in ("additive", "epistatic", "context", "null")} <= set(BUILT_IN)  # fmt: skip
    assert "do nothing at all" in BUILT_IN["simulated-perturbations-null"]().about
    (tmp_path / "a.yaml").write_text(
        "name: a\npath: a.h5ad\nperturbation: gene\ncontrol: NT\ncontext: line\n"
    )
    read = read_dataset(tmp_path / "a.yaml")
    assert (read.perturbation, read.control, read.context) == ("gene", "NT", "line")
    assert read.columns == ("gene", "line")


def test_the_real_screen_can_be_used(task: Task, shared_data: Path) -> None:
    real = read_dataset(Path("benchmarks/datasets/papalexi.yaml"))
    real = replace(real, path=shared_data / "papalexi_thp1_crispr" / "papalexi_thp1_crispr.h5ad")
    assert task.refuses(real) is None
    (case,) = task.cases(real, seed=0)
    assert isinstance(case, PerturbationCase)
    assert sum(len(fold.asked) for fold in case.folds) == 25
    ceiling = task.score(case, [Answer(arrays={"replicate": np.empty(0)})] * len(case.folds))
    assert ceiling.scores["centroid_accuracy"].value > 0.7
