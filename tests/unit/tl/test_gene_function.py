from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import cli, tl
from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, DataError, GeneMatchError
from cellfm.genes import Vocabulary
from cellfm.genes.families import family
from cellfm.genes.table import GeneTable
from cellfm.nn import CellFM, initialise
from cellfm.tl._genes.controls import (
    COEXPRESSION,
    PCA,
    RANDOM,
    STATISTICS,
    TWIN,
    expression_vectors,
)
from cellfm.tl._genes.function_folds import cross_validate, deal
from cellfm.tl._genes.function_heads import STRENGTHS, fit
from cellfm.tl._genes.function_judge import CANDIDATE, FREQUENCY, verdict
from cellfm.tl._genes.function_scores import auprc, fmax, fold_auroc, mcc
from cellfm.tl._genes.labels import LabelledGenes, read_labels
from cellfm.weights.folder import Pretrained, save

pytest.importorskip("sklearn")

SYMBOLS = tuple(
    gene.symbol for gene in GeneTable.load().genes if gene.locus_group == "protein-coding gene"
)[:160]
FAST = {"n_repeats": 1, "n_permutations": 0, "families": False, "n_random": 1}


def embedding(dim: int = 8, n: int = 160, seed: int = 7) -> AnnData:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return AnnData(x, obs=pd.DataFrame({"symbol": SYMBOLS[:n]}, index=list(SYMBOLS[:n])))


def two(flags: np.ndarray) -> dict[str, tuple[str, ...]]:
    """Two classes of the first genes."""
    names = np.array(SYMBOLS[: len(flags)])
    return {"yes": tuple(names[flags]), "no": tuple(names[~flags])}


def planted(genes: AnnData, n: int = 100) -> dict[str, tuple[str, ...]]:
    return two(genes.X[:n, 0] + 0.5 * genes.X[:n, 1] > 0)


def test_planted_labels_are_found() -> None:
    genes = embedding()
    found = tl.classify_genes(genes, planted(genes), n_repeats=2, n_permutations=19)
    assert found.task == "binary"
    for protocol in ("random", "families"):
        own = found.table.loc[(protocol, CANDIDATE)]
        assert own["auroc"] > 0.93
        assert own["auroc_low"] > 0.8
        assert own["mcc"] > 0.6
        assert own["p"] == pytest.approx(0.05)
        rival = found.table.loc[(protocol, RANDOM)]
        assert rival["difference_low"] > 0
        assert rival["difference"] == pytest.approx(own["auroc"] - rival["auroc"])
    assert "above chance (0.5) and ahead of the best control, random vectors" in found.verdict
    assert "Without cells" in found.verdict
    # Genes without a label get what their embedding says, with the labelled genes that are nearest.
    table = found.predictions.set_index("gene")
    assert set(table.index) == set(SYMBOLS[100:])
    truth = pd.Series(genes.X[100:, 0] + 0.5 * genes.X[100:, 1] > 0, SYMBOLS[100:])
    assert fold_auroc(truth[table.index].to_numpy(), table["probability"].to_numpy(), np.zeros(60))[0] > 0.95  # fmt: skip
    assert table["probability"].is_monotonic_decreasing
    centred = genes.X - genes.X.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    nearest = SYMBOLS[int(np.argmax(unit[:100] @ unit[SYMBOLS.index(table.index[0])]))]
    assert table["nearest"].iloc[0].startswith(f"{nearest} (")
    assert found.scores.loc[("random", CANDIDATE)].shape == (2, 4)


def test_random_labels_are_not_found() -> None:
    rows = []
    for seed in range(8):
        flags = np.random.default_rng(100 + seed).random(120) < 0.5
        found = tl.classify_genes(embedding(seed=50 + seed), two(flags), seed=seed, **FAST)
        rows.append(found.table.loc[("random", CANDIDATE)])
    assert sum(row["auroc_low"] < 0.5 < row["auroc_high"] for row in rows) >= 7
    assert abs(np.mean([row["auroc"] for row in rows]) - 0.5) < 0.05
    assert np.isnan(rows[0]["p"])


