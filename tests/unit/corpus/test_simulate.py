"""Simulated counts: known truth, real-looking marginals, the same for the same seed."""

import json
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from cellfm.corpus.simulate import (
    PerturbationConfig,
    Reference,
    Simulation,
    SimulationConfig,
    simulate,
)
from cellfm.corpus.simulate.cells import TILE
from cellfm.corpus.simulate.counts import LARGE, draw_counts, invert
from cellfm.corpus.simulate.world import choose_genes
from cellfm.errors import ConfigError, CountsError, DataError
from cellfm.genes import GeneTable

SMALL = SimulationConfig(
    n_cells=600, n_genes=300, n_types=4, n_lineages=2, n_programs=6, depth=1000.0
)
EVEN = replace(
    SMALL, n_batches=1, n_donors=1, batch_effect=0.0, donor_effect=0.0, batch_depth=0.0, ambient=0.0
)


def dense(adata: anndata.AnnData) -> np.ndarray:
    return np.asarray(adata.X.todense(), dtype=np.float64)


@pytest.mark.parametrize(
    ("rate", "dispersion"), [(0.05, 0.3), (2.0, 0.01), (5.9, 1.5), (60.0, 0.2)]
)
def test_counts_follow_the_gamma_poisson_distribution(rate: float, dispersion: float) -> None:
    rates = np.full((400, 100), rate, dtype=np.float32)
    counts = draw_counts(
        rates,
        np.full(100, dispersion),
        uniform=np.random.default_rng(1),
        direct=np.random.default_rng(2),
    )
    assert counts.has_canonical_format
    assert counts.dtype == np.int32
    assert (counts.data > 0).all()
    x = counts.toarray().ravel()
    law = stats.nbinom(1 / dispersion, 1 / (1 + dispersion * rate))
    edges = np.unique(law.ppf(np.linspace(0, 1, 12)[1:-1]))
    observed = np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1)
    expected = np.diff(np.r_[0.0, law.cdf(edges), 1.0]) * x.size
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_inversion_is_the_quantile_function() -> None:
    number = np.linspace(0.0005, 0.9995, 800)
    rate, dispersion = np.full(800, LARGE), np.full(800, 0.7)
    law = stats.nbinom(1 / 0.7, 1 / (1 + 0.7 * LARGE))
    np.testing.assert_array_equal(invert(rate, dispersion, number), law.isf(number))


def test_genes_are_human_coding_genes_and_larger_panels_begin_alike() -> None:
    symbols, ensembl = choose_genes(60)
    table = GeneTable.load()
    assert [symbol.startswith("MT-") for symbol in symbols] == [True] * 13 + [False] * 47
    for symbol, identifier in zip(symbols, ensembl, strict=True):
        assert table.approved[symbol.upper()].locus_group == "protein-coding gene"
        assert table.approved[symbol.upper()].ensembl_id == identifier
    assert choose_genes(25_000)[0][:60] == symbols
    with pytest.raises(ConfigError, match="n_genes is 100,000, but only"):
        choose_genes(100_000)
    small, large = (Simulation.of(replace(SMALL, n_genes=n)).world for n in (100, 300))
    np.testing.assert_array_equal(small.loading, large.loading[:100])
    np.testing.assert_array_equal(small.dispersion, large.dispersion[:100])


def test_same_seed_same_cells_whatever_is_asked_for_at_a_time() -> None:
    config = replace(SMALL, doublets=0.1, empty=0.1, perturbations=PerturbationConfig(n_singles=3))
    simulation = Simulation.of(config, seed=3)
    whole = simulate(config, seed=3)
    for start, stop in ((0, 1), (100, 300), (TILE, 2 * TILE), (590, 600)):
        part = simulation.block(start, stop)
        assert (whole.X[start:stop] != part.X).nnz == 0
        pd.testing.assert_frame_equal(part.obs, whole.obs[start:stop])
        np.testing.assert_array_equal(
            part.obsm["program_activity"], whole.obsm["program_activity"][start:stop]
        )
    longer = simulate(replace(config, n_cells=900), seed=3)
    assert (longer.X[:600] != whole.X).nnz == 0
    other = simulate(config, seed=4)
    assert (other.X != whole.X).nnz > 0
    # Another data set of the same world: other batches, the same biology.
    np.testing.assert_array_equal(other.varm["type_profile"], whole.varm["type_profile"])
    assert not np.array_equal(other.varm["batch_effect"], whole.varm["batch_effect"])


