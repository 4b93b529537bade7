"""In-silico knock-outs on small random networks: what is computed, compared and refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.config.model import ModelConfig
from cellfm.corpus.tokens import tokenize
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.genes.table import GeneTable
from cellfm.nn import CellFM, initialise
from cellfm.tl._screen.null import Standing, matched_genes
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening

N_GENES = 60
OPTIONS = {"n_null": 19, "n_cells": 40, "genes": 10}


def symbols() -> list[str]:
    """Sixty real symbols, which the gene table knows."""
    return [
        gene.symbol for gene in GeneTable.load().genes if gene.locus_group == "protein-coding gene"
    ][:N_GENES]


@pytest.fixture(scope="module")
def model() -> Pretrained:
    vocabulary = Vocabulary.from_symbols(symbols())
    config = ModelConfig(n_genes=N_GENES, dim=16, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None
    )


@pytest.fixture
def adata() -> AnnData:
    """120 cells of three types; the first gene is expressed in the first type only, the last nowhere."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2.0, 0.7, N_GENES), (120, N_GENES)).astype(np.float32)
    counts[:, 1] += 3
    counts[40:, 0], counts[:40, 0], counts[:, -1] = 0, 2, 0
    obs = pd.DataFrame(
        {"type": pd.Categorical(["A", "B", "C"]).repeat(40), "late": np.arange(120) >= 80},
        index=[f"cell{i}" for i in range(120)],
    )
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=symbols()))


def naive_states(model: Pretrained, counts: np.ndarray, gene: int) -> np.ndarray:
    """State of a cell before and after a gene's token is dropped, depth and other values as they were."""
    token = np.arange(1, N_GENES + 1, dtype=np.int32)
    cell = tokenize(sparse.csr_matrix(counts[None]), token)
    keep = cell.gene != gene + 1
    without = replace(
        cell,
        gene=cell.gene[keep],
        value=cell.value[keep],
        offsets=torch.tensor([0, int(keep.sum())]),
    )
    with torch.no_grad():
        return np.concatenate(
            [model.network.encode(c, wanted="cell").cell for c in (cell, without)]
        )


def test_effect_is_the_mean_distance_of_naively_encoded_cells(model, adata):
    table = tl.screen(adata, model, groupby="type", group="A", **OPTIONS).set_index("gene")
    counts = adata.X.toarray()
    for name in table.index[:1]:
        gene = symbols().index(name)
        rows = [i for i in range(40) if counts[i, gene]]
        pairs = [naive_states(model, counts[i], gene) for i in rows]
        shift = [np.linalg.norm(after - before) for before, after in pairs]
        cosine = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        row = table.loc[name]
        assert row["n_cells"] == len(rows)
        assert row["detection"] == pytest.approx(len(rows) / 40)
        assert row["effect"] == pytest.approx(np.mean(shift), rel=1e-4)
        assert row["effect_se"] == pytest.approx(
            np.std(shift, ddof=1) / np.sqrt(len(rows)), rel=1e-3
        )
        assert row["cosine"] == pytest.approx(np.mean(cosine), rel=1e-3, abs=1e-6)


def test_goal_measures_the_way_between_mean_states(model, adata):
    table = tl.screen(
        adata, model, groupby="type", group="A", towards="C", readout=["A1BG"], **OPTIONS
    )
    counts = adata.X.toarray()
    name = table["gene"][0]
    gene = symbols().index(name)
    rows = [i for i in range(40) if counts[i, gene]]
    both = np.array([naive_states(model, cell, gene) for cell in counts])
    pairs = both[rows]
    start, goal = (
        both[some, 0].mean(axis=0, dtype=np.float64) for some in (slice(40), slice(80, 120))
    )
    way = goal - start
    shift = pairs[:, 1].astype(np.float64) - pairs[:, 0]
    assert table["goal"][0] == pytest.approx(np.mean(shift @ way) / (way @ way), rel=1e-3)
    nearer = np.linalg.norm(pairs[:, 1] - goal, axis=1) - np.linalg.norm(pairs[:, 0] - goal, axis=1)
    assert table["goal_distance"][0] == pytest.approx(nearer.mean(), rel=1e-2, abs=1e-6)
    with torch.no_grad():
        embedding = model.network.gene_embedding(torch.tensor([1]))
        decoded = [
            model.network.cell_decoder(embedding, torch.tensor(s[None])) for s in pairs.mean(0)
        ]
    assert table["readout_A1BG"][0] == pytest.approx(float(decoded[1] - decoded[0]), abs=1e-5)
    assert table["goal_z"].dropna().is_monotonic_decreasing
    assert table["goal_tail_q"].dropna().is_monotonic_increasing


