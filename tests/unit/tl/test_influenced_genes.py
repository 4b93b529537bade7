"""Genes that listen to a marked gene: ranks are those of a plain loop, overlaps have their chance beside them, what is not there is refused."""

import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from cellfm import tl
from cellfm.config.model import ModelConfig
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import ConfigError, DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.nn.kernels.marked_scores import marked_vectors
from cellfm.nn.kernels.pair_scores import head_vectors
from cellfm.tl._annotator_heads import read_cells
from cellfm.tl._genes.influence_judge import OTHERS, UNMARKED, overlap_row, overlaps, verdict_of
from cellfm.tl._genes.influence_scores import cells_with
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

GENE = "SPI1"


@pytest.fixture(scope="module")
def weights() -> Pretrained:
    """Random weights over sixty genes."""
    coding = [g.symbol for g in GeneTable.load().genes if g.locus_group == "protein-coding gene"]
    vocabulary = Vocabulary.from_symbols([GENE, "SPIB", "FLI1", *coding[:57]])
    config = ModelConfig(
        n_genes=len(vocabulary), dim=16, n_layers=2, n_heads=4, value_bins=8, dropout=0.0
    )
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="d" * 64, path=None
    )


@pytest.fixture
def cells(weights: Pretrained) -> AnnData:
    """Forty cells; the gene is in three of four, one gene in none."""
    counts = np.random.default_rng(0).poisson(1.2, (40, 60)).astype(np.float32)
    counts[:, 0] = np.arange(40) % 4
    counts[:, 1] = 0
    obs = pd.DataFrame(
        {"state": np.where(np.arange(40) < 30, "control", "drug")},
        index=[f"c{i}" for i in range(40)],
    )
    var = pd.DataFrame(index=list(weights.vocabulary.symbols))
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def plain_scores(cells: AnnData, weights: Pretrained, mark: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean rank of each token, cell by cell, layer by layer, head by head."""
    read, _ = read_cells(cells, weights, EmbedOptions())
    total, count = np.zeros(61), np.zeros(61)
    for i, (start, stop) in enumerate(pairwise(read.offsets.tolist())):
        gene = read.gene[start:stop]
        if 1 not in gene:
            continue
        place = int(np.flatnonzero(gene == 1)[0])
        batch = plain_batch(read.select([i]))
        with torch.no_grad():
            layers = list(
                marked_vectors(weights.network, batch, 1)
                if mark == "hidden"
                else head_vectors(weights.network, batch)
            )
        ranks = []
        for layer in layers:
            for h in range(4):
                query, key = layer.query[:, h].double().numpy(), layer.key[:, h].double().numpy()
                length = np.linalg.norm(query, axis=1)
                weight = query @ key[place] / np.maximum(length, 1e-12)
                others = np.delete(np.arange(len(gene)), place)
                rank = np.full(len(gene), np.nan)
                rank[others] = (stats.rankdata(weight[others].round(9)) - 1) / (len(gene) - 2)
                ranks.append(rank)
        total[gene] += np.mean(ranks, axis=0)
        count[gene] += 1
    return total / np.maximum(count, 1), count


@pytest.mark.parametrize("mark", ["hidden", "none"])
def test_scores_are_those_of_a_plain_loop(cells: AnnData, weights: Pretrained, mark: str) -> None:
    before = cells.copy()
    found = tl.influenced_genes(cells, weights, GENE, mark=mark, min_cells=5, n_others=0)
    expected, count = plain_scores(cells, weights, mark)
    token = {name: i + 1 for i, name in enumerate(weights.vocabulary.symbols)}
    assert len(found.table) == (count[2:] >= 5).sum()  # neither itself nor genes of no cell
    rows = [token[name] for name in found.table["gene"]]
    assert 1 not in rows
    np.testing.assert_allclose(found.table["score"], expected[rows], atol=1e-4)
    assert list(found.table["n_cells"]) == list(count[rows])
    assert (found.table["score"].diff().dropna() <= 0).all()
    assert found.n_cells == 30
    assert found.comparison is None
    assert "not shown" in found.verdict
    assert list(cells.obs) == list(before.obs)
    assert not cells.uns


def test_a_hidden_gene_is_marked_whatever_its_count(cells: AnnData, weights: Pretrained) -> None:
    """Its own value is not seen; those of the rest stay, as each cell is scaled by its total."""
    one = tl.influenced_genes(cells, weights, GENE, min_cells=5, n_others=0)
    other = tl.influenced_genes(cells, weights, GENE, min_cells=5, n_others=0, mark="none")
    assert not np.allclose(one.table.set_index("gene")["score"].sort_index(),
                           other.table.set_index("gene")["score"].sort_index(), atol=1e-3)  # fmt: skip


def test_known_targets_have_chance_and_controls_beside_them(
    cells: AnnData, weights: Pretrained
) -> None:
    plain = tl.influenced_genes(cells, weights, GENE, min_cells=5, n_others=0)
    first = list(plain.table["gene"][:8])
    table = pd.DataFrame({"source": GENE, "target": [*first, GENE, "SPIB", "NOT-A-GENE"]})
    found = tl.influenced_genes(cells, weights, GENE, known=table, min_cells=5, n_others=4)
    assert found.n_known == 8  # SPIB is in no cell
    assert set(found.table.loc[found.table["known"], "gene"]) == set(first)
    ours = found.comparison.iloc[0]
    n = len(found.table)
    chance = stats.hypergeom(n, 8, 20)
    assert ours["overlap_20"] == 8
    assert ours["expected_20"] == pytest.approx(chance.mean())
    assert ours["sd_20"] == pytest.approx(chance.std())
    assert ours["p_20"] == pytest.approx(chance.sf(7))
    assert "overlap_50" not in ours  # more than half of the genes
    assert list(found.comparison.index) == [
        "marked", "marked, less other genes marked", "not marked", "random weights", "|Pearson|",
        "mean expression", "other genes marked",
    ]  # fmt: skip
    others = found.comparison.loc[OTHERS]
    assert 1 / 5 <= others["p_20"] <= 1
    assert "above expectation" in found.verdict
    np.testing.assert_allclose(
        found.table["difference"], found.table["score"] - found.table["background"]
    )
    last = pd.DataFrame({"source": GENE, "target": list(plain.table["gene"][-8:])})
    lost = tl.influenced_genes(cells, weights, GENE, known=last, min_cells=5, n_others=0)
    assert "not shown to be above expectation" in lost.verdict


def test_pearson_and_groups(cells: AnnData, weights: Pretrained) -> None:
    found = tl.influenced_genes(
        cells, weights, GENE, groupby="state", group="control", min_cells=5, n_others=0, mark="none"
    )
    control = cells[:30].copy()
    alone = tl.influenced_genes(control, weights, GENE, min_cells=5, n_others=0, mark="none")
    pd.testing.assert_frame_equal(found.table, alone.table)
    counts = control.X.toarray()
    value = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    names = list(control.var_names)
    for row in found.table.head(5).itertuples():
        expected = np.corrcoef(value[:, 0], value[:, names.index(row.gene)])[0, 1]
        assert row.pearson == pytest.approx(expected, abs=1e-4)
        assert row.mean_expression == pytest.approx(
            value[:, names.index(row.gene)].mean(), rel=1e-4
        )


def test_overlaps_and_their_chance() -> None:
    known = np.array([True, False, True, False, False, False])
    score = np.array([3.0, 2.0, np.nan, 1.0, 0.5, 0.0])
    assert list(overlaps(score, known, (1, 3, 6))) == [1, 1, 2]
    row = overlap_row(np.array([1.0]), known, [3])
    chance = stats.hypergeom(6, 2, 3)
    assert row["p_3"] == pytest.approx(chance.sf(0))
    assert row["expected_3"] == pytest.approx(chance.mean())
    assert row["sd_3"] == pytest.approx(chance.std())


def test_the_number_of_cells_is_a_limit_and_the_seed_chooses(
    cells: AnnData, weights: Pretrained
) -> None:
    arguments = {"min_cells": 2, "n_others": 0, "n_cells": 8}
    one, same, other = (
        tl.influenced_genes(cells, weights, GENE, seed=seed, **arguments) for seed in (0, 0, 1)
    )
    assert one.table["n_cells"].max() <= 8
    pd.testing.assert_frame_equal(one.table, same.table)
    assert not one.table.equals(other.table)


def test_cells_with_a_gene(cells: AnnData, weights: Pretrained) -> None:
    read, _ = read_cells(cells, weights, EmbedOptions())
    assert list(cells_with(read, 1)) == [i for i in range(40) if i % 4]
    assert len(cells_with(read, 2)) == 0


def test_what_is_not_there_is_refused(cells: AnnData, weights: Pretrained, tmp_path) -> None:
    table = tmp_path / "known.tsv"
    table.write_text("FLI1\tA1BG\tActivation\n", encoding="utf-8")
    targets = pd.DataFrame({"source": [GENE], "target": ["SPIB"]})
    cases = [
        ("SPI11", {}, DataError, "'SPI11' is not known.*near names: SPI1"),
        ("SPIB", {}, DataError, "SPIB is expressed in 0 of the 40 cells.*at least 5"),
        (GENE, {"min_cells": 31}, DataError, "expressed in 30 of the 40 cells"),
        (GENE, {"known": table}, DataError, "none of SPI1.*1 sources, such as FLI1"),
        (GENE, {"known": targets}, DataError, "None of the 1 known targets of SPI1"),
        (GENE, {"known": targets[["source"]]}, DataError, "no column 'target'"),
        (GENE, {"known": tmp_path / "no.tsv"}, DataError, "There is no file"),
        (GENE, {"groupby": "state", "group": "drog"}, DataError, "no entry 'drog'"),
        (GENE, {"mark": "zero"}, ConfigError, "mark is 'zero'"),
        (GENE, {"n_others": -1}, ConfigError, "n_others -1"),
    ]
    for gene, arguments, error, message in cases:
        with pytest.raises(error, match=message):
            tl.influenced_genes(
                cells, weights, gene, **({"min_cells": 5, "n_others": 0} | arguments)
            )


def test_progress_counts_rankings(cells: AnnData, weights: Pretrained) -> None:
    told = []
    known = pd.DataFrame({"source": GENE, "target": list(weights.vocabulary.symbols[3:20])})
    found = tl.influenced_genes(
        cells, weights, GENE, known=known, min_cells=5, n_others=2,
        progress=lambda done, n: told.append((done, n)),
    )  # fmt: skip
    assert told == [(i, 5) for i in range(1, 6)]
    assert UNMARKED in found.comparison.index


@pytest.mark.parametrize(
    ("ours", "pearson", "p_others", "said"),
    [
        (9, 5, 0.04, "above expectation and above all controls"),
        (9, 9, 0.04, r"not shown to be above \|Pearson\|\."),
        (9, 5, 0.2, "not shown to be above other genes marked"),
        (2, 1, 0.04, "not shown to be above expectation"),
    ],
)
def test_the_verdict_names_what_does_as_well(
    ours: int, pearson: int, p_others: float, said: str
) -> None:
    known = np.arange(400) < 20
    rows = {
        name: overlap_row(np.array([float(n)]), known, [50])
        for name, n in (("marked", ours), (UNMARKED, 30), ("|Pearson|", pearson), (OTHERS, 3))
    }
    rows[OTHERS]["p_50"] = p_others
    table = pd.DataFrame.from_dict(rows, orient="index")
    assert re.search(said, verdict_of("SPI1", table))
