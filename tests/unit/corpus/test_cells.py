"""Cells in memory: reading, selecting, splitting, and the gene-mean line."""

import numpy as np
import pytest
from scipy import sparse

from cellfm.corpus import cells as module
from cellfm.corpus.cells import InMemoryCells, gene_means
from cellfm.corpus.rows import row_source
from cellfm.errors import ConfigError, CountsError, DataError

TOKEN = np.random.default_rng(5).permutation(41).astype(np.int32)


def make(n_cells=37, **options):
    dense = np.random.default_rng(2).poisson(2.0, (n_cells, 41)).astype(np.float32)
    dense[n_cells // 2] = 0
    return InMemoryCells.from_source(row_source(sparse.csr_matrix(dense)), TOKEN, **options)


def test_from_source_in_blocks(monkeypatch):
    whole = make()
    monkeypatch.setattr(module, "BLOCK_ROWS", 5)
    done: list[int] = []
    parts = make(progress=done.append)
    assert done == [5] * 7 + [2]
    for name in ("gene", "count", "offsets", "cell"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert len(whole) == 37
    assert whole.lengths[18] == 0


def test_from_source_checks_counts_and_names_the_row(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 2)
    dense = np.ones((5, 41))
    dense[3, 1] = -1
    with pytest.raises(CountsError, match="Row 3, column 1 holds -1"):
        InMemoryCells.from_source(row_source(dense), TOKEN)


def test_from_source_without_rows():
    with pytest.raises(DataError, match="matrix has 0 rows"):
        InMemoryCells.from_source(row_source(np.ones((0, 41))), TOKEN)


def test_select_keeps_numbers_and_order():
    cells = make()
    some = cells.select(np.array([30, 18, 2]))
    assert some.cell.tolist() == [30, 18, 2]
    assert some.lengths.tolist() == cells.lengths[[30, 18, 2]].tolist()
    last = slice(*some.offsets[2:4])
    np.testing.assert_array_equal(some.gene[last], cells.gene[slice(*cells.offsets[2:4])])
    assert len(cells.select(np.array([], dtype=np.int64))) == 0


def test_split_is_by_cell():
    cells = make()
    train, held_out = cells.split(0.25, seed=1)
    assert (len(train), len(held_out)) == (28, 9)
    assert sorted([*train.cell, *held_out.cell]) == list(range(37))
    turned = cells.select(np.arange(37)[::-1]).split(0.25, seed=1)[1]
    assert set(turned.cell) == set(held_out.cell)
    assert set(cells.split(0.25, seed=2)[1].cell) != set(held_out.cell)
    with pytest.raises(ConfigError, match="held_out_fraction is 2"):
        cells.split(2, seed=0)


def test_gene_means_by_hand():
    counts = np.array([[1, 3, 0], [2, 0, 0]], dtype=np.float32)
    cells = InMemoryCells.from_source(row_source(counts), np.array([1, 2, 3], dtype=np.int32))
    values = np.log1p([2500, 10_000, 7500])
    expected = [values.mean(), values[:2].mean(), values[2], values.mean(), values.mean()]
    np.testing.assert_allclose(gene_means(cells, 4), expected, rtol=1e-6)
