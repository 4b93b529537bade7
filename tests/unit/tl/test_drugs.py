from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData

from cellfm.errors import ConfigError, DataError, OutputExistsError, WeightsError
from cellfm.tl._drug.baselines import BASELINES, DrugTraining, TreatmentErrors
from cellfm.tl._drug.data import Treatment, units_of
from cellfm.tl._drug.features import DrugFeatures
from cellfm.tl._drug.head import DrugHead, orthonormal
from cellfm.tl._drug.judge import OURS, SHUFFLED, judge_folds, shuffled
from cellfm.tl._drug.model import DrugModel
from cellfm.tl._drug.responses import Contexts, DrugResponses
from cellfm.tl._drug.train import train_drugs
from cellfm.tl._drug.transport import CellMap, CellPairs, Latent
from cellfm.weights.folder import Pretrained
from tests.unit.tl.test_drug_data import treated

N_GENES = 30


def responses(*, alike: bool, noise: float = 0.1, seed: int = 0) -> tuple[DrugResponses, DrugFeatures, Contexts]:  # fmt: skip
    """Twelve drugs of three families; a family's features are alike, and so is what it does if told."""
    rng = np.random.default_rng(seed)
    family = np.arange(12) // 4
    table = np.eye(3)[family] + 0.1 * rng.random((12, 3))
    directions = rng.standard_normal((3 if alike else 12, N_GENES))
    names = [f"d{i:02d}" for i in range(12)]
    treatments = tuple(Treatment(d, u, "x") for d in names for u in (1.0, 10.0))
    true = np.stack([directions[family[i] if alike else i] * s for i in range(12) for s in (0.5, 1.0)])  # fmt: skip

    def measured() -> np.ndarray:
        return true + noise * rng.standard_normal(true.shape)

    made = DrugResponses(
        treatments=treatments, delta=measured(), tau=np.full(24, noise**2), spread=np.ones(N_GENES),
        n_cells=np.full(24, 50), halves=np.stack([measured(), measured()]),
        split=np.stack([measured(), measured()]), split_tau=np.full(24, noise**2),
    )  # fmt: skip
    features = DrugFeatures(kind="table", names=tuple(names), table=table.astype(np.float32))
    contexts = Contexts(names=("x",), control=np.full((1, N_GENES), 5.0), sensitivity=np.full((1, N_GENES), 0.5), state=np.zeros((1, 2)))  # fmt: skip
    return made, features, contexts


def held_out(*, alike: bool, wrong: bool = False) -> tuple[float, float]:
    """R² of unseen drugs by the head, and by the mean."""
    made, features, contexts = responses(alike=alike)
    out = np.isin([t.drug for t in made.treatments], ["d00", "d05", "d10"])
    known = made.take(~out)
    train = DrugTraining(responses=known, features=features, contexts=contexts, block=units_of(known.treatments, "drug"))  # fmt: skip

    def head(train: DrugTraining, asked):
        return DrugHead.fit(train.responses, features, contexts, block=train.block).predict(asked, contexts)[0]  # fmt: skip

    truth = made.take(out)
    guess = (shuffled(head, seed=0) if wrong else head)(train, list(truth.treatments))
    mean = BASELINES["drug-mean"](train, list(truth.treatments))
    return float(TreatmentErrors.of(guess, truth).r2()), float(TreatmentErrors.of(mean, truth).r2())


def test_head_predicts_unseen_drugs_of_a_family_and_loses_it_when_drugs_are_shuffled() -> None:
    ours, mean = held_out(alike=True)
    assert ours > 0.85
    assert mean < 0.5
    assert held_out(alike=True, wrong=True)[0] < mean + 0.1


def test_head_wins_nothing_where_structure_says_nothing() -> None:
    ours, mean = held_out(alike=False)
    assert ours < 0.1
    assert ours > mean - 0.1  # and does not pretend


