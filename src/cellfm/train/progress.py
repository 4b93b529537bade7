"""How a run goes, step by step: for whoever watches."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from cellfm.train.evaluate import HeldOutScore
from cellfm.train.step import StepResult

WINDOW = 50
"""Steps that speeds are means over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """Where a run is after a step, and how fast."""

    step: int
    """Steps taken."""
    n_steps: int
    """Steps in all."""
    loss: float
    """Of this step."""
    scored_per_second: float
    """Scored genes a second, over the last 50 steps, like the next four."""
    cells_per_second: float
    """Cells a second."""
    mfu: float
    """Share of the devices' measured peak that the network's own operations take."""
    wait_share: float
    """Share of the time in which steps waited for their batches."""
    seconds_left: float
    """Until the last step, evaluations and checkpoints not counted."""
    memory: int
    """Most bytes this process has held."""
    skipped: int
    """Steps that changed nothing because loss or gradient was not finite."""
    held_out: tuple[HeldOutScore, ...]
    """Scores, if this step was followed by an evaluation."""


class _Step(NamedTuple):
    n_cells: int
    n_scored: int
    flops: float
    seconds: float
    waited: float


@dataclass(slots=True, kw_only=True)
class Pace:
    """Sums over the newest steps of this call; no part of a checkpoint."""

    n_steps: int
    """Steps in all."""
    newest: deque[_Step] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, result: StepResult, *, seconds: float, waited: float, flops: float) -> None:
        """Count a step; arguments as those of :meth:`cellfm.train.track.Meter.add`."""
        self.newest.append(_Step(result.n_cells, result.n_scored, flops, seconds, waited))

    def read(
        self,
        step: int,
        *,
        loss: float,
        peak: float,
        memory: int,
        skipped: int,
        held_out: tuple[HeldOutScore, ...],
    ) -> RunProgress:
        """Return how the run goes; arguments as the fields of the result, `peak` in operations a second."""
        seconds = max(sum(each.seconds for each in self.newest), 1e-9)
        return RunProgress(
            step=step,
            n_steps=self.n_steps,
            loss=loss,
            scored_per_second=sum(each.n_scored for each in self.newest) / seconds,
            cells_per_second=sum(each.n_cells for each in self.newest) / seconds,
            mfu=sum(each.flops for each in self.newest) / seconds / peak if peak else 0.0,
            wait_share=sum(each.waited for each in self.newest) / seconds,
            seconds_left=(self.n_steps - step) * seconds / max(len(self.newest), 1),
            memory=memory,
            skipped=skipped,
            held_out=held_out,
        )
