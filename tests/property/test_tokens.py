"""Tokens of a cell are a function of its counts, not of how they are stored."""

import tempfile
from pathlib import Path

import anndata as ad
import h5py
import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellfm.corpus import columns
from cellfm.corpus.counts import check_counts
from cellfm.corpus.rows import h5ad_source, row_source
from cellfm.corpus.tokens import tokenize
from cellfm.genes import Vocabulary, resolve

N_COLUMNS = 9
COUNTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.just(N_COLUMNS)),
    elements=st.sampled_from([0, 0, 0, 1, 2, 3, 50, 70_000]),
)
TOKENS = hnp.arrays(np.int32, N_COLUMNS, elements=st.integers(0, 7))
MAX_GENES = st.none() | st.integers(1, 5)
quick = settings(derandomize=True, deadline=None, max_examples=60)


def same(first, second):
    for name in ("gene", "value", "offsets", "depth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def one_by_one(dense, token, max_genes):
    """Tokenise naively, a cell and a gene at a time."""
    genes, values, lengths, totals = [], [], [], []
    for cell in dense.tolist():
        counts: dict[int, float] = {}
        for column, count in enumerate(cell):
            if count and token[column]:
                counts[int(token[column])] = counts.get(int(token[column]), 0) + count
        total = sum(counts.values())
        kept = sorted(sorted(counts, key=lambda gene: (-counts[gene], gene))[:max_genes])
        genes += kept
        values += [np.log1p(counts[gene] / total * 1e4) for gene in kept]
        lengths.append(len(kept))
        totals.append(np.log1p(total / 1e3))
    return genes, values, lengths, totals


@quick
@given(COUNTS, TOKENS, MAX_GENES)
def test_equals_a_plain_loop(dense, token, max_genes):
    batch = tokenize(sparse.csr_matrix(dense), token, max_genes=max_genes)
    genes, values, lengths, totals = one_by_one(dense, token, max_genes)
    assert batch.gene.tolist() == genes
    assert batch.lengths == lengths
    np.testing.assert_allclose(batch.value, values, rtol=1e-6)
    np.testing.assert_allclose(batch.depth[:, 1], totals, rtol=1e-6)
    np.testing.assert_array_equal(batch.depth[:, 0], batch.depth[:, 1])


@quick
@given(COUNTS, TOKENS, MAX_GENES, st.sampled_from([np.float64, np.int32, np.uint32]))
def test_storage_changes_nothing(dense, token, max_genes, dtype):
    expected = tokenize(sparse.csr_matrix(dense), token, max_genes=max_genes)
    for matrix in (dense, sparse.csc_matrix(dense), sparse.csr_array(dense.astype(dtype))):
        block = row_source(matrix).read(0, len(dense))
        same(expected, tokenize(block, token, max_genes=max_genes))


@settings(derandomize=True, deadline=None, max_examples=15)
@given(COUNTS, TOKENS, st.integers(1, 4))
def test_files_change_nothing(dense, token, step):
    expected = tokenize(sparse.csr_matrix(dense), token)
    before = columns.BUCKET_VALUES, columns.BLOCK_VALUES
    columns.BUCKET_VALUES, columns.BLOCK_VALUES = 7, 5
    try:
        with tempfile.TemporaryDirectory() as folder:
            for make in (sparse.csc_matrix, sparse.csr_matrix):
                ad.AnnData(make(dense)).write_h5ad(Path(folder) / "a.h5ad")
                with h5ad_source(Path(folder) / "a.h5ad") as source:
                    for start in range(0, len(dense), step):
                        stop = min(start + step, len(dense))
                        same(
                            expected.cells(start, stop),
                            tokenize(source.rows.read(start, stop), token),
                        )
    finally:
        columns.BUCKET_VALUES, columns.BLOCK_VALUES = before


@quick
@given(COUNTS, TOKENS, MAX_GENES, st.permutations(range(N_COLUMNS)))
def test_order_of_genes_changes_nothing(dense, token, max_genes, order):
    expected = tokenize(sparse.csr_matrix(dense), token, max_genes=max_genes)
    turned = tokenize(sparse.csr_matrix(dense[:, order]), token[order], max_genes=max_genes)
    same(expected, turned)


@quick
@given(COUNTS, TOKENS, MAX_GENES, st.randoms(use_true_random=False))
def test_cells_do_not_see_each_other(dense, token, max_genes, random):
    order = random.sample(range(len(dense)), len(dense))
    whole = tokenize(sparse.csr_matrix(dense), token, max_genes=max_genes)
    turned = tokenize(sparse.csr_matrix(dense[order]), token, max_genes=max_genes)
    for position, row in enumerate(order):
        alone = tokenize(sparse.csr_matrix(dense[[row]]), token, max_genes=max_genes)
        same(alone, whole.cells(row, row + 1))
        same(alone, turned.cells(position, position + 1))


@quick
@given(COUNTS, TOKENS, st.randoms(use_true_random=False))
def test_entries_in_any_order_and_twice(dense, token, random):
    matrix = sparse.csr_matrix(dense)
    pieces = []
    for row in range(len(dense)):
        entries = [(column, half) for column in np.flatnonzero(dense[row]) for half in (0, 1)]
        random.shuffle(entries)
        pieces += [(row, column, dense[row, column] - 1 if half else 1) for column, half in entries]
    row, column, value = (
        (np.array(part) for part in zip(*pieces, strict=True)) if pieces else ([], [], [])
    )
    indptr = np.searchsorted(row, np.arange(len(dense) + 1))
    messy = sparse.csr_matrix(
        (np.asarray(value, np.float32), np.asarray(column, np.int64), indptr), shape=dense.shape
    )
    same(tokenize(matrix, token), tokenize(messy, token))


def test_real_cells_match_a_plain_loop(shared_data):
    with h5ad_source(shared_data / "pbmc3k" / "pbmc3k.h5ad") as source:
        token = resolve(source.var.index, Vocabulary.from_hgnc()).token
        block = source.rows.read(100, 140)
    check_counts(block)
    genes, values, lengths, _ = one_by_one(block.toarray(), token, None)
    batch = tokenize(block, token)
    assert batch.gene.tolist() == genes
    assert batch.lengths == lengths
    np.testing.assert_allclose(batch.value, values, rtol=1e-6)


def test_backed_columns_of_real_cells(shared_data, tmp_path):
    with h5ad_source(shared_data / "pbmc3k" / "pbmc3k.h5ad") as source:
        block = source.rows.read(0, source.rows.n_rows)
        by_column = block.tocsc()
        with h5py.File(tmp_path / "a.h5", "w") as file:
            ad.io.write_elem(file, "X", by_column)
        before = columns.BUCKET_VALUES, columns.BLOCK_VALUES
        columns.BUCKET_VALUES, columns.BLOCK_VALUES = 1 << 19, 1 << 20
        try:
            with h5py.File(tmp_path / "a.h5") as file:
                rows = row_source(ad.io.sparse_dataset(file["X"]), scratch=tmp_path)
                assert (rows.read(950, 1020) != block[950:1020]).nnz == 0
        finally:
            columns.BUCKET_VALUES, columns.BLOCK_VALUES = before
