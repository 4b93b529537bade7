from dataclasses import replace

import anndata
import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from scipy.stats import poisson

from cellfm import tl
from cellfm.errors import ConfigError, CountsError, DataError, GeneMatchError, OutputExistsError
from cellfm.nn import CellFM, initialise
from cellfm.tl._denoise_rates import (
    CellSummary,
    RateDecoder,
    best_shape,
    mean_log_values,
    posterior,
)
from cellfm.weights.folder import Pretrained


@pytest.fixture(scope="session")
def detecting(model: Pretrained) -> Pretrained:
    """The random network with a detection head."""
    config = replace(model.network.config, detection_head=True)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return replace(model, network=network)


@pytest.fixture(params=["detecting", "plain"])
def either(request: pytest.FixtureRequest, model: Pretrained, detecting: Pretrained) -> Pretrained:
    return detecting if request.param == "detecting" else model


def test_layer_has_all_genes_and_nothing_else_changes(adata: AnnData, either: Pretrained) -> None:
    before = adata.copy()
    tl.denoise(adata, either)
    values = adata.layers["cellfm_denoised"]
    assert values.dtype == np.float32
    unknown = adata.var_names == "NOT-A-GENE"
    assert np.isnan(values[:, unknown]).all()
    assert (values[:, ~unknown] > 0).all()
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obsm) == list(before.obsm)
    # LYZ and LYZ-1 are one gene: both columns hold its sum
    at = [list(adata.var_names).index(name) for name in ("LYZ", "LYZ-1")]
    assert np.array_equal(values[:, at[0]], values[:, at[1]])
    notes = adata.uns["cellfm"]["cellfm_denoised"]
    assert notes["setting"] == "fitted on the data"
    assert notes["fitted_cells"] == 300


def test_calibration_keeps_the_total_of_each_gene(adata: AnnData, either: Pretrained) -> None:
    tl.denoise(adata, either, genes=["CD3E", "NKG7"], own_counts=False)
    made = adata.obsm["cellfm_denoised"]
    counts = adata[:, ["CD3E", "NKG7"]].X.toarray()
    np.testing.assert_allclose(made.sum(axis=0), counts.sum(axis=0), rtol=1e-4)
    assert adata.uns["cellfm"]["cellfm_denoised"]["gene_names"].tolist() == ["CD3E", "NKG7"]


def test_formula_without_calibration(adata: AnnData, detecting: Pretrained) -> None:
    tl.embed(adata, detecting)
    # a gene that the data lack has a value too
    tl.denoise(adata, detecting, genes=["GNLY", "CD3E"], calibrate=False, own_counts=False)
    network, state = detecting.network, torch.from_numpy(adata.obsm["X_cellfm"])
    token = [detecting.vocabulary.symbols.index(name) + 1 for name in ("GNLY", "CD3E")]
    total = adata[:, adata.var_names != "NOT-A-GENE"].X.sum(axis=1)
    with torch.inference_mode():
        for column, each in enumerate(token):
            gene = network.gene_embedding(torch.tensor([each] * len(state)))
            value = network.cell_decoder(gene, state).clamp(min=0)
            amount = torch.expm1(value).numpy() * np.asarray(total).ravel() / 1e4
            expected = network.cell_zero_decoder(gene, state).numpy() * np.maximum(amount, 1)
            np.testing.assert_allclose(adata.obsm["cellfm_denoised"][:, column], expected, rtol=1e-3, atol=1e-6)  # fmt: skip


def test_frequency_is_calibrated(detecting: Pretrained) -> None:
    rng = np.random.default_rng(0)
    state = rng.normal(size=(400, 16)).astype(np.float32)
    count = rng.poisson([0.05, 1.0, 4.0], (400, 3)).astype(np.float32)
    n_genes = np.full(400, 6, np.float32)
    cells = CellSummary(state=state, total=np.full(400, 50, np.float32), n_genes=n_genes)
    decoder = RateDecoder(detecting.network, np.array([1, 2, 3]))
    fitted = decoder.calibrate(cells, count)
    logit = decoder.logits(state, slice(None))
    assert logit is not None
    p = 1 / (1 + np.exp(-(logit + fitted.offset)))
    np.testing.assert_allclose(p.mean(axis=0), (count > 0).mean(axis=0), atol=2e-3)


def test_posterior_is_the_gamma_poisson_mean() -> None:
    mean, count, shape = np.float32([[2.0]]), np.float32([[5.0]]), 3.0
    expected = (shape + 5) / (shape / 2 + 1)
    assert posterior(mean, count, shape)[0, 0] == pytest.approx(expected)
    assert posterior(mean, count, np.inf) is mean


def test_shape_follows_how_far_rates_are_from_expected() -> None:
    rng = np.random.default_rng(0)
    mean = np.full((300, 100), 4.0, np.float32)
    sharp = rng.poisson(mean, (2, *mean.shape)).astype(np.float32)
    loose = rng.poisson(mean * rng.gamma(1.0, 1.0, mean.shape), (2, *mean.shape)).astype(np.float32)
    assert best_shape(mean, *sharp)[0] >= 64
    assert best_shape(mean, *loose)[0] == 1.0


