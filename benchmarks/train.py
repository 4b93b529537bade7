"""A training step: ragged with row selection against a plain padded float32 step, same loss and gradients.

python benchmarks/train.py [--preset cellfm-80m] [--cells 4] [--repeats 3]
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from cells import masked, realistic_cells
from padded import PaddedEncoder, pad

from cellfm.config import OptimConfig, preset
from cellfm.nn import CellFM, initialise, masked_expression_loss
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.train import build_optimizer

LONGEST = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="cellfm-80m")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(preset(options.preset), dropout=0.0)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).train()
    cells = masked(realistic_cells(options.cells, n_genes=config.n_genes, stratified=True))
    padded, plain = PaddedEncoder(network), pad(cells, LONGEST)
    optim = OptimConfig(lr=0.0)
    fused = build_optimizer(network, optim)
    unfused = torch.optim.AdamW(network.parameters(), lr=0.0, foreach=False, fused=False)

    def step(loss, optimizer, context):
        optimizer.zero_grad(set_to_none=True)
        with context:
            value = loss()
            value.backward()
        optimizer.step()
        return float(value.detach())

    def ours():
        return masked_expression_loss(network, cells).total

    bf16 = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    runs = {
        "padded fp32": (lambda: padded.loss(plain), unfused, nullcontext),
        "ours fp32, no routing": (ours, fused, nullcontext),
        "ours fp32": (ours, fused, fp32_routing),
        "ours bf16": (lambda: _within(bf16(), ours), fused, nullcontext),
    }
    times, losses, gradients = {name: [] for name in runs}, {}, {}
    for _ in range(options.repeats):
        for name, (loss, optimizer, context) in runs.items():
            start = time.thread_time()
            losses[name] = step(loss, optimizer, context())
            times[name].append(time.thread_time() - start)
            gradients[name] = torch.cat(
                [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            )
    reference = statistics.median(times["padded fp32"])
    print(
        f"{options.preset}: {cells.n_cells} cells, {cells.n_tokens / cells.n_cells:.0f} genes a cell, {int(cells.scored.sum())} scored; routing taken: {routing_pays()}"
    )
    for name, seconds in times.items():
        t = statistics.median(seconds)
        g, r = gradients[name].double(), gradients["padded fp32"].double()
        print(
            f"{name:24s} {cells.n_cells / t:7.3f} cells/core-s  {reference / t:5.2f}x  loss {losses[name]:.6f}  gradients {float((g - r).norm() / r.norm()):.1e}"
        )


def _within(context, loss):
    with context:
        return loss()


if __name__ == "__main__":
    main()
