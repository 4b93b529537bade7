import numpy as np
import pytest
import torch

from cellfm.corpus.baselines import Baselines
from cellfm.corpus.cells import InMemoryCells, gene_means
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.sample import evaluation_batches

N_GENES, N_CELLS = 120, 300


def two_types(seed: int = 0) -> InMemoryCells:
    """Cells of two types whose genes 1–40 and 41–80 are high in one type each, the rest in both."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=N_CELLS)
    rate = np.full((N_CELLS, N_GENES), 2.0)
    rate[:, :40] = np.where(kind[:, None] == 0, 8.0, 0.8)
    rate[:, 40:80] = np.where(kind[:, None] == 1, 8.0, 0.8)
    rate[:, 110:] = 0.0
    counts = rng.poisson(rate * rng.gamma(8.0, 1 / 8, (N_CELLS, 1)))
    row, column = np.nonzero(counts)
    return InMemoryCells(
        gene=(column + 1).astype(np.int32),
        count=counts[row, column].astype(np.float32),
        offsets=boundaries(np.bincount(row, minlength=N_CELLS)),
        cell=np.arange(N_CELLS),
    )


@pytest.fixture(scope="module")
def cells():
    return two_types()


@pytest.fixture(scope="module")
def baselines(cells):
    return Baselines.fit(cells, N_GENES, seed=0)


def hidden_batches(cells):
    return list(evaluation_batches(cells, token_budget=4000, seed=3, hidden_fraction=1.0))


def errors(baselines, batches):
    total, n = {}, 0
    for batch in batches:
        truth = batch.target[batch.scored]
        n += len(truth)
        for name, predicted in baselines.predict(batch).items():
            total[name] = total.get(name, 0.0) + float((predicted - truth).square().sum())
    return {name: x / n for name, x in total.items()}


def test_gene_mean_is_the_mean_where_expressed(cells, baselines):
    batch = hidden_batches(cells)[0]
    expected = gene_means(cells, N_GENES)[batch.gene[batch.scored].numpy()]
    np.testing.assert_array_equal(baselines.predict(batch)["gene_mean"].numpy(), expected)


def test_ridge_beats_the_mean_on_new_cells_of_known_types(baselines):
    error = errors(baselines, hidden_batches(two_types(seed=1)))
    assert error["ridge"] < 0.7 * error["gene_mean"]


def test_pca_agrees_with_sklearn(cells, baselines):
    decomposition = pytest.importorskip("sklearn.decomposition")
    batch = hidden_batches(cells)[0]
    dense = np.zeros((len(cells), N_GENES + 1), dtype=np.float64)
    whole = next(evaluation_batches(cells, token_budget=10**6, seed=0))
    row = np.repeat(np.arange(len(cells)), cells.lengths)
    dense[row, cells.gene] = whole.value.numpy()
    pca = decomposition.PCA(50, svd_solver="full").fit(dense)
    shown = np.zeros((batch.n_cells, N_GENES + 1))
    at = np.repeat(np.arange(batch.n_cells), batch.offsets.diff().numpy())
    shown[at, batch.gene.numpy()] = batch.value.numpy()
    hidden = batch.hidden.numpy()
    shown[at[hidden], batch.gene.numpy()[hidden]] = pca.mean_[batch.gene.numpy()[hidden]]
    expected = pca.inverse_transform(pca.transform(shown))[at, batch.gene.numpy()]
    found = baselines.predict(batch)["pca"].numpy()
    np.testing.assert_allclose(found, expected[batch.scored.numpy()], atol=2e-4)


def test_hidden_values_are_never_read(cells, baselines):
    batch = hidden_batches(cells)[0]
    batch.value[batch.hidden] = 99.0
    again = hidden_batches(cells)[0]
    for name, predicted in baselines.predict(batch).items():
        assert torch.equal(predicted, baselines.predict(again)[name])


def test_fewer_cells_than_components():
    cells = two_types().select(np.arange(5))
    few = Baselines.fit(cells, N_GENES, seed=0)
    assert all(x.isfinite().all() for x in few.predict(hidden_batches(cells)[0]).values())


def test_gene_table_puts_genes_of_a_program_together(baselines):
    table = baselines.gene_table(64, seed=0)
    assert table.shape == (N_GENES + 1, 64)
    assert not table[0].any()
    assert not table[111:].any()  # never expressed
    apart = np.linalg.norm(table[1:41].mean(axis=0) - table[41:81].mean(axis=0))
    mixed = np.linalg.norm(table[1:81:2].mean(axis=0) - table[2:81:2].mean(axis=0))
    assert apart > 1.4 * mixed
    assert table[1:111].std() == pytest.approx(64**-0.5, rel=1e-3)
    np.testing.assert_array_equal(table, baselines.gene_table(64, seed=0))


def test_gene_table_of_a_narrow_network(baselines):
    assert baselines.gene_table(8, seed=0).shape == (N_GENES + 1, 8)