def test_truth_is_kept_and_can_be_written(tmp_path) -> None:
    config = replace(
        SMALL,
        n_cells=300,
        doublets=0.1,
        empty=0.1,
        perturbations=PerturbationConfig(n_singles=2, n_doubles=1),
    )
    seen = []
    made = simulate(config, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 300), (300, 300)]
    made.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (read.X != made.X).nnz == 0
    notes = read.uns["simulation"]
    assert json.loads(notes["config"])["n_programs"] == 6
    assert read.obsm["program_activity"].shape == (300, 7)
    assert read.varm["program_loading"].shape == (300, 7)
    assert list(notes["programs"])[-1] == "mitochondrial"
    assert read.varm["type_profile"].shape == (300, 4)
    assert list(notes["types"]) == ["type 1.1", "type 2.1", "type 1.2", "type 2.2"]
    assert list(notes["lineage_of_type"]) == ["lineage 1", "lineage 2"] * 2
    assert read.varm["perturbation_effect"].shape == (300, len(notes["perturbations"])) == (300, 4)
    assert list(notes["perturbation_kinds"][:3]) == ["control", "single", "single"]
    for column in (
        "cell_type",
        "lineage",
        "tissue",
        "disease",
        "donor",
        "assay",
        "batch",
        "perturbation",
    ):
        assert isinstance(read.obs[column].dtype, pd.CategoricalDtype)
    assert (read.obs.groupby("donor", observed=True)["batch"].nunique() == 1).all()
    empty = read.obs["empty"].to_numpy()
    assert (read.obs["cell_type"][empty] == "empty droplet").all()
    assert read.obs["partner_type"].notna().eq(read.obs["doublet"]).all()


def test_profiles_batches_and_mitochondria_are_as_told() -> None:
    config = replace(
        SMALL, n_cells=6000, n_types=2, depth=3000.0, batch_effect=0.5, donor_effect=0.0, n_donors=2
    )
    made = simulate(config)
    x, obs = dense(made), made.obs
    rate = x / obs["depth"].to_numpy()[:, None]
    share = made.uns["simulation"]["ambient_share"]
    for b, batch in enumerate(made.uns["simulation"]["batches"]):
        for t, kind in enumerate(made.uns["simulation"]["types"]):
            rows = ((obs["batch"] == batch) & (obs["cell_type"] == kind)).to_numpy()
            own = made.varm["type_profile"][:, t] * np.exp(made.varm["batch_effect"][:, b])
            expected = (1 - share[b]) * own + share[b] * made.varm["ambient_profile"][:, b]
            high = expected > 2e-3
            ratio = rate[rows][:, high].mean(axis=0) / expected[high]
            assert np.abs(np.log(ratio)).max() < 0.15
    one = simulate(replace(EVEN, n_cells=2000, mito_fraction=0.2))
    counts = dense(one)
    fraction = counts[:, :13].sum(axis=1) / counts.sum(axis=1)
    assert 0.18 < fraction.mean() < 0.22
    assert one.var["mitochondrial"].to_numpy().sum() == 13


def test_programs_make_genes_vary_together_within_a_type() -> None:
    config = replace(
        EVEN,
        n_cells=3000,
        n_types=1,
        n_lineages=1,
        depth=8000.0,
        dispersion=0.02,
        program_sharing=0.0,
    )
    made = simulate(config)
    logs = np.log1p(dense(made) / made.obs["depth"].to_numpy()[:, None] * 1e4)
    loading = made.varm["program_loading"][:, :-1]
    mean = made.var["mean_share"].to_numpy()
    one = (loading > 0).sum(axis=1) == 1
    genes = np.flatnonzero(one & (loading.max(axis=1) > 0.5) & (mean > 1e-3))
    correlation = np.corrcoef(logs[:, genes].T)
    same = loading[genes].argmax(axis=1)[:, None] == loading[genes].argmax(axis=1)
    off = ~np.eye(len(genes), dtype=bool)
    assert correlation[same & off].mean() > 0.3
    assert abs(correlation[~same].mean()) < 0.05
    # The activity that is told is the one that acted.
    activity = made.obsm["program_activity"]
    for gene in genes[:5]:
        assert np.corrcoef(logs[:, gene], activity[:, loading[gene].argmax()])[0, 1] > 0.4


