"""Genes by the attention of class queries: figures are those of a plain loop, lists are judged beside chance, what makes no sense is refused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from cellfm import tl
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import ConfigError, DataError
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.nn.classifier import CellClassifier, new_head
from cellfm.nn.heads import initialise_head
from cellfm.nn.kernels.cluster_scores import ClusterScores
from cellfm.tl._annotator import Annotator, ColumnModel
from cellfm.tl._annotator_heads import FrozenScorer, TunedScorer, read_cells
from cellfm.tl._genes.specific_judge import (
    Lists,
    compare,
    enrichment_table,
    expression_of_types,
    tau,
)
from cellfm.tl._genes.specific_scores import Attention, Labellings, attention_of_types
from cellfm.tl._genes.specific_study import UNTRAINED
from cellfm.tl._labels import Labels
from cellfm.tl._states import EmbedOptions
from cellfm.tl._tune import TunedClassifier, TuneShape
from cellfm.weights.folder import Pretrained

TYPES = ("B", "NK", "T")
LNCRNAS = ("MALAT1", "NEAT1", "GAS5", "SNHG7", "LINC00926", "XIST")


@pytest.fixture(scope="module")
def weights() -> Pretrained:
    """Random weights over thirty genes, six of them lncRNAs."""
    coding = ["ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7", "PPBP", "FCGR3A", "CD8A", "IL7R"]
    coding += ["GNLY", "B2M", "CD79A", "CD79B", "CD14", "CST3", "S100A8", "S100A9", "GZMB", "PRF1"]
    coding += ["CCR7", "CD4", "CD19", "FTL"]
    vocabulary = Vocabulary.from_symbols([*coding, *LNCRNAS])
    config = replace(_config(), n_genes=len(vocabulary))
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="e" * 64, path=None
    )


def _config():
    from cellfm.config.model import ModelConfig

    return ModelConfig(n_genes=2, dim=16, n_layers=2, n_heads=4, value_bins=8)


@pytest.fixture
def cells(weights: Pretrained) -> AnnData:
    """Ninety cells of three types with four genes each that the others express rarely; and some of no type."""
    rng = np.random.default_rng(0)
    kind = np.arange(96) % 3
    rate = np.full((3, 30), 0.7)
    for one in range(3):
        rate[one, 4 * one : 4 * one + 4] = 8.0
        rate[one, 24 + one] = 8.0
    counts = rng.poisson(rate[kind])
    counts[:, 11] += 1
    obs = pd.DataFrame({"kind": np.array(TYPES)[kind]}, index=[f"c{i}" for i in range(96)])
    obs.loc[obs.index[90:], "kind"] = "other"
    var = pd.DataFrame(index=list(weights.vocabulary.symbols))
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


@pytest.fixture(scope="module")
def annotator(weights: Pretrained) -> Annotator:
    """Class queries with random weights."""
    return tuned(weights, "clusters")


def tuned(weights: Pretrained, kind: str) -> Annotator:
    head = new_head(kind, weights.network, 3)
    initialise_head(head, torch.Generator().manual_seed(3))
    module = CellClassifier(weights.network, [head]).eval()
    shape = TuneShape(strength="finetune", head=kind, rank=0, n_classes=(3,))
    result = TunedClassifier(module=module, shape=shape, weights_hash=weights.hash, result=None)
    return annotator_of(weights, TunedScorer(model=weights, tuned=result), "finetune")


def annotator_of(weights: Pretrained, scorer, strength: str) -> Annotator:
    labels = Labels(
        name="kind", classes=TYPES, code=np.zeros(0, np.int64), separator=None, n_missing=0
    )
    column = ColumnModel(labels=labels, judge=None, pca=None, pca_judge=None, tables={})
    return Annotator(
        model=weights,
        strength=strength,
        scorer=scorer,
        genes=None,
        profiles=None,
        columns=(column,),
        reference={},
    )


def plain_attention(cells: AnnData, annotator: Annotator) -> tuple[np.ndarray, np.ndarray]:
    """Attention of each type and token, cell by cell, and how many cells express it."""
    module = annotator.scorer.tuned.module
    read, _ = read_cells(cells, annotator.model, EmbedOptions())
    total, count = np.zeros((3, 31)), np.zeros((3, 31))
    for i, (start, stop) in enumerate(pairwise(read.offsets.tolist())):
        name = cells.obs["kind"].iloc[i]
        if name not in TYPES:
            continue
        one = TYPES.index(name)
        ((scores,),) = ClusterScores(module.network, [*module.heads])(plain_batch(read.select([i])))
        for gene, score in zip(read.gene[start:stop], scores[one].tolist(), strict=True):
            total[one, gene] += score
            count[one, gene] += 1
    return total / np.maximum(count, 1), count


def test_the_table_is_that_of_a_plain_loop(cells: AnnData, annotator: Annotator) -> None:
    before = cells.copy()
    found = tl.specific_genes(
        cells, annotator, groupby="kind", n_genes=None, min_cells=5, n_permutations=3, n_listed=5
    )
    expected, count = plain_attention(cells, annotator)
    shrunk = (count * expected + 20 * 0.5) / (count + 20)
    token = {name: i + 1 for i, name in enumerate(annotator.model.vocabulary.symbols)}
    assert (
        len(found.table) == (count >= 5).sum()
    )  # no gene that a type does not express, and no padding
    for row in found.table.itertuples():
        one, gene = TYPES.index(row.type), token[row.symbol]
        rest = np.delete(shrunk[:, gene], one).mean()
        assert row.attention == pytest.approx(expected[one, gene], abs=1e-5)
        assert row.specific == pytest.approx(shrunk[one, gene] - rest, abs=1e-5)
        assert row.attention_rest == pytest.approx(rest, abs=1e-5)
        assert row.n_cells == count[one, gene]
        own = np.where(count[:, gene] >= 5, expected[:, gene], 0)
        assert row.tau == pytest.approx((1 - own / own.max()).sum() / 2, abs=1e-4)
    for _, rows in found.table.groupby("type"):
        assert list(rows["rank"]) == list(range(1, len(rows) + 1))
        assert (rows["specific"].diff().dropna() <= 0).all()
    assert list(cells.obs) == list(before.obs)
    assert not cells.uns


def test_lncrnas_alone(cells: AnnData, annotator: Annotator) -> None:
    found = tl.specific_genes(
        cells, annotator, groupby="kind", locus_group="lncRNA", n_genes=2, min_cells=5,
        n_permutations=5, n_listed=5, attribution=False,
    )  # fmt: skip
    assert set(found.table["symbol"]) <= set(LNCRNAS)
    assert (found.table.groupby("type").size() == 2).all()
    assert set(found.table["locus_type"]) == {"RNA, long non-coding"}
    assert "attribution" not in found.table
    assert list(found.group_enrichment["listed"]) == [2, 2, 2]
    assert list(found.enrichment["listed"]) == [5, 5, 5]
    # Each type has four coding genes and a lncRNA of its own.
    assert list(found.enrichment["differential"]) == [5, 5, 5]
    assert list(found.group_enrichment["differential"]) == [1, 1, 1]
    assert found.shuffled.shape == (5,)
    assert 1 / 6 <= found.p <= 1
    again = tl.specific_genes(
        cells, annotator, groupby="kind", locus_group="non-coding RNA", n_genes=2, min_cells=5,
        n_permutations=5, n_listed=5, attribution=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(found.table, again.table)
    assert "Verdict" in found.verdict
    assert UNTRAINED in found.comparison.index


def test_attention_as_published_and_attribution(cells: AnnData, annotator: Annotator) -> None:
    cells = cells[:90].copy()  # without the cells of no type, with which markers are compared too
    found = tl.specific_genes(
        cells,
        annotator,
        groupby="kind",
        rank_by="attention",
        n_genes=None,
        min_cells=5,
        n_permutations=2,
        n_listed=5,
    )
    for _, rows in found.table.groupby("type"):
        assert (rows["attention"].diff().dropna() <= 0).all()
    markers = tl.marker_genes(cells, annotator, groupby="kind", n_genes=None)
    both = found.table.merge(markers, on=["type", "gene"], suffixes=("", "_of_markers"))
    assert len(both) == len(found.table)
    for name in ("attribution", "mean_in", "detected_in", "log2_fold_change", "auroc"):
        theirs = both[f"{name}_of_markers"]
        np.testing.assert_allclose(both[name], theirs, atol=1e-4 * np.abs(theirs).max())


def test_expression_is_that_of_scipy(cells: AnnData) -> None:
    kind = np.arange(96) % 3
    counts = cells.X.toarray()
    counts[:, 20] = 0
    value = sparse.csr_matrix(np.log1p(counts))
    found = expression_of_types(value, kind, n_types=3)
    dense = value.toarray().astype(np.float64)  # scipy ranks in the precision of its input
    for one in range(3):
        inside = kind == one
        test = stats.mannwhitneyu(
            dense[inside], dense[~inside], method="asymptotic", use_continuity=False
        )
        there = np.delete(np.arange(30), 20)
        np.testing.assert_allclose(found.p[one, there], test.pvalue[there], rtol=1e-6)
        np.testing.assert_allclose(
            found.auroc[one, there], test.statistic[there] / (inside.sum() * (~inside).sum())
        )
        q = stats.false_discovery_control(test.pvalue[there])
        np.testing.assert_allclose(found.q[one, there], q, rtol=1e-6)
        np.testing.assert_allclose(found.mean_out[one], dense[~inside].mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.detected_in[one], (dense[inside] > 0).mean(0))
    assert np.isnan(found.p[:, 20]).all()
    assert not found.raised[:, 20].any()


def test_tau_of_known_profiles() -> None:
    values = np.array([[1.0, 4.0, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(tau(values), [0.0, 1.0, 0.75, np.nan])


def test_few_cells_say_little() -> None:
    mean = np.array([[0.9, 0.9], [0.3, 0.0], [0.6, 0.0]], np.float32)
    n_cells = np.array([[60, 5], [20, 0], [20, 0]], np.int32)
    specific = Attention(mean=mean, n_cells=n_cells).specific
    shrunk = [(60 * 0.9 + 10) / 80, (20 * 0.3 + 10) / 40, (20 * 0.6 + 10) / 40]
    np.testing.assert_allclose(specific[0, 0], shrunk[0] - np.mean(shrunk[1:]), atol=1e-6)
    np.testing.assert_allclose(specific[0, 1], (5 * 0.9 + 10) / 25 - 0.5, atol=1e-6)


def test_shuffled_labels_find_as_much_as_chance(cells: AnnData, annotator: Annotator) -> None:
    """What is averaged over shuffled types must not favour genes that become rare by it."""
    found = tl.specific_genes(
        cells, annotator, groupby="kind", min_cells=5, n_permutations=100, n_listed=5,
        attribution=False,
    )  # fmt: skip
    table = found.enrichment
    assert abs(table["shuffled_mean"].mean() - table["random_mean"].mean()) < 0.4


def lists(n: int = 2) -> Lists:
    right = np.zeros((2, 8), bool)
    right[0, [0, 1]] = right[1, [6, 7]] = True
    candidate = np.ones((2, 8), bool)
    candidate[1, 0] = False
    return Lists(candidate=candidate, right=right, n=n)


def test_hits_chance_and_jaccard_of_lists() -> None:
    score = np.array([[9.0, 0, 8, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0, 7, 6]])
    assert list(lists().hits(score)) == [1, 2]  # the highest of the second type is no candidate
    mean, spread = lists().by_chance()
    expected = [stats.hypergeom(8, 2, 2), stats.hypergeom(7, 2, 2)]
    np.testing.assert_allclose(mean, [each.mean() for each in expected])
    np.testing.assert_allclose(spread, [each.std() for each in expected])
    assert lists().jaccard(score) == 0
    assert lists().jaccard(np.tile(np.arange(8.0), (2, 1))) == 1
    assert (
        lists(3).jaccard(np.array([[3.0, 2, 1, 0, 0, 0, 0, 0], [0, 3.0, 2, 1, 0, 0, 0, 0]])) == 0.5
    )
    assert list(lists().telling) == [True, True]
    assert list(lists(4).telling) == [True, False]


def test_p_counts_shuffled_labellings_that_do_as_well() -> None:
    score = np.array([[9.0, 0, 8, 0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0, 7, 6]])
    shuffled = np.array([[0, 0], [1, 1], [2, 1], [0, 0]])
    table = enrichment_table(lists(), score, shuffled, np.array(["x", "y"], object))
    np.testing.assert_allclose(table["p"], [3 / 5, 1 / 5])
    np.testing.assert_allclose(table["q"], [3 / 5, 2 / 5])
    np.testing.assert_allclose(table["shuffled_mean"], [0.75, 0.5])
    silent = enrichment_table(lists(4), score, shuffled, np.array(["x", "y"], object))
    assert np.isnan(silent.loc["y", "p"])
    compared = compare(
        lists(),
        {"ours": score},
        np.arange(8) >= 6,
        repeated={"none": [-score, -score], "half": [score, -score]},
        seed=0,
    )
    assert compared.loc["ours", "precision"] == 0.75
    assert compared.loc["ours", "n_counted"] == 1
    both = compared.loc[["ours", "none"], "precision"].mean()
    assert compared.loc["half", "precision"] == pytest.approx(both)
    assert compared.loc["none", "first_minus"] == 0.75 - compared.loc["none", "precision"]
    assert (
        compared.loc["none", "low"]
        <= compared.loc["none", "first_minus"]
        <= compared.loc["none", "high"]
    )


def test_lists_of_half_the_candidates_say_nothing(cells: AnnData, annotator: Annotator) -> None:
    found = tl.specific_genes(
        cells, annotator, groupby="kind", min_cells=5, n_permutations=2, attribution=False
    )
    assert np.isnan(found.observed)
    assert np.isnan(found.p)
    assert "nothing can be said" in found.verdict


def test_what_makes_no_sense_is_refused(
    cells: AnnData, annotator: Annotator, weights: Pretrained
) -> None:
    cases = [
        ({"rank_by": "score"}, ConfigError, "'specific' or 'attention'"),
        ({"n_permutations": 0}, ConfigError, "n_permutations is 0"),
        (
            {"locus_group": "lincRNA"},
            ConfigError,
            "no locus group 'lincRNA'.*'lncRNA' or one of HGNC",
        ),
        ({"locus_group": "pseudogene"}, DataError, "No gene of the locus group 'pseudogene'"),
        ({"groupby": "celltype"}, DataError, "no column 'celltype'"),
        (
            {"min_cells": 40},
            DataError,
            "0 of the annotator's has at least 40 cells; found B \\(30\\)",
        ),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            tl.specific_genes(cells, annotator, **({"groupby": "kind", "min_cells": 5} | arguments))
    with pytest.raises(ConfigError, match=r"head 'mlp'.*--head clusters"):
        tl.specific_genes(cells, tuned(weights, "mlp"))
    frozen = annotator_of(weights, FrozenScorer(model=weights, pool="cls", heads=()), "linear")
    with pytest.raises(ConfigError, match=r"'linear', and so no class queries.*--head clusters"):
        tl.specific_genes(cells, frozen)


def test_types_with_few_cells_are_left_out_and_named(cells: AnnData, annotator: Annotator) -> None:
    few = cells[[i for i in range(90) if i % 3 < 2 or i < 12]].copy()
    found = tl.specific_genes(
        few, annotator, groupby="kind", min_cells=5, n_permutations=1, n_listed=5, attribution=False
    )
    assert set(found.table["type"]) == {"B", "NK"}
    assert found.notes == ("Left out, as they have fewer than 5 cells: T (4).",)


def test_the_figure_shows_the_null_and_every_way(cells: AnnData, annotator: Annotator) -> None:
    pytest.importorskip("matplotlib")
    from cellfm import pl

    found = tl.specific_genes(
        cells, annotator, groupby="kind", min_cells=5, n_permutations=4, n_listed=5
    )
    axes = pl.specific_genes(found)
    assert len(axes.lines) == len(found.comparison)
    assert axes.lines[0].get_xdata()[0] == found.observed
    assert sum(patch.get_height() for patch in axes.patches) == 4
    silent = replace(found, comparison=found.comparison.assign(precision=np.nan))
    with pytest.raises(DataError, match="no share"):
        pl.specific_genes(silent)


def test_who_asks_and_where_it_is_filed_are_two_things(
    cells: AnnData, annotator: Annotator
) -> None:
    module = annotator.scorer.tuned.module
    read, _ = read_cells(cells, annotator.model, EmbedOptions())
    rows = np.array([1, 5, 40])
    asked, filed = np.array([[2, 0, 0], [1, 1, 0]]), np.array([[0, 1, 1], [1, 1, 0]])
    under = Labellings(head=module.heads[0], asked=asked, filed=filed)
    (found,) = attention_of_types(
        module.network, [under], read, rows, types=np.array([2, 0, 1]), n_tokens=31
    )
    classes = [2, 0, 1]
    total, count = np.zeros((2, 3, 31)), np.zeros((2, 3, 31), int)
    for place, row in enumerate(rows.tolist()):
        cell = read.select([row])
        ((scores,),) = ClusterScores(module.network, [*module.heads])(plain_batch(cell))
        for labelling in range(2):
            at = (labelling, filed[labelling, place])
            total[at][cell.gene] += scores[classes[asked[labelling, place]]].numpy()
            count[at][cell.gene] += 1
    np.testing.assert_array_equal(found.n_cells, count)
    np.testing.assert_allclose(found.mean, total / np.maximum(count, 1), atol=1e-5)
