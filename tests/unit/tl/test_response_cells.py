import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from cellfm.errors import CountsError, DataError
from cellfm.tl._response.cells import GeneRates, sample_cells

N_CELLS, N_GENES = 600, 60
CLOSE = 0.005
"""Mean log value that is reached to: a molecule in one of 600 cells is a step of 0.003 where cells have few counts."""


def cells(fold, *, seed=0, n_cells=N_CELLS, depth=1500.0, dispersion=0.4):
    """Return negative binomial counts whose rates are multiplied by a fold change."""
    world = np.random.default_rng(7)
    mean = world.gamma(0.5, 1.0, N_GENES) + 0.02
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(np.log(depth), 0.3, (n_cells, 1)))
    rate = rng.gamma(1 / dispersion, dispersion, (n_cells, N_GENES)) * mean * fold / mean.sum()
    return csr_matrix(rng.poisson(size * rate))


def log_values(counts):
    dense = counts.toarray().astype(float)
    total = dense.sum(axis=1, keepdims=True)
    return np.log1p(1e4 * np.divide(dense, total, out=np.zeros_like(dense), where=total > 0))


def folds(seed=1, spread=0.7):
    """Return fold changes that leave the sum of all rates as it is, so that a response with them exists."""
    fold = np.exp(np.random.default_rng(seed).normal(0, spread, N_GENES))
    share = np.random.default_rng(7).gamma(0.5, 1.0, N_GENES) + 0.02
    return fold * share.sum() / (fold @ share)


@pytest.fixture(scope="module")
def control():
    return cells(np.ones(N_GENES))


@pytest.fixture(scope="module")
def delta(control):
    """Change of the mean log value that real cells with other rates show."""
    return log_values(cells(folds(), seed=5)).mean(axis=0) - log_values(control).mean(axis=0)


def test_no_response_returns_the_control_cells(control) -> None:
    found = sample_cells(control, np.zeros(N_GENES), rng=np.random.default_rng(0))
    assert (found.counts != control).nnz == 0
    np.testing.assert_array_equal(found.source, np.arange(N_CELLS))
    assert not found.missed.any()
    np.testing.assert_array_equal(found.achieved, 0)


def test_response_of_real_cells_is_reached(control, delta) -> None:
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    assert np.abs(delta).max() > 1
    achieved = log_values(found.counts).mean(axis=0) - log_values(control).mean(axis=0)
    np.testing.assert_allclose(achieved, found.achieved, atol=1e-9)
    np.testing.assert_allclose(achieved, delta, atol=CLOSE)
    assert not found.missed.any()
    assert found.counts.dtype == np.int32
    assert found.counts.data.min() > 0
    # rates that sum to what they did leave the depth where it is
    assert found.counts.sum() / control.sum() == pytest.approx(1, abs=0.05)


def test_falling_genes_are_thinned_and_rising_ones_added_to(control, delta) -> None:
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    change = found.counts.toarray() - control.toarray()
    up, down = delta > 0.1, delta < -0.1
    assert (change[:, up] >= 0).all()
    assert (change[:, down] <= 0).all()
    # a zero can become positive
    zero = control.toarray() == 0
    many = up & (zero.mean(axis=0) > 0.2)
    assert many.sum() > 3
    assert (zero & (change > 0))[:, many].any(axis=0).all()


def test_cells_are_spread_as_real_ones(control, delta) -> None:
    real = log_values(cells(folds(), seed=9))
    sampled = log_values(sample_cells(control, delta, rng=np.random.default_rng(0)).counts)
    shifted = np.maximum(log_values(control) + delta, 0)
    copies = np.broadcast_to(real.mean(axis=0), real.shape)
    ours = energy_distance(sampled, real)
    assert ours < 0.3 * energy_distance(shifted, real)
    assert ours < 0.02 * energy_distance(copies, real)
    # as near as the response and the noise of 600 cells let it come
    twin = energy_distance(log_values(cells(folds(), seed=11)), real)
    assert ours < 5 * abs(twin) + 0.05
    ratio = sampled.var(axis=0) / real.var(axis=0)
    assert 0.7 < ratio.min() < ratio.max() < 1.4


def energy_distance(x, y) -> float:
    n, m = len(x), len(y)
    within = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    return 2 * cdist(x, y).mean() - within


def test_dispersion_is_that_of_the_cells() -> None:
    for dispersion in (0.1, 1.0):
        rates = GeneRates.of(cells(np.ones(N_GENES), dispersion=dispersion, n_cells=3000))
        assert np.median(rates.dispersion) == pytest.approx(dispersion, rel=0.15)
    assert rates.mean.sum() == pytest.approx(1)


