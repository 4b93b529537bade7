"""Metrics of responses: by hand, at their bounds, and as other packages have them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cellfm.errors import DataError
from cellfm.tl._response import genewise, metrics
from cellfm.tl._response.population import CELLOT_GAMMAS, e_distance, mmd
from cellfm.tl._response.scores import METRICS, Truth, score_responses, target_genes

N_CONDITIONS, N_GENES = 12, 60


@pytest.fixture(scope="module")
def truth() -> Truth:
    """Twelve responses that share a part, noisy."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=N_GENES)
    delta = 0.5 * shared + rng.normal(size=(N_CONDITIONS, N_GENES)) * rng.gamma(1.0, 1.0, N_GENES)
    genes = tuple(f"G{i}" for i in range(N_GENES))
    return Truth(
        names=genes[:N_CONDITIONS],
        delta=delta,
        variance=np.full(delta.shape, 0.05),
        control=rng.gamma(1.0, 1.0, N_GENES),
        own_variance=np.full(delta.shape, 0.04),
        targets=target_genes(genes, [(name,) for name in genes[:N_CONDITIONS]]),
    )


def row(*values: float) -> np.ndarray:
    return np.array([values])


def test_the_truth_has_the_best_value_of_every_metric(truth: Truth) -> None:
    table = score_responses(truth.delta, truth)
    assert list(table.columns) == [metric.name for metric in METRICS]
    assert list(table.index) == list(truth.names)
    for metric in METRICS:
        if metric.name != "de_overlap":  # its truth goes by z, the prediction by size
            np.testing.assert_allclose(table[metric.name], metric.best, atol=1e-9)
    score = genewise.score_against_control(truth.delta, truth.variance)
    assert (genewise.de_overlap(score, score) == 1).all()


def test_the_mean_of_the_training_perturbations_has_chance(truth: Truth) -> None:
    """Also in folds, where a reference of all conditions would give the mean predictor −1."""
    fold = np.arange(N_CONDITIONS) % 3
    mean = np.stack([truth.delta[fold != held].mean(axis=0) for held in fold])
    table = score_responses(mean, truth, reference=mean, group=fold)
    for metric in METRICS:
        if metric.chance is not None:
            assert table[metric.name].mean() == pytest.approx(metric.chance)
    alone = score_responses(mean, truth, group=np.arange(N_CONDITIONS))
    assert alone["pds"].isna().all()
    each = np.stack([np.delete(truth.delta, p, axis=0).mean(axis=0) for p in range(N_CONDITIONS)])
    np.testing.assert_allclose(score_responses(each, truth)["pearson_delta_ref"], -1)


def test_no_change_is_never_right_and_never_wrong(truth: Truth) -> None:
    nothing = np.random.default_rng(0).normal(size=truth.delta.shape) * 1e-8
    table = score_responses(nothing, truth)
    assert (table["direction"] == 0).all()
    assert (table["direction_wrong"] == 0).all()
    np.testing.assert_allclose(table["nmae"], 1.0, atol=1e-6)
    assert (table["r2_delta"] < 0.01).all()
    flat = score_responses(np.zeros_like(truth.delta), truth)
    assert (flat["pds"] == 0.5).all()
    assert (flat["pearson_delta"] == 0).all()
    score = genewise.score_against_control(truth.delta, truth.variance)
    np.testing.assert_allclose(genewise.de_overlap(np.zeros_like(score), score), 20 / N_GENES)


def test_noise_that_all_share_is_no_skill_where_nothing_happens() -> None:
    """The reference of the training conditions is as noisy as the controls; it must not be on both sides."""
    rng = np.random.default_rng(5)
    control = rng.normal(size=400)
    train = rng.normal(size=(4, 400)) - control
    true = rng.normal(size=(20, 400)) - control
    reference, none = train.mean(axis=0), np.zeros_like(true)
    found = metrics.pearson_delta_ref(none, true, reference, metrics.group_mean(true))
    assert abs(found.mean()) < 0.01
    # Systema's one reference would say that no change is a fair prediction.
    assert metrics.pearson_delta_ref(none, true, reference, reference).mean() > 0.1
    assert metrics.pearson_delta(np.tile(reference, (20, 1)), true).mean() > 0.4  # legacy


def test_nothing_depends_on_the_order_of_genes(truth: Truth) -> None:
    rng = np.random.default_rng(1)
    predicted = truth.delta + rng.normal(size=truth.delta.shape)
    order = rng.permutation(N_GENES)
    turned = Truth(
        names=truth.names,
        delta=truth.delta[:, order],
        variance=truth.variance[:, order],
        control=truth.control[order],
        own_variance=truth.own_variance[:, order],
        targets=truth.targets[:, order],
    )
    pd.testing.assert_frame_equal(
        score_responses(predicted, truth), score_responses(predicted[:, order], turned)
    )


