"""The collapse detector fires on what is planted, and not on the truth."""

import numpy as np
import pytest

from cellfm.errors import DataError
from cellfm.tl._response.collapse import THRESHOLD, collapse

N_CONDITIONS, N_GENES, NOISE = 30, 80, 0.1


class World:
    """Responses that share a part, measured twice with noise; of unlike strength, some nought."""

    def __init__(self, strength: float = 1.0) -> None:
        rng = np.random.default_rng(0)
        programs = rng.normal(size=(6, N_GENES))
        own = rng.normal(size=(N_CONDITIONS, 6)) * rng.gamma(0.5, 1.0, (N_CONDITIONS, 1))
        self.true = strength * (rng.normal(size=N_GENES) + 0.5 * own @ programs)
        self.train, self.again = (
            self.true + NOISE * rng.normal(size=self.true.shape) for _ in range(2)
        )
        self.noise = np.full(self.true.shape, NOISE**2)
        self.mean = np.tile(self.train.mean(axis=0), (N_CONDITIONS, 1))
        self.spread = np.sqrt(np.square(self.true - self.mean).mean())


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_truth_and_replicates_are_no_collapse(world: World) -> None:
    assert collapse(world.true, world.train, world.noise).score == pytest.approx(1.0, abs=0.05)
    for predicted in (world.true, world.train, world.again, world.true[:2], 0.3 * world.true):
        found = collapse(predicted, world.train, world.noise)
        assert not found.collapsed
        assert "differ from each other by" in found.message


def test_planted_collapses_are_found(world: World) -> None:
    rng = np.random.default_rng(1)
    noise = 0.03 * world.spread * rng.normal(size=world.mean.shape)
    factor = rng.uniform(0.2, 3.0, (N_CONDITIONS, 1))
    shrunk = world.mean + 0.05 * (world.true - world.mean)
    planted = (world.mean, world.mean + noise, factor * world.mean, factor * world.mean + noise, shrunk, 0 * shrunk)  # fmt: skip
    for predicted in planted:
        found = collapse(predicted, world.train, world.noise)
        assert found.collapsed
        assert found.score < found.threshold == THRESHOLD
        assert "nearly one prediction" in found.message
    # The spread about the mean alone would not find copies with factors.
    copies = factor * world.mean
    assert np.square(copies - copies.mean(axis=0)).mean() > 0.1 * world.spread**2


def test_the_noise_of_the_training_responses_is_taken_off() -> None:
    """Without it noisy training responses would look diverse, and a good prediction collapsed."""
    world = World(strength=0.05)
    blind = collapse(world.true, world.train, np.zeros_like(world.noise)).score
    fair = collapse(world.true, world.train, world.noise).score
    assert blind < 0.6 < fair


def test_no_verdict_where_none_can_be_had(world: World) -> None:
    null = World(strength=0.0)
    found = collapse(null.mean, null.train, null.noise)
    assert not found.collapsed
    # By chance a few conditions seem to differ by a little more than their noise.
    for start in range(0, N_CONDITIONS, 5):
        few = slice(start, start + 5)
        assert np.isnan(collapse(null.mean[few], null.train[few], null.noise[few]).score)
        assert not collapse(null.mean[few], null.train[few], 0.99 * null.noise[few]).collapsed
    assert np.isnan(found.score)
    assert "no verdict: the training responses do not differ" in found.message
    assert "single prediction" in collapse(world.true[:1], world.train, world.noise).message
    with pytest.raises(DataError, match=r"found shapes \(30, 79\), \(30, 80\) and \(30, 80\)"):
        collapse(world.true[:, 1:], world.train, world.noise)
