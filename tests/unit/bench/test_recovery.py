from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.metrics import mean_poisson_deviance, mean_squared_error

from cellfm.bench.datasets import Dataset
from cellfm.bench.metrics.recovery import (
    cell_log_errors,
    cell_poisson_losses,
    gene_r2,
    grouped_pearson,
    log_normalised,
)
from cellfm.bench.registry import load_task
from cellfm.bench.states import States
from cellfm.bench.task import Answer, Context
from cellfm.bench.tasks.recovery import RecoveryCase, gene_means, masked_case, network_values
from cellfm.corpus.split import TEST
from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.weights.folder import new


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """160 cells of two kinds over 80 genes."""
    names = [gene.symbol for gene in GeneTable.load().genes[:80]]

    def make() -> AnnData:
        rng = np.random.default_rng(0)
        rate = rng.gamma(2.0, 1.0, (2, 80)) + 0.3
        counts = rng.poisson(rate[np.arange(160) % 2] * rng.uniform(0.5, 2, (160, 1)))
        adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
        adata.var_names = names
        return adata

    return Dataset(name="two", maker=make)


@pytest.fixture(scope="module")
def context(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Context:
    model = new("debug", Vocabulary.from_symbols(list(dataset.cells.var_names[:70])))
    folder: Path = tmp_path_factory.mktemp("work")
    return Context(model=model, states=States(folder), seed=0, work=folder)


def test_metrics_equal_sklearn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    test, made = rng.poisson(1.0, (30, 20)), rng.gamma(1.0, 1.0, (30, 20)).astype(np.float32)
    test[:, 0] += 1
    error = mean_squared_error(log_normalised(test), log_normalised(made))
    assert cell_log_errors(test, made).mean() == pytest.approx(error, rel=1e-5)
    # the deviance is twice the loss less that of the truth itself
    made += 0.01
    truth = np.where(test > 0, test - test * np.log(np.maximum(test, 1)), 0).mean()
    loss = cell_poisson_losses(test, made, ratio=1.0).mean()
    deviance = mean_poisson_deviance(test.ravel(), made.ravel())
    assert 2 * (loss - truth) == pytest.approx(deviance, rel=1e-3)
    group, x, y = rng.integers(0, 4, 200), rng.normal(size=200), rng.normal(size=200)
    found = grouped_pearson(group, x, y, n_groups=4)
    for i in range(4):
        assert found[i] == pytest.approx(pearsonr(x[group == i], y[group == i]).statistic)


def test_poisson_by_hand() -> None:
    found = cell_poisson_losses(np.array([[2.0, 0.0]]), np.array([[4.0, 1.0]], np.float32), ratio=0.5)  # fmt: skip
    assert found[0] == pytest.approx((2 - 2 * np.log(2) + 0.5) / 2, rel=1e-5)


def test_r2_of_oracle_is_one_and_of_the_mean_nought() -> None:
    rng = np.random.default_rng(0)
    gene, truth, mean = rng.integers(0, 5, 100), rng.normal(size=100), np.zeros(100)
    assert gene_r2(gene, truth, truth, mean, n_genes=5) == pytest.approx(1.0)
    assert gene_r2(gene, truth, mean, mean, n_genes=5) == pytest.approx(0.0)
    shuffled = gene_r2(gene, truth, rng.permutation(truth), mean, n_genes=5)
    assert (shuffled < 0).all()
    order = rng.permutation(100)
    again = gene_r2(gene[order], truth[order], truth[::-1][order], mean, n_genes=5)
    assert again == pytest.approx(gene_r2(gene, truth, truth[::-1], mean, n_genes=5))


def test_pearson_of_a_constant_is_nought_and_of_a_constant_truth_nothing() -> None:
    group, x = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 2.0, 4.0, 3.0, 3.0, 3.0])
    found = grouped_pearson(group, x, np.full(6, 0.1), n_groups=2)
    assert found[0] == 0
    assert np.isnan(found[1])


def test_views_hold_no_truth(dataset: Dataset) -> None:
    task = load_task("recovery")
    case = next(iter(task.cases(dataset, seed=0)))
    (view,) = task.views(case)
    assert isinstance(case, RecoveryCase)
    assert isinstance(view, RecoveryCase)
    assert np.isnan(view.truth).all()
    assert (np.asarray(view.adata.X[view.row, view.gene]) == 0).all()
    assert set(view.part[view.row]) == {TEST}
    hidden = np.bincount(case.row, minlength=160)[case.part == TEST]
    n_genes = np.diff(dataset.cells.X.indptr)[case.part == TEST]
    assert np.array_equal(hidden, (0.2 * n_genes).astype(int))
    full = dataset.cells.X
    total = np.asarray(full.sum(axis=1)).ravel()
    expected = np.log1p(np.asarray(full[case.row, case.gene]).ravel() / total[case.row] * 1e4)
    np.testing.assert_allclose(case.truth, expected, rtol=1e-5)


def test_all_methods_answer_and_controls_score_as_documented(
    dataset: Dataset, context: Context
) -> None:
    task = load_task("recovery")
    case = next(iter(task.cases(dataset, seed=0)))
    assert isinstance(case, RecoveryCase)
    found = {
        method.name: task.score(case, [method.run(view, context) for view in task.views(case)])
        for method in task.methods
    }
    value = {name: outcome.scores["gene_r2"].value for name, outcome in found.items()}
    assert value["gene-mean"] == 0
    assert found["gene-mean"].scores["gene_pearson"].value == 0
    assert value["gene-mean-depth"] > value["random-weights"]
    oracle = task.score(case, [Answer(arrays={"value": case.truth})])
    for name in ("gene_r2", "gene_pearson", "share_above_mean", "cell_pearson"):
        assert oracle.scores[name].value == pytest.approx(1.0)
    assert oracle.scores["mse"].value == 0
    mse = found["gene-mean"].scores["mse"].value
    assert mse == pytest.approx(mean_squared_error(case.truth, gene_means(case)[case.gene]))


def test_network_values_stand_at_their_entries(dataset: Dataset, context: Context) -> None:
    """Cells one by one give the values of all together, and unknown genes their mean."""
    case = masked_case(dataset, seed=0)
    whole = network_values(case, context.model, "gene").arrays["value"]
    cell = case.row[len(case.row) // 2]
    mine = case.row == cell
    keep = np.flatnonzero((case.part != TEST) | (np.arange(160) == cell))
    alone = replace(
        case,
        adata=case.adata[keep].copy(),
        rows=case.rows[keep],
        part=case.part[keep],
        total=case.total[keep],
        row=np.full(int(mine.sum()), np.flatnonzero(keep == cell)[0]),
        gene=case.gene[mine],
        truth=case.truth[mine],
    )
    np.testing.assert_allclose(
        network_values(alone, context.model, "gene").arrays["value"],
        whole[mine],
        rtol=1e-4,
        atol=1e-5,
    )
    unknown = case.gene >= 70
    assert np.array_equal(whole[unknown], gene_means(case)[case.gene][unknown])


def test_refusals(dataset: Dataset) -> None:
    task = load_task("recovery")
    assert "raw counts" in (task.refuses(replace(dataset, scale="log1p")) or "")
    assert task.refuses(dataset) is None
    case = next(iter(task.cases(dataset, seed=0)))
    with pytest.raises(DataError, match="finite"):
        task.score(case, [Answer(arrays={"value": np.zeros(3)})])
