from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cellfm.corpus.conditions import Condition
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.nn.response_graph import FOCUS
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.graph import GraphPredictor, fit_graph_head
from cellfm.tl._response.graph_inputs import GraphConfig, GraphInputs
from cellfm.tl._response.responses import Responses

N_GENES, N_TARGETS, DIM, RANK = 30, 60, 12, 3
GENES = tuple(f"GENE{i}" for i in range(N_GENES))
TARGETS = tuple(f"TARGET{i}" for i in range(N_TARGETS))
NOISE = 0.02
QUICK = GraphConfig(hidden=32, n_epochs=150, patience=40, lr=1e-2, n_members=2)


def world() -> tuple[GeneFeatures, Responses]:
    """Return responses that are bilinear in the targets' embeddings and the genes' states."""
    rng = np.random.default_rng(0)
    symbols = (*GENES, *TARGETS)
    # of few dimensions, as embeddings are: 40 conditions can tell them
    embedding = rng.normal(size=(len(symbols) + 1, RANK)) @ rng.normal(size=(RANK, DIM))
    embedding[0] = 0
    state = rng.normal(size=(N_GENES, DIM))
    features = GeneFeatures(
        vocabulary=Vocabulary.from_symbols(list(symbols)),
        symbol=GENES,
        embedding=embedding.astype(np.float32),
        state=state.astype(np.float32),
        coexpression=(rng.normal(size=(N_GENES, 4)) / 10).astype(np.float32),
    )
    order, known = features.table("embedding", TARGETS)
    assert known.all()
    middle = rng.normal(size=(DIM, DIM)) / DIM**2
    single = order @ middle @ state.T + rng.normal(0, 0.1, N_GENES)
    conditions = [Condition((gene,)) for gene in TARGETS]
    doubles = [(0, 1), (2, 3), (50, 51)]
    conditions += [Condition.of((TARGETS[i], TARGETS[j])) for i, j in doubles]
    delta = np.concatenate([single, [single[i] + single[j] for i, j in doubles]])
    return features, responses(conditions, delta + rng.normal(0, NOISE, delta.shape))


def responses(conditions, delta) -> Responses:
    n_conditions, n_genes = delta.shape
    return Responses(
        genes=GENES,
        symbol=GENES,
        conditions=tuple(conditions),
        control=np.ones(n_genes),
        sensitivity=np.ones(n_genes),
        spread=np.full(n_genes, 100 * NOISE**2),
        delta=delta,
        tau=np.full(n_conditions, 1 / 100),
        n_cells=np.full(n_conditions, 100),
        n_control=1000,
    )


@pytest.fixture(scope="module")
def features() -> GeneFeatures:
    return world()[0]


@pytest.fixture(scope="module")
def truth() -> Responses:
    return world()[1]


@pytest.fixture(scope="module")
def train(truth) -> Responses:
    return truth.take(np.r_[0:48, 60:62])


@pytest.fixture(scope="module")
def fitted(train, features) -> GraphPredictor:
    return fit_graph_head(train, features, config=QUICK)


def error(predicted, true) -> float:
    return float(np.mean((predicted - true) ** 2))


def test_bilinear_world_is_learned_for_unseen_genes(fitted, train, truth) -> None:
    held = truth.take(np.arange(48, 60))
    found = fitted.predict(held.conditions)
    mean = error(np.tile(train.mean, (len(held.conditions), 1)), held.delta)
    assert error(found.delta, held.delta) < 0.4 * mean
    assert (found.sd > 0).all()
    # the response of another condition is further
    other = error(found.delta, np.roll(held.delta, 1, axis=0))
    assert error(found.delta, held.delta) < 0.3 * other


def test_fourth_power_of_the_publication_can_be_asked_for(train, features) -> None:
    squared, published = (
        fit_graph_head(train, features, config=replace(QUICK, n_epochs=3, n_members=1, focus=focus))
        for focus in (0.0, FOCUS)
    )
    before, after = (each.predict(train.conditions).delta for each in (squared, published))
    assert not np.allclose(before, after)


def test_doubles_of_unseen_genes_are_predicted(fitted, train, truth) -> None:
    held = truth.take(np.array([62]))
    found = fitted.predict(held.conditions)
    assert error(found.delta, held.delta) < 0.6 * error(train.mean[None], held.delta)


def test_shuffled_embeddings_predict_nothing(train, truth, features) -> None:
    order = np.random.default_rng(1).permutation(np.arange(1, len(features.embedding)))
    shuffled = replace(features, embedding=features.embedding[np.r_[0, order]])
    held = truth.take(np.arange(48, 60))
    found = fit_graph_head(train, shuffled, config=replace(QUICK, n_members=1)).predict(
        held.conditions
    )
    mean = error(np.tile(train.mean, (len(held.conditions), 1)), held.delta)
    assert error(found.delta, held.delta) > 0.8 * mean
    assert np.isnan(found.sd).all()