def test_left_out_blocks_in_closed_form() -> None:
    made, features, contexts = responses(alike=True)
    block = units_of(made.treatments, "drug")
    head = replace(DrugHead.fit(made, features, contexts, block=block), target=made.delta)
    from cellfm.tl._drug.head import combine

    kernel = combine(head._parts(made.treatments, contexts, {}), head.weights)
    fast = head._left_out(kernel, 0.3, [np.flatnonzero(block == b) for b in np.unique(block)])
    for b in (0, 7):
        out = block == b
        slow = kernel[np.ix_(out, ~out)] @ np.linalg.solve(
            kernel[np.ix_(~out, ~out)] + np.diag(0.3 * head.relative[~out]), made.delta[~out]
        )
        assert fast[out] == pytest.approx(slow, abs=1e-8)


def test_smoothing_is_a_projection() -> None:
    basis = orthonormal(np.random.default_rng(0).standard_normal((N_GENES, 40)), 5)
    assert basis.shape == (N_GENES, 5)
    assert basis.T @ basis == pytest.approx(np.eye(5), abs=1e-9)


def test_same_drug_shift_moves_between_contexts_and_doses() -> None:
    made, features, _ = responses(alike=True, noise=0.0)
    contexts = Contexts(names=("x", "y"), control=np.full((2, N_GENES), 5.0), sensitivity=np.stack([np.full(N_GENES, 0.2), np.full(N_GENES, 0.4)]), state=np.zeros((2, 2)))  # fmt: skip
    train = DrugTraining(responses=made, features=features, contexts=contexts, block=units_of(made.treatments, "drug"))  # fmt: skip
    found = BASELINES["same-drug-shift"](train, [Treatment("d03", 10.0**0.5, "y"), Treatment("new", 1.0, "x")])  # fmt: skip
    rows = [made.treatments.index(Treatment("d03", u, "x")) for u in (1.0, 10.0)]
    assert found[0] == pytest.approx(made.delta[rows].mean(axis=0) * (0.42 / 0.22))
    assert not found[1].any()


def test_r2_is_pooled_and_no_change_has_nought() -> None:
    made, _, _ = responses(alike=True)
    none = TreatmentErrors.of(np.zeros_like(made.delta), made)
    assert none.r2() == pytest.approx(0.0)
    assert none.r2(top=True) == pytest.approx(0.0)
    best = TreatmentErrors.of(made.delta, made)
    assert best.r2() == pytest.approx(1.0)
    by_hand = 1 - np.square(0.5 * made.delta).sum() / np.square(made.delta).sum()
    assert TreatmentErrors.of(0.5 * made.delta, made).r2() == pytest.approx(by_hand)


def test_latent_decodes_and_maps_move_a_population() -> None:
    rng = np.random.default_rng(0)
    loading = rng.standard_normal((2, N_GENES))
    source, target = rng.standard_normal((400, 2)), rng.standard_normal((400, 2)) * 0.6 + [2.0, 0]
    values = np.vstack([source, target]) @ loading + 5
    latent = Latent.fit("expression", values, np.zeros((800, 1), np.float32), n_components=2)
    z = latent.encode(values, np.zeros((800, 1), np.float32))
    assert (z[400:] - z[:400]) @ latent.decoder == pytest.approx(values[400:] - values[:400], abs=0.05)  # fmt: skip
    zero = np.zeros(400, np.int64)
    moved = CellMap.fit(
        CellPairs(source=z[:400], source_context=zero, target=z[400:], target_context=zero, condition=np.zeros((400, 1))),
        n_steps=150,
    )  # fmt: skip
    there = moved(z[:400], np.zeros(1))
    assert there.mean(axis=0) == pytest.approx(z[400:].mean(axis=0), abs=0.15)
    assert there.std(axis=0) == pytest.approx(z[400:].std(axis=0), abs=0.15)
    assert np.abs(there.std(axis=0) - z[:400].std(axis=0)).max() > 0.2  # more than a shift


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return treated(24, ("DMSO", "a", "b", "c", "d"))


