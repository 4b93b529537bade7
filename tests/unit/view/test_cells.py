import h5py
import numpy as np
import pandas as pd
import pytest

from cellfm.errors import ConfigError, DataError
from cellfm.view.cells import Cells
from cellfm.view.names import GeneNames
from cellfm.view.options import ViewOptions


def test_what_is_no_h5ad_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        Cells(tmp_path / "none.h5ad", ViewOptions())
    (tmp_path / "text.h5ad").write_text("no cells")
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        Cells(tmp_path / "text.h5ad", ViewOptions())
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["pixels"] = np.zeros(3)
    with pytest.raises(DataError, match="has no obs; it holds pixels"):
        Cells(tmp_path / "other.h5ad", ViewOptions())


def test_a_matrix_of_another_shape_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.zeros((3, 8), np.float32)
    with pytest.raises(DataError, match=r"is 3 × 8, but its tables name 40 cells and 8 genes"):
        Cells(path, ViewOptions())
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.array([b"text"])
    with pytest.raises(DataError, match="expected a matrix of numbers"):
        Cells(path, ViewOptions())


def test_a_damaged_table_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["obs/kind/codes"]
    with pytest.raises(DataError, match=r"The table obs of small\.h5ad cannot be read"):
        Cells(path, ViewOptions())


def test_no_cells_are_refused(adata, tmp_path):
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(DataError, match="has 0 cells"):
        Cells(tmp_path / "empty.h5ad", ViewOptions())


def test_embeddings_are_listed_and_read(adata, tmp_path):
    adata.obsm["one"] = np.zeros((40, 1))
    adata.obsm["table"] = pd.DataFrame(
        {"a": np.zeros(40), "b": np.zeros(40)}, index=adata.obs_names
    )
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = Cells(tmp_path / "a.h5ad", ViewOptions())
    assert cells.keys == {"X_cellfm": 6, "X_umap": 2}
    np.testing.assert_array_equal(cells.states("X_cellfm"), adata.obsm["X_cellfm"])
    with pytest.raises(
        DataError, match=r"no embedding 'X_pca' in obsm of a\.h5ad; it has X_cellfm, X_umap"
    ):
        cells.states("X_pca")
    cells.close()


def test_names_of_genes_in_a_column(adata, tmp_path):
    adata.var["symbol"] = [f"GENE{i}" for i in range(8)]
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = Cells(tmp_path / "a.h5ad", ViewOptions())
    assert cells.names.find("gene3") == 3 == cells.names.find("MS4A1")
    assert cells.names.shown[3] == "GENE3"
    cells.close()
    with pytest.raises(DataError, match="no column 'nil' in var; it has symbol"):
        Cells(tmp_path / "a.h5ad", ViewOptions(gene_names="nil"))


def test_near_names():
    var = pd.DataFrame(index=["CD3E", "CD3EAP", "CD3D", "ACD3E", "MS4A1", "MS4A7", "GAPDH"])
    names = GeneNames.of(var, None)
    assert names.near("cd3e") == ["CD3E", "CD3EAP", "ACD3E"]
    assert names.near("MS4B1")[0] == "MS4A1"
    assert names.near(" ") == []
    assert names.near("qqqqqq") == []
    with pytest.raises(
        DataError, match=r"no gene 'GAPDX' among the 7 of the file\. Near names: GAPDH"
    ):
        names.find("GAPDX")
    with pytest.raises(DataError, match="No name is near it"):
        names.find("qqqqqq")


@pytest.mark.parametrize("wrong", [{"port": -1}, {"port": 65536}, {"max_upload": 0}])
def test_options_that_cannot_work(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ViewOptions(**wrong)
