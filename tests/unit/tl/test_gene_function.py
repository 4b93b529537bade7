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
from cellfm.tl._genes.function_folds import STRENGTHS, deal, fit
from cellfm.tl._genes.function_judge import CANDIDATE, FREQUENCY, verdict
from cellfm.tl._genes.function_scores import auprc, fmax, fold_auroc, mcc
from cellfm.tl._genes.labels import LabelledGenes, family, read_labels
from cellfm.weights.folder import Pretrained

pytest.importorskip("sklearn")

SYMBOLS = tuple(
    gene.symbol for gene in GeneTable.load().genes if gene.locus_group == "protein-coding gene"
)[:160]
FAST = {"n_repeats": 1, "n_permutations": 0, "families": False}


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
    unit = genes.X / np.linalg.norm(genes.X, axis=1, keepdims=True)
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
        options = {"n_repeats": 1, "n_permutations": 9, "n_folds": 2, "families": False}
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
        left_out=(),
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


def test_family_of_a_symbol() -> None:
    expected = {
        "HOXA1": "HOXA",
        "HOXA13": "HOXA",
        "ZNF12": "ZNF",
        "KRT6A": "KRT",
        "SLC25A4": "SLC25A",
        "HLA-DRB1": "HLA-DRB",
        "ACTB": "ACTB",
        "C1orf112": "C1orf112",
        "LINC00115": "LINC00115",
        "A1CF": "A1CF",
    }
    assert {name: family(name) for name in expected} == expected


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
    with pytest.raises(ConfigError, match="no head 'mlp'"):
        tl.classify_genes(genes, planted(genes), head="mlp", **FAST)
    with pytest.raises(ConfigError, match="n_folds 20"):
        tl.classify_genes(genes, planted(genes), n_folds=20)
    double = AnnData(genes.X, obs=genes.obs.assign(symbol="ACTB"))
    with pytest.raises(DataError, match="each gene once"):
        tl.classify_genes(double, planted(genes), **FAST)
    relatives = [name for i in range(1, 100) if (name := f"ZNF{i}") in GeneTable.load().approved]
    x = np.random.default_rng(0).standard_normal((len(relatives), 3))
    family_only = AnnData(x, obs=pd.DataFrame({"symbol": relatives}, index=relatives))
    with pytest.raises(DataError, match="1 families, fewer than the 5 folds"):
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
