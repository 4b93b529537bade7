"""Programs in cells: scores, and how they differ between conditions."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import cellfm
from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, DataError, OutputExistsError
from cellfm.genes import Vocabulary
from cellfm.tl._genes.program_changes import NO_REPLICATES
from cellfm.tl._genes.program_coherence import coherence
from cellfm.tl._genes.program_units import compare_units, units_of
from cellfm.tl._genes.programs import Programs
from cellfm.weights.folder import Pretrained

pytest.importorskip("scanpy")
N_GENES, N_CELLS = 120, 240


@pytest.fixture(scope="module")
def model() -> Pretrained:
    import torch

    from cellfm.nn import CellFM, initialise

    vocabulary = Vocabulary.from_hgnc()
    vocabulary = Vocabulary.from_symbols(vocabulary.symbols[:N_GENES])
    config = ModelConfig(n_genes=N_GENES, dim=16, n_layers=1, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="c" * 64, path=None
    )


@pytest.fixture(scope="module")
def programs(model: Pretrained) -> Programs:
    """Three programs of 20 genes; the other genes are in none."""
    code = np.repeat([0, 1, 2, -1], [20, 20, 20, 60])
    return Programs(genes=model.vocabulary.symbols, code=code)


@pytest.fixture
def adata(programs: Programs) -> AnnData:
    """Six donors with cells under both conditions; program 1 is on in the stimulated ones, donors have levels of their own."""
    rng = np.random.default_rng(0)
    condition = np.array(["stim", "ctrl"])[np.arange(N_CELLS) % 2]
    donor = np.arange(N_CELLS) // 2 % 6
    rate = np.full((N_CELLS, N_GENES), 3.0)
    rate[np.ix_(condition == "stim", programs.code == 1)] *= 2.0
    rate[:, programs.code == 2] *= np.linspace(0.5, 2, 6)[donor][:, None]
    obs = pd.DataFrame(
        {"condition": condition, "donor": [f"d{i}" for i in donor]},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=list(programs.genes)))


def test_scores_are_written_as_scanpy_would(adata: AnnData, programs: Programs) -> None:
    import scanpy

    before = adata.copy()
    cellfm.tl.program_scores(adata, programs=programs)
    scores, note = adata.obsm["X_programs"], adata.uns["cellfm"]["X_programs"]
    assert scores.shape == (N_CELLS, 3)
    assert scores.dtype == np.float32
    assert note["names"].tolist() == ["0", "1", "2"]
    assert note["n_genes"].tolist() == note["size"].tolist() == [20, 20, 20]
    other = before.copy()
    scanpy.pp.normalize_total(other, target_sum=1e4)
    scanpy.pp.log1p(other)
    scanpy.tl.score_genes(other, list(programs.members(1)), random_state=0)
    np.testing.assert_allclose(scores[:, 1], other.obs["score"], atol=1e-5)
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs) == list(before.obs)
    with pytest.raises(OutputExistsError, match="X_programs"):
        cellfm.tl.program_scores(adata, programs=programs)
    cellfm.tl.program_scores(other, programs=programs, key_added="again", scale="log1p")
    np.testing.assert_allclose(other.obsm["again"], scores, atol=1e-5)
    ids = adata.copy()
    ids.var_names = list(Vocabulary.from_symbols(programs.genes).ensembl_ids)
    cellfm.tl.program_scores(ids, programs=programs, overwrite=True)
    np.testing.assert_allclose(ids.obsm["X_programs"], scores, atol=1e-6)


def test_cells_without_the_genes_are_refused(adata: AnnData, programs: Programs) -> None:
    fewer = adata[:, programs.code < 0].copy()
    with pytest.raises(DataError, match="none of the 60 genes of the programs"):
        cellfm.tl.program_scores(fewer, programs=programs)


def change(adata: AnnData, model: Pretrained, programs: Programs, **options: object):
    return cellfm.tl.program_changes(
        adata, model, programs=programs, groupby="condition", **{"n_permutations": 49, **options}
    )


def test_donors_are_the_replicates(adata: AnnData, model: Pretrained, programs: Programs) -> None:
    """Paired by donor, the levels of donors do not matter; the table is that of scipy on donor means."""
    found = change(adata, model, programs, groups=("stim", "ctrl"), sample="donor")
    table = found.table.set_index("program")
    assert set(table["design"]) == {"paired"}
    assert set(table["n"]) == set(table["n_against"]) == {6}
    means = found.scores.groupby([adata.obs["donor"], adata.obs["condition"]]).mean().unstack()
    own, other = means["1"]["stim"], means["1"]["ctrl"]
    row = table.loc[1]
    assert row["p"] == pytest.approx(stats.ttest_rel(own, other).pvalue, rel=1e-5)
    assert row["change"] == pytest.approx((own - other).mean(), rel=1e-5)
    assert row["low"] < row["change"] < row["high"]
    g = (1 - 3 / 39) * (own - other).mean() / np.sqrt((own.var() + other.var()) / 2)
    assert row["effect"] == pytest.approx(g, rel=1e-5)
    assert row["q"] < 0.01
    assert row["low"] > 0
    # Scores are relative: genes of a program that rises are among those others are compared with.
    assert abs(table.loc[2, "change"]) < 0.4 * row["change"]
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(table["p"]))
    assert found.notes == ()
    assert "The largest: 1, stim less ctrl" in found.verdict


def test_cells_are_no_replicates_and_it_is_said(
    adata: AnnData, model: Pretrained, programs: Programs
) -> None:
    """Donors of unlike level, each under one condition: cells say the conditions differ, donors do not."""
    adata.obs["condition"] = np.where(adata.obs["donor"].isin(["d0", "d1", "d4"]), "stim", "ctrl")
    options = {"groups": ("stim", "ctrl"), "coherence": False}
    by_cell = change(adata, model, programs, **options)
    by_donor = change(adata, model, programs, sample="donor", **options)
    assert by_cell.notes == (NO_REPLICATES,)
    assert NO_REPLICATES in by_cell.verdict
    assert set(by_cell.table["design"]) == {"cells"}
    assert set(by_donor.table["design"]) == {"independent"}
    assert by_cell.table["p"][2] < 1e-6
    assert by_donor.table["p"][2] > 0.05
    assert "coherence" not in by_cell.table


def test_groups_against_the_rest(adata: AnnData, model: Pretrained, programs: Programs) -> None:
    adata.obs["condition"] = np.where(np.arange(N_CELLS) % 7 == 0, "third", adata.obs["condition"])
    every = change(adata, model, programs, coherence=False).table
    assert every["group"].unique().tolist() == ["ctrl", "stim", "third"]
    assert set(every["against"]) == {"rest"}
    one = change(adata, model, programs, groups=["stim"], coherence=False).table
    part = every[every["group"] == "stim"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one.drop(columns="q"), part.drop(columns="q"))
    assert (one["n"] + one["n_against"] == N_CELLS).all()
    adata.obs["condition"] = np.where(np.arange(N_CELLS) < 3, "few", adata.obs["condition"])
    found = change(adata, model, programs, coherence=False, sample="donor", min_cells=2)
    assert found.table["group"].unique().tolist() == ["ctrl", "stim", "third"]
    assert found.notes[0].startswith("few against rest: 1 and 6 samples with at least 2 cells, 1")


def test_coherence_by_hand_and_its_null() -> None:
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(30, 8))
    unit[:10] += 5 * rng.normal(size=8)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    code = np.repeat([0, 1, -1, 2], [10, 10, 6, 4])
    found = coherence(unit, code, 3)
    cosine = unit[:10] @ unit[:10].T
    assert found[0] == pytest.approx((cosine.sum() - 10) / 90)
    assert found[0] > 0.7 > abs(found[1])
    assert np.isnan(found[2])  # four genes


def test_a_module_that_falls_apart_is_found(
    monkeypatch: pytest.MonkeyPatch, adata: AnnData, model: Pretrained, programs: Programs
) -> None:
    """Vectors of genes are replaced by known ones: program 0 keeps together when stimulated only."""
    import cellfm.tl._genes.program_coherence as module

    def vectors(model: Pretrained, cells: AnnData, **_: object) -> AnnData:
        stim = float((cells.obs["condition"] == "stim").mean())
        assert stim in (0.0, 1.0)
        rng = np.random.default_rng(5)
        table = rng.normal(size=(N_GENES, 16))
        table[programs.code == 0] += 4 * stim * rng.normal(size=16)
        table[programs.code == 1] += 4 * rng.normal(size=16)
        table += 0.05 * np.random.default_rng(int(cells.X.sum())).normal(size=table.shape)
        obs = pd.DataFrame({"token": np.arange(1, N_GENES + 1), "n_cells": 50}).astype(int)
        obs.index = list(programs.genes)
        return AnnData(table.astype(np.float32), obs=obs)

    monkeypatch.setattr(module, "gene_embeddings", vectors)
    found = change(adata, model, programs, groups=("stim", "ctrl"))
    table = found.table.set_index("program")
    assert table.loc[0, "coherence_change"] > 0.3
    assert table.loc[0, "coherence_p"] == pytest.approx(1 / 50)
    assert abs(table.loc[1, "coherence_change"]) < 0.2
    assert (table["coherence_noise"] < 0.05).all()
    assert table["coherence_genes"].tolist() == [20, 20, 20]


def test_coherence_of_states_is_nothing_where_nothing_differs(
    adata: AnnData, model: Pretrained, programs: Programs
) -> None:
    adata.obs["condition"] = np.random.default_rng(3).permutation(adata.obs["condition"])
    by_donor = change(adata, model, programs, sample="donor", n_cells=15)
    assert {"coherence", "coherence_q", "coherence_sample_p"} <= set(by_donor.table)
    assert by_donor.table["coherence"].between(-1, 1).all()
    assert (by_donor.table["coherence_sample_p"] > 0.001).all()
    again = change(adata, model, programs, sample="donor", n_cells=15)
    pd.testing.assert_frame_equal(by_donor.table, again.table)


def test_units_pair_where_that_uses_more(adata: AnnData) -> None:
    sample = np.array(list("aabbccddee"))
    inside = np.array([1, 0, 1, 0, 1, 0, 1, 1, 0, 0], bool)
    units = units_of(inside, ~inside, sample, min_cells=1, name="x")
    assert (units.design, len(units.own), units.n_left_out) == ("paired", 3, 2)
    with pytest.raises(
        DataError, match="x: 1 and 1 samples with at least 2 cells, 0 of them in both"
    ):
        units_of(inside, ~inside, sample, min_cells=2, name="x")
    equal = compare_units(np.ones((3, 1)), np.ones((3, 1)), paired=True)
    assert np.isnan(equal.p).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": ("stim", "stim")}, ConfigError, "two different ones"),
        ({"groups": ("a", "b", "c")}, ConfigError, "expected one entry"),
        ({"groups": ("stim", "none")}, DataError, "no entry 'none'; it has ctrl, stim"),
        ({"sample": "patient"}, DataError, "no column 'patient'"),
        ({"sample": "donor", "min_cells": 200}, DataError, "0 and 0 samples with at least 200"),
        ({"groupby": "one"}, DataError, "at least two are needed to compare"),
    ],
)
def test_refusals(adata, model, programs, options, error, message):
    adata.obs["one"] = "x"
    with pytest.raises(error, match=message):
        cellfm.tl.program_changes(
            adata, model, programs=programs, **{"groupby": "condition", **options}
        )