def test_verdict_needs_more_than_an_interval() -> None:
    index = pd.MultiIndex.from_tuples(
        [("random", CANDIDATE), ("random", STATISTICS)], names=["protocol", "method"]
    )
    table = pd.DataFrame(
        {
            "auroc": [0.6, 0.7],
            "auroc_low": [0.51, 0.6],
            "auroc_high": [0.7, 0.8],
            "p": [0.3, np.nan],
        }
        | {"difference": [np.nan, -0.1], "difference_low": [np.nan, -0.2]},
        index=index,
    ).assign(difference_high=[np.nan, -0.01])
    assert "not told apart from chance (0.5) and behind the best control" in verdict(table)
    table.loc[("random", CANDIDATE), "p"] = 0.01
    table.loc[("random", STATISTICS), "difference_high"] = 0.01
    assert "above chance (0.5) and not told apart from the best control" in verdict(table)


def test_permutation_p_is_uniform_on_noise() -> None:
    genes = embedding(dim=3, n=160)
    p = []
    for seed in range(12):
        flags = np.random.default_rng(seed).random(40) < 0.5
        options = FAST | {"n_permutations": 9, "n_folds": 2}
        found = tl.classify_genes(genes, two(flags), seed=seed, **options)
        p.append(found.table.loc[("random", CANDIDATE), "p"])
    assert 0.3 < np.mean(p) < 0.8
    assert min(p) < 0.35
    assert max(p) > 0.65


def test_result_follows_from_the_seed() -> None:
    genes = embedding()
    first, again, other = (
        tl.classify_genes(genes, planted(genes), seed=seed, **FAST) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)
    assert not first.table.equals(other.table)


def labelled(flags: np.ndarray, task: str) -> LabelledGenes:
    return LabelledGenes(
        task=task,
        names=tuple("abcdefgh"[: flags.shape[1]]),
        negative="",
        rows=np.arange(len(flags)),
        flags=flags,
        n_given=len(flags),
        unknown=(),
        left_out=(),
        n_fitting=flags.shape[1],
    )


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_families_stay_in_one_fold(task: str) -> None:
    rng = np.random.default_rng(0)
    families = rng.integers(30, size=100)
    genes = labelled(rng.random((100, 1 if task == "binary" else 3)) < 0.4, task)
    fold = deal(genes, families, n_folds=5, seed=0)
    assert set(fold) == set(range(5))
    assert all(len(set(fold[families == number])) == 1 for number in set(families))
    single = deal(genes, None, n_folds=5, seed=0)
    assert any(len(set(single[families == number])) > 1 for number in set(families))


def test_family_protocol_does_not_profit_from_paralogs() -> None:
    """Members of a family have the same vector and label, and families differ at random: known relatives give everything away."""
    names = [f"{stem}{i}" for stem in ("HOXA", "HOXB", "ZNF", "KRT", "SOX", "TBX", "GATA", "FOXP", "CCL", "IL", "CXCL", "CD") for i in range(1, 40)]  # fmt: skip
    known = [name for name in names if name in GeneTable.load().approved]
    stems = np.unique([family(name) for name in known], return_inverse=True)[1]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((stems.max() + 1, 16))[stems] + 0.01 * rng.standard_normal((len(known), 16))  # fmt: skip
    genes = AnnData(x.astype(np.float32), obs=pd.DataFrame({"symbol": known}, index=known))
    flags = stems % 2 == 0
    labels = {"a": np.array(known)[flags], "b": np.array(known)[~flags]}
    table = tl.classify_genes(genes, labels, n_repeats=1, n_permutations=0).table["auroc"]
    assert table["random", CANDIDATE] > 0.95
    assert table["families", CANDIDATE] < 0.9


