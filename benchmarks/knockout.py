"""Knock-outs per core-second: every edited cell encoded anew against the path that shares what they share.

    python benchmarks/knockout.py [--preset mini] [--cells 2] [--genes 40] [--repeats 3] [--data pbmc3k.h5ad]

The same cells and genes for all variants, which are interleaved; thread times of one thread, medians. The naive ones write each edited
cell down and encode it: with `CellFM.encode`, one cell at a time or as many as fit in the row budget; and with `CellStates`, our
fast path for cells, with its table. `--preset mini` without --data takes cells of 1,500 genes; with it, cells of that file and the
packaged weights. Errors are relative to the naive states in float64.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from cells import realistic_cells

import cellfm
from cellfm.batch import CellBatch
from cellfm.config import preset
from cellfm.nn import CellFM, initialise
from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.kernels.knockout import EDIT_ROWS, EditedStates, Edits
from cellfm.nn.kernels.routing import fp32_routing, routing_pays


def without(cell: CellBatch, places: torch.Tensor) -> CellBatch:
    """A batch of one cell for each place, with the gene there taken out."""
    keep = torch.ones(len(places), cell.n_tokens, dtype=torch.bool)
    keep[torch.arange(len(places)), places] = False
    at = keep.nonzero()[:, 1]
    return CellBatch(
        gene=cell.gene[at],
        value=cell.value[at],
        offsets=torch.arange(len(places) + 1) * (cell.n_tokens - 1),
        depth=cell.depth.expand(len(places), 2),
    )


def variants(
    network: CellFM, cells: list[CellBatch], places: list[torch.Tensor]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Each returns the states of all edited cells."""
    fast, shared = CellStates(network), EditedStates(network)
    fast.tabulate(torch.cat([cell.gene for cell in cells]))

    def naive(encode: Callable[[CellBatch], torch.Tensor], n: int | None) -> torch.Tensor:
        states = []
        for cell, some in zip(cells, places, strict=True):
            together = n or max(1, EDIT_ROWS // cell.n_tokens)
            states += [encode(without(cell, part)) for part in some.split(together)]
        return torch.cat(states)

    def own() -> torch.Tensor:
        pairs = zip(cells, places, strict=True)
        return torch.cat([shared(cell, Edits(removed=some)) for cell, some in pairs])

    def routed(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def inner() -> torch.Tensor:
            with fp32_routing(use=routing_pays(network.config.dim)):
                return run()

        return inner

    return {
        "naive: encode, all rows, one at a time": lambda: naive(lambda b: network(b).cell, 1),
        "naive: encode, [CLS] only, one at a time": lambda: naive(
            lambda b: network.encode(b, wanted="cell").cell, 1
        ),
        "naive: encode, [CLS] only, batched": lambda: naive(
            lambda b: network.encode(b, wanted="cell").cell, None
        ),
        "fast path for cells, table, routing": routed(lambda: naive(fast, None)),
        "shared, no routing": own,
        "shared, routing: what tl.screen does": routed(own),
    }


def measure(
    found: dict[str, Callable[[], torch.Tensor]], repeats: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Median seconds and the states of each variant; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    states = {}
    for _ in range(repeats):
        for name, run in found.items():
            start = time.thread_time()
            states[name] = run()
            seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}, states


def in_double_precision(
    network: CellFM, cells: list[CellBatch], places: list[torch.Tensor]
) -> torch.Tensor:
    """The naive states, each cell by itself."""
    edited = (
        without(cell, one)
        for cell, some in zip(cells, places, strict=True)
        for one in some.split(1)
    )
    doubled = (replace(b, value=b.value.double(), depth=b.depth.double()) for b in edited)
    return torch.cat([network.encode(b, wanted="cell").cell for b in doubled])


def real_cells(path: Path, n: int) -> tuple[CellFM, list[CellBatch]]:
    """The packaged network and cells of a file."""
    from cellfm.corpus.adata import anndata_source, read_h5ad
    from cellfm.corpus.tokens import tokenize
    from cellfm.genes import resolve

    model, adata = cellfm.load("mini"), read_h5ad(path, "cells")
    source, var = anndata_source(adata)
    batch = tokenize(source.read(0, n), resolve(list(var.index), model.vocabulary).token)
    return model.network, [batch.cells(i, i + 1) for i in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--genes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data is None:
        config = preset(options.preset)
        network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
        batch = realistic_cells(options.cells, n_genes=config.n_genes, stratified=True)
        cells = [batch.cells(i, i + 1) for i in range(options.cells)]
    else:
        network, cells = real_cells(options.data, options.cells)
    generator = torch.Generator().manual_seed(1)
    places = [torch.randperm(c.n_tokens, generator=generator)[: options.genes] for c in cells]
    with torch.inference_mode():
        medians, states = measure(variants(network, cells, places), options.repeats)
        truth = in_double_precision(network.double(), cells, places)
    n = sum(map(len, places))
    best = min(s for name, s in medians.items() if name.startswith("naive"))
    length = sum(cell.n_tokens for cell in cells) / len(cells)
    print(
        f"{options.preset if options.data is None else 'packaged mini'}: {len(cells)} cells of {length:.0f} genes, {n} knock-outs, dim {network.config.dim}, "
        f"{network.config.n_layers} layers, torch {torch.__version__}, routing taken: {routing_pays(network.config.dim)}"
    )
    for name, time_taken in medians.items():
        error = float(((states[name].double() - truth).norm(dim=1) / truth.norm(dim=1)).max())
        print(
            f"{name:42s} {n / time_taken:9.2f} cells·genes/core-s  {best / time_taken:6.2f}x the best naive  largest error {error:.1e}"
        )


if __name__ == "__main__":
    main()
