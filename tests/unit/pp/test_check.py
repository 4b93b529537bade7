"""Counts and genes of an AnnData or file, seen with the genes of a model."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellfm import pp
from cellfm.errors import CountsError, DataError, GeneMatchError
from cellfm.genes import Vocabulary
from cellfm.weights import folder

SYMBOLS = ["ACTB", "CD3E", "GAPDH", "STRANGE"]
COUNTS = np.array([[4, 0, 1, 5], [0, 2, 0, 8], [0, 0, 0, 3]], dtype=np.float32)
VOCABULARY = Vocabulary.from_symbols(["GAPDH", "CD3E", "ACTB", "MS4A1"])


@pytest.fixture
def adata() -> anndata.AnnData:
    var = pd.DataFrame({"other": ["A", "B", "C", "D"]}, index=SYMBOLS)
    made = anndata.AnnData(sparse.csr_matrix(COUNTS), var=var)
    made.layers["logged"] = np.log1p(COUNTS)
    made.raw = made.copy()
    return made


def test_check_counts(adata: anndata.AnnData) -> None:
    pp.check_counts(adata)
    pp.check_counts(adata, use_raw=True)
    pp.check_counts(adata, layer="logged", scale="log1p")
    with pytest.raises(CountsError, match="no integer"):
        pp.check_counts(adata, layer="logged")
    with pytest.raises(CountsError, match="All values are integers"):
        pp.check_counts(adata, scale="log1p")


def test_match_genes_weighs_by_counts(adata: anndata.AnnData) -> None:
    report = pp.match_genes(adata, VOCABULARY)
    assert (report.n_matched, report.n_input) == (3, 4)
    assert report.coverage == pytest.approx(7 / 23)
    logged = pp.match_genes(adata, VOCABULARY, layer="logged", scale="log1p")
    assert logged.coverage == pytest.approx(7 / 23, rel=1e-6)
    assert pp.match_genes(adata).n_matched == 3  # the genes of models trained from scratch
    with pytest.raises(GeneMatchError, match="Only 0 of 4"):
        pp.match_genes(adata, VOCABULARY, gene_names="other")


def test_match_genes_takes_a_model(adata: anndata.AnnData, tmp_path: Path) -> None:
    made = folder.new("debug", VOCABULARY)
    folder.save(tmp_path / "model", made.network, VOCABULARY, card="", provenance={})
    expected = pp.match_genes(adata, VOCABULARY)
    assert pp.match_genes(adata, made) == expected
    assert pp.match_genes(adata, tmp_path / "model") == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "spliced"}, "There is no layer 'spliced'; adata has logged"),
        ({"layer": "logged", "use_raw": True}, "choose one of the two"),
        ({"gene_names": "id"}, "There is no column 'id' in var; it has other"),
    ],
)
def test_what_is_missing_is_said(
    adata: anndata.AnnData, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        pp.match_genes(adata, VOCABULARY, **options)


def test_missing_raw(adata: anndata.AnnData) -> None:
    del adata.raw
    with pytest.raises(DataError, match=r"adata\.raw is empty"):
        pp.check_counts(adata, use_raw=True)


def test_check_file(adata: anndata.AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    seen: list[tuple[int, int]] = []
    found = pp.check_file(
        tmp_path / "x.h5ad", VOCABULARY, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(3, 3)]
    assert found.report == pp.match_genes(adata, VOCABULARY)
    assert (found.n_cells, found.n_empty, found.median_total) == (3, 1, 2.0)
    assert found.problem is None
    wrong = pp.check_file(tmp_path / "x.h5ad", VOCABULARY, layer="logged")
    assert isinstance(wrong.problem, CountsError)
    assert wrong.report.n_matched == 3
    assert wrong.report.coverage is None


def test_blocks_add_up(
    adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    whole = pp.check_file(tmp_path / "x.h5ad", VOCABULARY)
    monkeypatch.setattr("cellfm.pp._check.BLOCK_ROWS", 2)
    assert pp.check_file(tmp_path / "x.h5ad", VOCABULARY) == whole
