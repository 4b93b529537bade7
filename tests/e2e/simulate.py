"""Counts with known genes and cell types, written as h5ad."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from cellfm.genes import GeneTable

N_GENES, N_CELLS = 400, 600
N_STRANGE = 5  # genes no vocabulary knows


def counts(path: Path, *, n_cells: int = N_CELLS, n_genes: int = N_GENES, seed: int = 0) -> Path:
    """Write Poisson counts of two cell types; the last genes have made-up names."""
    rng = np.random.default_rng(seed)
    known = [gene for gene in GeneTable.load().genes if gene.locus_group == "protein-coding gene"]
    symbols = [gene.symbol for gene in known[:n_genes]]
    symbols[-N_STRANGE:] = [f"STRANGE{i}" for i in range(N_STRANGE)]
    kind = rng.integers(2, size=n_cells)
    rate = rng.gamma(0.3, 1.0, (2, n_genes))[kind] * rng.gamma(4.0, 0.25, (n_cells, 1))
    matrix = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([f"type{i}" for i in kind])},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=symbols))
    adata.var["ensembl"] = [gene.ensembl_id for gene in known[:n_genes]]
    adata.layers["logged"] = logged(matrix)
    adata.write_h5ad(path)
    return path


def logged(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Scale each cell to 10⁴ and take log1p."""
    total = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
    return sparse.csr_matrix(sparse.diags(1e4 / total) @ matrix).log1p()
