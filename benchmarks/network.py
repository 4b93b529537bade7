"""Speed and memory of retention scores between genes: streamed ranks against whole n × n tables.

    python benchmarks/network.py [--cells 2000 10000] [--naive 20] [--by-head] [--every 1] [--data pbmc3k.h5ad]

Sources are the transcription factors of shared/data/grn that any cell expresses (every twelfth gene without that file), targets all genes that any cell
expresses, or every n-th of them. More cells than the file has are drawn again from it and thinned to 95 % of their counts; without --data they are simulated for random
weights. The naive variant makes, for every head, layer and cell, the whole table of weights and ranks its rows with SciPy, and runs on the first cells
in turns with the streamed one, thread times of one thread. Peak memory is that of a process of its own for each number of cells, less what it held
before the first cell was scored.
"""

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from cells import realistic_cells
from scipy.stats import rankdata

import cellfm
from cellfm.config import preset
from cellfm.corpus.cells import InMemoryCells
from cellfm.genes import Vocabulary
from cellfm.nn.kernels.pair_scores import head_vectors
from cellfm.tl._network.cells import batches
from cellfm.tl._network.retention import retention_bytes, retention_scores
from cellfm.weights.folder import Pretrained, new

FACTORS = Path(__file__).resolve().parents[2] / "shared/data/grn/human_TFs_1638.txt"
KEPT = 0.95
TARGET = 1e-5
SAME_GENES = 2000  # cells whose genes are taken, for any number of cells scored


def pbmc_like(path: Path | None, n: int) -> tuple[Pretrained, InMemoryCells]:
    """Weights and that many cells."""
    if path is None:
        symbols = Vocabulary.from_hgnc().symbols[: preset("mini").n_genes]
        batch = realistic_cells(n, n_genes=len(symbols), longest=1000)
        return new("mini", Vocabulary.from_symbols(symbols)), InMemoryCells(
            gene=batch.gene.numpy().astype(np.int32),
            count=np.expm1(batch.value.numpy()),
            offsets=batch.offsets.numpy(),
            cell=np.arange(n),
        )
    from cellfm.corpus.adata import anndata_source, read_h5ad
    from cellfm.genes import resolve

    model = cellfm.load("mini")
    source, var = anndata_source(read_h5ad(path, "cells"))
    cells = InMemoryCells.from_source(source, resolve(list(var.index), model.vocabulary).token)
    if n <= len(cells):
        return model, cells.select(np.arange(n))
    rng = np.random.default_rng(0)
    drawn = cells.select(rng.integers(0, len(cells), n))
    count = rng.binomial(drawn.count.astype(np.int64), KEPT).astype(np.float32)
    kept = np.flatnonzero(count)
    return model, InMemoryCells(
        gene=drawn.gene[kept],
        count=count[kept],
        offsets=np.searchsorted(kept, drawn.offsets),
        cell=np.arange(n),
    )


def genes_of(model: Pretrained, cells: InMemoryCells) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets."""
    expressed = np.unique(cells.gene)
    if not FACTORS.exists():
        return expressed[::12], expressed
    factors = set(FACTORS.read_text(encoding="utf-8").split())
    is_factor = [model.vocabulary.symbols[token - 1] in factors for token in expressed]
    return expressed[is_factor], expressed


def naive(model: Pretrained, cells: InMemoryCells, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:  # fmt: skip
    """Mean ranks from whole tables, shape (source, target)."""
    total = np.zeros((len(sources), len(targets)))
    number = np.zeros(total.shape, np.int64)
    for i in range(len(cells)):
        batch = next(batches(cells.read(i, i + 1)))
        gene, n = batch.gene.numpy(), batch.n_tokens
        with torch.inference_mode():
            weight = torch.cat(
                [
                    torch.einsum("ihd,jhd->hij", own.query, own.key)
                    for own in head_vectors(model.network, batch)
                ]
            ).numpy()
        weight[:, np.arange(n), np.arange(n)] = -1
        rank = ((rankdata(weight, axis=2) - 2) / (n - 2)).mean(0).T
        _, row, source = np.intersect1d(sources, gene, return_indices=True)
        _, column, target = np.intersect1d(targets, gene, return_indices=True)
        total[np.ix_(row, column)] += rank[np.ix_(source, target)]
        number[np.ix_(row, column)] += 1
    mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    mean[sources[:, None] == targets] = np.nan
    return mean


def compare(path: Path | None, n: int, repeats: int) -> None:
    """Print how both do on some cells."""
    model, cells = pbmc_like(path, n)
    sources, targets = genes_of(model, cells)
    ways = {"n × n tables": naive, "streamed": lambda *a: retention_scores(*a).score}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.process_time()
            found[name] = run(model, cells, sources, targets)
            seconds[name].append(time.process_time() - start)
    error = np.abs(found["streamed"] - found["n × n tables"])
    error = error[np.isfinite(error)]
    slow, fast = (statistics.median(seconds[name]) for name in ways)
    print(
        f"{n} cells of {cells.lengths.mean():.0f} genes, {len(sources)} sources × {len(targets)} targets: n × n tables {n / slow:.1f} cells/core-s, "
        f"streamed {n / fast:.1f}, {slow / fast:.1f}x; scores differ by {error.mean():.1e} in the mean and {error.max():.1e} at most, {(error > TARGET).mean():.3%} of them by more than {TARGET:.0e} "
        "(float32: two weights next to each other change places)"
    )


def resident(line: str) -> float:
    """Memory of this process now (VmRSS) or at most since `forget_peak` (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(x for x in status.splitlines() if x.startswith(line)).split()[1]) / 1024


def forget_peak() -> None:
    """Give freed memory back and measure the peak from here on (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def stream(path: Path | None, n: int, *, by_head: bool, every: int) -> None:
    """Print speed and memory for that many cells; run it in a process of its own."""
    torch.set_num_threads(1)
    model, cells = pbmc_like(path, n)
    sources, targets = genes_of(model, pbmc_like(path, SAME_GENES)[1])
    targets = targets[::every]
    retention_scores(model, cells.select(np.arange(8)), sources[:2], targets[:2])  # libraries
    forget_peak()
    before, start, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    retention_scores(model, cells, sources, targets, by_head=by_head)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    config = model.network.config
    stated = retention_bytes(
        len(sources), len(targets), n_heads=config.n_layers * config.n_heads if by_head else 0
    )
    print(
        f"{n} cells: {n / cpu:.1f} cells/core-s ({cpu:.0f} core-s, {wall:.0f} s on the clock), {len(sources)} × {len(targets)} pairs, "
        f"peak memory +{resident('VmHWM') - before:.0f} MiB over {before:.0f}, of which stated {stated / 2**20:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--naive", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--by-head", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.naive:
        compare(options.data, options.naive, options.repeats)
    for n in options.cells:
        work = multiprocessing.get_context("spawn").Process(
            target=stream,
            args=(options.data, n),
            kwargs={"by_head": options.by_head, "every": options.every},
        )
        work.start()
        work.join()


if __name__ == "__main__":
    main()
