import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cellfm.corpus.conditions import Condition
from cellfm.errors import CountsError, DataError
from cellfm.tl._perturb.data import PerturbOptions, read_perturbations
from cellfm.tl._response.log_counts import log_values
from cellfm.tl._response.responses import Responses
from cellfm.weights.folder import Pretrained

GENES = ("ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7")


def screen(entries: dict[str, int], *, batches: int = 2) -> AnnData:
    """Counts of six genes; the batches differ in depth."""
    names = [name for name, n in entries.items() for _ in range(n)]
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (len(names), len(GENES))).astype(np.float32) + 1
    batch = np.arange(len(names)) % batches
    obs = pd.DataFrame(
        {"gene": names, "batch": [f"b{i}" for i in batch]}, index=[f"c{i}" for i in range(len(names))]
    )  # fmt: skip
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(GENES)))


OPTIONS = PerturbOptions(perturbation="gene", min_cells=4)


def test_conditions_are_under_vocabulary_symbols(model: Pretrained) -> None:
    adata = screen(
        {"ctrl": 8, "CD3E+ctrl": 5, "cd3e": 3, "IL7R": 6, "CD3E+IL7R": 4, "B2M": 2, "": 3}
    )
    data = read_perturbations(adata, model.vocabulary, OPTIONS)
    assert [each.name for each in data.conditions] == ["ctrl", "CD3E", "CD3E+IL7R", "IL7R"]
    assert np.bincount(data.code).tolist() == [8, 8, 4, 6]
    assert data.notes == (
        "3 cells without a perturbation, or dropped by name",
        "1 conditions with fewer than 4 cells left out: B2M",
    )
    assert data.cells[0] == "c0"
    assert data.counts.shape == (26, 6)


@pytest.mark.parametrize(
    ("entries", "options", "what"),
    [
        ({"CD3E": 8, "LYZ": 8}, {}, "No cell of obs\\['gene'\\] is a control; its entries are 'CD3E', 'LYZ'"),
        ({"ctrl": 3, "CD3E": 8}, {}, "There are 3 control cells; at least 4"),
        ({"ctrl": 8, "CD3E": 2}, {}, "No perturbation has 4 cells; the most are 2"),
        ({"ctrl": 8, "CD3EE": 5}, {}, "1 of 1 perturbed genes .* CD3EE \\(near: CD3E\\)"),
        ({"ctrl": 8, "CD3E": 5, "CD3E+LYZ": 5}, {}, "1 double perturbations .*: CD3E\\+LYZ"),
        ({"ctrl": 8, "A+B+C": 5}, {}, "has 3 genes"),
        ({"ctrl": 8, "CD3E": 5}, {"perturbation": "guide"}, "There is no column 'guide'"),
    ],
)  # fmt: skip
def test_refusals(model: Pretrained, entries: dict[str, int], options: dict, what: str) -> None:
    options = PerturbOptions(**{"perturbation": "gene", "min_cells": 4, **options})
    with pytest.raises(DataError, match=what):
        read_perturbations(screen(entries), model.vocabulary, options)


def test_ways_out(model: Pretrained) -> None:
    adata = screen({"mock": 8, "CD3E": 5, "CD3E+LYZ": 5, "NOGENE": 4, "CD3E+NOGENE": 4})
    options = PerturbOptions(
        perturbation="gene", min_cells=4, control="Mock", missing_singles=True, drop_unknown=True
    )
    data = read_perturbations(adata, model.vocabulary, options)
    assert [each.name for each in data.conditions] == ["ctrl", "CD3E", "CD3E+LYZ"]
    assert "2 perturbations of genes outside the vocabulary left out: CD3E+NOGENE, NOGENE" in data.notes  # fmt: skip
    dropped = PerturbOptions(
        perturbation="gene", min_cells=4, control="mock", drop=("NOGENE", "CD3E+NOGENE", "CD3E+LYZ")
    )
    assert len(read_perturbations(adata, model.vocabulary, dropped).conditions) == 2


