"""Counts from log1p-normalised values."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellfm.corpus.recover import check_totals, recover_counts, total_columns
from cellfm.errors import SourceError


def cells(n=30, n_genes=300, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, 8.0, (n, n_genes)) * rng.gamma(1, 2.0, (n, 1)))
    counts[:, 0] = 1
    return counts.astype(np.float64)


def normalised(counts, *, target=1e4, dtype=np.float32):
    """As scanpy does it: every step in the type of the matrix."""
    matrix = sparse.csr_matrix(counts.astype(dtype))
    total = counts.sum(axis=1).astype(dtype)
    factor = np.repeat(total / dtype(target), np.diff(matrix.indptr)).astype(dtype)
    matrix.data = np.log1p(matrix.data / factor)
    return matrix


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", [1e4, 1e6, 731.0])
def test_counts_come_back_exactly(dtype, target):
    counts = cells()
    found = recover_counts(normalised(counts, target=target, dtype=dtype))
    assert (found.toarray() == counts).all()


def test_deep_cells():
    counts = cells()
    counts[:, 1] = 20_000
    assert (recover_counts(normalised(counts)).toarray() == counts).all()


def test_the_input_is_not_changed():
    block = normalised(cells())
    before = block.data.copy()
    recover_counts(block)
    assert (block.data == before).all()


def test_empty_cells_and_stored_zeros():
    counts = cells(4)
    counts[1] = 0
    block = normalised(np.where(counts.sum(axis=1, keepdims=True) > 0, counts, 1)).tolil()
    block[1] = 0
    block = block.tocsr()
    block.data[0], counts[0, 0] = 0.0, 0.0
    counts[0, 1] = 1  # the smallest is gone: another gene with one count must be there
    with_one = sparse.csr_matrix(normalised(counts[:1]))
    found = recover_counts(sparse.vstack([with_one, block[1:]], format="csr"))
    assert (found.toarray() == counts).all()
    assert recover_counts(sparse.csr_matrix((3, 5))).nnz == 0


def test_a_factor_of_all_counts_of_a_cell_is_not_seen_without_totals():
    counts = cells(3)
    counts[1] *= 2
    found = recover_counts(normalised(counts))
    assert (found.toarray()[1] == counts[1] / 2).all()
    obs = pd.DataFrame({"n_counts": counts.sum(axis=1), "total_counts": ["a"] * 3})
    assert total_columns(obs) == ("n_counts",)
    with pytest.raises(SourceError, match=r"row 1 add up to .* obs column 'n_counts' says"):
        check_totals(found, obs)
    check_totals(found[2:], obs, first_row=2)


def test_totals_that_are_missing_are_not_equal():
    found = recover_counts(normalised(cells(2)))
    with pytest.raises(SourceError, match="says nan"):
        check_totals(found, pd.DataFrame({"total_counts": [np.nan, 1.0]}))


def refused(block, match):
    with pytest.raises(SourceError, match=match):
        recover_counts(block, first_row=100)


def test_no_single_count():
    counts = cells(3)
    counts[2][counts[2] == 1] = 0
    counts[2, :2] = 2, 3
    refused(normalised(counts), r"row 102, column \d+ is no multiple of the smallest value")


def test_other_transforms():
    counts = cells(3)
    block = normalised(counts)
    rounded = block.copy()
    rounded.data = np.round(rounded.data, 3)
    refused(rounded, "no multiple")
    binary = block.copy()
    binary.data = binary.data / np.float32(np.log(2))
    refused(binary, "no multiple")
    refused(sparse.csr_matrix(counts), "All values are integers|above|stay below")
    refused(sparse.csr_matrix(-block), "negative")
    missing = block.copy()
    missing.data[3] = np.nan
    refused(missing, "not a number")


def test_counts_beyond_float32():
    counts = cells(2)
    counts[0, 1] = 9_000_000
    refused(normalised(counts), "too large for float32|no multiple")