def test_scores_by_hand_and_against_sklearn() -> None:
    from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

    rng = np.random.default_rng(0)
    true, score = rng.random(80) < 0.3, rng.integers(12, size=80) / 12
    one = np.zeros(80, np.int64)
    assert fold_auroc(true, score, one)[0] == pytest.approx(roc_auc_score(true, score))
    weights = rng.integers(3, size=(2, 80)).astype(float)
    expected = [roc_auc_score(true, score, sample_weight=row) for row in weights]
    np.testing.assert_allclose(fold_auroc(true, score, one, weights), expected)
    assert auprc(true, score) == pytest.approx(average_precision_score(true, score))
    assert mcc(true, score > 0.5) == pytest.approx(matthews_corrcoef(true, score > 0.5))
    # TP 2, FP 1, FN 0, TN 1: (2·1 − 1·0) / √(3·2·2·1)
    assert mcc(np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])) == pytest.approx(2 / np.sqrt(12))
    # Pairs of different folds do not count: within both folds the order is right.
    flags, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    assert fold_auroc(flags, np.array([0.2, 0.1, 0.9, 0.8]), fold)[0] == 1.0
    assert roc_auc_score(flags, [0.2, 0.1, 0.9, 0.8]) < 1.0
    assert np.isnan(fold_auroc(np.ones(4, bool), np.ones(4), fold)[0])


def test_fmax_by_hand() -> None:
    true = np.array([[1, 0], [1, 1]], bool)
    # t ≤ .2: pr (1/2 + 1)/2, rc 1 → 6/7; .2 < t ≤ .6: gene 1 right, gene 2 has both: pr 1, rc 1 → 1.
    assert fmax(true, np.array([[0.6, 0.2], [0.7, 0.65]]))[0] == pytest.approx(1.0)
    # t ≤ .3: all terms, pr 3/4, rc 1 → 6/7; .3 < t ≤ .5: gene 1 wrong, gene 2 both: pr 1/2, rc 1/2; above: only gene 2, pr 1, rc 1/2 → 2/3.
    p = np.array([[0.3, 0.5], [0.9, 0.9]])
    assert fmax(true, p)[0] == pytest.approx(6 / 7)
    # Weights count genes: the second alone is perfect.
    np.testing.assert_allclose(fmax(true, p, np.array([[1.0, 1.0], [0.0, 1.0]])), [6 / 7, 1.0])


def test_head_is_the_logistic_regression_of_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)).astype(np.float32) * np.array([1, 10, 0.1, 1], np.float32)
    flags = (x[:, :1] + rng.standard_normal((60, 1))) > 0
    mine = fit(x, flags, seed=0)(x)[:, 0]
    z = (x - x.mean(axis=0)) / x.std(axis=0) / 2
    fits = [LogisticRegression(C=c).fit(z, flags[:, 0]).predict_proba(z)[:, 1] for c in STRENGTHS]
    assert min(np.abs(mine - each).max() for each in fits) < 1e-3


