"""How fast a device is, how much memory a process holds, and what share of the speed a run uses."""

import sys
import time
from functools import cache
from typing import Literal

import torch

from cellfm.train.step import autocast

WIDTHS = {"cpu": 1024}
"""Width of the square product of the probe; 8,192 on accelerators."""
N_PRODUCTS = 4


@cache
def peak_flops(device: torch.device, precision: Literal["fp32", "bf16"], n_threads: int) -> float:
    """Return the floating-point operations a second of a large matrix product here; measured once a process.

    What a training step reaches of it is its model FLOP utilisation (MFU). A measured peak is lower than a data sheet's, so
    the share is higher; but it is there for every device, and says what the code can still gain on this one.

    Parameters
    ----------
    device
        Device of the run.
    precision
        Of the matrix products.
    n_threads
        Threads of torch: the peak of a CPU depends on them.
    """
    width = WIDTHS.get(device.type, 8192)
    square = torch.rand(width, width, device=device)
    best = float("inf")
    with torch.no_grad(), autocast(device, precision):
        for _ in range(N_PRODUCTS):  # the first one warms up
            began = time.perf_counter()
            product = square @ square
            _finish(device)
            best = min(best, time.perf_counter() - began)
            del product
    return 2.0 * width**3 / best


def memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: of the accelerator, or of the machine on the CPU; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
