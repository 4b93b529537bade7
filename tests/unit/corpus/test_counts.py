"""Messages of the count checks: where, what, and the way out."""

import numpy as np
import pytest
import torch
from scipy import sparse

from cellfm.batch import CellBatch
from cellfm.corpus.counts import check_counts, empty_rows, refuse_empty_rows
from cellfm.errors import CountsError

RNG = np.random.default_rng(0)
COUNTS = sparse.csr_matrix(RNG.poisson(0.7, (20, 30)))


def with_value(value: float, dtype: type = np.float32) -> sparse.csr_matrix:
    dense = COUNTS.toarray().astype(dtype)
    dense[4, 7] = value
    return sparse.csr_matrix(dense)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint16, bool]
)
def test_counts_of_any_type_pass(dtype):
    check_counts(COUNTS.astype(dtype))


def test_nothing_stored_passes_on_both_scales():
    empty = sparse.csr_matrix((3, 4), dtype=np.float32)
    check_counts(empty)
    check_counts(empty, scale="log1p")


def test_float16_is_refused_even_with_integers():
    half = sparse.csr_matrix(
        (COUNTS.data.astype(np.float16), COUNTS.indices, COUNTS.indptr), shape=COUNTS.shape
    )
    with pytest.raises(CountsError, match=r"float16.*2,048.*float32"):
        check_counts(half)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_named(value):
    with pytest.raises(CountsError, match=r"Row 104, column 7 holds -?(nan|inf).*not a number"):
        check_counts(with_value(value), first_row=100)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_negative_is_named_and_called_scaled(dtype):
    with pytest.raises(CountsError, match=r"Row 4, column 7 holds -3: .*scaled.*layer=NAME"):
        check_counts(with_value(-3, dtype))


def test_non_integer_is_named_with_the_way_out():
    with pytest.raises(CountsError, match=r"Row 14, column 7 holds 2.5, .*use_raw=True.*log1p"):
        check_counts(with_value(2.5), first_row=10)


def normalised() -> sparse.csr_matrix:
    dense = COUNTS.toarray() + 0.0
    return sparse.csr_matrix(dense / dense.sum(axis=1, keepdims=True) * 1e4)


def test_log_normalised_is_recognised_by_its_totals():
    with pytest.raises(CountsError, match=r"log1p-normalised \(every cell sums to about 10000"):
        check_counts(normalised().log1p())


def test_log_normalised_of_fewer_genes_is_recognised_by_its_maximum():
    with pytest.raises(CountsError, match=r"look log-normalised \(maximum"):
        check_counts(normalised().log1p()[:, :9].tocsr())


def test_normalised_without_logarithm_is_recognised():
    with pytest.raises(CountsError, match="normalised but not logged"):
        check_counts(normalised())


def test_log1p_scale_takes_log_normalised():
    check_counts(normalised().log1p(), scale="log1p")


def test_log1p_scale_refuses_large_values():
    with pytest.raises(CountsError, match=r'Row 4, column 7 holds 99.*scale="counts"'):
        check_counts(with_value(99), scale="log1p")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_log1p_scale_refuses_integers(dtype):
    with pytest.raises(CountsError, match=r"All values are integers.*raw counts"):
        check_counts(COUNTS.astype(dtype), scale="log1p")


def test_empty_rows_are_found():
    batch = CellBatch(
        gene=torch.tensor([1, 2]),
        value=torch.ones(2),
        offsets=torch.tensor([0, 0, 1, 1, 2]),
        depth=torch.zeros(4, 2),
    )
    assert empty_rows(batch).tolist() == [0, 2]


def test_empty_rows_are_refused_by_number():
    refuse_empty_rows(np.array([], dtype=np.int64), n_rows=9)
    with pytest.raises(CountsError, match=r'^2 of 1,000 cells.*rows 3, 8\).*empty="nan"'):
        refuse_empty_rows(np.array([3, 8]), n_rows=1000)
    with pytest.raises(CountsError, match=r"rows 0, 1, 2, 3, 4, …\)"):
        refuse_empty_rows(np.arange(6), n_rows=9)