def crossed(seed: int = 0, n: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Labels that no plane tells apart: the product of two signs."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 3)).astype(np.float32)
    return x, ((x[:, 0] * x[:, 1]) > 0)[:, None]


def test_perceptron_finds_what_no_plane_does() -> None:
    x, flags = crossed()
    fold = deal(labelled(flags, "binary"), None, n_folds=2, seed=0)
    auroc = {
        head: fold_auroc(flags[:, 0], cross_validate(x, flags, fold, seed=0, head=head)[:, 0], fold)[0]
        for head in ("linear", "mlp")
    }  # fmt: skip
    assert auroc["linear"] < 0.65
    assert auroc["mlp"] > 0.85
    genes = embedding()
    options = FAST | {"n_folds": 2}
    found = tl.classify_genes(genes, planted(genes), head="mlp", **options)
    assert found.table.loc[("random", CANDIDATE), "auroc"] > 0.9
    assert found.table.loc[("random", RANDOM), "auroc"] < 0.7


def test_perceptron_learns_several_labels_and_none() -> None:
    x, flags = crossed(n=60)
    several = np.column_stack([flags[:, 0], x[:, 2] > 0, np.zeros(60, bool)])
    p = fit(x, several, seed=0, head="mlp")(x)
    assert p.shape == (60, 3)
    assert fold_auroc(several[:, 1], p[:, 1], np.zeros(60))[0] > 0.9
    assert p[:, 2].max() < 0.5
    np.testing.assert_array_equal(p, fit(x, several, seed=0, head="mlp")(x))
    assert not np.array_equal(p, fit(x, several, seed=1, head="mlp")(x))
    assert fit(x, np.zeros((60, 1), bool), seed=0, head="mlp")(x).max() < 0.5


def test_perceptron_does_not_depend_on_the_scale_of_a_column() -> None:
    x, flags = crossed(n=60)
    large = x * np.array([1, 1000, 0.01], np.float32) + 5
    one, other = (fit(z, flags, seed=0, head="mlp")(z) for z in (x, large))
    np.testing.assert_allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_labels_of_a_fold_do_not_reach_its_prediction(head: str) -> None:
    x, flags = crossed(n=40)
    fold = deal(labelled(flags, "binary"), None, n_folds=2, seed=0)
    changed = np.where((fold == 0)[:, None], ~flags, flags)
    one, other = (cross_validate(x, each, fold, seed=0, head=head) for each in (flags, changed))
    np.testing.assert_array_equal(one[fold == 0], other[fold == 0])
    assert not np.array_equal(one[fold == 1], other[fold == 1])


def test_random_controls_are_means_of_several_draws() -> None:
    genes = embedding()
    labels = planted(genes)
    found = tl.classify_genes(genes, labels, **FAST | {"n_random": 3})
    single = tl.classify_genes(genes, labels, **FAST)
    row = found.table.loc[("random", RANDOM)]
    assert row["n_random"] == 3
    assert row["spread"] > 0
    alone = single.table.loc[("random", RANDOM)]
    assert np.isnan(alone["spread"])
    # The first draw is the same, so that the mean differs, and the candidate does not.
    assert row["auroc"] != alone["auroc"]
    own = found.table.loc[("random", CANDIDATE), "auroc"]
    assert own == single.table.loc[("random", CANDIDATE), "auroc"]
    assert row["difference"] == pytest.approx(own - row["auroc"])
    with pytest.raises(ConfigError, match="n_random 0"):
        tl.classify_genes(genes, labels, **FAST | {"n_random": 0})


def test_labels_are_chosen_by_size_and_drawn() -> None:
    genes = embedding()
    rng = np.random.default_rng(0)
    sets = {f"s{i}": [SYMBOLS[j] for j in rng.choice(160, 20 + i, replace=False)] for i in range(8)}
    sets |= {"all": SYMBOLS, "few": SYMBOLS[:5]}
    options = FAST | {"max_genes": 26, "n_folds": 3}
    found = tl.classify_genes(genes, sets, n_labels=3, **options)
    drawn = list(found.labels.loc["random"].index)
    assert len(drawn) == 3
    assert set(drawn) < {f"s{i}" for i in range(7)}
    assert set(found.left_out) == {"s7", "all", "few"}
    assert found.notes == ("3 of 7 labels were drawn at random.",)
    again, other = (tl.classify_genes(genes, sets, n_labels=3, seed=seed, **options) for seed in (0, 5))  # fmt: skip
    assert list(again.labels.loc["random"].index) == drawn
    assert list(other.labels.loc["random"].index) != drawn
    row = found.labels.loc["random"]
    assert row[CANDIDATE].mean() == pytest.approx(found.table.loc[("random", CANDIDATE), "auroc"])
    assert list(row["n_genes"]) == [len(sets[name]) for name in drawn]
    # What every labelled gene is, such as the root of an ontology, is no label, whatever the most.
    every = tl.classify_genes(genes, sets, **FAST | {"n_folds": 3})
    assert set(every.left_out) == {"all", "few"}
    for wrong in ({"max_genes": 5}, {"n_labels": 1}):
        with pytest.raises(ConfigError, match="expected max_genes at least min_genes"):
            tl.classify_genes(genes, sets, **FAST, **wrong)


def test_several_labels_a_gene() -> None:
    genes = embedding()
    labels = {
        "a": [SYMBOLS[i] for i in range(120) if genes.X[i, 0] > 0],
        "b": [SYMBOLS[i] for i in range(120) if genes.X[i, 1] > 0],
        "few": SYMBOLS[:4],
    }
    found = tl.classify_genes(genes, labels, n_repeats=1, n_permutations=3, n_folds=3)
    assert found.task == "multilabel"
    assert found.left_out == ("few",)
    table = found.table.loc["families"]
    assert table.loc[FREQUENCY, "auroc"] == pytest.approx(0.5)
    assert table.loc[FREQUENCY, "fmax"] > 0.5  # naive is never 0
    assert table.loc[CANDIDATE, "fmax"] > table.loc[FREQUENCY, "fmax"]
    assert table.loc[CANDIDATE, "auroc"] > 0.85
    assert set(found.predictions["label"]) == {"a", "b"}


def test_classes_of_a_table() -> None:
    genes = embedding()
    label = np.array(["x", "y", "z"])[genes.X[:90, :3].argmax(axis=1)]
    table = pd.DataFrame({"gene": SYMBOLS[:90], "label": label})
    found = tl.classify_genes(genes, table, **FAST)
    assert found.task == "multiclass"
    assert found.table.loc[("random", CANDIDATE), "auroc"] > 0.85
    assert found.table.loc[("random", CANDIDATE), "mcc"] > 0.5


OBO = """format-version: 1.2

[Term]
id: GO:0000001
name: root

[Term]
id: GO:0000002
name: left
is_a: GO:0000001 ! root

[Term]
id: GO:0000003
name: right
relationship: part_of GO:0000001 ! root
"""


def test_terms_propagate_before_labels_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "go.obo"
    path.write_text(OBO + "\n[Term]\nid: GO:0000004\nname: leaf\nis_a: GO:0000002\n")
    genes = embedding()
    up = genes.X[:120, 0] > 0
    names = np.array(SYMBOLS[:120])
    # "left" has too few genes by itself, and gets those of "leaf".
    sets = {
        "leaf (GO:0000004)": names[up][6:],
        "left (GO:0000002)": names[up][:6],
        "right (GO:0000003)": names[~up],
        "mine": names[:30],
    }
    plain = tl.classify_genes(genes, sets, **FAST)
    assert plain.left_out == ("left (GO:0000002)",)
    found = tl.classify_genes(genes, sets, ontology=path, **FAST)
    n_genes = found.labels.loc["random", "n_genes"]
    assert n_genes["left (GO:0000002)"] == up.sum()
    assert n_genes["leaf (GO:0000004)"] == up.sum() - 6
    assert n_genes["mine"] == 30
    assert found.left_out == ("root (GO:0000001)",)  # all labelled genes are in it
    assert found.notes[0].startswith("Genes of 3 terms were propagated")
    with pytest.raises(DataError, match="None of the 2 labels is a term"):
        tl.classify_genes(genes, {"a": names[:20], "b": names[20:40]}, ontology=path, **FAST)


def test_gene_groups_are_a_protocol(tmp_path: Path) -> None:
    genes = embedding()
    group = np.random.default_rng(0).integers(25, size=160)
    path = tmp_path / "groups.tsv"
    rows = [f"{name}\tgroup {group[i]}|everything\n" for i, name in enumerate(SYMBOLS[:150])]
    path.write_text("symbol\tgene_group\n" + "".join(rows))
    # Members of a group share vector and label: whoever has seen one knows all.
    x = np.random.default_rng(1).standard_normal((25, 8)).astype(np.float32)[group]
    alike = AnnData(x, obs=genes.obs)
    flags = np.random.default_rng(2).random(25)[group] < 0.5
    found = tl.classify_genes(alike, two(flags[:150]), gene_groups=path, **FAST)
    auroc = found.table["auroc"]
    assert list(found.table.index.levels[0]) == ["groups", "random"]
    assert auroc["random", CANDIDATE] > 0.85 > auroc["groups", CANDIDATE]
    assert "With gene groups kept together" in found.verdict
    path.write_text("symbol\tgene_group\nNOGENE\tx\n")
    with pytest.raises(DataError, match="None of the 150 labelled genes is in a gene group"):
        tl.classify_genes(alike, two(flags[:150]), gene_groups=path, **FAST)
    path.write_text("symbol\tgene_group\n" + "".join(f"{name}\tx\n" for name in SYMBOLS))
    with pytest.raises(DataError, match="are of 1 groups, fewer than the 5 folds"):
        tl.classify_genes(alike, two(flags[:150]), gene_groups=path, **FAST)


def cells(n: int = 60) -> AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 2.0, size=120), (n, 120)).astype(np.float32)
    counts[:, 0] += 1
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=list(SYMBOLS[:120])))


