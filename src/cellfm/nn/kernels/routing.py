"""Send float32 matrix products to the faster CPU library, where a probe shows that it is exact and faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

EXACT = 2e-6  # relative error of a 1,536-term float32 product is 3e-7 to 5e-7; bfloat16 arithmetic gives 3e-3
FASTER = 1.05
ROWS, INNER = 512, 1536


@contextmanager
def fp32_routing(*, use: bool | None = None) -> Iterator[bool]:
    """Within this context float32 products on the CPU take oneDNN's float32 kernels, if the probe allows.

    PyTorch's "medium" precision lets oneDNN take the product; on processors without bfloat16 matrix units it then
    still computes in float32, about twice as fast as the default library on some. On others it would really compute
    in bfloat16: hence the probe, once a process. The process-wide setting is put back on leaving.

    Parameters
    ----------
    use
        Take the faster path or not, as an earlier part of the same job did; None lets `routing_pays` decide.

    Yields
    ------
    Whether the faster path is on.
    """
    before = torch.get_float32_matmul_precision()
    use = routing_pays() if use is None else use
    if use:
        torch.set_float32_matmul_precision("medium")
    try:
        yield use
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def routing_pays() -> bool:
    """Return whether "medium" is both exact to float32 and faster than the default here; measured once."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(ROWS, INNER, generator=generator)
    b = torch.randn(INNER, INNER, generator=generator)
    truth = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        plain = _seconds(a, b)
        torch.set_float32_matmul_precision("medium")
        error = ((a @ b).double() - truth).norm() / truth.norm()
        routed = _seconds(a, b)
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < EXACT) and plain > FASTER * routed


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Best time of five products."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return min(times[1:])