def test_goal_may_be_a_flag_or_a_mask_and_gives_the_same(model, adata):
    named, flagged, masked = (
        tl.screen(adata, model, groupby="type", group="A", towards=towards, **OPTIONS)
        for towards in ("C", "late", (adata.obs["type"] == "C").to_numpy())
    )
    pd.testing.assert_frame_equal(named, flagged)
    pd.testing.assert_frame_equal(named, masked)


def test_effects_are_measured_in_whitened_space_where_there_is_one(model, adata):
    matrix = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    whitening = Whitening(
        mean=np.zeros(16, np.float32),
        matrix=matrix,
        ratio=np.ones(5, np.float32),
        weights_hash="f" * 64,
    )
    whitened = tl.screen(adata, replace(model, whitening=whitening), **OPTIONS).set_index("gene")
    plain = tl.screen(adata, replace(model, whitening=whitening), pool="cls", **OPTIONS).set_index(
        "gene"
    )
    assert set(whitened.index) == set(plain.index)
    assert not np.allclose(whitened["effect"], plain["effect"].loc[whitened.index])
    pd.testing.assert_frame_equal(plain, tl.screen(adata, model, **OPTIONS).set_index("gene"))


def test_overexpression_raises_values_and_adds_what_is_not_there(model, adata):
    options = OPTIONS | {"genes": [symbols()[0]], "mode": "overexpression", "fold": 4.0}
    table = tl.screen(adata, model, groupby="type", group=["B", "C"], **options)
    counts = adata.X.toarray()
    assert table["n_cells"][0] == 40  # all of them, though none expresses it
    assert table["detection"][0] == 0
    rates = 2 / counts[:40].sum(axis=1) * 1e4
    raised = np.log1p(4.0 * np.expm1(np.log1p(rates)).mean())
    token = np.arange(1, N_GENES + 1, dtype=np.int32)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(np.arange(40, 120))[:40])
    shifts = []
    for i in rows:
        cell = tokenize(sparse.csr_matrix(counts[i][None]), token)
        more = replace(
            cell,
            gene=torch.cat([torch.tensor([1]), cell.gene]),
            value=torch.cat([torch.tensor([raised], dtype=torch.float32), cell.value]),
            offsets=cell.offsets + torch.tensor([0, 1]),
        )
        with torch.no_grad():
            before, after = (model.network.encode(c, wanted="cell").cell[0] for c in (cell, more))
        shifts.append(float((after - before).norm()))
    assert table["effect"][0] == pytest.approx(np.mean(shifts), rel=1e-3)
    assert table["p"].notna().all()  # matched with genes that are put in at the same level


def test_result_is_a_function_of_the_seed_alone_and_input_stays(model, adata):
    before = adata.copy()
    first, again = (tl.screen(adata, model, n_cells=20, n_null=19, genes=5) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = tl.screen(adata, model, n_cells=20, n_null=19, genes=5, seed=1)
    assert not np.allclose(first["effect"], other["effect"])
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs) == list(before.obs)
    assert not adata.uns
    assert not adata.obsm


def test_backed_file_and_layers_give_the_same(model, adata, tmp_path):
    import anndata

    expected = tl.screen(adata, model, **OPTIONS)
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    pd.testing.assert_frame_equal(tl.screen(backed, model, layer="counts", **OPTIONS), expected)
    backed.file.close()