def test_cells_bring_their_controls_and_limit_the_genes() -> None:
    genes = embedding()
    found = tl.classify_genes(genes, planted(genes, 160), adata=cells(), **FAST)
    table = found.table.loc["random"]
    assert list(table.index) == [CANDIDATE, RANDOM, STATISTICS, PCA, COEXPRESSION]
    assert set(table["n"]) == {120}
    assert "Without cells" not in found.verdict


def test_expression_vectors_by_hand() -> None:
    counts = np.array([[1, 0, 3], [2, 0, 2], [0, 0, 5], [4, 0, 4]], float)
    made = expression_vectors(sparse.csr_matrix(counts), seed=0)
    values = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    mean, sd = values.mean(axis=0), values.std(axis=0)
    expected = [np.log1p(mean), (counts > 0).mean(axis=0), np.log1p(sd / np.maximum(mean, 1))]
    np.testing.assert_allclose(made[STATISTICS], np.stack(expected, axis=1), rtol=1e-5)
    x = np.log1p(values) - np.log1p(values).mean(axis=0)
    np.testing.assert_allclose(made[PCA] @ made[PCA].T, x.T @ x / 4, atol=1e-3)
    assert made[COEXPRESSION].shape[0] == 3
    assert not np.any(made[COEXPRESSION][1])