def test_centroids_by_hand() -> None:
    true = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    predicted = np.array([[1.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
    # 1: as near to the second as to its own, further from the third; 2: right; 3: both others are nearer.
    np.testing.assert_array_equal(metrics.centroid_accuracy(predicted, true), [0.75, 1.0, 0.0])
    group = np.array([0, 0, 1])
    found = metrics.centroid_accuracy(predicted, true, group)
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan])


def test_discrimination_leaves_the_targets_out() -> None:
    true = np.array([[-3.0, 0.0, 1.0, 0.0], [0.0, -3.0, 0.0, 1.0]])
    targets = np.array([[True, False, False, False], [False, True, False, False]])
    knows_the_target = np.where(targets, -3.0, 0.0)
    assert (metrics.pds(knows_the_target, true) == 1).all()
    assert (metrics.pds(knows_the_target, true, targets) == 0.5).all()
    assert (metrics.pds(true[::-1], true, targets) == 0).all()


def test_top_lists_by_hand() -> None:
    true, score = row(1.0, -2.0, 0.5, 0.1), row(1.0, -2.0, 0.5, 0.1)
    predicted = row(0.4, 0.3, -0.3, 0.3)
    # the list of two is gene 0 and one of three tied genes
    assert genewise.de_overlap(predicted, score, k=2)[0] == pytest.approx((1 + 1 / 3) / 2)
    found = genewise.direction(predicted, true, score, k=3)
    assert (found.right[0], found.wrong[0], found.no_call[0]) == pytest.approx((1 / 3, 2 / 3, 0))
    without = genewise.direction(predicted, true, score, k=2, excluded=row(0, 1, 0, 0) > 0)
    assert (without.right[0], without.wrong[0]) == (0.5, 0.5)
    assert genewise.mse_de(predicted, true, score, k=2)[0] == pytest.approx((0.36 + 5.29) / 2)


def test_errors_by_hand() -> None:
    true, predicted = row(2.0, 0.0, -1.0), row(1.0, 0.0, 1.0)
    assert metrics.mse(predicted, true)[0] == pytest.approx(5 / 3)
    assert metrics.l2_top(predicted, true, np.array([0.0, 5.0, 9.0]), n_genes=2)[0] == 2
    assert metrics.r2_delta(predicted, true)[0] == pytest.approx(1 - 5 / (14 / 3))
    score = row(9.0, 0.1, 8.0)
    assert genewise.nmae(predicted, true, score, least=2)[0] == pytest.approx(1.0)
    assert np.isnan(genewise.nmae(predicted, true, score, least=3)[0])
    weight = genewise.de_weights(row(1.0, -3.0, 2.0))
    np.testing.assert_allclose(weight, row(0, 0.8, 0.2))
    assert metrics.wmse(predicted, true, weight)[0] == pytest.approx(0.8)
    reference = np.array([0.0, 1.0, 1.0])
    expected = 1 - 0.8 / (0.8 * 1 + 0.2 * 4)
    assert metrics.r2_weighted(predicted, true, weight, reference)[0] == pytest.approx(expected)
    np.testing.assert_allclose(genewise.de_weights(row(1.0, 1.0)), row(0.5, 0.5))
    without = genewise.de_weights(row(1.0, -9.0, 2.0), row(0, 1, 0) > 0)
    np.testing.assert_allclose(without, row(0.2, 0.0, 0.8))


def test_score_against_the_rest_by_hand() -> None:
    delta = np.array([[1.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
    found = genewise.score_against_rest(delta, np.array([[0.4, 0.0]] * 3))
    scale = np.sqrt(0.4 + 0.8 / 4)
    np.testing.assert_allclose(found[:, 0], np.array([0.0, -1.5, 1.5]) / scale)
    assert (found[:, 1] == 0).all()
    alone = genewise.score_against_rest(delta[:1], np.full((1, 2), 0.5))
    np.testing.assert_allclose(alone, delta[:1] / np.sqrt(0.5))


def test_significance_is_that_of_benjamini_and_hochberg() -> None:
    from scipy.stats import false_discovery_control, norm

    score = np.random.default_rng(0).normal(size=(4, 50)) * np.array([[1.0], [2.0], [4.0], [0.1]])
    expected = false_discovery_control(2 * norm.sf(np.abs(score)), axis=1) <= 0.05
    np.testing.assert_array_equal(genewise.significant(score), expected)
    assert expected.any(axis=1).sum() < 4


def test_what_cannot_be_scored_is_refused(truth: Truth) -> None:
    with pytest.raises(DataError, match=r"must have shape \(12, 60\).*found shape \(12, 59\)"):
        score_responses(truth.delta[:, 1:], truth)
    bad = truth.delta.copy()
    bad[0, 0] = np.nan
    with pytest.raises(DataError, match=r"finite values.*1 values not finite"):
        score_responses(bad, truth)


def test_distances_of_populations() -> None:
    rng = np.random.default_rng(0)
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    # between: 3, 5, 2, 4; within: 1 and 2
    assert e_distance(x, y) == pytest.approx(2 * 3.5 - 1 - 2)
    k = np.exp
    between = (k(-9) + k(-25) + k(-4) + k(-16)) / 4
    assert mmd(x, y, gammas=(1.0,)) == pytest.approx(k(-1) + k(-4) - 2 * between)
    # the median of the squared distances 1, 4, 9, 25, 4, 16 is 6.5
    assert mmd(x, y) == pytest.approx(mmd(x, y, gammas=(1 / 6.5,)))
    assert len(CELLOT_GAMMAS) == 50
    assert (max(CELLOT_GAMMAS), min(CELLOT_GAMMAS)) == pytest.approx((10.0, 0.001))
    for distance in (e_distance, mmd):
        alike = [distance(rng.normal(size=(30, 3)), rng.normal(size=(20, 3))) for _ in range(200)]
        error = np.std(alike) / np.sqrt(200)
        assert abs(np.mean(alike)) < 3 * error  # unbiased
        assert distance(rng.normal(size=(30, 3)), rng.normal(size=(20, 3)) + 2) > max(alike)
        with pytest.raises(DataError, match=r"found \(1, 3\) and \(20, 3\)"):
            distance(np.zeros((1, 3)), np.zeros((20, 3)))


def test_discrimination_and_deltas_are_those_of_cell_eval2(truth: Truth) -> None:
    pytest.importorskip("cell_eval2")
    from cell_eval2.metrics.delta import mse_delta, pearson_delta
    from cell_eval2.metrics.discrimination import discrimination_score

    rng = np.random.default_rng(2)
    predicted = truth.delta + 2 * rng.normal(size=truth.delta.shape)
    predicted[3] = 0.0
    names = np.array([*truth.names, "control"])
    genes = np.array([f"G{i}" for i in range(N_GENES)])

    def bulk(delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = np.vstack([truth.control + delta, truth.control])
        order = np.argsort(names)
        return names[order], means[order]

    both = {"pred_bulk": bulk(predicted), "real_bulk": bulk(truth.delta), "control": "control"}
    theirs = discrimination_score(
        **both, distance="cosine", rank_denominator="n-1", exclusion_scope="panel", genes=genes
    )
    ours = score_responses(predicted, truth)
    kept = [name for name in truth.names if name != "G3"]  # they tie only what is exactly equal
    assert ours["pds"]["G3"] == 0.5
    for name in kept:
        assert ours["pds"][name] == pytest.approx(theirs[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the constant prediction
        expected = {"pearson_delta": pearson_delta(**both), "mse": mse_delta(**both)}
    for metric, values in expected.items():
        for name in kept:
            assert ours[metric][name] == pytest.approx(values[name])


def gears_inference() -> object:
    """The module, or a skip: it drags in a lot that may be missing or warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from gears import inference
        except ImportError as error:
            pytest.skip(f"gears cannot be imported: {error}")
    return inference


def test_errors_and_directions_are_those_of_gears(truth: Truth) -> None:
    inference = gears_inference()
    rng = np.random.default_rng(3)
    predicted = truth.delta + rng.normal(size=truth.delta.shape)
    score = genewise.score_against_control(truth.delta, truth.variance)
    top = np.argsort(-np.abs(score), axis=1)[:, :20]
    control, names = truth.control, np.repeat(truth.names, 2)
    # Two cells a condition, around its mean: theirs divides by their spread.
    around = np.tile([[0.1], [-0.1]], (N_CONDITIONS, N_GENES))
    cells = {
        "pred": np.repeat(control + predicted, 2, axis=0),
        "truth": np.repeat(control + truth.delta, 2, axis=0) + around,
    }
    of_top = {f"{key}_de": np.take_along_axis(x, np.repeat(top, 2, axis=0), axis=1) for key, x in cells.items()}  # fmt: skip
    result = {"pert_cat": names, **cells, **of_top}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, errors = inference.compute_metrics(result)  # type: ignore[attr-defined]
        shares = inference.non_dropout_analysis(as_gears(truth, top), result)  # type: ignore[attr-defined]
    ours = score_responses(predicted, truth)
    directions = genewise.direction(predicted, truth.delta, score)
    for p, name in enumerate(truth.names):
        assert ours["mse"][name] == pytest.approx(errors[name]["mse"])
        assert ours["mse_de20"][name] == pytest.approx(errors[name]["mse_de"])
        found = shares[name]
        assert directions.right[p] == found["frac_correct_direction_top20_non_dropout"]
        wrong = found["frac_opposite_direction_top20_non_dropout"]
        assert directions.wrong[p] == pytest.approx(wrong)


def as_gears(truth: Truth, top: np.ndarray) -> AnnData:
    """Controls and conditions with the lists that GEARS keeps."""
    names, genes = ["ctrl", *truth.names], [f"G{i}" for i in range(N_GENES)]
    adata = AnnData(
        sparse.csr_matrix(np.vstack([truth.control, truth.control + truth.delta])),
        obs=pd.DataFrame({"condition": names, "condition_name": names}, index=names),
        var=pd.DataFrame({"gene_name": genes}, index=genes),
    )
    every = {name: np.arange(N_GENES) for name in truth.names}
    adata.uns = {
        "top_non_dropout_de_20": {
            name: [genes[i] for i in top[p]] for p, name in enumerate(truth.names)
        },
        "non_zeros_gene_idx": every,
        "non_dropout_gene_idx": every,
    }
    return adata