@pytest.mark.parametrize("direction", ["knock-down", "over-expression"])
def test_perturbations_do_what_is_told(direction: str) -> None:
    asked = PerturbationConfig(
        n_singles=3, n_doubles=2, direction=direction, interacting=0.5, escape_fraction=0.2
    )
    config = replace(
        EVEN, n_cells=12_000, n_types=2, depth=4000.0, dispersion=0.05, perturbations=asked
    )
    made = simulate(config, seed=1)
    rate = dense(made) / made.obs["depth"].to_numpy()[:, None]
    names = list(made.uns["simulation"]["perturbations"])
    truth = made.varm["perturbation_effect"]
    acting = ~made.obs["escaped"].to_numpy()
    assert 0.7 < acting[made.obs["perturbation"] != "control"].mean() < 0.9
    control = rate[(made.obs["perturbation"] == "control").to_numpy()].mean(axis=0)
    high = control > 2e-3
    for number, name in enumerate(names[1:], start=1):
        rows = (made.obs["perturbation"] == name).to_numpy()
        seen = np.log(rate[rows & acting].mean(axis=0)[high] / control[high])
        assert np.corrcoef(seen, truth[high, number])[0, 1] > 0.95
        assert np.abs(seen - truth[high, number]).mean() < 0.15
        escaped = np.log(rate[rows & ~acting].mean(axis=0)[high] / control[high])
        assert np.abs(escaped).mean() < 0.25
        for gene in name.split("+"):
            own = truth[made.var_names.get_loc(gene), number]
            assert own < -1.0 if direction == "knock-down" else own > 1.0
    assert not truth[:, 0].any()
    kinds, eta = (
        made.uns["simulation"]["perturbation_kinds"],
        made.uns["simulation"]["perturbation_interaction"],
    )
    assert sorted(kinds[4:]) == ["additive", "synergistic"]
    loading, graph = made.varm["program_loading"], made.uns["simulation"]["regulator_graph"]
    sign = 1 if direction == "over-expression" else -1
    for number in (4, 5):
        first, second = (names.index(gene) for gene in names[number].split("+"))
        programs = sign * (1 + eta[number]) * (graph[first - 1] + graph[second - 1])
        own = np.log(8.0) if sign > 0 else np.log(0.2)
        expected = loading @ programs
        expected[[made.var_names.get_loc(gene) for gene in names[number].split("+")]] += own
        np.testing.assert_allclose(truth[:, number], expected, atol=1e-5)
        if kinds[number] == "additive":
            np.testing.assert_allclose(
                truth[:, number], truth[:, first] + truth[:, second], atol=1e-5
            )


def test_a_null_world_changes_nothing() -> None:
    """Not even the perturbed gene itself: perturbed cells are those that controls would have been."""
    nothing = PerturbationConfig(n_singles=4, n_doubles=2, effect=0.0, efficiency=0.0)
    made = simulate(replace(SMALL, perturbations=nothing))
    assert made.obs["perturbation"].nunique() == 7
    assert not made.varm["perturbation_effect"].any()
    never = replace(nothing, escape_fraction=1.0, effect=2.0, efficiency=0.9)
    assert (made.X != simulate(replace(SMALL, perturbations=never)).X).nnz == 0
    over = replace(nothing, direction="over-expression", overexpression=1.0)
    assert (made.X != simulate(replace(SMALL, perturbations=over)).X).nnz == 0


def test_coupled_regulators_drive_what_they_are_co_expressed_with() -> None:
    graphs, loadings = [], []
    for coupling in (0.0, 1.0, 0.5):
        asked = PerturbationConfig(n_singles=20, coupling=coupling)
        simulation = Simulation.of(replace(SMALL, perturbations=asked))
        assert simulation.perturbations is not None
        graphs.append(simulation.perturbations.graph)
        loadings.append(simulation.world.loading[simulation.perturbations.regulators])
    free, follows, half = graphs
    own = loadings[0].any(axis=1)
    assert own.sum() > 10
    np.testing.assert_allclose(half, (free + follows) / 2)
    np.testing.assert_allclose(np.linalg.norm(follows, axis=1), np.linalg.norm(free, axis=1))
    ratio = follows[own] / np.linalg.norm(follows[own], axis=1, keepdims=True)
    unit = loadings[0][own] / np.linalg.norm(loadings[0][own], axis=1, keepdims=True)
    np.testing.assert_allclose(ratio, unit)
    np.testing.assert_array_equal(follows[~own], free[~own])


