"""Cell states per core-second: the ladder from a plain padded encoder to the fast path, in one process.

    python benchmarks/embed.py [--preset 80m] [--cells 8] [--repeats 3]

The yardstick pads every cell to 2,048 genes, as the published pipeline does; its best batch size counts. Times are
thread times of one thread, variants interleaved, medians. Errors are of the cell states against float64.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from cells import ask, realistic_cells
from padded import PaddedEncoder, pad
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.config import preset
from cellfm.nn import CellFM, initialise
from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.kernels.routing import fp32_routing, routing_pays

LONGEST = 2048


def chunks(batch: CellBatch, n: int) -> list[CellBatch]:
    return [batch.cells(i, min(i + n, batch.n_cells)) for i in range(0, batch.n_cells, n)]


def variants(network: CellFM, cells: CellBatch) -> dict[str, Callable[[], torch.Tensor]]:
    """Each variant encodes all cells and returns their states."""
    padded = PaddedEncoder(network)
    exact, mixed, tabulated, tabulated_mixed = (
        CellStates(network, precision=p) for p in ("fp32", "mixed", "fp32", "mixed")
    )
    tabulated.tabulate(cells.gene)
    tabulated_mixed.tabulate(cells.gene)
    plain = {n: [pad(part, LONGEST) for part in chunks(cells, n)] for n in (1, 2, 4, 8)}
    ones = chunks(cells, 1)

    def routed(run: Callable[[CellBatch], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def inner() -> torch.Tensor:
            with fp32_routing(use=routing_pays(network.config.dim)):
                return torch.cat([run(part) for part in ones])

        return inner

    found = {
        f"padded, batch {n}": (
            lambda parts=parts: torch.cat([padded.cell_states(p) for p in parts])
        )
        for n, parts in plain.items()
    }
    return found | {
        "ragged, all rows": lambda: torch.cat([network(part).cell for part in ones]),
        "ragged, [CLS] row of the last layer": lambda: torch.cat(
            [network.encode(part, wanted="cell").cell for part in ones]
        ),
        "fast path, no table, no routing": lambda: torch.cat([exact(part) for part in ones]),
        "fast path, table, no routing": lambda: torch.cat([tabulated(part) for part in ones]),
        "fast path fp32": routed(tabulated),
        "fast path mixed, no table": routed(mixed),
        "fast path mixed": routed(tabulated_mixed),
    }


def gemm_rates(dim: int) -> dict[str, float]:
    """GFLOP/s of one (1,536 × dim) by (dim × dim) product."""
    a, w = torch.randn(1536, dim), torch.randn(dim, dim)
    flop = 2 * 1536 * dim * dim / 1e9

    def rate(x: torch.Tensor, y: torch.Tensor) -> float:
        times = []
        for _ in range(7):
            start = time.thread_time()
            functional.linear(x, y)
            times.append(time.thread_time() - start)
        return flop / min(times[1:])

    plain = rate(a, w)
    with fp32_routing(use=True):
        routed = rate(a, w)
    return {"fp32": plain, "fp32 routed": routed, "bf16": rate(a.bfloat16(), w.bfloat16())}


def measure(found: dict[str, Callable[[], torch.Tensor]], repeats: int):
    times: dict[str, list[float]] = {name: [] for name in found}
    states = {}
    for _ in range(repeats):
        for name, run in found.items():
            start = time.thread_time()
            states[name] = run()
            times[name].append(time.thread_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}, states


def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(0)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


def main() -> None:
    options = ask(__doc__, cells=8)
    config = preset(options.preset)
    network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    cells = realistic_cells(options.cells, n_genes=config.n_genes, stratified=True)
    with torch.inference_mode():
        seconds, states = measure(variants(network, cells), options.repeats)
        rates = gemm_rates(config.dim)
        truth = network.double()(
            replace(cells, value=cells.value.double(), depth=cells.depth.double())
        ).cell
    best = min(t for name, t in seconds.items() if name.startswith("padded"))
    print(
        f"{options.preset}: {cells.n_cells} cells, {cells.n_tokens / cells.n_cells:.0f} genes a cell, torch {torch.__version__}"
    )
    print(
        "products, GFLOP/s a core: "
        + ", ".join(f"{k} {v:.0f}" for k, v in rates.items())
        + f"; routing taken: {routing_pays(config.dim)}"
    )
    rows = cells.n_tokens + config.n_prefix * cells.n_cells
    flop = 2 * config.dim**2 * rows / 1e9
    # After table look-ups, a layer needs out and three gated-unit products; the last one half of the keys; others all eight.
    products = 4 + 8 * (config.n_layers - 2) + 0.5 if config.n_layers > 1 else 0.5
    for name, t in seconds.items():
        error, centred_error = (
            relative(states[name], truth),
            relative(centred(states[name]), centred(truth)),
        )
        print(
            f"{name:38s} {cells.n_cells / t:7.3f} cells/core-s  {best / t:6.2f}x  error {error:.1e}  centred {centred_error:.1e}"
        )
    for name, rate in (
        ("fast path fp32", max(rates["fp32"], rates["fp32 routed"])),
        ("fast path mixed", rates["bf16"]),
    ):
        bound = rate / (flop * products)
        print(
            f"{name}: {1 / seconds[name] / bound:.0%} of what its {products} products a row allow here ({bound * cells.n_cells:.2f} cells/core-s, {bound * best:.2f}x)"
        )


if __name__ == "__main__":
    main()
