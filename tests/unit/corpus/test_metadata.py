"""Metadata columns under the same names."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm.corpus.metadata import METADATA, MetadataMap, harmonise, read_metadata_map
from cellfm.errors import ConfigError, SourceError

OBS = pd.DataFrame(
    {
        "louvain": pd.Categorical(["B", None, "T"]),
        "donor": [1, 2, 1],
        "age": [1.5, np.nan, 2.0],
        "tissue": ["PBMC", "spleen", None],
        "raw": [b"x", b"\xff", b"x"],
        "flag": [True, False, True],
    }
)


def taken(given=None, **sections):
    mapping = MetadataMap(**sections)
    return harmonise(OBS, given=given or {}, mapping=mapping, path=Path("a.h5ad"))


def test_without_a_map_columns_of_the_same_name_are_taken():
    found = taken()
    assert set(found.columns) == set(found.origin) == set(METADATA)
    assert found.columns["donor"].tolist() == ["1", "2", "1"]
    assert found.columns["tissue"].tolist() == ["PBMC", "spleen", ""]
    assert found.columns["cell_type"].tolist() == ["", "", ""]
    assert found.origin["donor"] == "obs column 'donor'"
    assert found.origin["cell_type"] == "not known (no obs column cell_type)"


def test_the_list_of_sources_gives_columns_and_constants():
    found = taken({"cell_type": "@louvain", "donor": "D7", "batch": "@age"})
    assert found.columns["cell_type"].tolist() == ["B", "", "T"]
    assert found.columns["donor"].tolist() == ["D7"] * 3
    assert found.columns["batch"].tolist() == ["1.5", "", "2.0"]
    assert found.origin["donor"] == "constant 'D7'"


def test_the_first_candidate_of_the_map_that_is_there():
    columns = {"cell_type": ("type", "louvain", "donor"), "tissue": ("organ",)}
    found = taken(columns=columns, values={"cell_type": {"B": "B cell"}})
    assert found.columns["cell_type"].tolist() == ["B cell", "", "T"]
    assert (
        found.columns["tissue"].tolist() == [""] * 3
    )  # the map says where, so nothing else is tried
    assert found.origin["tissue"] == "not known (no obs column organ)"


def test_values_are_strings():
    found = taken({"donor": "@raw", "batch": "@flag"})
    assert found.columns["donor"].tolist() == ["x", "�", "x"]
    assert found.columns["batch"].tolist() == ["True", "False", "True"]
    assert all(type(value) is str for column in found.columns.values() for value in column)


def test_a_missing_column_that_was_named():
    with pytest.raises(SourceError, match=r"no column 'kind'.*louvain, donor.*list of sources"):
        taken({"cell_type": "@kind"})


def test_of_two_columns_of_one_name_the_first():
    obs = pd.DataFrame([["a", "b"]], columns=["donor", "donor"])
    found = harmonise(obs, given={}, mapping=MetadataMap(), path=Path("a"))
    assert found.columns["donor"].tolist() == ["a"]


def test_read_map(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(
        "columns:\n  cell_type: [type, louvain]\n  donor: patient\n"
        "values:\n  tissue: {PBMC: blood}\n  disease: {no: healthy}\n  donor: {007: Bond}\n"
    )
    mapping = read_metadata_map(path)
    assert mapping.columns == {"cell_type": ("type", "louvain"), "donor": ("patient",)}
    assert mapping.values == {
        "tissue": {"PBMC": "blood"},
        "disease": {"no": "healthy"},
        "donor": {"007": "Bond"},
    }


def test_an_empty_map_is_none(tmp_path):
    (tmp_path / "map.yaml").write_text("# nothing yet\n")
    assert read_metadata_map(tmp_path / "map.yaml") == MetadataMap()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colums: {}", r"no section 'colums'. Did you mean 'columns'\?"),
        ("columns: {celltype: [a]}", r"no metadata column 'celltype'. Did you mean 'cell_type'\?"),
        ("values: {organ: {a: b}}", "no metadata column 'organ'. Known are cell_type"),
        ("columns: {donor: {a: b}}", "expected a list of columns"),
        ("columns: [donor]", "expected a mapping"),
        ("values: {donor: [a]}", "expected a mapping"),
        ("values: {donor: {a: [b]}}", "expected one value"),
        ("- a", "expected a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_mistakes_in_the_map(tmp_path, text, said):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_metadata_map(tmp_path / "map.yaml")


def test_no_map(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_metadata_map(tmp_path / "map.yaml")