def test_redundant_doubles_interact_as_their_singles_are_alike() -> None:
    asked = PerturbationConfig(n_singles=12, n_doubles=40, epistasis="redundant", interacting=0.0)
    made = Simulation.of(replace(SMALL, perturbations=asked)).perturbations
    assert made is not None
    kinds = set(made.kinds[13:])
    assert {"synergistic", "buffering"} <= kinds
    for number in range(13, 53):
        one, other = (
            int(np.flatnonzero(made.regulators == gene)[0]) for gene in made.genes[number]
        )
        a, b = made.graph[one], made.graph[other]
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert made.interaction[number] == pytest.approx(-0.6 * cosine)
        np.testing.assert_allclose(made.shift[number], -(a + b) * (1 - 0.6 * cosine), atol=1e-12)
    silent = replace(asked, effect=0.0)
    none = Simulation.of(replace(SMALL, perturbations=silent)).perturbations
    assert none is not None
    assert not none.interaction.any()


def test_effects_depend_on_the_context_as_told() -> None:
    asked = PerturbationConfig(n_singles=3, n_doubles=2, effect=1.5, context=0.8)
    config = replace(EVEN, n_cells=12_000, n_types=2, depth=4000.0, dispersion=0.05)
    made = simulate(replace(config, perturbations=asked), seed=1)
    told = made.uns["simulation"]
    assert told["context_gain"].shape == (2, 3)
    assert told["context_effect"].shape == (2, made.n_vars, 6)
    rate = dense(made) / made.obs["depth"].to_numpy()[:, None]
    for t, kind in enumerate(told["types"]):
        of_type = (made.obs["cell_type"] == kind).to_numpy()
        control = rate[of_type & (made.obs["perturbation"] == "control").to_numpy()].mean(axis=0)
        for number, name in enumerate(told["perturbations"]):
            rows = of_type & (made.obs["perturbation"] == name).to_numpy()
            effect = told["context_effect"][t, :, number]
            high = control * np.exp(np.minimum(effect, 0.0)) > 2e-3
            seen = np.log(rate[rows].mean(axis=0)[high] / control[high])
            assert np.abs(seen - effect[high]).mean() < 0.15
        # A single is its effect at a gain of 1 times its gain, but for the perturbed gene itself.
        for number, gain in enumerate(told["context_gain"][t], start=1):
            others = made.var_names != told["perturbations"][number]
            expected = gain * made.varm["perturbation_effect"][others, number]
            found = told["context_effect"][t, others, number]
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(np.log(told["context_gain"])).max() > 0.3
    same = simulate(replace(config, perturbations=replace(asked, context=0.0), n_cells=50))
    assert "context_gain" not in same.uns["simulation"]
    np.testing.assert_array_equal(
        same.varm["perturbation_effect"], made.varm["perturbation_effect"]
    )


def test_doublets_have_both_cells_and_empty_droplets_the_ambient_rna() -> None:
    config = replace(EVEN, n_cells=4000, doublets=0.3, empty=0.3, empty_depth=200.0, ambient=0.05)
    made = simulate(config)
    x, obs = dense(made), made.obs
    empty, doublet = obs["empty"].to_numpy(), obs["doublet"].to_numpy()
    assert 0.27 < empty.mean() < 0.33
    assert 0.27 < doublet.mean() < 0.33
    assert not (empty & doublet).any()
    total = x.sum(axis=1)
    assert np.median(total[doublet]) > 1.6 * np.median(total[~doublet & ~empty])
    assert 150 < np.median(total[empty]) < 250
    profile = x[empty].sum(axis=0) / x[empty].sum()
    assert np.corrcoef(profile, made.varm["ambient_profile"][:, 0])[0, 1] > 0.99
    mixed = (
        doublet
        & (obs["cell_type"] == "type 1.1").to_numpy()
        & (obs["partner_type"] == "type 2.1").to_numpy()
    )
    expected = made.varm["type_profile"][:, :2].mean(axis=1)
    found = x[mixed].sum(axis=0) / x[mixed].sum()
    others = np.abs(found - made.varm["type_profile"][:, 0]).sum()
    assert np.abs(found - expected).sum() < 0.7 * others