def test_knocked_out_gene_is_gone_and_the_others_keep_their_counts(control) -> None:
    # scarce, so that the depth hardly changes
    means = log_values(control).mean(axis=0)
    gene = int(np.argmin(means))
    delta = np.zeros(N_GENES)
    delta[gene] = -means[gene]
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    others = np.arange(N_GENES) != gene
    assert found.counts[:, gene].nnz == 0
    assert (found.counts[:, others] != control[:, others]).nnz == 0
    assert not found.missed.any()


def test_what_cannot_be_reached_is_reported(control) -> None:
    delta = np.zeros(N_GENES)
    delta[3] = -9.0
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    assert found.missed[3]
    assert found.counts[:, 3].nnz == 0
    # all other genes 60 % up: counts per 10⁴ sum to 10⁴, and the depth must not run away
    contradiction = np.full(N_GENES, 0.5)
    found = sample_cells(control, contradiction, rng=np.random.default_rng(0))
    assert found.missed.mean() > 0.9
    assert 1.2 < found.counts.sum() / control.sum() < 1.5 * 1.7


@pytest.mark.parametrize("depth", [1200.0, 1500.0])
def test_depth_is_that_of_the_cells_the_response_was_measured_in(control, depth) -> None:
    # scarce genes tell how many counts there are
    real = cells(folds(), seed=21, depth=depth, n_cells=3000)
    delta = log_values(real).mean(axis=0) - log_values(control).mean(axis=0)
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    assert not found.missed.any()
    assert found.counts.sum() / N_CELLS == pytest.approx(real.sum() / 3000, rel=0.1)


def test_few_rising_genes_reach_their_mean_in_spite_of_the_depth(control) -> None:
    gene = int(np.argsort(log_values(control).mean(axis=0))[-3])
    delta = np.zeros(N_GENES)
    delta[gene] = 0.8
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    assert found.counts.sum() > 1.05 * control.sum()
    assert found.achieved[gene] == pytest.approx(0.8, abs=CLOSE)
    assert not found.missed[gene]


def test_gene_without_a_count_can_appear(control) -> None:
    empty = control.tolil()
    empty[:, 5] = 0
    empty = empty.tocsr()
    delta = np.zeros(N_GENES)
    delta[5] = 0.3
    found = sample_cells(empty, delta, rng=np.random.default_rng(0))
    assert found.achieved[5] == pytest.approx(0.3, abs=CLOSE)


def test_cell_without_counts_stays_empty(control, delta) -> None:
    with_empty = control.tolil()
    with_empty[4] = 0
    found = sample_cells(with_empty.tocsr(), delta, rng=np.random.default_rng(0))
    assert found.counts[4].nnz == 0


@pytest.mark.parametrize("n_cells", [50, 1000])
def test_any_number_of_cells_begin_as_control_cells(control, delta, n_cells) -> None:
    found = sample_cells(control, 0 * delta, rng=np.random.default_rng(0), n_cells=n_cells)
    assert found.counts.shape == (n_cells, N_GENES)
    assert (found.counts != control[found.source]).nnz == 0
    used = np.bincount(found.source, minlength=N_CELLS)
    assert used.max() - used.min() <= 1


def test_same_seed_same_cells(control, delta) -> None:
    one, same, other = (
        sample_cells(control, delta, rng=np.random.default_rng(seed), n_cells=200).counts
        for seed in (1, 1, 2)
    )
    assert (one != same).nnz == 0
    assert (one != other).nnz > 0


def test_blocks_of_genes_do_not_matter_to_the_result(control, delta, monkeypatch) -> None:
    from cellfm.tl._response import cells as _response_cells

    monkeypatch.setattr(_response_cells, "BLOCK", 7 * N_CELLS)
    found = sample_cells(control, delta, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found.achieved, delta, atol=CLOSE)


def test_what_cannot_be_sampled_is_refused(control) -> None:
    rng = np.random.default_rng(0)
    zero = np.zeros(N_GENES)
    with pytest.raises(DataError, match=r"shape \(3,\) and the control cells 60 genes"):
        sample_cells(control, np.zeros(3), rng=rng)
    with pytest.raises(DataError, match="0 control cells"):
        sample_cells(control[:0], zero, rng=rng)
    with pytest.raises(DataError, match="n_cells is 0"):
        sample_cells(control, zero, rng=rng, n_cells=0)
    with pytest.raises(DataError, match="of 60 genes is not finite"):
        sample_cells(control, zero + np.nan, rng=rng)
    with pytest.raises(DataError, match="where they are 10⁴"):
        sample_cells(control, zero + 3.0, rng=rng)
    for factor, found in ((-1.0, r"-\d+, which"), (0.5, r"\d+\.5, which")):
        with pytest.raises(CountsError, match=f"hold {found}"):
            sample_cells(control * factor, zero, rng=rng)
