"""The integration task: its metrics against themselves and scib-metrics, its methods, and the guard on biology."""

from importlib.util import find_spec

import numpy as np
import pytest
from anndata import AnnData

from cellfm.bench.datasets import BUILT_IN, Dataset
from cellfm.bench.methods.integration import METHODS
from cellfm.bench.metrics.integration import (
    BATCH,
    BIO,
    IntegrationScore,
    bras,
    scib_scores,
    silhouette_label,
    stratified_subsamples,
)
from cellfm.bench.registry import check_task, load_task
from cellfm.bench.states import States
from cellfm.bench.task import Answer, Case, Context
from cellfm.bench.tasks import integration
from cellfm.bench.tasks.integration import GUARD, TASK, Integration, IntegrationCase
from cellfm.corpus.simulate import SimulationConfig, simulate
from cellfm.errors import DataError, MissingDependencyError
from cellfm.genes import Vocabulary
from cellfm.tl._integrate_batch import Batches, centred
from cellfm.weights import folder


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three types in two batches that a shift tells apart."""
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 60)
    batch = np.tile(["x", "y", "y"], 60)
    centres = rng.normal(size=(3, 8)) * 3
    x = centres[np.repeat([0, 1, 2], 60)] + rng.normal(size=(180, 8))
    x[batch == "y"] += rng.normal(size=8) * 4
    return x.astype(np.float32), label, batch


def test_bras_knows_mixed_from_apart(cells: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, label, batch = cells
    code = np.unique(batch, return_inverse=True)[1]
    mixed = centred(x, Batches(names=("x", "y"), code=code))
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert bras(x, label, batch) < 0.6
    assert bras(mixed, label, batch) > 0.8
    assert bras(noise, label, batch) > 0.9
    order = np.random.default_rng(2).permutation(len(x))
    assert bras(x[order], label[order], batch[order]) == pytest.approx(bras(x, label, batch))
    with pytest.raises(DataError, match="No label is in two batches"):
        bras(x, label, label)


def test_silhouette_of_labels(cells: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, label, batch = cells
    mixed = centred(x, Batches(names=("x", "y"), code=np.unique(batch, return_inverse=True)[1]))
    shuffled = np.random.default_rng(0).permutation(label)
    assert silhouette_label(mixed, label) > 0.7
    assert silhouette_label(mixed, shuffled) == pytest.approx(0.5, abs=0.02)
    oracle = np.eye(3)[np.unique(label, return_inverse=True)[1]]
    assert silhouette_label(oracle, label) == pytest.approx(1.0)


def test_total_weighs_biology_more() -> None:
    parts = dict.fromkeys(BIO, 1.0) | dict.fromkeys(BATCH, 0.5)
    score = IntegrationScore(parts=parts)
    assert (score.bio, score.batch) == (1.0, 0.5)
    assert score.total == pytest.approx(0.8)


def test_subsamples_keep_the_number_of_every_kind(
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, label, batch = cells
    draws = stratified_subsamples(label, batch, n=3, fraction=0.8, seed=0)
    again = stratified_subsamples(label, batch, n=3, fraction=0.8, seed=0)
    kinds = [np.unique(np.char.add(label[rows], batch[rows]), return_counts=True) for rows in draws]
    for rows, same, (names, sizes) in zip(draws, again, kinds, strict=True):
        np.testing.assert_array_equal(rows, same)
        assert len(set(rows.tolist())) == len(rows)
        assert names.tolist() == kinds[0][0].tolist()
        assert sizes.tolist() == kinds[0][1].tolist() == [16, 32] * 3
    assert draws[0].tolist() != draws[1].tolist()


@pytest.mark.skipif(find_spec("scib_metrics") is None, reason="scib-metrics is an extra")
@pytest.mark.filterwarnings("ignore")
def test_ours_are_those_of_scib_metrics(
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    import scib_metrics

    x, label, batch = cells
    assert bras(x, label, batch) == pytest.approx(scib_metrics.bras(x, label, batch), abs=1e-5)
    assert silhouette_label(x, label) == pytest.approx(
        scib_metrics.silhouette_label(x, label), abs=1e-5
    )


def test_too_few_cells_and_bad_numbers(
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, label, batch = cells
    with pytest.raises(DataError, match="80 cells"):
        scib_scores({"it": x[:80]}, x[:80], label[:80], batch[:80])
    with pytest.raises(DataError, match="rows"):
        scib_scores({"it": x[:100]}, x, label, batch)
    broken = x.copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        scib_scores({"it": broken}, x, label, batch)


# -- the task -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """160 cells, small enough to embed with a network in a second."""

    def make() -> AnnData:
        shape = SimulationConfig(n_cells=160, n_genes=200, n_types=3, n_batches=3, n_donors=3)
        return simulate(shape, seed=2)

    return Dataset(name="small", maker=make, label="cell_type", batch="batch")


@pytest.fixture(scope="module")
def case(dataset: Dataset) -> Case:
    (made,) = TASK.cases(dataset, seed=0)
    return made


@pytest.fixture(scope="module")
def context(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Context:
    vocabulary = Vocabulary.from_symbols(tuple(map(str, dataset.cells.var_names)))
    work = tmp_path_factory.mktemp("work")
    model = folder.new("debug", vocabulary)
    return Context(model=model, states=States(work / "states"), work=work)


def test_the_task_has_its_controls() -> None:
    check_task(TASK)
    assert load_task("integration").name == "integration"
    assert {"pca", "harmony", "scvi", "random_embedding", "shuffled_labels"} <= {
        method.name for method in METHODS
    }


def test_methods_see_batches_and_no_labels(case: Case) -> None:
    (view,) = TASK.views(case)
    assert list(view.adata.obs.columns) == ["batch"]
    assert view.labels is not None
    assert set(view.labels) == {""}
    assert not view.known.any()
    assert (view.part == 0).all()  # all cells may be fitted on


@pytest.mark.parametrize(
    "name",
    [
        "cellfm_frozen",
        "cellfm_centred",
        "cellfm_mean_centred",
        "pca",
        "pca_centred",
        "random_embedding",
        "random_weights_centred",
        "shuffled_labels",
    ],
)
def test_methods_answer_and_repeat(name: str, case: Case, context: Context) -> None:
    (method,) = (each for each in METHODS if each.name == name)
    (view,) = TASK.views(case)
    answer = method.run(view, context)
    embedding = answer.arrays["embedding"]
    assert len(embedding) == len(case.part)
    assert np.isfinite(embedding).all()
    again = method.run(view, context).arrays
    for key, values in answer.arrays.items():
        np.testing.assert_array_equal(values, again[key])
    if name.endswith("centred"):
        means = [embedding[case.group == batch].mean(0) for batch in np.unique(case.group)]
        assert np.abs(means[0] - means[1]).max() < 1e-3
    if name == "shuffled_labels":
        assert sorted(answer.arrays["order"].tolist()) == list(range(len(case.part)))


@pytest.mark.skipif(find_spec("harmonypy") is None, reason="harmonypy is an extra")
@pytest.mark.filterwarnings("ignore")
def test_harmony_is_turned_the_right_way(case: Case, context: Context) -> None:
    (method,) = (each for each in METHODS if each.name == "harmony")
    (view,) = TASK.views(case)
    embedding = method.run(view, context).arrays["embedding"]
    assert embedding.shape == (len(case.part), 50)
    pca = context.states.profiles(view).scores(view.adata)
    # a corrected cell is still nearer to what it was than to another cell
    near = ((embedding[:20, None] - pca[None, :20]) ** 2).sum(-1).argmin(1)
    assert (near == np.arange(20)).mean() > 0.5


def _judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Replace scib-metrics by a score that is the first number of the embedding."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def score(
        embeddings: dict[str, np.ndarray], pre: np.ndarray, label: np.ndarray, batch: np.ndarray
    ) -> dict[str, IntegrationScore]:
        (embedding,) = embeddings.values()
        assert len(embedding) == len(pre) == len(label) == len(batch)
        seen.append((embedding, label))
        bio = 0.7 if embedding is pre or embedding.shape == pre.shape else float(embedding[0, 0])
        parts = dict.fromkeys(BIO, bio) | dict.fromkeys(BATCH, 0.5)
        return {"it": IntegrationScore(parts=parts)}

    monkeypatch.setattr(integration, "scib_scores", score)
    monkeypatch.setattr(integration, "require", lambda *_, **__: None)
    return seen


@pytest.mark.parametrize(("bio", "kept"), [(0.69, True), (0.7 - GUARD - 0.01, False), (0.9, True)])
def test_guard(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, *, bio: float, kept: bool
) -> None:
    seen = _judged(monkeypatch)
    (fresh,) = TASK.cases(dataset, seed=0)
    embedding = np.full((len(fresh.part), 3), bio, np.float32)
    outcome = TASK.score(fresh, [Answer(arrays={"embedding": embedding})])
    assert outcome.scores["bio"].value == pytest.approx(bio)
    assert outcome.scores["total"].value == pytest.approx(0.6 * bio + 0.2)
    assert outcome.scores["guard"].value == float(kept)
    assert bool(outcome.notes) is not kept
    assert len(outcome.scores["total"].draws) == 5
    assert outcome.scores["total"].n_units == 3
    assert len(seen) == 1 + 1 + 5  # PCA once, the whole, the draws
    TASK.score(fresh, [Answer(arrays={"embedding": embedding})])
    assert len(seen) == 7 + 6  # PCA is not judged again


def test_shuffled_labels_are_shuffled_for_the_judge(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _judged(monkeypatch)
    (fresh,) = TASK.cases(dataset, seed=0)
    assert isinstance(fresh, IntegrationCase)
    assert fresh.labels is not None
    order = np.random.default_rng(0).permutation(len(fresh.part))
    embedding = np.zeros((len(order), 2), np.float32)
    TASK.score(fresh, [Answer(arrays={"embedding": embedding, "order": order})])
    np.testing.assert_array_equal(seen[0][1], fresh.labels)  # PCA by the true ones
    np.testing.assert_array_equal(seen[1][1], fresh.labels[order])


def test_datasets_that_are_refused() -> None:
    types = BUILT_IN["simulated-types"]()
    assert TASK.refuses(types) is None  # its donors are taken for batches
    assert "neither batches nor donors" in str(
        TASK.refuses(Dataset(name="a", maker=types.maker, label="cell_type"))
    )
    assert "no labels" in str(TASK.refuses(Dataset(name="a", maker=types.maker, batch="batch")))
    assert "one level" in str(
        TASK.refuses(Dataset(name="a", maker=types.maker, label="cell_type", batch="batch"))
    )


def test_missing_package(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellfm.optional.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cellfm\[bench\]"):
        TASK.score(case, [Answer(arrays={"embedding": np.zeros((2, 2))})])


def test_fewer_draws_can_be_asked_for() -> None:
    assert Integration(n_draws=0).n_draws == 0