def test_genes_may_be_a_number_names_or_all(model, adata):
    most = tl.screen(adata, model, **OPTIONS)
    assert len(most) == 10
    assert most["screened"].all()
    counts = adata.X.toarray()
    mean = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
    table = tl.screen(adata, model, genes=None, n_null=19)
    assert len(table) == N_GENES - 1  # the last is expressed nowhere
    loudest = set(np.array(symbols())[np.argsort(-mean)[:10]])
    assert len(loudest & set(most["gene"])) >= 8  # of 40 cells instead of 120
    named = tl.screen(adata, model, **OPTIONS | {"genes": ["ACAA1", "ACAA1", "ENSG00000121410"]})
    assert sorted(named["gene"]) == ["A1BG", "ACAA1"]


def test_null_rows_come_after_and_have_no_p(model, adata):
    table = tl.screen(adata, model, null_rows=True, **OPTIONS)
    assert table["screened"][:10].all()
    assert not table["screened"][10:].any()
    assert table["p"][10:].isna().all()
    assert table["effect"].notna().all()
    assert not table["gene"].duplicated().any()


def test_progress_counts_edits(model, adata):
    calls = []
    table = tl.screen(
        adata, model, null_rows=True, progress=lambda *now: calls.append(now), **OPTIONS
    )
    assert calls[-1] == (table["n_cells"].sum(), table["n_cells"].sum())
    assert len(calls) == 40


def test_matched_genes_are_the_nearest_and_never_the_gene_itself():
    features = np.stack([np.arange(50.0), np.arange(50.0) ** 3], axis=1)
    found = matched_genes(np.array([0, 25, 49]), np.arange(50), features, 4)
    assert set(found[0]) == {1, 2, 3, 4}
    assert set(found[1]) == {23, 24, 26, 27}
    assert set(found[2]) == {45, 46, 47, 48}


def test_standing_finds_a_planted_gene_and_no_other():
    rng = np.random.default_rng(0)
    level = rng.uniform(1, 4, 300)
    score = np.exp(
        0.8 * level + 0.3 * rng.normal(size=300)
    )  # what is expressed more has more effect
    score[7] *= np.exp(3.0)
    matched = matched_genes(np.arange(300), np.arange(300), level[:, None], 60)
    standing = Standing.of(
        score,
        score[matched],
        level=level,
        null_level=level[matched],
        known=np.ones(300, bool),
        log=True,
    )
    assert standing.tail_q[7] < 1e-6
    assert (np.delete(standing.tail_q, 7) > 0.05).all()
    assert standing.p[7] == pytest.approx(1 / 61)
    assert np.abs(np.corrcoef(np.delete(standing.z, 7), np.delete(level, 7))[0, 1]) < 0.15


def test_the_loudest_genes_do_not_stand_out_for_their_loudness():
    """Their matched genes are all quieter; only the line through these says what to expect."""
    rng = np.random.default_rng(1)
    level = np.append(rng.uniform(1, 2, 100), 3.0)
    score = np.exp(2.0 * level + 0.2 * rng.normal(size=101))
    matched = matched_genes(np.array([100]), np.arange(101), level[:, None], 60)
    parts = {"level": level[[100]], "null_level": level[matched]}
    standing = Standing.of(score[[100]], score[matched], known=np.ones(1, bool), log=True, **parts)
    assert abs(standing.z[0]) < 3
    flat = Standing.of(
        score[[100]],
        score[matched],
        known=np.ones(1, bool),
        log=True,
        level=np.zeros(1),
        null_level=np.zeros((1, 60)),
    )
    assert flat.z[0] > 5  # without the line


def test_p_is_uniform_when_nothing_is_planted():
    rng = np.random.default_rng(2)
    score, level = np.exp(rng.normal(size=400)), rng.uniform(size=400)
    matched = matched_genes(np.arange(400), np.arange(400), level[:, None], 99)
    standing = Standing.of(
        score,
        score[matched],
        level=level,
        null_level=level[matched],
        known=np.ones(400, bool),
        log=True,
    )
    for p in (standing.p, standing.tail_p):
        assert 0.02 < (p <= 0.05).mean() < 0.09
    assert standing.q.min() > 0.05
    assert standing.tail_q.min() > 0.05