def small_model() -> Pretrained:
    config = ModelConfig(n_genes=len(SYMBOLS), dim=16, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    vocabulary = Vocabulary.from_symbols(SYMBOLS)
    return Pretrained(network=network, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None)  # fmt: skip


def test_random_weights_are_a_control() -> None:
    model = small_model()
    genes = tl.gene_embeddings(model)
    labels = planted(genes)
    table = tl.classify_genes(genes, labels, model=model, seed=3, **FAST).table.loc["random"]
    assert list(table.index) == [CANDIDATE, TWIN, RANDOM]
    assert table.loc[CANDIDATE, "auroc"] > 0.8 > table.loc[TWIN, "auroc"]
    with pytest.raises(ConfigError, match="Give the weights it was made with"):
        tl.classify_genes(genes, labels, model=replace(model, hash="0" * 64), **FAST)
    genes.uns["cellfm"]["kind"] = "contextual"
    with pytest.raises(ConfigError, match=r"embedding is contextual.*twin="):
        tl.classify_genes(genes, labels, model=model, **FAST)
    twin = AnnData(genes.X.copy(), obs=genes.obs)
    same = tl.classify_genes(genes, labels, model=model, twin=twin, **FAST).table.loc["random"]
    assert same.loc[TWIN, "difference"] == 0
    with pytest.raises(ConfigError, match="not the 160 of the embedding"):
        tl.classify_genes(genes, labels, model=model, twin=twin[:5], **FAST)


def test_unusable_labels_are_refused() -> None:
    genes = embedding()
    with pytest.raises(DataError, match="Only 8 labelled genes"):
        tl.classify_genes(genes, {"a": SYMBOLS[:4], "b": SYMBOLS[4:8]}, **FAST)
    with pytest.raises(DataError, match="one class or none"):
        tl.classify_genes(genes, {"a": SYMBOLS[:40]}, **FAST)
    with pytest.raises(DataError, match="1 with fewer than 10 genes are left out"):
        tl.classify_genes(genes, {"a": SYMBOLS[:40], "b": SYMBOLS[40:43]}, **FAST)
    with pytest.raises(GeneMatchError, match="None of the 24 labelled genes"):
        tl.classify_genes(genes, {"a": [f"QQ{i}X" for i in range(24)]}, **FAST)
    mouse = [symbol.capitalize() for symbol in SYMBOLS]
    with pytest.raises(GeneMatchError, match="look like those of mouse"):
        tl.classify_genes(genes, {"a": mouse[:20], "b": mouse[20:40]}, **FAST)
    labels = {"a": SYMBOLS[:20], "b": SYMBOLS[20:40], "c": SYMBOLS[40:60]}
    with pytest.raises(ConfigError, match="two classes, and there are 3"):
        tl.classify_genes(genes, labels, task="binary", **FAST)
    with pytest.raises(ConfigError, match="no task 'regression'"):
        tl.classify_genes(genes, planted(genes), task="regression", **FAST)
    with pytest.raises(DataError, match="genes of its own"):
        tl.classify_genes(genes, {"a": SYMBOLS[:20], "b": SYMBOLS[:22]}, task="binary", **FAST)
    with pytest.raises(DataError, match="has 3 columns"):
        tl.classify_genes(genes, pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}), **FAST)


