"""What the loop asks of a source of batches."""

from collections.abc import Sequence
from typing import Protocol

from cellfm.batch import CellBatch


class Sampler(Protocol):
    """Batches as a pure function of the step: the step number is all that a resumed run needs to know."""

    def batches(self, step: int, *, rank: int = 0, world_size: int = 1) -> Sequence[CellBatch]:
        """Return a process's micro-batches of a step: those of the lanes rank, rank + world_size and so on.

        Masked, on the CPU, the same whenever they are asked for.
        """
        ...

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step and its position in the epoch."""
        ...