def test_mean_log_value_is_the_expectation() -> None:
    rate = np.float32([[0.01, 0.5, 3.0, 40.0]])
    k = np.arange(400)
    for total in (300.0, 5000.0):
        expected = [(poisson.pmf(k, r) * np.log1p(k / total * 1e4)).sum() for r in rate[0]]
        found = mean_log_values(rate, np.float32([total]))[0]
        np.testing.assert_allclose(found, expected, rtol=0.01)


def test_outputs_agree(adata: AnnData, model: Pretrained) -> None:
    genes = ["CD3E", "LYZ"]
    for output in ("counts", "log1p_cp10k", "mean_log1p_cp10k"):
        tl.denoise(adata, model, genes=genes, output=output, key_added=output)
    total = np.asarray(adata[:, adata.var_names != "NOT-A-GENE"].X.sum(axis=1))
    expected = np.log1p(adata.obsm["counts"] / total * 1e4)
    np.testing.assert_allclose(adata.obsm["log1p_cp10k"], expected, rtol=1e-4)
    assert (adata.obsm["mean_log1p_cp10k"] < adata.obsm["log1p_cp10k"]).all()


def test_file_equals_memory_and_leaves_the_source(adata: AnnData, model: Pretrained, tmp_path) -> None:  # fmt: skip
    source, target = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    adata.write_h5ad(source)
    before = source.read_bytes()
    seen = []
    summary = tl.denoise_file(source, target, model, progress=lambda *step: seen.append(step))
    tl.denoise(adata, model)
    written = anndata.read_h5ad(target)
    np.testing.assert_allclose(
        written.layers["cellfm_denoised"], adata.layers["cellfm_denoised"], rtol=1e-5
    )
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]
    assert seen[-1] == ("denoising", 300, 300)
    assert summary.where == "layers"
    backed = anndata.read_h5ad(source, backed="r")
    tl.denoise(backed, model, genes=["CD3E"])
    place = list(adata.var_names).index("CD3E")
    np.testing.assert_allclose(
        backed.obsm["cellfm_denoised"][:, 0], adata.layers["cellfm_denoised"][:, place], rtol=1e-5
    )
    backed.file.close()


def test_failure_leaves_no_target(adata: AnnData, model: Pretrained, tmp_path) -> None:
    source, target = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    adata.X = adata.X / 3
    adata.write_h5ad(source)
    with pytest.raises(CountsError):
        tl.denoise_file(source, target, model)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_refusals(adata: AnnData, model: Pretrained, tmp_path) -> None:
    with pytest.raises(GeneMatchError, match=r"MS4A7.*did you mean.*MS4A1"):
        tl.denoise(adata, model, genes=["CD3E", "MS4A7"])
    with pytest.raises(GeneMatchError, match=r"not in the data.*GNLY"):
        tl.denoise(adata, model, genes=["GNLY"])
    with pytest.raises(DataError, match="one gene"):
        tl.denoise(adata, model, genes=["CD3E", "cd3e"])
    with pytest.raises(DataError, match="empty"):
        tl.denoise(adata, model, genes=[])
    with pytest.raises(ConfigError, match="output"):
        tl.denoise(adata, model, output="rates")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="own_counts"):
        tl.denoise(adata, model, calibrate=False)
    with pytest.raises(DataError, match="at least 20"):
        tl.denoise(adata[:10].copy(), model)
    strange = AnnData(adata.X, var={"names": [f"X{i}" for i in range(adata.n_vars)]})
    strange.var_names = strange.var["names"].tolist()
    with pytest.raises(GeneMatchError):
        tl.denoise(strange, model)
    logged = adata.copy()
    logged.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / adata.X.sum(axis=1) * 1e4))
    with pytest.raises(CountsError):
        tl.denoise(logged, model)
    adata.layers["cellfm_denoised"] = adata.X
    with pytest.raises(OutputExistsError):
        tl.denoise(adata, model)
    source = tmp_path / "in.h5ad"
    adata.write_h5ad(source)
    with pytest.raises(OutputExistsError, match="layers"):
        tl.denoise_file(source, tmp_path / "out.h5ad", model)
    with pytest.raises(OutputExistsError, match="same file"):
        tl.denoise_file(source, source, model)
    with pytest.raises(DataError, match="no file"):
        tl.denoise_file(tmp_path / "none.h5ad", tmp_path / "out.h5ad", model)
    with h5py.File(source, "r") as file:
        assert "cellfm" not in file["uns"]


def test_weights_without_decoders_are_refused(adata: AnnData, model: Pretrained) -> None:
    config = replace(model.network.config, decoders=False)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    with pytest.raises(ConfigError, match="no decoders"):
        tl.denoise(adata, replace(model, network=network))