def test_unusable_options_are_refused() -> None:
    genes = embedding()
    with pytest.raises(ConfigError, match="no head 'forest'"):
        tl.classify_genes(genes, planted(genes), head="forest", **FAST)
    with pytest.raises(ConfigError, match="n_folds 20"):
        tl.classify_genes(genes, planted(genes), n_folds=20)
    double = AnnData(genes.X, obs=genes.obs.assign(symbol="ACTB"))
    with pytest.raises(DataError, match="each gene once"):
        tl.classify_genes(double, planted(genes), **FAST)
    relatives = [name for i in range(1, 100) if (name := f"ZNF{i}") in GeneTable.load().approved]
    x = np.random.default_rng(0).standard_normal((len(relatives), 3))
    family_only = AnnData(x, obs=pd.DataFrame({"symbol": relatives}, index=relatives))
    with pytest.raises(DataError, match="of 1 families, fewer than the 5 folds"):
        tl.classify_genes(family_only, {"a": relatives[:12], "b": relatives[12:24]}, n_permutations=0)  # fmt: skip


def test_labels_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("ACTB\tx\nGAPDH\tx\nCD3E\ty\n")
    assert dict(read_labels(tmp_path / "t.tsv")) == {"x": ("ACTB", "GAPDH"), "y": ("CD3E",)}
    (tmp_path / "s.gmt").write_text("x\t\tACTB\tGAPDH\n")
    assert dict(read_labels(tmp_path / "s.gmt")) == {"x": ("ACTB", "GAPDH")}
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(folder)
    (folder / "y.txt").write_text("ENSG00000005073\nENSG00000005073\n")
    assert dict(read_labels(folder)) == {"y": ("ENSG00000005073",)}


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.tsv"
    labels.write_text("".join(f"{name}\t{'ab'[i % 2]}\n" for i, name in enumerate(tl.gene_embeddings("mini").obs["symbol"][:60])))  # fmt: skip
    out = tmp_path / "out"
    words = ["genes", "classify", str(labels), str(out), "--repeats", "1", "--permutations", "0"]
    asked = [*words, "--positive", "b", "--negative", "a", "--no-families"]
    assert cli.run(asked) == 0
    text = capsys.readouterr().out
    assert "random weights" in text
    assert "With genes dealt at random" in text
    assert set(pd.read_csv(out / "predictions.tsv", sep="\t")["label"]) == {"b"}
    scores = pd.read_csv(out / "scores.tsv", sep="\t")
    assert list(scores["method"]) == [CANDIDATE, TWIN, RANDOM]
    assert cli.run(asked) == 2  # OUT exists
    assert cli.run([*words, "--overwrite", "--positive", "c"]) == 2
    assert "There is no label 'c'; there are " in capsys.readouterr().err
    assert cli.run([*words, "--overwrite", "--negative", "a"]) == 2
    assert cli.run([*words, "--overwrite", "--positive", "a", "--sets", "b"]) == 2