def test_gene_that_nothing_is_like_gets_no_p(model, adata):
    counts = adata.X.toarray()
    counts[:, 3] = 400
    adata.X = sparse.csr_matrix(counts)
    table = tl.screen(adata, model, **OPTIONS).set_index("gene")
    loud = symbols()[3]
    assert table.index[-1] == loud
    assert table.loc[loud, ["z", "p", "q", "tail_p", "tail_q"]].isna().all()
    assert table["p"].notna().sum() == 9


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mode": "delete"}, ConfigError, "mode is 'delete'; it must be one of 'knockout'"),
        ({"pool": "mean"}, ConfigError, "pool is 'mean'"),
        ({"missing": "drop"}, ConfigError, "missing is 'drop'"),
        ({"fold": 1.0}, ConfigError, "fold is 1.0; it must be a positive number other than 1"),
        ({"n_null": 5}, ConfigError, "19 matched genes for a p-value of 0.05"),
        ({"n_null": 59}, DataError, "59 genes are expressed in 3 or more .* needs more than that"),
        ({"genes": []}, ConfigError, "give a list of names"),
        ({"genes": "CD3E"}, ConfigError, "give a list of names"),
        ({"genes": 0}, ConfigError, "genes is 0; give names, a number of at least 1"),
        (
            {"genes": ["ACAAA1"]},
            DataError,
            r"not in the vocabulary of the model: 'ACAAA1' \(near: ACAA1",
        ),
        ({"groupby": "kind", "group": "A"}, DataError, "no column 'kind' in obs"),
        ({"group": "A"}, ConfigError, "without the column it is in; say groupby="),
        ({"groupby": "type", "group": "D"}, DataError, "has no entry 'D'; it has A, B, C"),
        (
            {"groupby": "type", "group": "A", "towards": "D"},
            DataError,
            "goal 'D' is neither an entry",
        ),
        (
            {"groupby": "type", "group": "A", "towards": "A"},
            DataError,
            "40 cells are both to be edited",
        ),
        ({"towards": [True, False]}, DataError, r"towards has shape \(2,\)"),
        ({"readout": ["NO"]}, DataError, "not in the vocabulary of the model: 'NO'"),
        ({"pool": "whitened"}, WeightsError, "whitened"),
    ],
)
def test_what_cannot_be_is_refused(model, adata, changes, error, message):
    with pytest.raises(error, match=message):
        tl.screen(adata, model, **OPTIONS | changes)


def test_genes_of_a_list_that_cannot_be_edited_are_refused_or_skipped(model, adata):
    last, first = symbols()[-1], symbols()[0]
    options = OPTIONS | {"groupby": "type", "group": "B"}
    with pytest.raises(
        DataError, match=f"{first} is expressed in 0 of the 40 chosen cells; a knock-out needs 3"
    ):
        tl.screen(adata, model, **options | {"genes": [first]})
    with pytest.raises(
        DataError, match=f"Fewer than 3 cells of the data express the gene {last}, so the level"
    ):
        tl.screen(adata, model, **options | {"genes": [last], "mode": "overexpression"})
    with pytest.raises(
        DataError, match="is in the vocabulary, but not among the genes of the data"
    ):
        tl.screen(adata[:, 1:], model, **options | {"genes": [first]})
    kept = tl.screen(
        adata, model, **options | {"genes": [first, "ACAA1", "NONE"], "missing": "skip"}
    )
    assert list(kept["gene"]) == ["ACAA1"]
    with pytest.raises(DataError, match="None of the 2 genes can be edited"):
        tl.screen(adata, model, **options | {"genes": [first, last], "missing": "skip"})


def test_state_needs_cells(model, adata):
    adata.obs["type"] = ["A"] * 9 + ["B"] * 111
    with pytest.raises(DataError, match=r"9 cells to edit .* at least 10"):
        tl.screen(adata, model, groupby="type", group="A", **OPTIONS)
    with pytest.raises(DataError, match="9 cells of the goal"):
        tl.screen(adata, model, groupby="type", group="B", towards="A", **OPTIONS)


def test_readout_needs_decoders(model, adata):
    config = replace(model.network.config, decoders=False)
    bare = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    with pytest.raises(WeightsError, match="have no decoders"):
        tl.screen(adata, replace(model, network=bare), readout=["A1BG"], **OPTIONS)
