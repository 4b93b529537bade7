import numpy as np
import pytest
from scipy import sparse

from cellfm.errors import DataError
from cellfm.tl._response.transfer import sensitivity, transfer_ratio, transfer_response


def cells(rate: np.ndarray, seed: int = 0, n: int = 4000) -> sparse.csr_matrix:
    """Cells of depth near 10⁴: the last gene takes the rest."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rate, (n, len(rate)))
    rest = 10_000 - counts.sum(axis=1, keepdims=True)
    return sparse.csr_matrix(np.hstack([counts, rest]).astype(np.float32))


def mean_log(counts: sparse.csr_matrix) -> np.ndarray:
    dense = counts.toarray().astype(np.float64)
    return np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)


def test_sensitivity_is_the_derivative_of_the_mean_log() -> None:
    rate, step = np.array([0.1, 1.0, 10.0, 100.0]), 0.1
    slope = (mean_log(cells(rate * np.exp(step), 1, 40_000)) - mean_log(cells(rate * np.exp(-step), 2, 40_000))) / (2 * step)  # fmt: skip
    found = sensitivity(cells(rate, 3, 40_000))[:4]
    assert found == pytest.approx(slope[:4], abs=0.05)
    assert abs(0.368 - slope[1]) > 0.08  # the mean of y/(1+y) at a rate of 1, which is not it


def test_sensitivity_knows_the_depth() -> None:
    """A molecule in a cell of 1,000 molecules is ten in 10⁴."""
    counts = sparse.csr_matrix(np.array([[1.0, 999.0]]))
    assert sensitivity(counts)[0] == pytest.approx(np.log(11))


def test_a_fold_change_seen_in_one_context_is_predicted_in_another() -> None:
    """Genes scarce in one and plenty in the other, and the other way round: the response itself would be wrong by its half."""
    old, new = np.array([1.0, 30.0, 5.0]), np.array([30.0, 1.0, 5.0])
    fold = np.array([1.3, 1.3, 0.8])
    before, after = cells(old, 1), cells(old * fold, 2)
    here, there = cells(new, 3), cells(new * fold, 4)
    measured, truth = mean_log(after) - mean_log(before), mean_log(there) - mean_log(here)
    moved = transfer_response(measured, sensitivity(before), sensitivity(here))
    error = np.abs(moved - truth)[:3]
    assert error.max() < 0.05
    assert error.sum() < 0.3 * np.abs(measured - truth)[:3].sum()


def test_silent_genes_and_bounds() -> None:
    old, new = np.array([0.0, 0.0, 0.9]), np.array([0.0, 0.9, 0.0])
    assert transfer_ratio(old, new) == pytest.approx([1.0, 4.0, 0.25])
    floor = transfer_response(np.array([-1.0, -1.0, 1.0]), old, new, control=np.array([0.2, 0.3, 0.4]))  # fmt: skip
    assert floor == pytest.approx([-0.2, -0.3, 0.25])


def test_refuses_what_is_no_sensitivity() -> None:
    with pytest.raises(DataError, match="of at least 0"):
        transfer_ratio(np.array([-2.0]), np.array([0.5]))
    with pytest.raises(DataError, match="at least 1"):
        transfer_ratio(np.array([0.2]), np.array([0.5]), limit=0.5)
