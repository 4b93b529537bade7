"""Epochs, thinned batches and evaluation batches."""

import numpy as np
import pytest
from scipy import sparse

from cellfm.corpus.rows import row_source
from cellfm.corpus.sample import EpochSampler, InMemoryCells, evaluation_batches
from cellfm.errors import ConfigError, CountsError, DataError

TOKEN = np.random.default_rng(5).permutation(41).astype(np.int32)


def make(n_cells=37):
    dense = np.random.default_rng(2).poisson(2.0, (n_cells, 41)).astype(np.float32)
    dense[n_cells // 2] = 0
    return InMemoryCells.from_source(row_source(sparse.csr_matrix(dense)), TOKEN)


def fields(batch):
    names = ("gene", "value", "offsets", "depth", "hidden", "scored", "target")
    return [getattr(batch, name).numpy() for name in names]


def same(first, second):
    for one, other in zip(fields(first), fields(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_holds_truth_and_mask():
    cells = make()
    sampler = EpochSampler(cells, token_budget=100, seed=4)
    batch, rows = sampler.batch(0), sampler.rows(0)
    lengths = cells.lengths[rows]
    assert batch.lengths == lengths.tolist()
    np.testing.assert_array_equal(batch.value, batch.target)
    np.testing.assert_array_equal(batch.depth[:, 0], batch.depth[:, 1])
    assert int(batch.scored.sum()) == sum(int(0.2 * n) for n in lengths)
    first = slice(*cells.offsets[rows[0] : rows[0] + 2])
    counts = cells.count[first]
    np.testing.assert_allclose(
        batch.value[: lengths[0]], np.log1p(counts / counts.sum() * 1e4), rtol=1e-6
    )
    np.testing.assert_allclose(batch.depth[0], np.log1p(counts.sum() / 1e3), rtol=1e-6)


def test_thinned_batch_shows_less_and_keeps_the_truth():
    cells = make()
    plain = EpochSampler(cells, token_budget=10**6, seed=4).batch(0)
    thin = EpochSampler(cells, token_budget=10**6, seed=4, thin=True).batch(0)
    np.testing.assert_array_equal(plain.target, thin.target)
    np.testing.assert_array_equal(plain.scored, thin.scored)
    np.testing.assert_array_equal(plain.depth[:, 1], thin.depth[:, 1])
    less = (thin.depth[:, 0] < thin.depth[:, 1]).numpy()
    assert 5 < less.sum() < 32
    # S is the total of what is shown: the values of a cell sum to 10⁴ before the logarithm
    for index in np.flatnonzero(less):
        shown = thin.value[slice(*thin.offsets[index : index + 2])].double()
        assert abs(float(shown.expm1().sum()) - 1e4) < 1


def test_epochs_differ_and_steps_run_through_them():
    sampler = EpochSampler(make(), token_budget=90, seed=0)
    first, second = sampler.n_batches(0), sampler.n_batches(1)
    assert sampler.locate(first - 1) == (0, first - 1)
    assert sampler.locate(first) == (1, 0)
    assert sampler.locate(first + second) == (2, 0)
    assert (sampler.n_batches(0), sampler.n_batches(1)) == (first, second)
    one = np.concatenate([sampler.rows(step) for step in range(first)])
    two = np.concatenate([sampler.rows(first + step) for step in range(second)])
    assert one.tolist() != two.tolist()
    assert one.tolist() != list(range(37))


def test_masks_change_from_epoch_to_epoch():
    sampler = EpochSampler(make(1 + 1), token_budget=10**6, seed=0)
    masks = {sampler.batch(step).scored.numpy().tobytes() for step in range(4)}
    assert len(masks) > 1


def test_evaluation_batches_are_fixed():
    cells = make()
    once = list(evaluation_batches(cells, token_budget=100, seed=9))
    again = list(evaluation_batches(cells, token_budget=100, seed=9))
    for one, other in zip(once, again, strict=True):
        same(one, other)
    assert sum(batch.n_cells for batch in once) == 37
    assert max(batch.n_tokens for batch in once) <= 100
    one = next(evaluation_batches(cells, token_budget=10**6, seed=9))
    np.testing.assert_array_equal(one.scored, np.concatenate([batch.scored for batch in once]))
    other = next(evaluation_batches(cells, token_budget=10**6, seed=8))
    assert (one.scored != other.scored).any()


def test_refusals():
    cells = make()
    with pytest.raises(ConfigError, match="token_budget is 0; it must be at least 1"):
        EpochSampler(cells, token_budget=0, seed=0)
    with pytest.raises(ConfigError, match=r"scored_fraction is -0\.1"):
        EpochSampler(cells, token_budget=9, seed=0, scored_fraction=-0.1)
    nothing = cells.select(np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="0 cells to make batches of"):
        EpochSampler(nothing, token_budget=9, seed=0)
    with pytest.raises(DataError, match="0 cells"):
        next(evaluation_batches(nothing, token_budget=9, seed=0))
    sampler = EpochSampler(cells, token_budget=9, seed=0)
    with pytest.raises(ConfigError, match="step is -1; it must be at least 0"):
        sampler.batch(-1)
    with pytest.raises(ConfigError, match="epoch is -2; it must be at least 0"):
        sampler.n_batches(-2)


def test_thinning_needs_integers():
    logged = np.log1p(np.random.default_rng(0).poisson(2.0, (4, 41)))
    cells = InMemoryCells.from_source(row_source(logged + 0.1), TOKEN, scale="log1p")
    EpochSampler(cells, token_budget=9, seed=0)
    with pytest.raises(CountsError, match=r"thin=True .* no integers .*log1p"):
        EpochSampler(cells, token_budget=9, seed=0, thin=True)
