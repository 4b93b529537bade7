"""Cells of realistic lengths for the benchmarks."""

import argparse
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import torch

from cellfm.batch import CellBatch


def ask(description: str, *, cells: int, repeats: int = 3) -> argparse.Namespace:
    """Read the command line of a benchmark, and compute with one thread."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="80m")
    parser.add_argument("--cells", type=int, default=cells)
    parser.add_argument("--repeats", type=int, default=repeats)
    torch.set_num_threads(1)
    return parser.parse_args()


def realistic_cells(
    n_cells: int, *, n_genes: int, seed: int = 0, longest: int = 2048, stratified: bool = False
) -> CellBatch:
    """Return counts with log-normal numbers of genes (median 1,500, σ 0.45) and six cell types.

    Stratified lengths are the middles of equal parts of that distribution: few cells, but its mean.
    """
    rng = np.random.default_rng(seed)
    quantile = (np.arange(n_cells) + 0.5) / n_cells
    middle = np.array([NormalDist().inv_cdf(q) for q in quantile])
    drawn = middle if stratified else rng.normal(size=n_cells)
    lengths = np.minimum(np.clip(1500 * np.exp(0.45 * drawn), 500, 3000), longest).astype(int)
    lengths = np.minimum(lengths, n_genes)
    base = rng.gamma(0.4, 1.0, n_genes) + 1e-4
    profiles = base * np.exp(rng.normal(0, 0.8, (6, n_genes)))
    genes, values, depths = [], [], []
    for length in lengths:
        weight = profiles[rng.integers(6)]
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


def masked(batch: CellBatch, *, seed: int = 0) -> CellBatch:
    """Score a fifth of the genes and hide four fifths of those."""
    generator = torch.Generator().manual_seed(seed)
    scored = torch.rand(batch.n_tokens, generator=generator) < 0.2
    hidden = scored & (torch.rand(batch.n_tokens, generator=generator) < 0.8)
    shown = torch.where(hidden, 0.0, batch.value)
    return replace(batch, value=shown, scored=scored, hidden=hidden, target=batch.value)
