import numpy as np
from tests.unit.corpus.test_baselines import N_GENES, two_types

from cellfm.corpus.absent import absent_genes


def drawn(seed=0, epoch=0):
    cells = two_types()
    cell = np.repeat(np.arange(len(cells)), cells.lengths)
    return cells, cell, absent_genes(cells, cell, cells.gene, seed=seed, epoch=epoch)


def test_no_absent_gene_is_expressed_by_its_cell():
    cells, cell, absent = drawn()
    expressed = set(zip(cell.tolist(), cells.gene.tolist(), strict=True))
    asked = [pair for pair in zip(cell.tolist(), absent.tolist(), strict=True) if pair[1]]
    assert asked
    assert not expressed & set(asked)
    assert max(token for _, token in asked) <= N_GENES


def test_candidates_follow_how_often_genes_are_expressed():
    _, _, absent = drawn()
    # genes 81 to 110 are in nearly every cell: they are seldom lacking; genes of one type often are
    asked = np.bincount(absent, minlength=N_GENES + 1)
    assert asked[1:81].mean() > asked[81:111].mean()
    assert not asked[111:].any()


def test_another_epoch_draws_anew_and_the_same_one_again():
    _, _, first = drawn()
    assert np.array_equal(first, drawn()[2])
    assert not np.array_equal(first, drawn(epoch=1)[2])
    assert not np.array_equal(first, drawn(seed=1)[2])


def test_nothing_asked():
    empty = np.zeros(0, dtype=np.int64)
    assert not len(absent_genes(two_types(), empty, empty, seed=0, epoch=0))
