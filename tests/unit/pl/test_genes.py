"""Genes in the plane."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm import pl
from cellfm.errors import DataError

SYMBOLS = ["CD3D", "CD3E", "CD3G", "MS4A1", "LYZ", "MALAT1"]


@pytest.fixture
def laid() -> AnnData:
    points = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    obs = pd.DataFrame(
        {"symbol": SYMBOLS, "locus_group": ["protein-coding gene"] * 5 + ["non-coding RNA"]},
        index=SYMBOLS,
    )
    return AnnData(np.ones((6, 3), np.float32), obs=obs, obsm={"X_umap": points})


def test_locus_groups_are_told_apart(laid: AnnData) -> None:
    axes = pl.genes(laid)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["non-coding RNA", "protein-coding gene"]


def test_sets_are_drawn_over_the_others_under_any_name(laid: AnnData) -> None:
    sets = {"CD3": ["CD3D", "ENSG00000198851", "NOPE"], "B": ["MS4A1"]}
    axes = pl.genes(laid, gene_sets=sets)
    others, cd3, b = (np.asarray(dots.get_offsets()) for dots in axes.collections)
    np.testing.assert_allclose(cd3, laid.obsm["X_umap"][:2])
    np.testing.assert_allclose(b, laid.obsm["X_umap"][3:4])
    np.testing.assert_allclose(others, laid.obsm["X_umap"][[2, 4, 5]])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["CD3 (2 of 3)", "B (1 of 1)"]
    assert pl.genes(laid, gene_sets=sets, ax=axes) is axes


def test_what_cannot_be_drawn_is_said(laid: AnnData) -> None:
    with pytest.raises(DataError, match="None of the 1 genes of the set 'mouse'"):
        pl.genes(laid, gene_sets={"mouse": ["Gm12345"]})
    with pytest.raises(DataError, match="no gene sets to draw"):
        pl.genes(laid, gene_sets={})
    with pytest.raises(DataError, match="no basis 'tsne'"):
        pl.genes(laid, "tsne")
    del laid.obs["symbol"]
    with pytest.raises(DataError, match="no column 'symbol'"):
        pl.genes(laid, gene_sets={"CD3": ["CD3D"]})
