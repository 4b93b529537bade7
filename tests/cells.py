"""Small networks and batches for the tests."""

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.config.model import ModelConfig
from cellfm.nn import CellFM, initialise


def network(**changes) -> CellFM:
    """Return a small random network in which no parameter is zero."""
    config = {
        "n_genes": 40,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 4,
        "value_bins": 8,
        "dropout": 0.0,
    } | changes
    net = initialise(CellFM(ModelConfig(**config)), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not parameter.any() or "lora_b" in name:
                parameter.normal_(0.0, 0.3, generator=generator)
        net.gene_embedding.weight[0] = 0.0
    return net.eval()


def batch(
    lengths: list[int], *, n_genes: int = 40, seed: int = 0, masked: bool = False
) -> CellBatch:
    """Return cells of these many genes."""
    rng = np.random.default_rng(seed)
    genes = [np.sort(rng.choice(n_genes, n, replace=False)) + 1 for n in lengths]
    n = sum(lengths)
    flat = np.concatenate(genes) if genes else np.zeros(0)
    value = torch.from_numpy(rng.gamma(2.0, 1.0, n).astype(np.float32))
    scored = torch.from_numpy(rng.random(n) < 0.4)
    hidden = scored & torch.from_numpy(rng.random(n) < 0.7)
    return CellBatch(
        gene=torch.from_numpy(flat.astype(np.int64)),
        value=torch.where(hidden, 0.0, value) if masked else value,
        offsets=torch.from_numpy(np.r_[0, np.cumsum(lengths)].astype(np.int64)),
        depth=torch.from_numpy(rng.gamma(2.0, 1.0, (len(lengths), 2)).astype(np.float32)),
        hidden=hidden if masked else None,
        scored=scored if masked else None,
        target=value if masked else None,
    )
