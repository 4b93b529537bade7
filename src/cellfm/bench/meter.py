"""What a method costs: seconds and memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to ``clear_refs`` it sets the peak of the process back to what it holds now (Linux, proc(5))."""


@dataclass(slots=True)
class Meter:
    """Filled in when the block of :func:`metered` ends."""

    seconds: float = 0.0
    peak_memory: int = 0
    """Most bytes the whole process held at once; elsewhere than on Linux since it began."""


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure the block."""
    meter = Meter()
    with suppress(
        OSError
    ):  # not allowed in some containers: then the peak is that of all that ran before, too
        CLEAR.write_text(RESET_PEAK)
    began = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - began
        meter.peak_memory = _peak()


def _peak() -> int:
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
