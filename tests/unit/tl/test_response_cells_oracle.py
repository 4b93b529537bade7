"""Sampled cells in cell-eval2: its checks accept them, and its scores see the response that was asked for."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from cellfm.tl._response.cells import sample_cells

N_GENES, N_CELLS = 50, 150
GENES = [f"G{i}" for i in range(N_GENES)]
TARGETS = ["G3", "G7", "G11", "G20"]


@pytest.fixture(scope="module")
def cell_eval2():
    with warnings.catch_warnings():
        # polars, numba and the package itself warn while they load
        warnings.simplefilter("ignore")
        return pytest.importorskip("cell_eval2")


def real_cells() -> AnnData:
    """Return control cells and those of four knock-outs, each with a response of its own."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 1.0, N_GENES) + 0.2
    blocks, names = [], []
    for name in ["non-targeting", *TARGETS]:
        fold = np.ones(N_GENES)
        if name in TARGETS:
            fold = np.exp(rng.normal(0, 0.6, N_GENES))
            fold[GENES.index(name)] = 0.1
        depth = np.exp(rng.normal(np.log(3000), 0.2, (N_CELLS, 1)))
        rate = rng.gamma(5.0, 0.2, (N_CELLS, N_GENES)) * mean * fold
        blocks.append(csr_matrix(rng.poisson(depth * rate / (mean * fold).sum())))
        names += [name] * N_CELLS
    return as_adata(vstack(blocks, format="csr"), names)


def as_adata(counts: csr_matrix, names: list[str]) -> AnnData:
    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(names)}, [f"c{i}" for i in range(len(names))]
    )
    return AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


def log_means(counts: csr_matrix) -> np.ndarray:
    dense = counts.toarray()
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)).mean(axis=0)


def predicted_cells(real: AnnData, *, shuffled: bool) -> AnnData:
    """Sample cells of each knock-out from the control cells, with its own response or another's."""
    rng = np.random.default_rng(1)
    part = {name: real[real.obs["perturbation"] == name].X for name in ["non-targeting", *TARGETS]}
    control = part["non-targeting"]
    asked = TARGETS[1:] + TARGETS[:1] if shuffled else TARGETS
    blocks = [control] + [
        sample_cells(control, log_means(part[name]) - log_means(control), rng=rng).counts
        for name in asked
    ]
    return as_adata(vstack(blocks, format="csr"), list(real.obs["perturbation"]))


def test_sampled_cells_are_valid_input_and_scored_by_their_response(cell_eval2) -> None:
    real = real_cells()
    config = cell_eval2.EvalConfig(
        metrics=["pds_cosine"],
        pert_col="perturbation",
        control="non-targeting",
        device="cpu",
        num_threads=1,
        de=cell_eval2.config.DEParams(backend="pdex"),
    )
    scores = {}
    for shuffled in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = cell_eval2.compute_metrics(
                predicted_cells(real, shuffled=shuffled), real, config=config
            )
        assert set(table["perturbation"]) == set(TARGETS)
        scores[shuffled] = float(np.mean(table["value"].to_numpy()))
    assert scores[False] == 1.0
    assert scores[True] < 0.5
