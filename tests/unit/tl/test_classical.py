import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from cellfm.errors import CountsError, DataError
from cellfm.tl._classical import NEVER, Profiles, fit_knn, fit_linear, folds, log_matrix

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")


@pytest.fixture(scope="module")
def cells() -> tuple[AnnData, np.ndarray]:
    """240 cells of three types, 120 genes of which 12 differ, all of one mean."""
    rng = np.random.default_rng(0)
    code = np.arange(240) % 3
    rate = np.full((240, 120), 10 / 3)
    rate[:, :12] = 1.0
    for kind in range(3):
        rate[code == kind, kind * 4 : kind * 4 + 4] = 8.0
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = [f"g{i}" for i in range(120)]
    return adata, code


def test_profiles_find_the_genes_that_differ(cells) -> None:
    adata, code = cells
    profiles = Profiles.fit(adata, n_genes=24, n_components=5)
    assert set(profiles.genes) > {f"g{i}" for i in range(12)}
    scores = profiles.scores(adata)
    centre = np.stack([scores[code == kind].mean(axis=0) for kind in range(3)])
    nearest = ((scores[:, None] - centre) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == code).mean() > 0.98


def test_log_values_are_over_all_genes_and_found_by_name(cells) -> None:
    adata, _ = cells
    profiles = Profiles.fit(adata, n_genes=12, n_components=5)
    x = adata.X.toarray()
    at = [int(gene[1:]) for gene in profiles.genes]
    expected = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(profiles.log_values(adata), expected[:, at], rtol=1e-5)
    shuffled = adata[:, np.random.default_rng(0).permutation(120)].copy()
    np.testing.assert_array_equal(profiles.log_values(shuffled), profiles.log_values(adata))
    without = adata[:, [name for name in adata.var_names if name != profiles.genes[0]]].copy()
    assert not profiles.log_values(without)[:, 0].any()


def test_scores_are_those_of_sklearn(cells) -> None:
    from sklearn.decomposition import PCA

    adata, _ = cells
    profiles = Profiles.fit(adata, n_genes=30, n_components=4)
    reference = PCA(4, svd_solver="full").fit_transform(profiles.log_values(adata).astype(float))
    scores = profiles.scores(adata)
    for i in range(4):
        assert abs(np.corrcoef(scores[:, i], reference[:, i])[0, 1]) > 1 - 1e-6
    np.testing.assert_allclose(scores.var(axis=0), reference.var(axis=0), rtol=1e-4)


def test_counts_of_the_caller_stay(cells) -> None:
    adata, _ = cells
    before = adata.X.copy()
    log_matrix(adata)
    assert (before != adata.X).nnz == 0
    with pytest.raises(CountsError):
        log_matrix(AnnData(adata.X * 0.5))
    assert log_matrix(AnnData(adata.X * 0.5), scale="log1p")[0].max() == before.max() * 0.5


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("n_kinds", [2, 3])
def test_linear_is_the_regression_it_says(cells, penalty, n_kinds) -> None:
    adata, code = cells
    kept = code < n_kinds
    x = Profiles.fit(adata, n_genes=40).log_values(adata)[kept]
    code = code[kept]
    linear = fit_linear(x, code, n_classes=4, seed=0, penalty=penalty)
    logits = linear.logits(x)
    assert logits.shape == (kept.sum(), 4)
    assert (logits.argmax(axis=1) == code).mean() > 0.97
    assert (logits[:, n_kinds:] == NEVER).all()  # no training cell, never the answer


def test_lasso_is_sparse_and_the_same_on_sparse_and_dense_features(cells) -> None:
    adata, code = cells
    x = Profiles.fit(adata, n_genes=120).log_values(adata)
    ridge = fit_linear(x, code, n_classes=3, seed=0, strengths=(0.1,))
    lasso = fit_linear(x, code, n_classes=3, seed=0, penalty="l1", strengths=(0.1,))
    assert (lasso.weight == 0).mean() > 0.5
    assert (ridge.weight == 0).mean() < 0.1
    rare = np.where(x > np.median(x), x, 0).astype(
        np.float32
    )  # half zeros and more: the sparse way
    shifted = fit_linear(rare + 1.0, code, n_classes=3, seed=0, penalty="l1", strengths=(0.1,))
    there = fit_linear(rare, code, n_classes=3, seed=0, penalty="l1", strengths=(0.1,))
    same = there.logits(rare).argmax(axis=1) == shifted.logits(rare + 1.0).argmax(axis=1)
    assert same.mean() > 0.99


def test_knn_votes_and_distances() -> None:
    x = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]], np.float32)
    code = np.array([0, 0, 0, 1, 1])
    knn = fit_knn(x, code, n_classes=3, k=3, standardise=False)
    np.testing.assert_allclose(
        knn.probabilities(np.array([[0.5], [9.0]])), [[1, 0, 0], [1 / 3, 2 / 3, 0]], atol=1e-6
    )
    np.testing.assert_allclose(knn.distance(np.array([[0.5]])), [(0.5 + 0.5 + 1.5) / 3])


def test_knn_standardises_only_where_that_helps() -> None:
    rng = np.random.default_rng(0)
    code = np.arange(100) % 2
    signal = code + 0.1 * rng.standard_normal(100)
    noise = 1000 * rng.standard_normal(100)
    loud = np.column_stack([signal, noise])
    assert fit_knn(loud, code, n_classes=2).standardised
    assert not fit_knn(np.column_stack([1000 * signal, noise / 1000]), code, n_classes=2).standardised  # fmt: skip


def test_folds_keep_donors_together_and_classes_even() -> None:
    donor = np.repeat(["a", "b", "c", "d"], 25)
    by_donor = folds(np.arange(100) % 2, donor, seed=0)
    assert all(len(set(by_donor[donor == name])) == 1 for name in "abcd")
    by_class = folds(np.repeat([0, 1], [90, 10]), seed=0)
    assert np.bincount(by_class[90:]).tolist() == [2] * 5


def test_refusals(cells) -> None:
    x = np.zeros((10, 2), np.float32)
    with pytest.raises(DataError, match="at least 2 classes"):
        fit_linear(x, np.zeros(10, int), n_classes=2, seed=0)
    x[3] = np.nan
    with pytest.raises(DataError, match="1 of 10 training cells"):
        fit_knn(x, np.arange(10) % 2, n_classes=2)
    with pytest.raises(DataError, match="at least 3 cells"):
        Profiles.fit(cells[0][:2])
