import numpy as np
import pytest
from tests.unit.bench.toy import toy_cells, toy_dataset

from cellfm.bench.datasets import BUILT_IN, Dataset, find_datasets, read_dataset
from cellfm.errors import ConfigError, CountsError, DataError

YAML = """
name: toy
path: cells.h5ad
label: cell_type
donor: donor
batch: null
drop: {cell_type: [NK]}
"""


@pytest.fixture
def folder(tmp_path):
    toy_cells().write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "toy.yaml").write_text(YAML)
    return tmp_path


def test_yaml_becomes_a_dataset(folder) -> None:
    dataset = read_dataset(folder / "toy.yaml")
    cells = dataset.load()
    assert cells.n_obs == 60
    assert list(cells.obs.columns) == ["cell_type", "donor"]
    assert cells.uns["bench"]["dropped"] == {"cell_type = NK": 30, "cell_type missing": 0}
    assert [each.name for each in find_datasets((str(folder), "simulated-types"))] == ["toy", "simulated-types"]  # fmt: skip


def test_cells_without_a_label_are_left_out_and_counted() -> None:
    adata = toy_cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(90) > 4)
    cells = Dataset(name="toy", maker=lambda: adata, label="cell_type").load()
    assert cells.n_obs == 85
    assert cells.uns["bench"]["dropped"] == {"cell_type missing": 5}


def test_layers_raw_and_names_come_out_as_x() -> None:
    def make():
        adata = toy_cells()
        adata.var["symbol"] = [name.lower() for name in adata.var_names]
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.multiply(0.5).tocsr()
        return adata

    cells = Dataset(name="toy", maker=make, layer="counts", gene_names="symbol").load()
    assert (cells.X != toy_cells().X).nnz == 0
    assert cells.var_names[0] == "actb"
    with pytest.raises(CountsError):
        Dataset(name="toy", maker=make).load()


def test_hash_is_of_the_contents() -> None:
    def moved():
        adata = toy_cells()
        adata.X = adata.X.copy()
        adata.X.data[0] += 1
        return adata

    assert toy_dataset().hash == toy_dataset().hash
    assert toy_dataset().hash != toy_dataset(donor=None).hash
    assert toy_dataset().hash != Dataset(name="toy", maker=moved, label="cell_type", donor="donor").hash  # fmt: skip


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name: toy": "nam: toy"}, "'nam'"),
        ({"name: toy": ""}, "no name"),
        ({"donor: donor": "scale: raw"}, "must be counts or log1p"),
        ({"{cell_type: [NK]}": "NK"}, "expected columns"),
        ({YAML: "[1, 2]"}, "no entries"),
        ({YAML: "a: [1"}, "no valid YAML"),
    ],
)
def test_yaml_refusals(tmp_path, change, what) -> None:
    text = YAML
    for old, new in change.items():
        text = text.replace(old, new)
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(ConfigError, match=what):
        read_dataset(tmp_path / "toy.yaml")


def test_refusals(tmp_path) -> None:
    with pytest.raises(ConfigError, match="There is no dataset file"):
        list(find_datasets(("nothing",)))
    with pytest.raises(DataError, match="no such file"):
        Dataset(name="gone", path=tmp_path / "gone.h5ad").load()
    with pytest.raises(DataError, match="no column 'kind'"):
        toy_dataset(label="kind").load()
    everything = {"donor": ("d1", "d2", "d3")}
    with pytest.raises(DataError, match="No cell"):
        Dataset(name="toy", maker=toy_cells, drop=everything).load()


def test_built_in_datasets_are_what_they_say() -> None:
    assert set(BUILT_IN) >= {"simulated-types", "simulated-batches"}
    cells = BUILT_IN["simulated-batches"]().load()
    assert cells.obs["batch"].nunique() == 3
    assert cells.n_obs == 600
