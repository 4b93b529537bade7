from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods import imputers
from cellfm.bench.registry import load_task
from cellfm.bench.states import States
from cellfm.bench.task import Answer, Case, Context
from cellfm.bench.tasks.denoising import DenoisingCase
from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.weights.folder import new

NAMES = [gene.symbol for gene in GeneTable.load().genes[:60]]


def two_kinds() -> AnnData:
    rng = np.random.default_rng(0)
    rate = 10 * rng.gamma(
        2.0, 1.0, (2, 60)
    )  # deep: with few test molecules the logarithm rules the error
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate[np.arange(150) % 2]).astype(np.float32)))
    adata.var_names = NAMES
    return adata


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(name="two", maker=two_kinds)


@pytest.fixture(scope="module")
def case(dataset: Dataset) -> DenoisingCase:
    made = next(iter(load_task("denoising").cases(dataset, seed=0)))
    assert isinstance(made, DenoisingCase)
    return made


def test_molecules_are_divided(dataset: Dataset, case: DenoisingCase) -> None:
    full = dataset.cells.X[:, np.isin(NAMES, case.adata.var_names)]
    assert ((case.adata.X + case.test) != full).nnz == 0
    assert case.adata.X.sum() / full.sum() == pytest.approx(0.9, abs=0.02)
    (view,) = load_task("denoising").views(case)
    assert type(view) is Case
    assert view.dataset.hash != dataset.hash
    with pytest.raises(DataError):
        view.dataset.load()


def test_scores_rank_as_they_must(case: DenoisingCase, tmp_path: Path) -> None:
    """All methods but MAGIC answer; the random network is blended with the cells' own counts."""
    task = load_task("denoising")
    model = new("debug", Vocabulary.from_symbols(NAMES[:50]))
    context = Context(model=model, states=States(tmp_path), seed=0, work=tmp_path)
    found = {
        method.name: task.score(case, [method.run(view, context) for view in task.views(case)])
        for method in task.methods
        if method.name != "magic"
    }
    mse = {name: outcome.scores["mse"].value for name, outcome in found.items()}
    poisson = {name: outcome.scores["poisson"].value for name, outcome in found.items()}
    assert mse["test-molecules"] == pytest.approx(0, abs=1e-9)
    assert poisson["test-molecules"] == min(poisson.values())
    assert mse["knn-50"] < mse["no-denoising"] < mse["shuffled"]
    assert mse["knn-50"] < mse["gene-mean"]
    assert poisson["knn-50-rates"] < poisson["no-denoising"]
    assert poisson["knn-50-rates"] < poisson["gene-share"]
    # the random network says nothing of a cell: the own counts, whose weight is fitted, do
    assert poisson["cellfm"] < poisson["gene-share"]
    assert poisson["cellfm"] < poisson["cellfm-states"]
    assert found["knn-50"].scores["mse"].draws.shape == (500,)


def test_cell_order_does_not_matter(case: DenoisingCase) -> None:
    task, order = load_task("denoising"), np.random.default_rng(0).permutation(len(case.part))
    moved = replace(case, adata=case.adata[order].copy(), test=case.test[order])
    counts = imputers.gene_mean(case.adata.X.toarray())
    scores = task.score(case, [Answer(arrays={"counts": counts})]).scores
    again = task.score(moved, [Answer(arrays={"counts": counts[order]})]).scores
    for name, score in scores.items():
        assert again[name].value == pytest.approx(score.value)


def test_gene_imputers_by_hand() -> None:
    counts = np.array([[1, 3], [4, 0]], np.float32)
    share = np.array([[4 * 5 / 8, 4 * 3 / 8]] * 2)
    np.testing.assert_allclose(imputers.gene_share(counts), share, rtol=1e-6)
    mean = np.log1p([[2500, 7500], [10000, 0]]).mean(axis=0)
    np.testing.assert_allclose(imputers.gene_mean(counts)[0], np.expm1(mean) * 4e-4, rtol=1e-5)


def test_pca_of_full_rank_returns_the_counts() -> None:
    counts = np.random.default_rng(0).poisson(3.0, (40, 8)).astype(np.float32) + 1
    # 7 of 8 components are all there are of shares that add up to one, but for the curve of the logarithm
    np.testing.assert_allclose(imputers.pca(counts, seed=0), counts, rtol=0.5)


def test_magic_improves_on_the_counts(case: DenoisingCase) -> None:
    pytest.importorskip("magic")
    task = load_task("denoising")
    smooth = imputers.magic(case.adata.X.toarray(), seed=0)
    score = task.score(case, [Answer(arrays={"counts": smooth})]).scores["mse"].value
    raw = task.score(case, [Answer(arrays={"counts": case.adata.X.toarray()})]).scores["mse"].value
    assert score < raw


def test_refusals(dataset: Dataset, case: DenoisingCase) -> None:
    task = load_task("denoising")
    assert "raw counts" in (task.refuses(replace(dataset, scale="log1p")) or "")
    for counts in (np.ones((2, 2)), -np.ones(case.test.shape), np.full(case.test.shape, np.nan)):
        with pytest.raises(DataError, match="finite counts"):
            task.score(case, [Answer(arrays={"counts": counts})])
