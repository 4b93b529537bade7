from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cellfm.errors import ConfigError, CountsError, DataError
from cellfm.genes import Vocabulary
from cellfm.tl._drug.data import DrugOptions, Treatment, fold_treatments, read_drugs, units_of
from cellfm.tl._drug.features import DrugFeatures, fingerprint, read_smiles
from cellfm.tl._drug.responses import DrugResponses, control_halves, fitted_and_truth
from tests.unit.tl.conftest import SYMBOLS

VOCABULARY = Vocabulary.from_symbols(SYMBOLS)


def treated(n_each: int = 12, drugs: tuple[str, ...] = ("DMSO", "a", "b", "c")) -> AnnData:
    """Each drug at two doses in two contexts; drug a raises the third gene tenfold at the high dose."""
    rng = np.random.default_rng(0)
    rows = [(d, u, c) for d in drugs for u in (0.1, 10.0) for c in ("T", "B") for _ in range(n_each)]  # fmt: skip
    obs = pd.DataFrame(rows, columns=["drug", "dose", "line"])
    obs.loc[obs.drug == "DMSO", "dose"] = 0.0
    rate = np.full((len(obs), len(SYMBOLS)), 4.0)
    rate[(obs.line == "B").to_numpy(), 1] *= 4
    rate[((obs.drug == "a") & (obs.dose == 10)).to_numpy(), 2] *= 10
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=list(SYMBOLS)))


OPTIONS = DrugOptions(context="line")


def test_reads_treatments_and_controls() -> None:
    data = read_drugs(treated(), VOCABULARY, OPTIONS)
    assert data.drugs == ("a", "b", "c")
    assert len(data.treatments) == 12
    assert data.treatments[0] == Treatment("a", 0.1, "B")
    assert (data.code == -1).sum() == 48
    adata = treated()
    for number, t in enumerate(data.treatments):
        told = adata.obs.loc[data.cells[data.code == number]]
        assert set(told.drug) == {t.drug}
        assert set(told.dose) == {t.dose}
        assert set(told.line) == {t.context}


def test_responses_are_differences_within_the_context() -> None:
    data = read_drugs(treated(200), VOCABULARY, OPTIONS)
    responses = DrugResponses.of(data)
    high = responses.treatments.index(Treatment("a", 10.0, "B"))
    assert responses.delta[high, 2] > 1.5
    others = np.delete(responses.delta, [i for i, t in enumerate(data.treatments) if t.drug == "a"], axis=0)  # fmt: skip
    assert np.abs(others).max() < 0.5  # the context's own gene would be 1.2
    expected = responses.spread * (1 / 200 + 1 / 400)
    assert responses.variance[high] == pytest.approx(expected)


