"""What the loop asks of a source of batches."""

from typing import Protocol

from cellfm.batch import CellBatch


class Sampler(Protocol):
    """Batches as a pure function of the step: the step number is all that a resumed run needs to know."""

    def batch(self, step: int) -> CellBatch:
        """Return the batch of a step, masked, on the CPU; the same whenever it is asked for."""
        ...

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step and its position in the epoch."""
        ...