def test_train_predict_save_load(cells, model, tmp_path) -> None:
    trained = train_drugs(cells, model, context="line", method="conditional", hold_out="drug")
    assert {OURS, SHUFFLED, "drug-mean", "fingerprint-ridge", "replicate-ceiling"} <= {s.method for s in trained.scores}  # fmt: skip
    assert "known by their names only" in trained.notes[-1]
    controls = cells[(cells.obs.drug == "DMSO").to_numpy()].copy()
    before = controls.X.copy()
    made = trained.predict(controls, "a", 10.0, model=model, context="line")
    assert list(made.obs_names) == list(controls.obs_names)
    assert list(made.var_names) == list(controls.var_names)
    assert (before != controls.X).nnz == 0
    assert made.X.dtype == np.int32
    assert made.X.min() >= 0
    assert made.layers["log1p"].min() >= 0
    assert made.varm["drug_delta"].shape == (12, 2)
    assert (np.argmax(np.abs(made.varm["drug_delta"]), axis=0) == 2).all()
    assert made.X[:, 2].sum() > 2 * controls.X[:, 2].sum()
    trained.save(tmp_path / "m")
    with pytest.raises(OutputExistsError):
        trained.save(tmp_path / "m")
    again = DrugModel.load(tmp_path / "m").predict(controls, "a", 10.0, model=model, context="line")
    assert (again.X != made.X).nnz == 0
    assert again.layers["log1p"] == pytest.approx(made.layers["log1p"])


def test_transport_and_shift(cells, model, tmp_path) -> None:
    controls = cells[(cells.obs.drug == "DMSO").to_numpy()].copy()
    for method in ("transport", "shift"):
        some = cells if method == "shift" else cells[np.isin(cells.obs.drug, ["DMSO", "a", "b", "c"])].copy()  # fmt: skip
        trained = train_drugs(
            some, model, context="line", method=method, hold_out="drug", n_steps=25
        )
        made = trained.predict(controls, "a", 10.0, model=model, context="line")
        assert (np.argmax(np.abs(made.varm["drug_delta"]), axis=0) == 2).all()
        trained.save(tmp_path / method)
        again = DrugModel.load(tmp_path / method).predict(controls, "a", 10.0, model=model, context="line")  # fmt: skip
        assert again.layers["log1p"] == pytest.approx(made.layers["log1p"], abs=1e-5)
        with pytest.raises(DataError, match="knows measured drugs only"):
            trained.predict(controls, "new", 1.0, model=model)


def test_refusals(cells, model, tmp_path) -> None:
    with pytest.raises(ConfigError, match="method is 'magic'"):
        train_drugs(cells, model, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Both smiles and features"):
        train_drugs(cells, model, smiles={"a": "C"}, features={"a": np.ones(1)})
    with pytest.raises(DataError, match="fewer than three of both"):
        train_drugs(cells, model, context="line", method="shift")
    trained = train_drugs(cells, model, context="line", method="shift", hold_out="drug")
    controls = cells[(cells.obs.drug == "DMSO").to_numpy()].copy()
    with pytest.raises(DataError, match="The dose is 0"):
        trained.predict(controls, "a", 0.0, model=model)
    with pytest.raises(DataError, match="genes that the model was trained on are not in the cells"):
        trained.predict(controls[:, :5].copy(), "a", 1.0, model=model)
    other: Pretrained = replace(model, hash="0" * 64)
    with pytest.raises(DataError, match="states of two models are not comparable"):
        trained.predict(controls, "a", 1.0, model=other)
    with pytest.raises(WeightsError):
        DrugModel.load(tmp_path)


def test_judge_predicts_only_what_is_held_out() -> None:
    made, features, contexts = responses(alike=True)
    from cellfm.tl._drug.data import fold_treatments

    splits = fold_treatments(made.treatments, "drug")
    seen: list[tuple[set[str], set[str]]] = []

    def spy(train: DrugTraining, asked):
        seen.append(({t.drug for t in train.responses.treatments}, {t.drug for t in asked}))
        return np.zeros((len(asked), N_GENES))

    judge_folds((made, made), splits, {"spy": spy}, features=features, contexts=contexts)
    assert all(not known & asked for known, asked in seen)
    assert set.union(*(asked for _, asked in seen)) == set(features.names)
