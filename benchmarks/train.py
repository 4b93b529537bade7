"""A training step: ragged with row selection against a plain padded float32 step, same loss and gradients.

python benchmarks/train.py [--preset 80m] [--cells 4] [--repeats 3]
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from cells import ask, masked, realistic_cells
from padded import PaddedEncoder, pad

from cellfm.batch import CellBatch
from cellfm.config import OptimConfig, preset
from cellfm.nn import CellFM, initialise, masked_expression_loss
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.train import build_optimizer

LONGEST = 2048
STILL = 1e-30  # so small that no weight changes between the variants


class Step(NamedTuple):
    loss: Callable[[], torch.Tensor]
    optimizer: torch.optim.Optimizer
    context: Callable[[], AbstractContextManager]


def main() -> None:
    options = ask(__doc__, cells=4)
    config = replace(preset(options.preset), dropout=0.0)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).train()
    cells = masked(realistic_cells(options.cells, n_genes=config.n_genes, stratified=True))
    results = measure(variants(network, cells), network, options.repeats)
    about = f"{cells.n_cells} cells, {cells.n_tokens / cells.n_cells:.0f} genes a cell, {int(cells.scored.sum())} scored"
    print(f"{options.preset}: {about}; routing taken: {routing_pays(config.dim)}")
    report(results, cells.n_cells)


def variants(network: CellFM, cells: CellBatch) -> dict[str, Step]:
    """Return loss, optimiser and context of each kind of step; the learning rate moves nothing."""
    padded, plain = PaddedEncoder(network), pad(cells, LONGEST)
    fused = build_optimizer(network, OptimConfig(lr=STILL, weight_decay=0.0))
    unfused = torch.optim.AdamW(network.parameters(), lr=STILL, weight_decay=0.0, foreach=False)

    def ours() -> torch.Tensor:
        return masked_expression_loss(network, cells).total

    def autocast() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours()

    return {
        "padded fp32": Step(lambda: padded.loss(plain), unfused, nullcontext),
        "ours fp32, no routing": Step(ours, fused, nullcontext),
        "ours fp32": Step(ours, fused, partial(fp32_routing, use=routing_pays(network.config.dim))),
        "ours bf16": Step(autocast, fused, nullcontext),
    }


def measure(found: dict[str, Step], network: CellFM, repeats: int):
    times, losses, gradients = {name: [] for name in found}, {}, {}
    for _ in range(repeats):
        for name, (loss, optimizer, context) in found.items():
            start = time.thread_time()
            optimizer.zero_grad(set_to_none=True)
            with context():
                value = loss()
                value.backward()
            optimizer.step()
            times[name].append(time.thread_time() - start)
            losses[name] = float(value.detach())
            gradients[name] = torch.cat(
                [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            )
    return {name: statistics.median(t) for name, t in times.items()}, losses, gradients


def report(results, n_cells: int) -> None:
    times, losses, gradients = results
    slowest, truth = times["padded fp32"], gradients["padded fp32"].double()
    for name, t in times.items():
        error = float((gradients[name].double() - truth).norm() / truth.norm())
        print(
            f"{name:24s} {n_cells / t:7.3f} cells/core-s  {slowest / t:5.2f}x  loss {losses[name]:.6f}  gradients {error:.1e}"
        )


if __name__ == "__main__":
    main()
