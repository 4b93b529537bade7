"""Curation depends on the counts of the cells and on nothing else."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellfm.corpus.curate import MAX_COUNT, Rules, curate_file
from cellfm.corpus.fingerprint import content_hash, fingerprint
from cellfm.corpus.sources import SourceEntry
from tests.sources import N_GENES, SYMBOLS, VOCABULARY, WRITERS, h5ad

QUICK = settings(
    derandomize=True,
    deadline=None,
    max_examples=8,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
EVERY_CELL = Rules(min_genes=0)

counts_of_cells = st.lists(
    st.dictionaries(
        st.integers(0, N_GENES - 1),
        st.one_of(st.integers(1, 9), st.sampled_from([255, 256, 65_536, MAX_COUNT])),
        max_size=12,
    ),
    min_size=1,
    max_size=9,
).filter(any)
rule_sets = st.builds(
    Rules,
    min_genes=st.integers(0, 4),
    max_genes=st.none() | st.integers(5, 12),
    min_counts=st.none() | st.integers(0, 30),
    max_mito=st.none() | st.sampled_from([0.1, 0.5]),
)


def matrix_of(cells):
    counts = np.zeros((len(cells), N_GENES), dtype=np.int64)
    for i, cell in enumerate(cells):
        counts[i, list(cell)] = list(cell.values())
    return counts


def expected(counts):
    rows = sparse.csr_matrix(counts)
    return fingerprint(rows.indices + 1, rows.data, rows.indptr)


def curate(path, *, rules=EVERY_CELL, block_rows=4096):
    """Fingerprints in the order of the file, dense counts, report."""
    parts = []
    entry = SourceEntry(name="s", path=path)
    report = curate_file(
        entry, vocabulary=VOCABULARY, rules=rules, sink=parts.append, block_rows=block_rows
    )
    words = np.concatenate([np.zeros((0, 2), np.uint64), *(part.fingerprint for part in parts)])
    dense = [
        sparse.csr_matrix((part.count, part.gene - 1, part.offsets), (len(part), N_GENES))
        for part in parts
    ]
    return words, sparse.vstack([*dense, sparse.csr_matrix((0, N_GENES))]).toarray(), report


def in_folder(write, counts, *names, **options):
    with TemporaryDirectory() as folder:
        return curate(write(Path(folder), counts, *names), **options)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@QUICK
@given(counts_of_cells)
def test_the_same_cells_in_every_format(write, cells):
    counts = matrix_of(cells)
    words, _, report = in_folder(write, counts)
    filled = counts[counts.any(axis=1)]
    assert (words == expected(filled)).all()
    assert report.dropped["empty"] == len(counts) - len(filled)


@QUICK
@given(
    counts_of_cells,
    rule_sets,
    st.integers(1, 10),
    st.sampled_from([np.uint32, np.int64, np.float32, np.float64]),
    st.randoms(use_true_random=False),
)
def test_order_of_genes_and_rows_block_size_and_type(cells, rules, block_rows, dtype, random):
    counts = matrix_of(cells)
    words, _, report = in_folder(h5ad, counts, rules=rules)
    rows, genes = list(range(len(counts))), list(range(N_GENES))
    random.shuffle(rows)
    random.shuffle(genes)
    shuffled, _, other = in_folder(
        lambda folder, values: h5ad(folder, values, [SYMBOLS[i] for i in genes], dtype=dtype),
        counts[rows][:, genes],
        rules=rules,
        block_rows=block_rows,
    )
    assert sorted(shuffled.tolist()) == sorted(words.tolist())
    assert (content_hash(shuffled) == content_hash(words)).all()
    assert other.dropped == report.dropped
    assert other.n_values == report.n_values


@QUICK
@given(counts_of_cells, rule_sets)
def test_curating_again_changes_nothing(cells, rules):
    words, kept, _ = in_folder(h5ad, matrix_of(cells), rules=rules)
    if not len(kept):
        return
    again, same, report = in_folder(h5ad, kept, rules=rules)
    assert (again == words).all()
    assert (same == kept).all()
    assert not any(report.dropped.values())
    assert report.coverage == 1.0
