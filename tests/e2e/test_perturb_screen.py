"""Genes are knocked out of simulated cells on the command line."""

from pathlib import Path

import pandas as pd
import pytest
from anndata import read_h5ad

from cellfm import tl
from tests.e2e.conftest import Cellfm

pytest.importorskip("matplotlib")

GROUPS = ("--groupby", "cell_type", "--group", "type0")
LIMITS = ("--n-cells", 12, "--n-null", 19)


def test_screen_writes_what_the_function_returns(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target, figure = tmp_path / "screen.tsv", tmp_path / "screen.png"
    words = ("perturb", "screen", simulated, target, "--model", model, *GROUPS, *LIMITS)
    more = ("--genes", 8, "--towards", "type1", "--figure", figure)
    written = cellfm(*words, *more)
    assert written.code == 0, written.err
    assert "8 genes lead towards the goal more than genes expressed like them" in written.out
    assert f"wrote {target}, {figure}: 8 genes" in written.out
    assert "cells·genes/s" in written.out
    assert figure.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(target, sep="\t")
    expected = tl.screen(
        read_h5ad(simulated),
        model,
        genes=8,
        groupby="cell_type",
        group="type0",
        towards="type1",
        n_cells=12,
        n_null=19,
    ).drop(columns="screened")
    pd.testing.assert_frame_equal(table, expected, rtol=1e-4, check_dtype=False)
    refused = cellfm(*words, *more)
    assert refused.code == 2
    assert "exists already" in refused.err
    assert not list(tmp_path.glob(".*"))


def test_genes_come_from_a_file_or_from_a_list_with_commas(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    names = list(read_h5ad(simulated).var_names[:40])
    listed = tmp_path / "genes.txt"
    listed.write_text("\n".join([*names, "NO-SUCH-GENE"]) + "\n", encoding="utf-8")
    words = ("perturb", "screen", simulated, tmp_path / "a.tsv", "--model", model, *GROUPS, *LIMITS)
    refused = cellfm(*words, "--genes", listed)
    assert refused.code == 2
    assert "1 of 41 genes are not in the vocabulary" in refused.err
    assert cellfm(*words, "--genes", listed, "--missing", "skip").code == 0
    table = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    assert set(table["gene"]) <= set(names)
    two = ",".join(table["gene"][:2])
    assert cellfm(*words, "--genes", two, "--overwrite").code == 0
    again = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    assert set(again["gene"]) == set(table["gene"][:2])
