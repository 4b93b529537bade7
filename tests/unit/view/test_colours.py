import json
import struct

import numpy as np
import pandas as pd
import pytest

from cellfm.errors import DataError
from cellfm.view import colours
from cellfm.view.cells import Cells
from cellfm.view.options import ViewOptions


@pytest.fixture
def cells(path):
    cells = Cells(path, ViewOptions())
    yield cells
    cells.close()


def unframed(content: bytes, dtype):
    (length,) = struct.unpack_from("<I", content)
    assert length % 4 == 0
    return json.loads(content[4 : 4 + length]), np.frombuffer(content, dtype, offset=4 + length)


def test_groups(cells):
    found = colours.colour_by_column(cells, "kind")
    legend, values = unframed(found.framed(), "<u2")
    assert legend["groups"] == ["T", "B"]
    assert legend["counts"] == [20, 20]
    assert legend["kind"] == "groups"
    np.testing.assert_array_equal(values, np.repeat([0, 1], 20))
    assert len(set(legend["colours"])) == 2


def test_numbers_and_truth_values_and_missing_ones(cells):
    legend, values = unframed(colours.colour_by_column(cells, "depth").framed(), "<f4")
    assert legend["kind"] == "numbers"
    np.testing.assert_allclose(values, cells.obs["depth"])
    assert colours.colour_by_column(cells, "good").groups == ("False", "True")
    note = colours.colour_by_column(cells, "note")
    assert (note.n_missing, note.values[0], note.counts) == (1, colours.NONE, (39,))


def test_missing_numbers(cells):
    cells.obs["holes"] = np.r_[np.nan, np.inf, np.arange(38)]
    found = colours.colour_by_column(cells, "holes")
    assert found.n_missing == 2
    cells.obs["nullable"] = pd.array([None, *range(39)], dtype="Int64")
    assert colours.colour_by_column(cells, "nullable").n_missing == 1


def test_gene(cells):
    found = colours.colour_by_gene(cells, "ms4a1")
    assert found.name == "MS4A1"
    assert found.note.startswith("log1p of counts per 10⁴; found in ")
    assert found.values[20:].min() > found.values[:20].mean()


def test_colours_of_the_file_are_kept_and_unknown_is_grey(adata, tmp_path):
    adata.obs["call"] = pd.Categorical(["unknown", *["a"] * 39])
    adata.uns["kind_colors"] = ["#112233", "#445566ff"]
    adata.uns["call_colors"] = ["red", "<script>"]  # none that is a plain colour
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = Cells(tmp_path / "a.h5ad", ViewOptions())
    assert colours.colour_by_column(cells, "kind").colours == ("#112233", "#445566")
    call = colours.colour_by_column(cells, "call")
    assert dict(zip(call.groups, call.colours, strict=True))["unknown"] == colours.GREY
    assert "<script>" not in call.colours
    cells.close()


def test_many_groups_become_one(cells):
    cells.obs = pd.DataFrame({"many": [f"g{i % 150:03d}" for i in range(400)]})
    found = colours.colour_by_column(cells, "many")
    assert len(found.groups) == colours.MOST_GROUPS == len(found.colours)
    assert found.groups[-1] == "51 smaller groups"
    assert sum(found.counts) == 400
    assert found.counts[:99] == (3,) * 99  # g000 … g098: the largest come first
    assert found.colours[-1] == colours.GREY
    assert len(set(found.colours[:50])) == 50


def test_no_such_column(cells):
    with pytest.raises(DataError, match="no column 'nil' in obs; it has kind, depth"):
        colours.colour_by_column(cells, "nil")
