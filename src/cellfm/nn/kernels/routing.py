"""Send float32 matrix products to the faster CPU library, where a probe shows that it is exact and faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

EXACT = 2e-6  # relative error of a 1,536-term float32 product is 3e-7 to 5e-7; bfloat16 arithmetic gives 3e-3
FASTER = 1.05
# Cells differ in length, and the other library prepares itself anew for each number of rows.
ROWS = (1021, 1087, 1151, 1213, 1277, 1361)


@contextmanager
def fp32_routing(*, use: bool) -> Iterator[None]:
    """Within this context float32 products on the CPU take oneDNN's float32 kernels, if `use` says so.

    PyTorch's "medium" precision lets oneDNN take the product; on processors without bfloat16 matrix units it then
    still computes in float32, up to twice as fast as the default library. On others it would really compute in
    bfloat16: ask `routing_pays` first. The process-wide setting is put back on leaving.

    Parameters
    ----------
    use
        Take the other library; False changes nothing.
    """
    before = torch.get_float32_matmul_precision()
    if use:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def routing_pays(width: int) -> bool:
    """Return whether `fp32_routing` is exact to float32 and faster here; measured once a process.

    Parameters
    ----------
    width
        Width of the network's products; narrow ones lose more by preparation than they gain.
    """
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(width, width, generator=generator)
    tall = [torch.randn(rows, width, generator=generator) for rows in ROWS]
    truth = tall[0].double() @ square.double()
    with fp32_routing(use=True):
        error = ((tall[0] @ square).double() - truth).norm() / truth.norm()
        routed = _seconds(tall[1:], square)
    return bool(error < EXACT) and _seconds(tall[1:], square) > FASTER * routed


def _seconds(tall: list[torch.Tensor], square: torch.Tensor) -> float:
    """Time of products of different heights, after one to warm up."""
    torch.mm(tall[0], square)
    start = time.perf_counter()
    for a in tall[1:]:
        torch.mm(a, square)
    return time.perf_counter() - start