def test_normalised_values_and_empty_cells_are_refused(model: Pretrained) -> None:
    adata = screen({"ctrl": 8, "CD3E": 5})
    adata.X = adata.X.log1p()
    with pytest.raises(CountsError):
        read_perturbations(adata, model.vocabulary, OPTIONS)
    adata = screen({"ctrl": 8, "CD3E": 5})
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    with pytest.raises(DataError, match="1 cells have no counts at all, the first is row 3"):
        read_perturbations(adata, model.vocabulary, OPTIONS)


def test_responses_by_hand(model: Pretrained) -> None:
    """Means within batches, weighted by the condition's cells; variance and noise as in the module's formulas."""
    adata = screen({"ctrl": 9, "CD3E": 6, "LYZ": 5})
    adata.X = sparse.csr_matrix(adata.X.toarray() * (1 + 3 * (adata.obs["batch"] == "b1").to_numpy()[:, None]))  # fmt: skip
    options = PerturbOptions(perturbation="gene", min_cells=4, batch="batch")
    data = read_perturbations(adata, model.vocabulary, options)
    responses = Responses.of(data)
    x = adata.X.toarray()
    values = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_values(data.counts).toarray(), values, rtol=1e-6)
    label, batch = adata.obs["gene"].to_numpy(), adata.obs["batch"].to_numpy()
    for row, name in enumerate(("CD3E", "LYZ")):
        delta, tau, n = np.zeros(6), 0.0, (label == name).sum()
        for each in ("b0", "b1"):
            own, control = values[(label == name) & (batch == each)], values[(label == "ctrl") & (batch == each)]  # fmt: skip
            share = len(own) / n
            delta += share * (own.mean(axis=0) - control.mean(axis=0))
            tau += share**2 * (1 / len(own) + 1 / len(control))
        np.testing.assert_allclose(responses.delta[row], delta, atol=1e-6)
        assert responses.tau[row] == pytest.approx(tau)
    groups = [values[(label == a) & (batch == b)] for a in set(label) for b in set(batch)]
    within = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups) / (20 - 6)
    np.testing.assert_allclose(responses.spread, within, rtol=1e-5)
    np.testing.assert_allclose(responses.variance, responses.tau[:, None] * within, rtol=1e-5)
    own = x[label == "ctrl"]
    unit = 1e4 / own.sum(axis=1, keepdims=True)
    rise = own * np.log((1 + unit * own) / (1 + unit * (own - 1)))
    np.testing.assert_allclose(responses.sensitivity, rise.mean(axis=0), rtol=1e-5)


def test_strata_without_controls_do_not_count(model: Pretrained) -> None:
    adata = screen({"ctrl": 8, "CD3E": 8, "LYZ": 8})
    label = adata.obs["gene"].to_numpy()
    adata.obs["batch"] = np.where(label == "ctrl", "b0", np.where(np.arange(24) % 2, "b1", "b0"))
    adata.obs.loc[label == "LYZ", "batch"] = "b1"
    options = PerturbOptions(perturbation="gene", min_cells=4, batch="batch")
    responses = Responses.of(read_perturbations(adata, model.vocabulary, options))
    assert [each.name for each in responses.conditions] == ["CD3E"]
    assert responses.n_cells.tolist() == [8]
    adata.obs.loc[label != "ctrl", "batch"] = "b1"
    with pytest.raises(DataError, match="No condition has cells in a context and batch that has control cells"):  # fmt: skip
        Responses.of(read_perturbations(adata, model.vocabulary, options))


def test_taking_cells_and_conditions(model: Pretrained) -> None:
    data = read_perturbations(screen({"ctrl": 8, "CD3E": 8, "LYZ": 8}), model.vocabulary, OPTIONS)
    half = data.take(np.arange(24) % 2 == 0)
    assert half.counts.shape[0] == len(half.code) == 12
    responses = Responses.of(half)
    assert responses.take(np.array([1])).conditions == (Condition(("LYZ",)),)
    with pytest.raises(DataError, match="No control cells are left"):
        Responses.of(data, rows=data.code > 0)
