"""The vertical path on a simulated screen: train, judge, predict, reverse, save."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from cellfm.corpus.conditions import Condition
from cellfm.corpus.simulate import PerturbationConfig, SimulationConfig, simulate
from cellfm.errors import ConfigError, DataError, OutputExistsError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.tl._perturb.contexts import MOVED, SAME
from cellfm.tl._perturb.data import PerturbOptions, read_perturbations
from cellfm.tl._perturb.judge import CANDIDATE, CEILING, TWIN, verdict
from cellfm.tl._perturb.model import PerturbationModel, train_perturbation
from cellfm.tl._response.baselines import (
    BASELINES,
    additive,
    bilinear,
    matching_mean,
    mean_and_target,
    nearest,
    nearest_condition,
    no_change,
    own_change,
    perturbed_mean,
    principal,
)
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.gene_kernels import kernels_of
from cellfm.tl._response.graph import GraphConfig, fit_graph_head
from cellfm.tl._response.interaction import Interaction
from cellfm.tl._response.kernel import choose_kernel, fit_kernel
from cellfm.tl._response.likelihood import Evidence
from cellfm.tl._response.responses import Responses
from cellfm.weights.folder import Pretrained, new


@cache
def screen(*, context: float = 0.0, doubles: int = 10) -> AnnData:
    """14 regulators whose targets are co-expressed with them."""
    return simulate(
        SimulationConfig(
            n_cells=1600,
            n_genes=120,
            n_types=2,
            n_lineages=2,
            n_batches=1,
            n_donors=1,
            ambient=0.0,
            perturbations=PerturbationConfig(
                n_singles=14, n_doubles=doubles, coupling=1.0, effect=1.5, epistasis="redundant", context=context
            ),
        ),
        seed=1,
    )  # fmt: skip


@cache
def weights() -> Pretrained:
    return new("debug", Vocabulary.from_symbols(list(screen().var_names)))


@cache
def parts() -> tuple[Responses, GeneFeatures]:
    data = read_perturbations(screen(), weights().vocabulary, PerturbOptions(min_cells=5))
    sets = {
        "odd": tuple(data.symbol[1::2]),
        "even": tuple(data.symbol[::2]),
        "two": data.symbol[:2],
    }
    return Responses.of(data), GeneFeatures.of(data, weights(), gene_sets=sets)


@cache
def trained() -> PerturbationModel:
    return train_perturbation(screen(), weights(), min_cells=5, n_folds=3)


def test_features_know_what_they_know() -> None:
    responses, features = parts()
    symbols = ["A1BG-NONE", *responses.symbol[:3]]
    for kind in (*features.kinds, "random"):
        table, known = features.table(kind, symbols)
        assert not known[0]
        assert (table[0] == 0).all()
        assert known[1:].all()
        assert np.isfinite(table).all()
    assert features.kinds == ("embedding", "state", "coexpression", "sets")
    sets, _ = features.table("sets", responses.symbol[:3])
    np.testing.assert_allclose(np.linalg.norm(sets, axis=1), 1.0)
    with pytest.raises(ConfigError, match="There are no vectors 'sets' of genes"):
        replace(features, sets=None).table("sets", symbols)


def test_coexpression_is_the_correlation_that_components_keep() -> None:
    responses, features = parts()
    data = read_perturbations(screen(), weights().vocabulary, PerturbOptions(min_cells=5))
    x = data.counts[data.controls].toarray()
    x = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    _, size, v = np.linalg.svd(x, full_matrices=False)
    expected = (v[:20].T * size[:20] ** 2 / len(x)) @ v[:20]
    table, _ = features.table("coexpression", responses.symbol)
    np.testing.assert_allclose(table @ table.T, expected, atol=2e-3)


def test_simple_methods_by_hand() -> None:
    responses, features = parts()
    singles = np.array([len(each.genes) == 1 for each in responses.conditions])
    train = responses.take(singles)
    a, b = train.conditions[0], train.conditions[1]
    pair, unseen = Condition.of((a.genes[0], b.genes[0])), Condition(("UNSEEN",))
    asked = [a, pair, unseen]
    mean = train.delta.mean(axis=0)
    assert (no_change(train, features, asked).delta == 0).all()
    np.testing.assert_allclose(perturbed_mean(train, features, asked).delta, np.tile(mean, (3, 1)))
    summed = additive(train, features, asked).delta
    np.testing.assert_allclose(summed, [train.delta[0], train.delta[0] + train.delta[1], mean])
    np.testing.assert_allclose(matching_mean(train, features, asked).delta[1], summed[1] / 2)
    near = nearest_condition(train, features, asked).delta
    np.testing.assert_allclose(near, [train.delta[0], (train.delta[0] + train.delta[1]) / 2, mean])
    assert np.isnan(no_change(train, features, asked).sd).all()
    place = {name: i for i, name in enumerate(train.symbol)}
    own = np.array(
        [train.delta[i, place[each.genes[0]]] for i, each in enumerate(train.conditions)]
    )
    level = train.control[[place[each.genes[0]] for each in train.conditions]]
    slope = (own @ level) / (level @ level)
    assert own_change(train) == pytest.approx(slope)
    other = next(name for name in train.symbol if Condition((name,)) not in train.conditions)
    told = mean_and_target(train, features, [Condition((other,))]).delta[0]
    assert told[place[other]] == pytest.approx(slope * train.control[place[other]])
    assert np.delete(told - mean, place[other]) == pytest.approx(0)


def test_bilinear_ridge_by_its_formula() -> None:
    responses, features = parts()
    train = responses.take(np.arange(12))
    asked = [train.conditions[3], Condition(("UNSEEN",))]
    y = np.concatenate([train.control[None], train.control + train.delta]).T
    g = principal(y - y.mean(axis=0), 10)
    place = {name: i for i, name in enumerate(train.symbol)}
    p = np.stack([np.zeros(10)] + [sum(g[place[x]] for x in c.genes) for c in train.conditions])
    b = y.mean(axis=1, keepdims=True)
    eye = 0.1 * np.eye(10)
    w = np.linalg.inv(g.T @ g + eye) @ g.T @ (y - b) @ p @ np.linalg.inv(p.T @ p + eye)
    expected = (g @ w @ np.stack([p[4], np.zeros(10)]).T + b).T - train.control
    np.testing.assert_allclose(bilinear(train, features, asked).delta, expected, atol=1e-8)
    for kind in ("embedding", "random"):
        assert np.isfinite(bilinear(train, features, asked, kind=kind).delta).all()


def test_nearest_genes_are_the_most_alike() -> None:
    responses, features = parts()
    train = responses.take(np.array([len(each.genes) == 1 for each in responses.conditions]))
    own = nearest(train, features, [train.conditions[2]], kind="embedding", k=1).delta[0]
    np.testing.assert_allclose(own, train.delta[2])
    unknown = nearest(train, features, [Condition(("UNSEEN",))]).delta[0]
    np.testing.assert_allclose(unknown, train.delta.mean(axis=0))


def test_kernels_are_positive_and_additive() -> None:
    responses, features = parts()
    conditions = responses.conditions
    kernels = kernels_of(conditions, features, responses, features.kinds, response=True)
    place = {each: i for i, each in enumerate(conditions)}
    row = next(i for i, each in enumerate(conditions) if len(each.genes) == 2)
    first, second = (place[single] for single in conditions[row].singles)
    for name, kernel in kernels.items():
        assert np.linalg.eigvalsh(kernel).min() > -1e-8
        if name != "common":
            np.testing.assert_allclose(kernel[row], kernel[first] + kernel[second], atol=1e-9)


def test_posterior_is_that_of_the_textbook() -> None:
    """Mean and variance of one score, with everything known: Rasmussen & Williams 2006, eq. 2.25 and 2.26."""
    responses, features = parts()
    train, asked = responses.take(np.arange(10)), [responses.conditions[11]]
    fitted = fit_kernel(train, features, kinds=("embedding",), response=False)
    every = (*train.conditions, *asked)
    kernels = kernels_of(every, features, train, ("embedding",), response=False)
    mixed = sum(fitted.weight[name][0] * kernel for name, kernel in kernels.items())
    k = fitted.scale[0] * mixed
    z = (train.delta / np.sqrt(train.spread)) @ fitted.loading[0]
    inverse = np.linalg.inv(k[:10, :10] + np.diag(train.tau))
    mean, variance = fitted._posterior(asked)
    assert mean[0, 0] == pytest.approx(k[10, :10] @ inverse @ z, abs=1e-8)
    assert variance[0, 0] == pytest.approx(k[10, 10] - k[10, :10] @ inverse @ k[:10, 10], abs=1e-8)
    assert sum(weight[0] for weight in fitted.weight.values()) == pytest.approx(1.0)


def test_evidence_and_its_gradient() -> None:
    """The likelihood is that of a multivariate normal, the gradient that of finite differences."""
    from scipy.optimize import check_grad
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 4))
    tau = rng.uniform(0.1, 0.5, 7)
    evidence = Evidence(kernels=x @ x.transpose(0, 2, 1), scores=rng.normal(size=(2, 7)), tau=tau)
    free = evidence.start + 0.3 * rng.normal(size=len(evidence.start))
    assert check_grad(lambda f: evidence.loss(f)[0], lambda f: evidence.loss(f)[1], free) < 1e-4
    at = np.concatenate([evidence.start[:2], np.zeros(9)])
    s, w = evidence.parts(at)
    np.testing.assert_allclose(w, 1 / 3)
    expected = -sum(
        multivariate_normal(cov=s[r] * evidence.kernels.mean(axis=0) + np.diag(tau)).logpdf(z)
        for r, z in enumerate(evidence.scores)
    )
    constant = 7 * np.log(2 * np.pi)
    assert evidence.loss(at)[0] == pytest.approx(expected - constant)


def test_kernels_beat_the_mean_and_intervals_hold_the_truth() -> None:
    """In a world where co-expression foretells responses, unseen genes are predicted; standard deviations are not far off."""
    responses, features = parts()
    tested = np.arange(len(responses.conditions)) % 4 == 0
    fitted, errors = choose_kernel(responses.take(~tested), features)
    answer = fitted.predict(
        [each for each, t in zip(responses.conditions, tested, strict=True) if t]
    )
    truth = responses.take(tested)
    wrong = ((answer.delta - truth.delta) ** 2).sum()
    mean = ((responses.take(~tested).mean - truth.delta) ** 2).sum()
    assert wrong < 0.8 * mean
    assert "nothing" in errors
    within = np.abs(answer.delta - truth.delta) < 2 * np.sqrt(answer.sd**2 + truth.variance)
    assert 0.85 < within.mean() < 0.999


def test_a_seen_condition_is_predicted_near_its_measurement_and_an_unseen_gene_falls() -> None:
    responses, features = parts()
    train = responses.take(np.arange(len(responses.conditions)) != 0)
    fitted = fit_kernel(train, features)
    column = {name: i for i, name in enumerate(train.symbol)}
    unseen = next(
        name for name in train.symbol if all(name not in c.genes for c in train.conditions)
    )
    answer = fitted.predict([train.conditions[4], Condition((unseen,))])
    corr = np.corrcoef(answer.delta[0], train.delta[4])[0, 1]
    assert corr > 0.8
    own = answer.delta[1, column[unseen]]
    assert own == pytest.approx(fitted.own * train.control[column[unseen]])
    assert -1 < fitted.own < -0.2


def test_interaction_is_found_where_there_is_one_and_not_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 30))
    second[::2] = first[::2] + 0.3 * rng.normal(size=(20, 30))
    likeness = np.array([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)])  # fmt: skip
    noise = 0.1 * rng.normal(size=first.shape)
    tau = np.full(40, 0.01)
    redundant = (1 - 0.5 * likeness)[:, None] * (first + second) + noise
    found = Interaction.fit(redundant, first, second, tau)
    assert found.beta == pytest.approx((0.0, -0.5), abs=0.05)
    assert found.factor(first[0], first[0]) == pytest.approx(0.5, abs=0.05)
    none = Interaction.fit(first + second + noise, first, second, tau)
    assert np.abs(none.beta).max() < 0.02
    assert Interaction.fit(redundant[:3], first[:3], second[:3], tau[:3]).beta == (0.0, 0.0)


def test_the_table_has_every_control_and_the_ceiling() -> None:
    table = trained().table
    assert set(table.index) == {CANDIDATE, TWIN, CEILING, *BASELINES}
    assert (table["n"] == len(trained().responses.conditions)).all()
    assert (table["pds_low"] <= table["pds"]).all()
    assert table.loc["no-change", "pds"] == 0.5
    assert table.loc[CEILING, "pds"] > 0.8
    assert table.loc[CANDIDATE, "pds"] > table.loc["perturbed-mean", "pds"]
    assert np.isnan(table.loc[CANDIDATE, "difference"])
    responses = trained().judged.responses()
    assert len(responses) == table["n"].iloc[0] * 120


def test_scores_are_averaged_over_folds_dealt_anew() -> None:
    """Two repeats are the mean of the cross-validations with these two seeds, condition by condition."""
    calls = []
    model = train_perturbation(
        screen(),
        weights(),
        min_cells=5,
        n_folds=3,
        n_repeats=2,
        progress=lambda *at: calls.append(at),
    )
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]
    again = [
        train_perturbation(screen(), weights(), min_cells=5, n_folds=3, seed=seed).judged.scores
        for seed in (0, 1)
    ]
    for name in ("perturbed-mean", "additive"):
        for metric in ("pds", "l2_top1000"):
            both = [one.loc[name, metric] for one in again]
            np.testing.assert_allclose(
                model.judged.scores.loc[name, metric], (both[0] + both[1]) / 2
            )


def test_at_least_one_repeat() -> None:
    with pytest.raises(ConfigError, match="n_repeats is 0; it must be at least 1"):
        train_perturbation(screen(), weights(), n_repeats=0)


def test_nobody_is_judged_by_what_it_has_seen() -> None:
    """With responses of pure noise nothing unseen is recognised, though every training response is fitted."""
    adata = screen().copy()
    rng = np.random.default_rng(0)
    shuffled = adata.obs["perturbation"].to_numpy()[rng.permutation(adata.n_obs)]
    adata.obs["perturbation"] = shuffled
    table = train_perturbation(adata, weights(), min_cells=5, n_folds=3).table
    assert table.loc[CANDIDATE, "pds_low"] < 0.55


def test_verdict_says_what_is_not_shown() -> None:
    table = trained().table.copy()
    table.loc[CANDIDATE, ["pds", "pds_low", "pds_high"]] = [0.7, 0.6, 0.8]
    assert "above chance (0.5)" in verdict(table)
    table.loc[CANDIDATE, ["pds", "pds_low", "pds_high"]] = [0.5, 0.4, 0.6]
    assert "not told apart from chance" in verdict(table)
    rivals = [name for name in table.index if name not in (CANDIDATE, CEILING)]
    table.loc[rivals, ["difference_low", "difference_high"]] = [-0.2, -0.1]
    assert "behind the best control" in verdict(table)


@pytest.mark.parametrize("head", ["kernel", "graph"])
def test_a_folder_gives_the_same_predictions(tmp_path: Path, head: str) -> None:
    model = trained()
    if head == "graph":
        config = GraphConfig(n_members=2, n_epochs=3, hidden=8)
        fitted = fit_graph_head(model.responses, model.features, config=config)
        model = replace(model, head="graph", predictor=fitted)
    model.save(tmp_path / "out")
    again = PerturbationModel.load(tmp_path / "out", weights())
    names = [model.responses.conditions[0].name, "+".join(model.responses.symbol[:2])]
    np.testing.assert_allclose(again.respond(names).delta, model.respond(names).delta, atol=1e-12)
    assert again.table.equals(model.table)
    assert again.notes == model.notes
    with pytest.raises(OutputExistsError):
        model.save(tmp_path / "out")
    with pytest.raises(WeightsError, match="is the wrong perturbation model for the weights"):
        PerturbationModel.load(tmp_path / "out", new("debug", weights().vocabulary, seed=1))


def test_predicted_cells_are_counts_of_real_cells() -> None:
    model, adata = trained(), screen()
    names = [each.name for each in model.responses.conditions if len(each.genes) == 1][:3]
    made = model.predict(adata, names, n_cells=60)
    n_control = int((adata.obs["perturbation"] == "control").sum())
    assert made.obs["perturbation"].value_counts().to_dict() == {"ctrl": n_control, **dict.fromkeys(names, 60)}  # fmt: skip
    assert made.X.dtype == np.int32
    assert made.X.min() >= 0
    assert list(made.var_names) == list(adata.var_names)
    assert set(made.obs["source"]) <= set(adata.obs_names)
    assert made.obs_names.is_unique
    assert list(made.varm["delta"].columns) == names
    again = model.predict(adata, names, n_cells=60)
    assert (made.X != again.X).nnz == 0
    # The cells show the response that was predicted.
    x = made.X.toarray()
    values = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    label = made.obs["perturbation"].to_numpy()
    wanted = made.varm["delta"][names[0]].to_numpy()
    shown = values[label == names[0]].mean(axis=0) - values[label == "ctrl"].mean(axis=0)
    assert np.corrcoef(shown, wanted)[0, 1] > 0.7


def test_cells_of_another_panel() -> None:
    model, adata = trained(), screen()
    names = [model.responses.conditions[0].name]
    fewer = adata[adata.obs["perturbation"] == "control", 20:].copy()
    del fewer.obs["perturbation"]
    made = model.predict(fewer, names, n_cells=10)
    assert made.shape == (fewer.n_obs + 10, 100)
    with pytest.raises(DataError, match="The cells have 17% of the 120 genes"):
        model.predict(fewer[:, :20].copy(), names)
    with pytest.raises(DataError, match="No cell is a control"):
        model.predict(adata[adata.obs["perturbation"] != "control"].copy(), names)
    with pytest.raises(DataError, match="expected at least one"):
        model.predict(adata, ["ctrl"])
    with pytest.raises(DataError, match="perturbed genes are not among"):
        model.predict(adata, ["NOSUCHGENE"])


def test_collapsed_predictions_are_announced() -> None:
    model = trained()
    same = replace(model.predictor, scale=model.predictor.scale * 1e-9, slope=0.0, own=float("nan"))
    names = [each.name for each in model.responses.conditions[:6]]
    told = replace(model, predictor=same).predict(screen(), names, n_cells=5).uns["cellfm"]
    assert "nearly one prediction" in told["perturbation"]["warnings"][0]
    told = model.predict(screen(), names, n_cells=5).uns["cellfm"]
    assert len(told["perturbation"]["warnings"]) == 0


def test_pairs_against_the_sum_of_their_genes() -> None:
    model = trained()
    pair = next(each for each in model.responses.conditions if len(each.genes) == 2)
    table = model.interactions([pair.name, pair.genes[0]])
    assert list(table.index) == [pair.name]
    factor = table.loc[pair.name, "ratio"]
    assert table.loc[pair.name, "distance"] == pytest.approx(abs(1 - factor) * table.loc[pair.name, "additive_size"], rel=0.2)  # fmt: skip


def test_reverse_search_finds_what_was_done() -> None:
    model, adata = trained(), screen()
    name = max(model.responses.conditions[:10], key=lambda c: np.linalg.norm(model.responses.delta[model.responses.conditions.index(c)])).name  # fmt: skip
    table = model.reverse(adata, groupby="perturbation", target=name, start="control")
    assert len(table) == 14 + 14 * 13 // 2
    assert table.loc[name, "rank"] <= 5
    assert table.loc[name, "seen"] == "itself"
    assert table["rank"].is_monotonic_increasing
    singles = model.reverse(adata, groupby="perturbation", target=name, doubles=False, genes=list(model.responses.symbol[:3]))  # fmt: skip
    assert len(singles) == 3
    with pytest.raises(DataError, match="has 0 cells 'none'; at least 5"):
        model.reverse(adata, groupby="perturbation", target="none")


def test_contexts_are_held_out_in_turn() -> None:
    model = train_perturbation(
        screen(context=0.3, doubles=0), weights(), context="cell_type", min_cells=5, n_folds=3
    )
    assert model.transfer is not None
    assert {CANDIDATE, "no-change", "perturbed-mean", SAME, MOVED} <= set(model.transfer.index)
    assert model.training["contexts_held_out"] == ["type 1.1", "type 2.1"]
    assert model.transfer.loc[MOVED, "pds"] > 0.7
    assert model.transfer.loc["no-change", "pds"] == 0.5
