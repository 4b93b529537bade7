"""Metrics of networks by hand and by scikit-learn, random networks, controls, and what is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from cellfm import tl
from cellfm.errors import ConfigError, DataError, GeneMatchError, OutputExistsError
from cellfm.genes import Vocabulary
from cellfm.tl._network import controls
from cellfm.tl._network.compare import compare
from cellfm.tl._network.differential import permuted
from cellfm.tl._network.known import (
    Edge,
    KnownNetwork,
    known_among,
    read_known_network,
    read_names,
)
from cellfm.tl._network.metrics import METRICS, Standing, best_pairs, draw_sources
from cellfm.tl._network.network import matched_p
from cellfm.tl._network.pairs import PairScores
from cellfm.tl._network.rewire import rewired
from cellfm.tl._network.study import ALL, HELD_OUT, SAMPLED, Bench
from cellfm.weights.folder import Pretrained


def network(true: np.ndarray, n_shared: int = 0) -> KnownNetwork:
    """Sources S0, S1, …; the first `n_shared` targets are the sources themselves."""
    sources = np.array([f"S{i}" for i in range(true.shape[0])], object)
    targets = np.array([*sources[:n_shared], *(f"T{i}" for i in range(n_shared, true.shape[1]))], object)  # fmt: skip
    allowed = sources[:, None] != targets[None, :]
    return KnownNetwork(
        sources=sources, targets=targets, true=true & allowed, allowed=allowed, n_edges_read=99
    )


def random_network(seed: int = 0, shape: tuple[int, int] = (12, 60)) -> KnownNetwork:
    rng = np.random.default_rng(seed)
    return network(rng.random(shape) < rng.random((shape[0], 1)) * 0.3, n_shared=6)


# --- metrics ---------------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    """Two sources, four targets, no selves: 8 pairs, 2 edges; the better edge is 1st, the other 4th."""
    known = network(np.array([[True, False, False, False], [False, True, False, False]]))
    score = np.array([[0.9, 0.1, 0.7, 0.2], [0.8, 0.5, 0.3, 0.0]])
    epr, ratio, auroc, odds = Standing.of(score, known).scores()[0]
    assert epr == pytest.approx((1 / 2) / (2 / 8))
    assert ratio == pytest.approx((1 / 1 + 2 / 4) / 2 / (2 / 8))
    assert auroc == pytest.approx((6 + 4) / 12)
    assert odds == pytest.approx((1.5 * 5.5) / (1.5 * 1.5))
    turned = Standing.of(-score, known).scores()[0]
    assert turned[0] == 0
    assert turned[2] == pytest.approx(1 - auroc)


@pytest.mark.parametrize("decimals", [8, 1])
def test_metrics_are_those_of_sklearn(decimals: int) -> None:
    """Also with ties, with a missing score, and with sources drawn more than once."""
    known = random_network()
    score = np.random.default_rng(1).random(known.true.shape).round(decimals)
    score[2, 5:9] = np.nan
    filled = np.where(np.isnan(score), -1.0, score)
    weights = draw_sources(len(known.sources), n_draws=5, seed=0)
    found = Standing.of(score, known).scores(np.vstack([np.ones(len(known.sources)), weights]))
    for each, weight in zip(found, np.vstack([np.ones((1, 12)), weights]), strict=True):
        pair_weight = np.broadcast_to(weight[:, None], score.shape)[known.allowed]
        true, values = known.true[known.allowed], filled[known.allowed]
        density = (true * pair_weight).sum() / pair_weight.sum()
        precision = average_precision_score(true, values, sample_weight=pair_weight)
        assert each[1] == pytest.approx(precision / density)
        assert each[2] == pytest.approx(roc_auc_score(true, values, sample_weight=pair_weight))
        # Early precision: the list with each pair as often as its source was drawn, ties in the mean over orders.
        often = pair_weight.astype(int)
        pairs = np.repeat(np.stack([values, true], axis=1), often, axis=0)
        k = int(pairs[:, 1].sum())
        last = np.sort(pairs[:, 0])[-k]
        above, level = pairs[:, 0] > last, pairs[:, 0] == last
        hits = pairs[above, 1].sum() + pairs[level, 1].sum() * (k - above.sum()) / level.sum()
        assert each[0] == pytest.approx(hits / k / density)


def test_random_scores_are_at_one_and_the_interval_covers() -> None:
    """Coverage of the bootstrap over sources for scores whose expected AUROC is known."""
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(40):
        known = random_network(trial, (40, 50))
        score = rng.normal(size=known.true.shape) + 1.0 * known.true
        draws = Standing.of(score, known).scores(draw_sources(40, n_draws=300, seed=trial))
        low, high = np.percentile(draws[:, 2], [2.5, 97.5])
        covered += low <= 0.7602 <= high  # Φ(1/√2)
    assert covered >= 34
    known = random_network(1, (40, 300))
    epr = [Standing.of(rng.random(known.true.shape), known).scores()[0, 0] for _ in range(30)]
    assert np.mean(epr) == pytest.approx(1.0, abs=0.1)


def test_best_pairs_are_as_many_as_edges() -> None:
    known = random_network()
    score = np.random.default_rng(1).random(known.true.shape).round(1)
    best = best_pairs(score, known)
    assert best.sum() == pytest.approx(known.n_edges)
    assert best[~known.allowed].sum() == 0
    epr = best[known.true].sum() / known.n_edges**2 * known.n_pairs
    assert epr == pytest.approx(Standing.of(score, known).scores()[0, 0])


# --- networks with the same degrees ----------------------------------------------------------------


def test_rewired_networks_keep_degrees_and_have_no_selves() -> None:
    known = random_network(0, (20, 80))
    seen = []
    for row, column in rewired(known, n=20, seed=0):
        other = np.zeros_like(known.true)
        assert not other[row, column].any()
        other[row, column] = True
        assert other.sum() == known.n_edges == len(row)
        np.testing.assert_array_equal(other.sum(axis=0), known.true.sum(axis=0))
        np.testing.assert_array_equal(other.sum(axis=1), known.true.sum(axis=1))
        assert not other[~known.allowed].any()
        seen.append(other)
    shared = [(other & known.true).sum() / known.n_edges for other in seen]
    assert max(shared) < 0.6
    again = list(rewired(known, n=20, seed=0))
    np.testing.assert_array_equal(np.sort(again[-1][1]), np.sort(np.nonzero(seen[-1])[1]))


def test_rewiring_draws_all_networks_alike() -> None:
    """Two sources with two targets each of four, all targets once: six networks, each as often."""
    true = np.array([[True, True, False, False], [False, False, True, True]])
    counts: dict[frozenset[int], int] = {}
    for row, column in rewired(network(true), n=1200, seed=0):
        own = frozenset(column[row == 0].tolist())
        counts[own] = counts.get(own, 0) + 1
    assert len(counts) == 6
    assert max(counts.values()) < 260
    assert min(counts.values()) > 145


# --- a comparison ----------------------------------------------------------------------------------


def test_what_is_better_is_said_to_be_better_and_the_null_takes_degrees_off() -> None:
    known = random_network(0, (40, 200))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, *known.true.shape))
    degree = known.true.sum(axis=0) + 0.01 * noise[1]
    every = {
        "good": 3.0 * known.true + noise[0],
        controls.PEARSON: 1.0 * known.true + noise[2],
        "degree": np.broadcast_to(degree, known.true.shape),
    }
    table = compare(every, known, ALL, n_permutations=200, seed=0).loc[ALL]
    assert table.loc["good", "epr"] > 3
    assert table.loc["good", "p"] == pytest.approx(1 / 201)
    # More than 1: good scores name most pairs of the sources with most edges, and those have most edges in any such network.
    assert 1 < table.loc["good", "null_epr"] < 2
    assert table.loc[controls.PEARSON, "epr_difference_low"] > 0
    # Of the degrees of targets alone comes as much with any network of these degrees.
    assert table.loc["degree", "epr"] > 1.2
    assert table.loc["degree", "null_epr"] == pytest.approx(table.loc["degree", "epr"], abs=0.15)
    assert table.loc["degree", "p"] > 0.05
    assert np.isnan(table.loc["good", "epr_difference"])
    turned = compare(
        {"bad": -every["good"], controls.PEARSON: every[controls.PEARSON]}, known, ALL, n_permutations=0, seed=0
    ).loc[ALL]  # fmt: skip
    assert turned.loc[controls.PEARSON, "epr_difference_high"] < 0
    assert np.isnan(turned.loc["bad", "p"])


# --- controls --------------------------------------------------------------------------------------


def values() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (80, 9)).astype(float)
    x[:, 4] = x[:, 1] * 2
    x[:, 5] = 8 - x[:, 1]
    x[:, 6] = 3
    return sparse.csr_matrix(x)


def test_correlations_are_those_of_numpy_and_scipy() -> None:
    x = values()
    source, target = np.array([1, 2]), np.array([1, 3, 4, 5, 6])
    found = controls.correlations(x, source, target)
    full = x.toarray()
    for i, one in enumerate(source):
        for j, other in enumerate(target):
            if other == 6:
                assert np.isnan(found[i, j])
            else:
                expected = np.corrcoef(full[:, one], full[:, other])[0, 1]
                assert found[i, j] == pytest.approx(expected, abs=1e-5)
    ranks = controls.correlations(x, source, target, ranks=True)
    assert ranks[1, 1] == pytest.approx(spearmanr(full[:, 2], full[:, 3])[0], abs=1e-5)
    assert found[0, 3] == pytest.approx(-1, abs=1e-5)


def test_trees_find_the_regressor() -> None:
    found = controls.genie3(values(), np.array([1, 2, 3, 7]), np.array([4, 2]), seed=0)
    assert found[:, 0].argmax() == 0
    assert np.isnan(found[1, 1])
    assert np.nansum(found[:, 1]) == pytest.approx(1.0, abs=1e-5)


def test_levels_know_no_pair() -> None:
    scores = controls.level_scores(values(), np.array([1, 2]), np.array([4, 6]))
    np.testing.assert_array_equal(*scores[controls.TARGET_LEVEL])
    assert scores[controls.BOTH_LEVELS][0, 1] == pytest.approx(values()[:, 1].mean() * 3)


# --- null p ----------------------------------------------------------------------------------------


def test_p_is_uniform_without_ties_and_small_for_what_stands_out_among_its_like() -> None:
    rng = np.random.default_rng(0)
    level = np.sort(rng.random(1000))
    score = (5.0 * level + rng.normal(size=(3, 1000))).astype(np.float32)
    score[1, 30] = 3.6  # not high among all, but among the weakly expressed
    row, column = np.divmod(np.arange(3000), 1000)
    p = matched_p(score, level, row, column).reshape(3, 1000)
    assert p.min() == pytest.approx(1 / 201)
    assert p[1, 30] == pytest.approx(1 / 201)
    assert (score[1] > 3.6).mean() > 0.2
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.03)


# --- files -----------------------------------------------------------------------------------------


def test_known_networks_are_read_in_three_forms(tmp_path: Path) -> None:
    trrust = tmp_path / "trrust.tsv"
    trrust.write_text("SPI1\tLYZ\tActivation\t1\nSPI1\tLYZ\tUnknown\t2\nPAX5\tMS4A1\tUnknown\t3\n")
    assert read_known_network(trrust)[0] == Edge("SPI1", "LYZ", "Activation")
    table = tmp_path / "known.csv"
    table.write_text("weight,Target,TF\n1,LYZ,SPI1\n")
    assert read_known_network(table) == (Edge("SPI1", "LYZ", ""),)
    bare = tmp_path / "bare.csv"
    bare.write_text("# a comment\nTF,GENE\nTF,B2M\n")  # a header: the first row has both names
    assert read_known_network(bare) == (Edge("TF", "B2M", ""),)
    names = tmp_path / "names.txt"
    names.write_text("SPI1\n\nPAX5,x\nSPI1\n")
    assert read_names(names) == ("SPI1", "PAX5")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no edges"), ("SPI1\n", "Row 1 of .* is 'SPI1'"), (None, "There is no file")],
)
def test_bad_known_networks_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "known.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_known_network(path)
    if text is None:
        with pytest.raises(DataError, match="There is no file"):
            read_names(path)
        return
    path.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_known_network(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no names"):
        read_names(path)


VOCABULARY = Vocabulary.from_symbols(("ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7"))


def test_what_is_present_of_a_known_network() -> None:
    edges = [Edge("ACTB", "LYZ", ""), Edge("ACTB", "ACTB", ""), Edge("actb", "LYZ", "x"), Edge("CD3E", "NO", ""), Edge("GAPDH", "CD3E", "")]  # fmt: skip
    genes = np.array(["ACTB", "CD3E", "GAPDH", "LYZ"], object)
    known = known_among(edges, genes[:3], genes, VOCABULARY, least=2)
    assert known.sources.tolist() == ["ACTB", "GAPDH"]
    assert known.n_edges == 2
    assert known.n_pairs == 6
    assert known.of_targets(np.array([3])).sources.tolist() == ["ACTB"]
    with pytest.raises(DataError, match=r"has 2 edges among the genes .* at least 10"):
        known_among(edges, genes[:3], genes, VOCABULARY)
    mouse = [Edge("Actb", "Lyz2", ""), Edge("Gapdh", "Cd3e", "")]
    with pytest.raises(GeneMatchError, match="look like those of mouse"):
        known_among(mouse, genes, genes, VOCABULARY)


# --- the tools -------------------------------------------------------------------------------------

SOURCES = ["ACTB", "CD3E", "LYZ", "NKG7"]
KNOWN = pd.DataFrame(
    [(s, t) for s in SOURCES for t in ("GAPDH", "MS4A1", "CD8A", "FCGR3A") if (s, t) != ("LYZ", "CD8A")],
    columns=["source", "target"],
)  # fmt: skip


@pytest.mark.parametrize("method", ["retention", "knockout", "gradient", "embedding", "contextual"])
def test_a_network_by_each_method(model: Pretrained, adata: AnnData, method: str) -> None:
    before = adata.copy()
    found = tl.gene_network(adata, model, sources=SOURCES, method=method, n_cells=60)
    table = found.table(None)
    assert list(table.columns[:5]) == ["source", "target", "score", "rank", "p"]
    assert table["score"].is_monotonic_decreasing
    assert table["rank"].iloc[0] >= 1
    assert len(table) == 4 * 9 - 4
    assert (table["source"] != table["target"]).all()
    assert table["p"].between(0, 1).all()
    assert ("effect" in table) == (method in ("knockout", "gradient"))
    row = table.iloc[3]
    i, j = list(found.scores.sources).index(row["source"]), list(found.scores.targets).index(row["target"])  # fmt: skip
    assert found.scores.score[i, j] == row["score"]
    assert (adata.X != before.X).nnz == 0
    assert not adata.varp
    pd.testing.assert_frame_equal(
        table, tl.gene_network(adata, model, sources=SOURCES, method=method, n_cells=60).table(None)
    )


def test_a_group_a_head_and_the_neighbourhood(model: Pretrained, adata: AnnData) -> None:
    found = tl.gene_network(
        adata, model, sources=SOURCES, targets=["GAPDH", "LYZ", "NOGENE"], groupby="type", group="B",
        heads=["layer 1 head 2"],
    )  # fmt: skip
    assert found.n_cells == 100
    assert found.described == "B (type)"
    assert found.scores.heads == ("layer 1 head 2",)
    near = found.neighbourhood("ENSG00000090382", n=2)
    assert set(near["gene"]) == {"LYZ"}
    assert (near["source"] == "LYZ").sum() == 1
    assert (near["target"] == "LYZ").sum() == 2
    assert near["score"].is_monotonic_decreasing
    with pytest.raises(DataError, match=r"'GAPDHX' is not known; .* near names: GAPDH"):
        found.neighbourhood("GAPDHX")
    with pytest.raises(DataError, match="is a gene of the model, but"):
        found.neighbourhood("MS4A1")


def test_varp_and_graphml(model: Pretrained, adata: AnnData, tmp_path: Path) -> None:
    nx = pytest.importorskip("networkx")
    found = tl.gene_network(adata, model, sources=SOURCES, n_cells=100)
    found.write_varp(adata, n=7)
    matrix = adata.varp["cellfm_network"]
    best = found.table(1).iloc[0]
    names = {"GAPDH": "gapdh", "PPBP": "ENSG00000163736"}
    row, column = (adata.var_names.get_loc(names.get(g, g)) for g in (best["source"], best["target"]))  # fmt: skip
    assert matrix.nnz == 7
    assert matrix[row, column] == matrix.max() == 1.0
    assert adata.uns["cellfm"]["cellfm_network"]["method"] == "retention"
    with pytest.raises(OutputExistsError, match="varp\\['cellfm_network'\\] already"):
        found.write_varp(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found.to_graphml(tmp_path / "network.graphml", n=5)
    graph = nx.read_graphml(tmp_path / "network.graphml")
    assert graph.number_of_edges() == 5
    assert graph.edges[best["source"], best["target"]]["score"] == pytest.approx(best["score"])
    assert list(tmp_path.glob(".*partial")) == []


def test_a_check_has_all_controls_on_the_same_pairs(model: Pretrained, adata: AnnData) -> None:
    told = []
    check = tl.check_network(
        adata, model, known=KNOWN, n_heads=2, n_genie3=3, n_permutations=50, n_cells=100, progress=lambda *at: told.append(at)
    )  # fmt: skip
    table = check.comparison
    methods = {"cellfm", "|Pearson|", "|Spearman|", "level of the target", "level of both", "random weights"}  # fmt: skip
    assert set(table.loc[ALL].index) == methods
    assert set(table.loc[SAMPLED].index) == methods | {"GENIE3"}
    assert set(table.loc[HELD_OUT].index) == methods | {"cellfm, best heads"}
    for universe in (ALL, SAMPLED, HELD_OUT):
        assert table.loc[universe, "n_pairs"].nunique() == 1
    assert table.loc[HELD_OUT, "n_sources"].iloc[0] == 2
    assert check.heads is not None
    assert check.heads["selected"].sum() == 2
    assert table.loc[ALL].iloc[0].name == "cellfm"
    assert set(METRICS) <= set(table.columns)
    assert "finds" in check.verdict
    assert told[-1][0] == told[-1][1] == 200
    marked = check.table(None)
    assert marked["known"].sum() == len(KNOWN)
    assert check.network.scores.sources.tolist() == SOURCES


def test_heads_are_selected_without_the_sources_they_are_tested_on() -> None:
    """A head that is right for the held-out sources alone must not be chosen; one that is right for the others must."""
    known = random_network(0, (20, 100))
    rng = np.random.default_rng(0)
    order = np.random.default_rng(7).permutation(20)
    train, held = np.sort(order[::2]), np.sort(order[1::2])
    by_head = rng.normal(size=(3, *known.true.shape)).astype(np.float32)
    by_head[0][held] += 9 * known.true[held]
    by_head[1][train] += 2 * known.true[train]
    scores = PairScores(
        sources=known.sources, targets=known.targets, score=by_head.mean(axis=0), by_head=by_head,
        n_cells=np.ones(known.true.shape, np.int32), method="retention", heads=("a", "b", "c"),
    )  # fmt: skip
    bench = Bench(
        model=None, cells=None, known=known, targets=None, method="retention", seed=7, n_heads=1,
        n_genie3=0, n_permutations=0, progress=None,
    )  # fmt: skip
    table, found, best = bench.select(scores)
    np.testing.assert_array_equal(found, held)
    assert table.index[table["selected"]].tolist() == ["b"]
    np.testing.assert_array_equal(best, by_head[1][held])
    few = replace(bench, known=known.of_sources(np.arange(3)))
    with pytest.raises(DataError, match="only 3 of the known network"):
        few.select(scores)


def planted() -> tuple[AnnData, pd.DataFrame, Pretrained]:
    """Six sources that each switch eight targets of sixty."""
    from cellfm.weights.folder import new

    rng = np.random.default_rng(0)
    from cellfm.genes import GeneTable

    symbols = [gene.symbol for gene in GeneTable.load().genes if gene.locus_group == "protein-coding gene"][:60]  # fmt: skip
    on = rng.integers(0, 2, (150, 6))
    rate = np.full((150, 60), 1.5)
    edges = []
    for k in range(6):
        own = [k, *range(6 + 8 * k, 14 + 8 * k)]
        rate[:, own] += 4 * on[:, [k]]
        edges += [(symbols[k], symbols[j]) for j in own[1:]]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    model = new("debug", Vocabulary.from_symbols(symbols))
    return AnnData(counts, var=pd.DataFrame(index=symbols)), pd.DataFrame(edges, columns=["source", "target"]), model  # fmt: skip


def test_a_planted_network_is_found_by_correlation_and_not_by_random_weights() -> None:
    adata, known, model = planted()
    check = tl.check_network(adata, model, known=known, n_genie3=20, n_permutations=200)
    table = check.comparison.loc[ALL]
    assert table.loc["|Pearson|", "epr"] > 5
    assert table.loc["|Pearson|", "p"] < 0.01
    assert table.loc["|Pearson|", "epr_difference_high"] < 0  # the model's weights are random
    assert check.comparison.loc[(SAMPLED, "GENIE3"), "epr"] > 3
    assert "below |Pearson|" in check.verdict


def test_differences_are_found_where_they_are_and_nowhere_else() -> None:
    """Blocks of which one pair is shifted: it alone is significant; labels without meaning give uniform p."""
    rng = np.random.default_rng(0)
    number = rng.integers(3, 9, (20, 500)).astype(np.float32)
    mean = rng.normal(0.5, 0.05, (20, 500)).astype(np.float32)
    mean[10:, 7] += 0.5
    labels = np.array([np.arange(20) < 10] + [rng.permutation(np.arange(20) < 10) for _ in range(300)], np.float32)  # fmt: skip
    difference, z, p, largest = permuted(mean * number, number, labels)
    one, other = (np.average(mean[part, 7], weights=number[part, 7]) for part in (slice(10), slice(10, 20)))  # fmt: skip
    assert difference[7] == pytest.approx(other - one, abs=1e-5)
    assert np.abs(z).argmax() == 7
    assert p[7] <= 2 / 301
    others = np.delete(p, 7)
    assert np.mean(others <= 0.1) == pytest.approx(0.1, abs=0.04)
    assert largest.shape == (300,)


def test_a_differential_network(model: Pretrained, adata: AnnData) -> None:
    adata.obs["half"] = np.where(np.arange(300) % 2, "odd", "even")
    found = tl.differential_network(
        adata, model, groupby="half", groups=("even", "odd"), sources=SOURCES, n_permutations=100
    )
    table = found.table(None)
    assert found.n_cells == 150
    assert set(table["source"]) == set(SOURCES)
    assert (table["p_family"] > 0.02).all()  # nothing differs
    assert "5.0% are expected" in found.verdict
    again = tl.differential_network(
        adata, model, groupby="half", groups=("odd", "even"), sources=SOURCES, n_permutations=100
    ).table(None)
    merged = table.merge(again, on=["source", "target"])
    np.testing.assert_allclose(merged["target_change_x"], -merged["target_change_y"], atol=1e-9)
    np.testing.assert_allclose(merged["difference_x"], -merged["difference_y"], atol=1e-6)
    knock = tl.differential_network(
        adata, model, groupby="half", groups=("even", "odd"), sources=["LYZ"], method="gradient",
        n_cells=60, n_permutations=20,
    )  # fmt: skip
    assert knock.table(None)["difference"].abs().max() <= 1


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"sources": ["NOGENE", "CD3EE"]}, DataError, "None of the 2 sources, .* 0 of them are genes .* Near names: CD3E"),
        ({"sources": ["Spi1", "Pax5"]}, GeneMatchError, "look like those of mouse"),
        ({"sources": []}, DataError, "No sources were named"),
        ({"sources": SOURCES, "targets": ["GNLY"]}, DataError, "None of the 1 targets"),
        ({"sources": SOURCES, "method": "magic"}, ConfigError, "method is 'magic'"),
        ({"sources": SOURCES, "group": "B"}, ConfigError, "without groupby"),
        ({"sources": SOURCES, "groupby": "type"}, ConfigError, "without group;"),
        ({"sources": SOURCES, "groupby": "type", "group": "NK"}, DataError, "no entry 'NK'"),
        ({"sources": SOURCES, "n_cells": 0}, ConfigError, "n_cells is 0"),
        ({"sources": SOURCES, "min_cells": 1000}, DataError, "0 genes of the model are expressed"),
        ({"sources": SOURCES, "heads": ["layer 9 head 0"]}, ConfigError, "no head 'layer 9 head 0'"),
        ({"sources": SOURCES, "heads": []}, ConfigError, "0 of them; expected at least one"),
        ({"sources": SOURCES, "heads": ["x"], "method": "embedding"}, ConfigError, "'embedding' has none"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be(
    model: Pretrained,
    adata: AnnData,
    asked: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tl.gene_network(adata, model, **{"n_cells": 50, **asked})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"known": KNOWN.head(9)}, "has 9 edges among"),
        ({"known": KNOWN.rename(columns={"target": "goal"})}, "no column 'target'"),
        ({"known": KNOWN, "n_heads": -1}, "none of them can be negative"),
        ({"known": KNOWN, "n_heads": 1, "method": "knockout"}, "method='knockout' has none"),
    ],
)
def test_checks_that_cannot_be(
    model: Pretrained, adata: AnnData, asked: dict[str, object], message: str
) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        tl.check_network(adata, model, n_cells=50, **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "embedding"}, "are means over cells"),
        ({"groups": ("T", "T")}, "expected two different entries"),
        ({"n_cells": 15}, "too few cells: T 15, B 15"),
        ({"sources": ["PPBP"], "targets": ["PPBP"]}, "No pair of the 1 sources"),
    ],
)
def test_differences_that_cannot_be(
    model: Pretrained, adata: AnnData, asked: dict[str, object], message: str
) -> None:
    given = {"groupby": "type", "groups": ("T", "B"), "sources": SOURCES, "n_cells": 40} | asked
    with pytest.raises((DataError, ConfigError), match=message):
        tl.differential_network(adata, model, **given)
