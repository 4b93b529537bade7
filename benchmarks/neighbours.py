"""Is a precision good enough? Centred error and 5-neighbour overlap against float32, on cells with structure.

python benchmarks/neighbours.py [--cells 48]
"""

import argparse

import torch
from cells import realistic_cells

from cellfm.config import preset
from cellfm.nn import CellFM, initialise
from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.kernels.routing import fp32_routing


def neighbours(x: torch.Tensor, k: int) -> list[set[int]]:
    distance = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
    return [set(row.tolist()) for row in distance.topk(k, largest=False).indices]


def overlap(a: torch.Tensor, b: torch.Tensor, k: int = 5) -> float:
    pairs = zip(neighbours(a, k), neighbours(b, k), strict=True)
    return sum(len(x & y) for x, y in pairs) / (k * len(a))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=48)
    n_cells = parser.parse_args().cells
    network = initialise(CellFM(preset("80m")), torch.Generator().manual_seed(0)).eval()
    cells = realistic_cells(n_cells, n_genes=network.config.n_genes)
    parts = [cells.cells(i, i + 1) for i in range(n_cells)]
    with torch.inference_mode():
        exact, mixed = (CellStates(network, precision=p) for p in ("fp32", "mixed"))
        reference = torch.cat([exact(p) for p in parts])
        with torch.autocast("cpu", torch.bfloat16):
            auto = torch.cat([network.encode(p, wanted="cell").cell.float() for p in parts])
        with fp32_routing(use=True):
            found = {
                "routed fp32": torch.cat([exact(p) for p in parts]),
                "mixed": torch.cat([mixed(p) for p in parts]),
                "autocast bf16": auto,
            }
    spread = (reference - reference.mean(0)).norm() / reference.norm()
    print(f"{n_cells} cells; between-cell spread {spread:.2%} of the norm (random weights)")
    for name, x in found.items():
        error = (x - reference).norm() / reference.norm()
        centred = ((x - x.mean(0)) - (reference - reference.mean(0))).norm() / (
            reference - reference.mean(0)
        ).norm()
        print(
            f"{name:14s} relative {error:.1e}  centred {centred:.1e}  5-neighbour overlap {overlap(x, reference):.3f}"
        )


if __name__ == "__main__":
    main()