def test_halves_share_no_cells() -> None:
    data = read_drugs(treated(), VOCABULARY, OPTIONS)
    first, second = control_halves(data)
    assert not (first & second).any()
    assert ((first | second) == (data.code < 0)).all()
    fitted, truth = fitted_and_truth(data)
    again = DrugResponses.of(data.take((data.code >= 0) | first))
    assert fitted.delta == pytest.approx(again.delta)
    other = DrugResponses.of(data.take((data.code >= 0) | second))
    assert truth.delta == pytest.approx(other.delta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.obs.drug.replace("DMSO", "x"), "No cell of obs\\['drug'\\] is a control"),
        (lambda a: a.obs.dose.astype(object).where(a.obs.drug != "b", "high"), "'high'; expected a number above 0"),
        (lambda a: a.obs.dose.where(a.obs.drug != "b", -1.0), "'-1.0'; expected a number above 0"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_drug_data(change, message) -> None:
    adata = treated()
    column = change(adata)
    adata.obs[column.name] = column.to_numpy()
    with pytest.raises(DataError, match=message):
        read_drugs(adata, VOCABULARY, OPTIONS)


def test_refuses_few_cells_and_normalised_values() -> None:
    with pytest.raises(DataError, match=r"No treatment .* has 13 cells; the most are 12"):
        read_drugs(treated(), VOCABULARY, DrugOptions(context="line", min_cells=13))
    with pytest.raises(DataError, match="48 control cells; at least 60"):
        read_drugs(treated(), VOCABULARY, DrugOptions(context="line", min_cells=60))
    adata = treated()
    adata.X = adata.X * 0.5
    with pytest.raises(CountsError, match="no integer"):
        read_drugs(adata, VOCABULARY, OPTIONS)
    with pytest.raises(DataError, match="There is no column 'compound'"):
        read_drugs(treated(), VOCABULARY, DrugOptions(drug="compound"))


def test_contexts_without_controls_are_left_out_and_said() -> None:
    adata = treated()
    adata = adata[((adata.obs.drug != "DMSO") | (adata.obs.line != "B")).to_numpy()].copy()
    data = read_drugs(adata, VOCABULARY, OPTIONS)
    assert {t.context for t in data.treatments} == {"T"}
    assert "fewer than 10 control cells left out: B" in data.notes[0]


@pytest.mark.parametrize("by", ["drug", "scaffold", "context", "dose"])
def test_folds_test_each_treatment_once_and_hold_out_whole_units(by) -> None:
    treatments = [Treatment(d, u, c) for d in "abcdef" for u in (0.1, 1.0, 10.0) for c in "xyz"]
    scaffolds = dict(zip("abcdef", "112233", strict=True))
    splits = fold_treatments(treatments, by, scaffolds=scaffolds, seed=3)
    tested = np.stack([split.part == 2 for split in splits])
    assert (tested.sum(axis=0) == 1).all()
    unit = units_of(treatments, by, scaffolds)
    for split in splits:
        assert set(split.part.tolist()) == {0, 1, 2}
        for one in np.unique(unit):
            assert len(set(split.part[unit == one].tolist())) == 1
    again = fold_treatments(treatments, by, scaffolds=scaffolds, seed=3)
    assert [s.hash for s in splits] == [s.hash for s in again]
    other = {fold_treatments(treatments, by, scaffolds=scaffolds, seed=s)[0].hash for s in range(5)}
    assert len(other) > 1


def test_folds_refuse() -> None:
    treatments = [Treatment(d, 1.0, "x") for d in "ab"]
    with pytest.raises(DataError, match="there are 2 \\(a, b\\); at least 3"):
        fold_treatments(treatments, "drug")
    with pytest.raises(ConfigError, match="Scaffolds are made of SMILES, and 2 drugs have none"):
        fold_treatments(treatments, "scaffold")
    with pytest.raises(ConfigError, match="by is 'colour'"):
        fold_treatments(treatments, "colour")  # type: ignore[arg-type]


def test_features_of_names_and_tables() -> None:
    names = DrugFeatures.of(["a", "b"])
    assert names.kind == "identity"
    assert names.similarity(names.table) == pytest.approx(np.eye(2))
    with pytest.raises(DataError, match="trained without structures"):
        names.row("c")
    table = DrugFeatures.of(["a", "b"], table={"a": np.array([1.0, 0]), "b": np.array([2.0, 0])})
    assert table.similarity(table.table) == pytest.approx(np.ones((2, 2)))
    with pytest.raises(DataError, match="1 of 2 drugs have no row of features: b"):
        DrugFeatures.of(["a", "b"], table={"a": np.ones(2)})
    with pytest.raises(DataError, match="lengths \\[1, 2\\]"):
        DrugFeatures.of(["a", "b"], table={"a": np.ones(2), "b": np.ones(1)})


def test_fingerprints() -> None:
    pytest.importorskip("rdkit")
    bits, scaffold = fingerprint("CC(=O)Oc1ccccc1C(=O)O", "aspirin")
    salt, _ = fingerprint("[Na+].CC(=O)Oc1ccccc1C(=O)O", "aspirin sodium")
    assert (bits == salt).all()
    assert scaffold == "c1ccccc1"
    assert fingerprint("CCO", "ethanol")[1] == "CCO"
    features = DrugFeatures.of(["aspirin"], smiles={"aspirin": "CC(=O)Oc1ccccc1C(=O)O"})
    near, far = (features.similarity(fingerprint(s, "")[0][None])[0, 0] for s in ("O=C(O)c1ccccc1O", "CCCCN"))  # fmt: skip
    assert 1 > near > far
    with pytest.raises(DataError, match="SMILES of the drug 'x', 'C1CC', cannot be read"):
        fingerprint("C1CC", "x")
    with pytest.raises(DataError, match="Give its structure"):
        features.row("other")


def test_smiles_table(tmp_path: Path) -> None:
    path = tmp_path / "smiles.tsv"
    path.write_text("drug\tSMILES\na\tCCO\nb\tCC\n")
    assert read_smiles(path) == {"a": "CCO", "b": "CC"}
    path.write_text("drug,SMILES\na,CCO\na,CC\n")
    with pytest.raises(DataError, match="two structures"):
        read_smiles(path)
    path.write_text("drug\na\n")
    with pytest.raises(DataError, match="not a table of two columns"):
        read_smiles(path)
    with pytest.raises(DataError, match="There is no file"):
        read_smiles(tmp_path / "nowhere.tsv")
