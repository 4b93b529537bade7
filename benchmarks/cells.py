"""Cells of realistic lengths for the benchmarks."""

import numpy as np
import torch

from cellfm.batch import CellBatch


def realistic_cells(
    n_cells: int, *, n_genes: int, seed: int = 0, longest: int = 2048, types: int = 6
) -> CellBatch:
    """Return counts with log-normal numbers of genes (median 1,500, σ 0.45) and a few cell types."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(
        np.clip(rng.lognormal(np.log(1500), 0.45, n_cells), 500, 3000), longest
    ).astype(int)
    lengths = np.minimum(lengths, n_genes)
    base = rng.gamma(0.4, 1.0, n_genes) + 1e-4
    profiles = base * np.exp(rng.normal(0, 0.8, (types, n_genes)))
    genes, values, depths = [], [], []
    for length in lengths:
        weight = profiles[rng.integers(types)]
        chosen = np.sort(rng.choice(n_genes, length, replace=False, p=weight / weight.sum()))
        counts = 1 + rng.poisson(2.0 * weight[chosen])
        genes.append(chosen + 1)
        values.append(np.log1p(counts / counts.sum() * 1e4))
        depths.append([np.log1p(counts.sum() / 1e3)] * 2)
    return CellBatch(
        gene=torch.from_numpy(np.concatenate(genes)),
        value=torch.from_numpy(np.concatenate(values).astype(np.float32)),
        offsets=torch.from_numpy(np.r_[0, lengths.cumsum()]),
        depth=torch.tensor(np.array(depths), dtype=torch.float32),
    )
