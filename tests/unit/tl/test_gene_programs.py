import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import hypergeom

from cellfm.errors import ConfigError, DataError
from cellfm.tl._genes.program_compare import Matched, SetTable, compare_programs, upper_tail
from cellfm.tl._genes.programs import (
    Programs,
    enrich,
    find_programs,
    n_significant,
    random_programs,
    score_programs,
)

pytest.importorskip("igraph")
GENES = [f"G{i}" for i in range(120)]
TRUTH = np.repeat(np.arange(4), 30)
SETS = {f"set{k}": tuple(np.array(GENES)[k == TRUTH][:20]) for k in range(4)} | {
    "mixed": tuple(GENES[::9])
}


def vectors(noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Four groups of genes around four directions."""
    rng = np.random.default_rng(seed)
    return np.eye(8)[TRUTH] + noise * rng.normal(size=(120, 8))


def test_planted_groups_are_found() -> None:
    found = find_programs(vectors(), GENES, resolution=0.5)
    assert found.n == 4
    for number in range(4):
        own = TRUTH[[GENES.index(gene) for gene in found.members(number)]]
        assert (own == np.bincount(own).argmax()).mean() > 0.95
    again = find_programs(vectors(), GENES, resolution=0.5)
    np.testing.assert_array_equal(found.code, again.code)
    matched = Matched(vectors(), GENES)
    assert [matched.of_number(n, seed=0).n for n in (4, 5, 4)] == [4, 5, 4]


def test_small_modules_are_none() -> None:
    found = find_programs(vectors(), GENES, resolution=0.5, min_genes=31)
    sizes = np.bincount(found.code[found.code >= 0], minlength=found.n)
    assert (sizes >= 31).all()
    assert (np.diff(sizes) <= 0).all()


def test_enrichment_by_hand() -> None:
    """Hypergeometric tail of each pair, Benjamini & Hochberg over all pairs, those without a shared gene included."""
    programs = Programs(genes=tuple(GENES), code=TRUTH)
    table = enrich(programs, SETS).set_index(["program", "set"])
    row = table.loc[(2, "set2")]
    assert (row["n"], row["program_size"], row["set_size"]) == (20, 30, 20)
    assert row["expected"] == pytest.approx(5.0)
    assert row["p"] == pytest.approx(hypergeom.sf(19, 120, 20, 30))
    p = np.array([
        hypergeom.sf(len(set(SETS[name]) & set(programs.members(k))) - 1, 120, len(SETS[name]), 30)
        for name in SETS for k in range(4)
    ])  # fmt: skip
    order = np.argsort(p)
    q = np.minimum.accumulate((p[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    expected = q[list(order).index(next(i for i, v in enumerate(p) if v == p[order][0]))]
    assert table["q"].min() == pytest.approx(expected)
    assert set(row["genes"].split()) == set(SETS["set2"])
    assert n_significant(table.reset_index()) == 4


def test_random_programs_have_the_same_sizes_and_find_nothing() -> None:
    programs = Programs(genes=tuple(GENES), code=TRUTH)
    drawn = random_programs(programs, seed=1)
    np.testing.assert_array_equal(np.bincount(drawn.code), np.bincount(TRUTH))
    assert n_significant(enrich(drawn, SETS)) == 0


def test_tails_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    size, program = rng.integers(2, 300, (40, 1)), rng.integers(5, 900, (1, 6))
    most = np.minimum(size, program)
    n = (rng.beta(1, 4, (40, 6)) * (most + 1)).astype(np.int64)
    n[0] = most[0]
    found, expected = upper_tail(n, 1000, size, program), hypergeom.sf(n - 1, 1000, size, program)
    more = n * 1000 > size * program
    assert 20 < more.sum() < 230
    np.testing.assert_allclose(found[more], expected[more], rtol=1e-8)
    assert (found[~more] == 1).all()
    assert (expected[~more] > 0.2).all()


def test_sets_count_once_and_as_in_the_table() -> None:
    """The fast count is that of the table of all tests."""
    sets = {**SETS, "twice": tuple(GENES[:15] + GENES[30:45])}
    programs = Programs(genes=tuple(GENES), code=TRUTH)
    found = SetTable.of(GENES, sets).found(programs)
    assert found.sum() == n_significant(enrich(programs, sets)) == 5
    assert found.tolist() in ([2, 1, 1, 1], [1, 2, 1, 1])
    none = Programs(genes=tuple(GENES), code=np.full(120, -1))
    assert SetTable.of(GENES, sets).found(none).sum() == 0


def test_comparison_tells_vectors_from_noise_and_pairs_clusterings() -> None:
    rng = np.random.default_rng(0)
    tables = {"ours": vectors(), "noise": rng.normal(size=(120, 8)), "again": vectors()}
    calls = []
    options = {"resolutions": (0.5, 0.4), "n_seeds": 2, "n_random": 10}
    table, runs = compare_programs(
        tables, GENES, SETS, **options, progress=lambda *at: calls.append(at)
    )
    assert list(table.index) == ["ours", "noise", "again", "random"]
    assert table.loc["ours", "sets"] == 4
    assert table.loc["random", "sets"] < 0.2  # of 40 draws, at q ≤ 0.05
    assert table.loc["noise", "difference_low"] >= 3
    assert table.loc["noise", "ahead"] == 1
    assert table.loc["again", "difference"] == table.loc["again", "ahead"] == 0
    assert table.loc["again", "difference_low"] <= 0 <= table.loc["again", "difference_high"]
    assert calls[-1] == (4, 4)
    assert len(runs) == 16
    assert runs[runs["method"] == "random"]["sd"].notna().all()
    assert set(runs["resolution"]) == {0.5, 0.4}
    again, _ = compare_programs(tables, GENES, SETS, **options)
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(ConfigError, match="0 representations"):
        compare_programs({}, GENES, SETS)
    with pytest.raises(ConfigError, match="1 random draws"):
        compare_programs(tables, GENES, SETS, n_random=1)


def test_a_lead_that_hangs_on_one_program_is_not_shown() -> None:
    """All sets are in one of four programs: resampled programs often miss it."""
    noise = np.random.default_rng(0).normal(size=(120, 8))
    sets = {f"s{i}": tuple(GENES[i : i + 12]) for i in range(15)}
    table, _ = compare_programs(
        {"ours": vectors(), "noise": noise}, GENES, sets, resolutions=(0.5,), n_seeds=1
    )
    assert table.loc["noise", "difference"] > 10
    assert table.loc["noise", "difference_low"] <= 0


def test_scores_are_high_where_a_program_is_on() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 0.1, (40, 120)).astype(np.float32)
    x[:20, TRUTH == 1] += 1
    adata = AnnData(x, var=pd.DataFrame(index=GENES))
    scores = score_programs(adata, Programs(genes=tuple(GENES), code=TRUTH))
    assert scores.shape == (40, 4)
    assert (scores[:20, 1].min() > scores[20:, 1].max()).all()
    assert "score" not in adata.obs
    fewer = score_programs(adata[:, TRUTH != 3].copy(), Programs(genes=tuple(GENES), code=TRUTH))
    assert np.isnan(fewer[:, 3]).all()


def test_refusals() -> None:
    with pytest.raises(DataError, match="Programs of 10 genes with 15 neighbours"):
        find_programs(vectors()[:10], GENES[:10])
    bad = vectors()
    bad[3] = np.nan
    with pytest.raises(DataError, match="of finite vectors"):
        find_programs(bad, GENES)
    with pytest.raises(DataError, match="None of the 1 gene sets has two of the 120 genes"):
        enrich(Programs(genes=tuple(GENES), code=TRUTH), {"mouse": ("Actb", "Gapdh")})
    with pytest.raises(DataError, match="None of the 1 gene sets has two of the 120 genes"):
        SetTable.of(GENES, {"mouse": ("Actb", "Gapdh")})
