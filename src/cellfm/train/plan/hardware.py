"""Accelerators a run can be planned for: what their data sheets promise."""

import difflib
from dataclasses import dataclass
from typing import Literal

from cellfm.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator, by its data sheet."""

    name: str
    """What it is called on the command line."""
    description: str
    """What it is called by its vendor."""
    bf16_tflops: float
    """Peak of dense bfloat16 products with float32 sums, 10¹² operations a second; sparsity not counted."""
    fp32_tflops: float
    """Peak in float32 without TF32, which the network does not use."""
    memory_gib: float
    """Memory that torch can give out, in GiB (2³⁰ bytes)."""
    bandwidth: float
    """Memory bandwidth in GB/s (10⁹ bytes)."""

    def peak(self, precision: Literal["fp32", "bf16"]) -> float:
        """Return the peak of matrix products in floating-point operations a second."""
        return 1e12 * (self.bf16_tflops if precision == "bf16" else self.fp32_tflops)


# Rates and bandwidths: NVIDIA's data sheets (H200 SXM, H100 SXM5, A100 SXM4, L40S, Ada whitepaper), dense, boost clock.
# Memory is *not* the sheet's round "80 GB": it is what torch reports as the card's total, some of which the driver and
# error correction keep (139.8 GiB of the H200's "141 GB", 79.2 of "80 GB", 39.4 of "40 GB", 44.4 of "48 GB", 23.6 of "24 GB").
_SHEETS = (
    ("h200", "NVIDIA H200 SXM, 141 GB", 989.4, 66.9, 139.8, 4800.0),
    ("h100", "NVIDIA H100 SXM5, 80 GB", 989.4, 66.9, 79.2, 3350.0),
    ("a100-80", "NVIDIA A100 SXM4, 80 GB", 312.0, 19.5, 79.2, 2039.0),
    ("a100-40", "NVIDIA A100 SXM4, 40 GB", 312.0, 19.5, 39.4, 1555.0),
    ("l40s", "NVIDIA L40S, 48 GB", 362.05, 91.6, 44.4, 864.0),
    ("rtx4090", "NVIDIA GeForce RTX 4090, 24 GB", 165.2, 82.6, 23.6, 1008.0),
    # No data sheet: product rates of one core measured with oneDNN, doubled; memory of that machine.
    ("cpu", "two cores of an AMD EPYC (Zen 5), 24 GiB", 0.8, 0.4, 24.0, 40.0),
)

GPUS = tuple(
    Gpu(
        name=name,
        description=description,
        bf16_tflops=bf16,
        fp32_tflops=fp32,
        memory_gib=memory,
        bandwidth=bandwidth,
    )
    for name, description, bf16, fp32, memory, bandwidth in _SHEETS
)
"""Accelerators that are known by name."""


def find_gpu(name: str) -> Gpu:
    """Return an accelerator of the table.

    Parameters
    ----------
    name
        One of the names in :data:`GPUS`, in any case.

    Raises
    ------
    ConfigError
        There is none of that name.
    """
    for gpu in GPUS:
        if gpu.name == name.lower():
            return gpu
    known = [gpu.name for gpu in GPUS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    msg = (
        f"gpu={name!r} is not in the table of accelerators.{hint} Known: {', '.join(known)}; for another card take "
        "the nearest one, and set mfu to its share of that card's peak."
    )
    raise ConfigError(msg)
