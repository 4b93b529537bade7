"""Rules of tokenisation on cells small enough to do by hand."""

import numpy as np
import pytest
from scipy import sparse

from cellfm.corpus import ragged
from cellfm.corpus.ragged import cut, vocabulary_counts
from cellfm.corpus.tokens import tokenize
from cellfm.errors import ConfigError, DataError

TOKEN = np.array([3, 0, 1, 3, 2], dtype=np.int32)
BLOCK = sparse.csr_matrix(
    np.array([[1, 9, 2, 4, 0], [0, 7, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 6, 0, 6]], dtype=np.float32)
)


def test_by_hand():
    batch = tokenize(BLOCK, TOKEN)
    assert batch.gene.tolist() == [1, 3, 1, 2]
    assert batch.offsets.tolist() == [0, 2, 2, 2, 4]
    # the unmapped 9 and 7 are not part of the depth
    expected = np.log1p(np.array([2 / 7, 5 / 7, 0.5, 0.5]) * 1e4)
    np.testing.assert_allclose(batch.value, expected, rtol=1e-6)
    depth = np.log1p(np.array([7, 0, 0, 12]) / 1e3)
    np.testing.assert_allclose(batch.depth, np.stack([depth, depth], axis=1), rtol=1e-6)


def test_types_of_the_batch():
    batch = tokenize(BLOCK, TOKEN)
    names = ("gene", "value", "offsets", "depth")
    types = [str(getattr(batch, name).dtype).removeprefix("torch.") for name in names]
    assert types == ["int64", "float32", "int64", "float32"]
    assert batch.hidden is batch.scored is batch.target is None


def test_small_integers_do_not_overflow_when_summed():
    block = sparse.csr_matrix(np.full((1, 5), 200, dtype=np.uint8))
    assert vocabulary_counts(block, TOKEN).count.tolist() == [200, 200, 400]


def test_stored_zeros_are_dropped_also_where_nothing_is_sorted():
    block = sparse.csr_matrix((np.array([0.0, 5.0]), np.array([0, 1]), np.array([0, 2])), (1, 2))
    for token in ([1, 2], [2, 1], [1, 1]):
        batch = tokenize(block, np.array(token, dtype=np.int32))
        assert batch.gene.tolist() == [token[1]]


@pytest.mark.parametrize("ascending", [True, False])
def test_columns_twice_in_a_row_are_summed(ascending):
    indices = np.array([0, 1, 1] if ascending else [1, 0, 1])
    block = sparse.csr_matrix((np.array([1.0, 2.0, 4.0]), indices, np.array([0, 3])), (1, 2))
    counts = vocabulary_counts(block, np.array([1, 2], dtype=np.int32))
    assert counts.count.tolist() == ([1, 6] if ascending else [2, 5])


def test_max_genes_keeps_the_highest_and_of_equals_the_lower_token():
    block = sparse.csr_matrix(np.array([[2, 5, 2, 9, 2], [0, 1, 0, 0, 3]]))
    batch = tokenize(block, np.array([5, 4, 3, 2, 1], dtype=np.int32), max_genes=3)
    assert batch.gene.tolist() == [1, 2, 4, 1, 4]
    # the depth is that of the whole cell
    np.testing.assert_allclose(batch.value[0], np.log1p(2 / 20 * 1e4), rtol=1e-6)
    np.testing.assert_allclose(batch.depth[0], np.log1p(20 / 1e3), rtol=1e-6)


def test_log1p_scale_gives_back_the_ratios():
    counts = tokenize(BLOCK, TOKEN)
    logged = BLOCK.copy()
    logged.data = np.log1p(logged.data * 10)
    again = tokenize(logged, TOKEN, scale="log1p")
    np.testing.assert_allclose(again.value, counts.value, rtol=1e-5)
    np.testing.assert_allclose(again.depth[0], np.log1p(70 / 1e3), rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (3, 5)])
def test_nothing_stored(shape):
    batch = tokenize(sparse.csr_matrix(shape, dtype=np.float32), TOKEN)
    assert (batch.n_cells, batch.n_tokens, batch.lengths) == (shape[0], 0, [0] * shape[0])


def test_nothing_mapped():
    batch = tokenize(BLOCK, np.zeros(5, dtype=np.int32))
    assert batch.lengths == [0] * 4


def test_chunks_change_nothing(monkeypatch):
    whole = tokenize(BLOCK, TOKEN, max_genes=2)
    monkeypatch.setattr(ragged, "CHUNK", 1)
    parts = tokenize(BLOCK, TOKEN, max_genes=2)
    for name in ("gene", "value", "offsets", "depth"):
        assert getattr(whole, name).tolist() == getattr(parts, name).tolist()


def test_the_block_is_not_changed():
    before = BLOCK.toarray().copy()
    tokenize(BLOCK, TOKEN)
    tokenize(BLOCK, np.arange(1, 6, dtype=np.int32))
    tokenize(BLOCK, TOKEN, scale="log1p")
    np.testing.assert_array_equal(BLOCK.toarray(), before)


def test_token_map_of_the_wrong_length():
    with pytest.raises(DataError, match="token map has 4 entries but the matrix has 5 columns"):
        tokenize(BLOCK, TOKEN[:4])


def test_max_genes_below_one():
    with pytest.raises(ConfigError, match="max_genes is 0; it must be at least 1"):
        tokenize(BLOCK, TOKEN, max_genes=0)


def test_cut_by_hand():
    offsets = np.array([0, 3, 3, 5, 15, 16, 16])
    assert cut(offsets, 5).tolist() == [0, 3, 4, 6]
    assert cut(np.array([0]), 5).tolist() == [0]