def test_command_takes_states_in_cells_and_fine_tunes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    made = small_model()
    save(model, made.network, made.vocabulary, card="# none", provenance={})
    counts = cells(30)
    counts.obs["type"] = ["x"] * 20 + ["y"] * 10
    counts.obs_names = [f"c{i}" for i in range(30)]
    counts.write_h5ad(tmp_path / "cells.h5ad")
    labels = tmp_path / "labels.tsv"
    labels.write_text("".join(f"{name}\t{'ab'[i % 2]}\n" for i, name in enumerate(SYMBOLS[:80])))
    words = ["genes", "classify", str(labels), str(tmp_path / "out"), "--overwrite", "--model", str(model)]  # fmt: skip
    fast = ["--repeats", "1", "--permutations", "0", "--random-draws", "1", "--folds", "2", "--no-families"]  # fmt: skip
    source = ["--source", str(tmp_path / "cells.h5ad")]
    group = ["--groupby", "type", "--group", "y"]
    assert cli.run([*words, *fast, *source, "--kind", "contextual", *group]) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t")
    assert list(scores["method"]) == [CANDIDATE, TWIN, RANDOM, STATISTICS, PCA, COEXPRESSION]
    assert cli.run([*words, *fast, *source, "--kind", "query", "--finetune", "--tune-cells", "5", "--tune-epochs", "1"]) == 0  # fmt: skip
    scores = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t")
    assert list(scores["method"])[:2] == ["cellfm fine-tuned", "random weights fine-tuned"]
    by_label = pd.read_csv(tmp_path / "out" / "labels.tsv", sep="\t")
    assert list(by_label["label"]) == ["a"]
    capsys.readouterr()
    assert cli.run([*words, *fast, "--kind", "contextual"]) == 2
    assert "Give --source" in capsys.readouterr().err
    assert cli.run([*words, *fast, *source, *group]) == 2
    assert "static embeddings are of no cells" in capsys.readouterr().err
    assert cli.run([*words, *fast, *source, "--kind", "contextual", *group[:2]]) == 2
    assert "without --group" in capsys.readouterr().err


def test_unknown_genes_do_not_count(tmp_path: Path) -> None:
    """Names that nobody knows are passed over; near to nothing left is said with what was given."""
    genes = embedding()
    labels = {"a": [*SYMBOLS[:20], "NOGENE1"], "b": [*SYMBOLS[20:40], "NOGENE2"]}
    found = tl.classify_genes(genes, labels, **FAST)
    assert set(found.table["n"]) == {40}
    assert found.notes == ("2 of 42 names are of no gene of the embedding (NOGENE1, NOGENE2).",)
    gmt = tmp_path / "mouse.gmt"
    gmt.write_text("a\t\t" + "\t".join(name.capitalize() for name in SYMBOLS[:30]) + "\n" + "b\t\t" + "\t".join(name.capitalize() for name in SYMBOLS[30:60]) + "\n")  # fmt: skip
    with pytest.raises(GeneMatchError, match="look like those of mouse"):
        tl.classify_genes(genes, read_labels(gmt), **FAST)
