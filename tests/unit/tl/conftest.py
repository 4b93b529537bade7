import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm.config.model import ModelConfig
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.weights.folder import Pretrained

SYMBOLS = (
    "ACTB",
    "GAPDH",
    "CD3E",
    "MS4A1",
    "LYZ",
    "NKG7",
    "PPBP",
    "FCGR3A",
    "CD8A",
    "IL7R",
    "GNLY",
    "B2M",
)


@pytest.fixture(scope="session")
def model() -> Pretrained:
    """A random network over twelve genes."""
    vocabulary = Vocabulary.from_symbols(SYMBOLS)
    config = ModelConfig(n_genes=len(SYMBOLS), dim=16, n_layers=2, n_heads=4, value_bins=8)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    return Pretrained(
        network=network, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None
    )


@pytest.fixture
def adata() -> AnnData:
    """300 cells of ten genes, one outside the vocabulary, one under two names."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, (300, 11)).astype(np.float32)
    counts[:, 0] += 1
    names = [
        "ACTB",
        "gapdh",
        "CD3E",
        "MS4A1",
        "LYZ",
        "NKG7",
        "ENSG00000163736",
        "FCGR3A",
        "NOT-A-GENE",
        "CD8A",
        "LYZ-1",
    ]
    obs = pd.DataFrame(
        {"type": pd.Categorical(["T", "B", "T"] * 100)}, index=[f"cell{i}" for i in range(300)]
    )
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))
