"""Self-tests of the metrics: the oracle has the maximum, guessing has chance, order does not matter, sklearn agrees."""

import numpy as np
import pytest

from cellfm.bench.metrics import classification as metrics
from cellfm.bench.resample import interval, resample

NAMES = ("macro_f1", "macro_f1_nan", "weighted_f1", "accuracy", "balanced_accuracy")
RNG = np.random.default_rng(0)
TRUTH = RNG.choice(4, 4000, p=[0.5, 0.3, 0.15, 0.05])
GUESS = np.where(
    RNG.random(4000) < 0.6, TRUTH, RNG.integers(0, 5, 4000)
)  # class 4 is not in the truth


@pytest.mark.parametrize("name", NAMES)
def test_oracle_is_the_maximum_and_order_does_not_matter(name) -> None:
    measure = getattr(metrics, name)
    assert measure(TRUTH, TRUTH, 5)[0] == pytest.approx(1.0)
    order = RNG.permutation(len(TRUTH))
    assert measure(TRUTH[order], GUESS[order], 5)[0] == pytest.approx(measure(TRUTH, GUESS, 5)[0])


def test_shuffled_labels_give_chance() -> None:
    shuffled = RNG.permutation(TRUTH)
    assert metrics.balanced_accuracy(TRUTH, shuffled, 4)[0] == pytest.approx(0.25, abs=0.03)
    assert metrics.accuracy(TRUTH, shuffled, 4)[0] == pytest.approx(0.365, abs=0.03)  # Σ share²
    assert metrics.macro_f1(TRUTH, shuffled, 4)[0] == pytest.approx(0.25, abs=0.03)


def test_majority_has_its_documented_value() -> None:
    majority = np.zeros_like(TRUTH)
    share = (TRUTH == 0).mean()
    assert metrics.macro_f1(TRUTH, majority, 4)[0] == pytest.approx(2 * share / (1 + share) / 4)
    assert metrics.macro_f1_nan(TRUTH, majority, 4)[0] == pytest.approx(2 * share / (1 + share))
    assert metrics.balanced_accuracy(TRUTH, majority, 4)[0] == pytest.approx(0.25)


def test_equal_to_sklearn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    there = np.unique(TRUTH)
    expected = {
        "macro_f1": sklearn.f1_score(TRUTH, GUESS, labels=there, average="macro", zero_division=0),
        "weighted_f1": sklearn.f1_score(TRUTH, GUESS, labels=there, average="weighted"),
        "accuracy": sklearn.accuracy_score(TRUTH, GUESS),
        "balanced_accuracy": sklearn.recall_score(TRUTH, GUESS, labels=there, average="macro"),
    }
    for name, value in expected.items():
        assert getattr(metrics, name)(TRUTH, GUESS, 5)[0] == pytest.approx(value, abs=1e-6)


def test_weights_are_repeated_cells() -> None:
    weights = RNG.integers(0, 3, (2, len(TRUTH))).astype(float)
    repeated = np.repeat(np.arange(len(TRUTH)), weights[1].astype(int))
    for name in NAMES:
        measure = getattr(metrics, name)
        drawn = measure(TRUTH, GUESS, 5, weights=weights)[1]
        assert drawn == pytest.approx(measure(TRUTH[repeated], GUESS[repeated], 5)[0])


def test_calibration_error() -> None:
    truth = (RNG.random(20_000) < 0.7).astype(int)
    right = np.tile([0.3, 0.7], (len(truth), 1))
    assert metrics.calibration_error(truth, right)[0] == pytest.approx(0.0, abs=0.01)
    sure = np.tile([0.0, 1.0], (len(truth), 1))
    assert metrics.calibration_error(truth, sure)[0] == pytest.approx(1 - truth.mean())
    oracle = np.eye(2)[truth]
    assert metrics.calibration_error(truth, oracle)[0] == 0.0


def test_resamples_draw_cells_within_classes_or_whole_donors() -> None:
    code = np.repeat([0, 1], [30, 3])
    by_cell = resample(code, n_draws=20, seed=0)
    assert (by_cell.unit, by_cell.n_units) == ("cell", 33)
    assert (by_cell.weights[0] == 1).all()
    assert (by_cell.weights[:, 30:].sum(axis=1) == 3).all()
    donor = np.array(["a", "b", "c"] * 11)
    by_donor = resample(code, donor, n_draws=20, seed=0)
    assert (by_donor.unit, by_donor.n_units) == ("donor", 3)
    assert all((by_donor.weights[:, donor == name].std(axis=1) == 0).all() for name in "abc")
    assert (by_donor.weights.sum(axis=1) == 33).all()
    np.testing.assert_array_equal(
        by_donor.weights, resample(code, donor, n_draws=20, seed=0).weights
    )


def test_interval() -> None:
    assert interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
    assert interval(np.empty(0)) is None
    assert interval(np.array([0.0, np.nan])) is None
