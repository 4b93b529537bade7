"""A description agrees with the cells that went into the corpus."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm.corpus.build import build
from cellfm.corpus.describe import LABELS, QUANTILES, describe
from cellfm.corpus.simulate import SimulationConfig, simulate
from cellfm.corpus.sources import read_sources
from cellfm.corpus.store import Store
from cellfm.errors import CorpusError


def cells(path: Path, *, n_cells: int, seed: int, tissue: str) -> anndata.AnnData:
    """Write some hundred genes of all cells of a tissue."""
    config = SimulationConfig(
        n_cells=n_cells, n_genes=900, depth=2500.0, name=path.stem, tissue=tissue
    )
    made = simulate(config, seed=seed)
    made.write_h5ad(path)
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, anndata.AnnData]:
    """A folder with two files and a bad one, and all cells that are kept."""
    folder = tmp_path_factory.mktemp("sources")
    first = cells(folder / "first.h5ad", n_cells=120, seed=1, tissue="lung")
    second = cells(folder / "second.h5ad", n_cells=60, seed=2, tissue="")
    (folder / "bad.h5ad").write_bytes(b"nothing")
    both = anndata.concat([first, second], merge="same", keys=["first", "second"], label="dataset")
    return folder, both[(both.X > 0).sum(axis=1).A1 >= 200].copy()


@pytest.fixture(scope="module")
def store(sources: tuple[Path, anndata.AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "store"
    build(read_sources([sources[0]]), path, n_workers=1)
    return path


def test_description_agrees_with_the_cells(
    store: Path, sources: tuple[Path, anndata.AnnData]
) -> None:
    folder, kept = sources
    seen = []
    said = describe(store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(kept.n_obs, kept.n_obs)]
    assert said.n_cells == kept.n_obs
    assert said.n_values == kept.X.nnz
    assert said.n_genes_seen == (kept.X > 0).sum(axis=0).A1.astype(bool).sum()
    assert said.n_genes == len(Store.open(store).vocabulary)
    assert tuple(said.groups) == LABELS
    for name in LABELS:
        expected = kept.obs[name].astype(str).value_counts()
        assert {group.label: group.n_cells for group in said.groups[name]} == expected.to_dict()
        sizes = [group.n_cells for group in said.groups[name]]
        assert sizes == sorted(sizes, reverse=True)
    genes = (kept.X > 0).sum(axis=1).A1
    assert said.genes_per_cell == tuple(np.quantile(genes, QUANTILES))
    assert said.counts_per_cell == tuple(np.quantile(kept.X.sum(axis=1).A1, QUANTILES))
    assert sum(said.genes_histogram.n_cells) == kept.n_obs
    assert len(said.genes_histogram.edges) == len(said.genes_histogram.n_cells) + 1
    n_bytes = sum(file.stat().st_size for file in (store / "cells").rglob("*") if file.is_file())
    assert 0.9 * n_bytes < said.n_bytes <= n_bytes
    assert said.bytes_per_cell == said.n_bytes / kept.n_obs
    assert [dataset.name for dataset in said.datasets] == ["first", "second"]
    assert [source.name for source in said.set_aside] == ["bad"]
    assert said.set_aside[0].path == str(folder / "bad.h5ad")


def test_description_is_fit_for_json(store: Path) -> None:
    said = describe(Store.open(store), counts=False)
    assert said.n_genes_seen is None
    read = json.loads(json.dumps(said.to_dict(), allow_nan=False))
    assert read["n_cells"] == said.n_cells
    assert read["quantiles"] == list(QUANTILES)
    assert read["groups"]["dataset"][0] == {
        "label": "first",
        "n_cells": said.groups["dataset"][0].n_cells,
    }


def test_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no corpus\.json"):
        describe(tmp_path)
