from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellfm import optional
from cellfm.bench.probe import PROBES, macro_f1, probe_table
from cellfm.errors import DataError, MissingDependencyError

SEED = 0


def problem(n: int = 240, spread: float = 1.0):
    """Three classes on a line in five dimensions, every third cell for testing."""
    rng = np.random.default_rng(1)
    code = rng.integers(0, 3, n)
    states = rng.normal(size=(n, 5)) * spread
    states[:, 0] += 3 * code
    return states, np.array(["a", "b", "c"])[code], np.arange(n) % 3 != 0


def one(table, method: str, probe: str):
    return next(row for row in table.rows if (row.method, row.probe) == (method, probe))


def test_macro_f1_by_hand() -> None:
    # a: 1 hit of 2, 1 said; F1 = 2/3. b: 1 hit of 1, 2 said; F1 = 2/3. c does not occur.
    truth, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert macro_f1(truth, predicted, 3, weights=np.ones((1, 3))).tolist() == pytest.approx([2 / 3])
    # Without the second cell all is right; with the second alone, a is never hit and b does not occur.
    weights = np.array([[1, 0, 1], [0, 1, 0]])
    assert macro_f1(truth, predicted, 3, weights=weights).tolist() == pytest.approx([1, 0])


def test_macro_f1_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 4, 50), rng.integers(0, 5, 50)
    ours = macro_f1(truth, predicted, 5, weights=np.ones((1, 50)))[0]
    theirs = f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    assert ours == pytest.approx(theirs)


def test_linear_probe_is_the_pipeline_of_sklearn() -> None:
    states, labels, train = problem()
    row = one(probe_table({"x": states}, labels, train, seed=SEED), "x", "linear")
    strength = float(row.chosen.removeprefix("C="))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=10_000))
    model.fit(states[train], labels[train])
    expected = f1_score(labels[~train], model.predict(states[~train]), average="macro")
    assert row.macro_f1.value == pytest.approx(expected)
    assert (row.n_train, row.n_test) == (160, 80)


def test_oracle_is_one_and_shuffled_labels_are_near_chance() -> None:
    states, labels, train = problem(n=600)
    oracle = np.eye(3)[np.unique(labels, return_inverse=True)[1]]
    table = probe_table({"oracle": oracle, "x": states}, labels, train, seed=SEED)
    shuffled = probe_table(
        {"x": states}, np.random.default_rng(3).permutation(labels), train, seed=SEED
    )
    for probe in PROBES:
        best = one(table, "oracle", probe).macro_f1
        assert (best.value, best.low, best.high) == (1, 1, 1)
        assert one(table, "x", probe).macro_f1.value > 0.75
        assert abs(one(shuffled, "x", probe).macro_f1.value - 1 / 3) < 0.1


def test_interval_holds_the_value_and_shrinks_with_more_cells() -> None:
    widths = []
    for n in (150, 2400):
        states, labels, train = problem(n=n, spread=2.0)
        estimate = one(probe_table({"x": states}, labels, train, seed=SEED), "x", "linear").macro_f1
        assert estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] < widths[0] / 2  # sixteen times the cells: about a quarter


def test_differences_are_paired() -> None:
    states, labels, train = problem()
    noise = np.random.default_rng(4).normal(size=states.shape)
    table = probe_table({"x": states, "same": states, "noise": noise}, labels, train, seed=SEED)
    found = {(d.against, d.probe): d.macro_f1 for d in table.differences}
    assert set(found) == {(other, probe) for other in ("same", "noise") for probe in PROBES}
    for probe in PROBES:
        same, worse = found["same", probe], found["noise", probe]
        assert (same.value, same.low, same.high) == (0, 0, 0)
        assert not same.excludes_zero
        scores = [one(table, method, probe).macro_f1.value for method in ("x", "noise")]
        assert worse.value == pytest.approx(scores[0] - scores[1])
        assert worse.low > 0
        assert worse.excludes_zero


def test_test_cells_choose_nothing() -> None:
    """Whatever the test labels are, the same model is fitted: only its score changes."""
    states, labels, train = problem()
    changed = labels.copy()
    changed[~train] = np.roll(changed[~train], 1)
    before, after = (probe_table({"x": states}, y, train, seed=SEED) for y in (labels, changed))
    assert [row.chosen for row in before.rows] == [row.chosen for row in after.rows]


def test_scaling_cannot_spoil_a_method_that_is_better_without() -> None:
    """Standardising drowns the one informative column in many small ones; cross-validation notices."""
    states, labels, train = problem(n=600)
    padded = np.hstack([states, np.random.default_rng(5).normal(size=(600, 60)) * 0.01])
    assert (
        one(probe_table({"x": padded}, labels, train, seed=SEED), "x", "kNN").chosen == "as it is"
    )


def test_same_seed_same_table() -> None:
    states, labels, train = problem()
    first, second = (probe_table({"x": states}, labels, train, seed=3) for _ in range(2))
    assert first == second


def test_class_with_a_single_cell_is_no_obstacle() -> None:
    states, labels, train = problem()
    labels = labels.copy()
    labels[1] = labels[3] = "rare"  # one to train on, one to score
    table = probe_table({"x": states}, labels, train, seed=SEED)
    assert table.n_classes == 4


def test_unusable_arrays_are_refused() -> None:
    states, labels, train = problem(n=60)
    with pytest.raises(DataError, match="There are 0 embeddings to probe; give at least one"):
        probe_table({}, labels, train, seed=SEED)
    with pytest.raises(DataError, match=r"different numbers of cells: \{'x': 59, 'labels': 60"):
        probe_table({"x": states[1:]}, labels, train, seed=SEED)
    broken = states.copy()
    broken[7] = np.nan
    with pytest.raises(DataError, match="'x' has NaN or infinite values in 1 of 60 cells"):
        probe_table({"x": broken}, labels, train, seed=SEED)
    few = np.arange(60) < 5
    with pytest.raises(
        DataError, match=r"There are 5 training cells .* at least 10 training cells"
    ):
        probe_table({"x": states}, labels, few, seed=SEED)
    with pytest.raises(DataError, match="40 training cells of 1 classes"):
        probe_table({"x": states}, np.full(60, "a"), train, seed=SEED)


def test_missing_sklearn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        optional, "find_spec", lambda name: None if name == "sklearn" else find_spec(name)
    )
    states, labels, train = problem(n=60)
    with pytest.raises(MissingDependencyError, match="sklearn cannot be imported"):
        probe_table({"x": states}, labels, train, seed=SEED)