def test_learned_vectors_are_shared_along_the_graph(train, truth, features) -> None:
    # genes without embedding; each held-out target is in a set with one that was trained on, whose response it shares
    pairs = np.arange(12)
    delta = truth.delta[:60].copy()
    delta[48 + pairs] = delta[pairs]
    symbols = (*GENES, *TARGETS)
    table = np.zeros((len(symbols) + 1, 12), np.float32)
    token = {name: t for t, name in enumerate(features.vocabulary.symbols, start=1)}
    for pair in pairs:
        for target in (pair, 48 + pair):
            table[token[TARGETS[target]], pair] = 1
    known = replace(features, embedding=0 * features.embedding, sets=csr_matrix(table))
    seen = responses(truth.conditions[:48], delta[:48])
    held = responses(truth.conditions[48:60], delta[48:])
    found = fit_graph_head(seen, known, config=replace(QUICK, dropout=0.0), validation=held)
    predicted = found.predict(held.conditions).delta
    assert error(predicted, held.delta) < 0.5 * error(seen.mean[None], held.delta)


def test_same_seed_same_head_and_torch_keeps_its_generator(train, features) -> None:
    config = replace(QUICK, n_epochs=3, n_members=1)
    state = torch.random.get_rng_state()
    first, same, other = (
        fit_graph_head(train, features, config=replace(config, seed=seed)).tensors()
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["0.gene.first.weight"], other["0.gene.first.weight"])


def test_gene_without_any_vector_can_be_asked_for(fitted) -> None:
    found = fitted.predict([Condition(("NOSUCHGENE",)), Condition(("ALSONONE",))])
    assert np.isfinite(found.delta).all()
    np.testing.assert_allclose(found.delta[0], found.delta[1])


def test_genes_without_states_are_handled(train, truth, features) -> None:
    state = features.state.copy()
    state[::3] = np.nan
    missing = replace(features, state=state)
    found = fit_graph_head(train, missing, config=replace(QUICK, n_epochs=5, n_members=1))
    assert np.isfinite(found.predict(truth.conditions).delta).all()


def test_order_of_what_is_asked_does_not_matter(fitted) -> None:
    one, two = Condition(("TARGET1",)), Condition.of(("TARGET59", "TARGET2"))
    both, back = fitted.predict([one, two]), fitted.predict([two, one])
    np.testing.assert_allclose(both.delta, back.delta[::-1], atol=1e-6)
    np.testing.assert_allclose(fitted.predict([two]).delta[0], both.delta[1], atol=1e-6)


def test_graph_is_mutual_and_weighs_correlations(features) -> None:
    loading = np.zeros((N_GENES, 2), np.float32)
    loading[[0, 1, 2], 0] = 0.9, 0.8, -0.5
    known = replace(features, coexpression=loading)
    graph = GraphInputs.of(world()[1], known, GraphConfig(n_neighbours=1)).graph
    edges = {
        (int(a), int(b)): float(w)
        for a, b, w in zip(graph.source, graph.target, graph.weight, strict=True)
    }
    assert edges == {
        (0, 1): pytest.approx(0.72),
        (1, 0): pytest.approx(0.72),
        (0, 2): pytest.approx(0.45),
        (2, 0): pytest.approx(0.45),
    }


def test_restored_head_says_the_same(fitted, train, features, truth) -> None:
    again = GraphPredictor.restore(fitted.tensors(), train=train, features=features, config=QUICK)
    before, after = (each.predict(truth.conditions) for each in (fitted, again))
    np.testing.assert_array_equal(before.delta, after.delta)
    np.testing.assert_array_equal(before.sd, after.sd)


def test_parameters_that_do_not_fit_are_refused(fitted, train, features) -> None:
    tensors = dict(fitted.tensors())
    tensors["0.bias"] = tensors["0.bias"][:-1]
    del tensors["1.bias"]
    with pytest.raises(WeightsError, match=r"2 differ, '0.bias' first: expected \(30,\), found \(29,\)"):  # fmt: skip
        GraphPredictor.restore(tensors, train=train, features=features, config=QUICK)


def test_what_cannot_be_fitted_is_refused(train, features) -> None:
    with pytest.raises(DataError, match="to 1 conditions to learn from"):
        fit_graph_head(train.take(np.array([0])), features)
    other = replace(train, genes=GENES[::-1])
    with pytest.raises(DataError, match="both must have the same"):
        fit_graph_head(train, features, validation=other)
    for field, value in (("hidden", 0), ("n_members", 0), ("focus", -1.0), ("dropout", 1.0)):
        with pytest.raises(ConfigError, match=f"GraphConfig.{field}"):
            GraphConfig(**{field: value})
    with pytest.raises(ConfigError, match="head_lr is -1"):
        GraphConfig(lr=-1.0)


def test_few_conditions_train_all_epochs_and_progress_is_told(train, features) -> None:
    told = []
    config = replace(QUICK, n_epochs=2)
    few = train.take(np.arange(4))
    fit_graph_head(few, features, config=config, progress=lambda *x: told.append(x))
    assert told == [(1, 2), (2, 2)]
