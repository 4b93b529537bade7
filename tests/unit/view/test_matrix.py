import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from cellfm.errors import DataError
from cellfm.view import matrix
from cellfm.view.cells import Cells
from cellfm.view.options import ViewOptions


@pytest.fixture(params=["csr", "csc", "dense"])
def stored(request, adata, tmp_path):
    dense = adata.X.toarray()
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}
    adata.X = kinds[request.param](dense)
    adata.write_h5ad(tmp_path / "stored.h5ad")
    return tmp_path / "stored.h5ad", dense


@pytest.mark.parametrize("loaded", [0, 1 << 26])
@pytest.mark.parametrize("piece", [7, 1 << 22])
def test_genes_and_cells_of_any_storage(stored, monkeypatch, loaded, piece):
    monkeypatch.setattr(matrix, "LOADED", loaded)
    monkeypatch.setattr(matrix, "PIECE", piece)
    path, dense = stored
    expected = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    cells = Cells(path, ViewOptions())
    for _ in range(2):  # again, when it may be in memory
        for number in (0, 3, 7):
            found = cells.gene(number)
            np.testing.assert_allclose(found.value, expected[:, number], rtol=1e-5)
            assert found.scale == "log1p of counts per 10⁴"
        rows = np.array([5, 2, 39])
        np.testing.assert_allclose(cells.rows(rows).toarray(), expected[rows], rtol=1e-5)
    cells.close()


def test_values_with_fractions_are_shown_as_they_are(adata, tmp_path):
    adata.X = adata.X * 0.37
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = Cells(tmp_path / "a.h5ad", ViewOptions())
    found = cells.gene(3)
    np.testing.assert_allclose(found.value, adata.X[:, [3]].toarray()[:, 0], rtol=1e-6)
    assert found.scale == "as stored in the file"
    np.testing.assert_allclose(cells.rows(np.array([1])).toarray(), adata.X[[1]].toarray())
    cells.close()


@pytest.mark.parametrize("loaded", [0, 1 << 26])
def test_an_index_outside_the_matrix_is_refused(path, monkeypatch, loaded):
    monkeypatch.setattr(matrix, "LOADED", loaded)
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 10**6
    cells = Cells(path, ViewOptions())
    with pytest.raises(DataError, match="entries at 1,000,000, outside its 8"):
        cells.gene(0)
    cells.close()


def test_rows_out_of_order_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["X/indptr"][3] = 10**6
    with pytest.raises(DataError, match="out of order"):
        Cells(path, ViewOptions())


def test_an_empty_matrix_has_genes_of_zeros(adata, tmp_path):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = Cells(tmp_path / "a.h5ad", ViewOptions())
    assert not cells.gene(2).value.any()
    assert cells.rows(np.array([1, 2])).shape == (2, 8)
    cells.close()


def test_layers_and_raw(adata, tmp_path):
    adata.layers["half"] = adata.X * 2
    adata.raw = adata
    small = adata[:, :4].copy()
    small.write_h5ad(tmp_path / "a.h5ad")
    assert anndata.read_h5ad(tmp_path / "a.h5ad").raw.shape == (40, 8)
    for options, n in ((ViewOptions(layer="half"), 4), (ViewOptions(use_raw=True), 8)):
        cells = Cells(tmp_path / "a.h5ad", options)
        assert len(cells.var) == n == cells.counts.shape[1]
        cells.gene(n - 1)
        cells.close()
    with pytest.raises(
        DataError, match=r"has no layers/none; its matrices are X, raw/X, layers/half"
    ):
        Cells(tmp_path / "a.h5ad", ViewOptions(layer="none"))
    with pytest.raises(DataError, match="choose one of the two"):
        Cells(tmp_path / "a.h5ad", ViewOptions(layer="half", use_raw=True))