def marginals(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance of each gene, share of cells with it."""
    return counts.mean(axis=0), counts.var(axis=0), (counts > 0).mean(axis=0)


def assert_alike(real: np.ndarray, made: np.ndarray, *, genes: float, detection: float) -> None:
    """Marginals are near those of the reference."""
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    for own, other in (
        ((real > 0).sum(axis=1), (made > 0).sum(axis=1)),
        (real.sum(axis=1), made.sum(axis=1)),
    ):
        ratio = np.quantile(other, quantiles) / np.quantile(own, quantiles)
        assert np.abs(ratio - 1).max() < genes
    (mean, variance, seen), (mean2, variance2, seen2) = marginals(real), marginals(made)
    high = mean > 0.2
    assert np.abs(np.log(mean2[high] / mean[high])).mean() < 0.1
    assert abs(np.median(np.log(variance2[high] / variance[high]))) < 0.35
    assert np.abs(seen - seen2).mean() < detection


def test_reference_gives_the_marginals() -> None:
    real = simulate(replace(EVEN, n_genes=500, depth=1500.0, dispersion=0.3), seed=5)
    reference = Reference.of(real, cell_type_key="cell_type")
    assert reference.types == tuple(real.obs["cell_type"].cat.categories)
    made = simulate(replace(EVEN, n_cells=1500, world=9), seed=6, reference=reference)
    assert list(made.var_names) == list(real.var_names)
    assert_alike(dense(real), dense(made), genes=0.12, detection=0.02)
    shares = made.obs["cell_type"].value_counts(normalize=True)
    expected = real.obs["cell_type"].value_counts(normalize=True)
    assert np.abs(shares - expected[shares.index]).max() < 0.05


def test_reference_of_real_blood_cells(shared_data) -> None:
    real = anndata.read_h5ad(shared_data / "pbmc3k" / "pbmc3k.h5ad")
    real = real[:, np.asarray(real.X.sum(axis=0)).ravel() >= 30].copy()
    reference = Reference.of(real, cell_type_key="cell_type")
    made = simulate(replace(EVEN, n_cells=1500), reference=reference)
    assert_alike(dense(real), dense(made), genes=0.12, detection=0.01)


def test_reference_refuses_what_it_cannot_use() -> None:
    x = sparse.csr_matrix(np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]))
    obs = pd.DataFrame({"kind": ["a", None, "b"]}, index=["1", "2", "3"])
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=["ACTB", "CD3E"]))
    assert Reference.of(adata).types == ("cell",)
    with pytest.raises(DataError, match="no column 'type' in obs; it has kind"):
        Reference.of(adata, cell_type_key="type")
    with pytest.raises(DataError, match="Only 1 of 3 cells have counts and a type"):
        Reference.of(adata, cell_type_key="kind")
    adata.X = x * 0.5
    with pytest.raises(CountsError, match="no integer"):
        Reference.of(adata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_cells": 0}, "n_cells is 0; it must be a number of at least 1"),
        ({"n_genes": 20}, "n_genes is 20; it must be a number of at least 50"),
        ({"n_types": 2}, "n_types is 2 and n_lineages is 3"),
        ({"n_donors": 1}, "n_donors is 1 and n_batches is 2"),
        ({"depth": float("nan")}, "depth is nan"),
        ({"batch_effect": -1.0}, "batch_effect is -1.0"),
        ({"doublets": 1.5}, "doublets is 1.5; it must be a share from 0 to 1"),
        ({"doublets": 0.6, "empty": 0.6}, "doublets and empty are 1.2 together"),
        ({"ambient": 0.9}, "ambient is 0.9; it must be a share from 0 to 0.5"),
    ],
)
def test_impossible_simulations_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulationConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_singles": 0}, "n_singles is 0"),
        ({"n_singles": 3, "n_doubles": 4}, "n_doubles is 4, but 3 genes make only 3 pairs"),
        ({"efficiency": 1.0}, "log-fold change is infinite"),
        ({"overexpression": 0.5}, "overexpression is 0.5"),
        ({"escape_fraction": -0.1}, "escape_fraction is -0.1"),
        ({"coupling": 1.5}, "coupling is 1.5; it must be a share from 0 to 1"),
        ({"context": -1.0}, "context is -1.0"),
        ({"epistasis": "none"}, "epistasis is 'none'; it must be one of 'drawn', 'redundant'"),
    ],
)
def test_impossible_perturbations_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PerturbationConfig(**changes)


def test_other_refusals() -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        simulate(SMALL, seed=-1)
    many = replace(SMALL, perturbations=PerturbationConfig(n_singles=200))
    with pytest.raises(ConfigError, match="n_singles is 200, but only 86 genes"):
        simulate(many)
    with pytest.raises(ConfigError, match="Cells 5 to 5"):
        Simulation.of(SMALL).block(5, 5)
