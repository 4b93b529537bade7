"""Metrics of a run: one JSON object a line, cut back to the checkpoint on resume; other trackers beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cellfm.errors import MissingDependencyError
from cellfm.train.step import StepResult

Line = Mapping[str, float | int | str]
"""Metrics of a step: its `kind` (train or held_out), `step`, and numbers."""

PACKAGES = {
    "tensorboard": "pip install 'cellfm[track]'",
    "wandb": "pip install wandb",
}
"""Package of each tracker, and how to get it."""


@dataclass(slots=True, kw_only=True)
class Meter:
    """Sums over the steps since the last line, and totals of the run; part of a checkpoint."""

    n_steps: int = 0
    """Steps since the last line that were taken, not skipped."""
    loss: float = 0.0
    """Sum over these steps, like the next three."""
    gene_loss: float = 0.0
    cell_loss: float = 0.0
    grad_norm: float = 0.0
    new_cells: int = 0
    """Since the last line, like the next four."""
    new_scored: int = 0
    new_flops: float = 0.0
    new_seconds: float = 0.0
    new_waited: float = 0.0
    cells: int = 0
    """Cells of the whole run."""
    tokens: int = 0
    """Genes of the whole run."""
    scored: int = 0
    """Scored genes of the whole run."""
    skipped: int = 0
    """Steps of the whole run whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """The newest of them without a step between."""
    seconds: float = 0.0
    """Time spent in steps, of the whole run."""

    def add(
        self, result: StepResult, *, seconds: float, waited: float = 0.0, flops: float = 0.0
    ) -> None:
        """Count a step.

        Parameters
        ----------
        result
            Of the step.
        seconds
            It took, the wait for its batch included.
        waited
            Seconds of these in which it waited for its batch.
        flops
            Floating-point operations that the network needs for its cells.
        """
        if result.is_finite:
            self.n_steps += 1
            for name in ("loss", "gene_loss", "cell_loss", "grad_norm"):
                setattr(self, name, getattr(self, name) + getattr(result, name))
        self.skipped += not result.is_finite
        self.skipped_in_a_row = 0 if result.is_finite else self.skipped_in_a_row + 1
        self.new_cells += result.n_cells
        self.new_scored += result.n_scored
        self.new_flops += flops
        self.new_seconds += seconds
        self.new_waited += waited
        self.cells += result.n_cells
        self.tokens += result.n_tokens
        self.scored += result.n_scored
        self.seconds += seconds

    def read(self, *, peak: float = 0.0) -> dict[str, float | int]:
        """Return means over the steps since the last line, and the totals; start anew.

        Parameters
        ----------
        peak
            Floating-point operations a second that the devices of the run can do; 0 leaves their share out.
        """
        n, seconds = max(self.n_steps, 1), max(self.new_seconds, 1e-9)
        line: dict[str, float | int] = {}
        if self.n_steps:
            for name in ("loss", "gene_loss", "cell_loss", "grad_norm"):
                line[name] = getattr(self, name) / n
        line |= {
            "cells": self.cells,
            "tokens": self.tokens,
            "scored": self.scored,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "cells_per_second": round(self.new_cells / seconds, 1),
            "scored_per_second": round(self.new_scored / seconds, 1),
            "wait_share": round(self.new_waited / seconds, 4),
        }
        if peak:
            line["mfu"] = round(self.new_flops / seconds / peak, 4)
        self.n_steps = self.new_cells = self.new_scored = 0
        self.loss = self.gene_loss = self.cell_loss = self.grad_norm = 0.0
        self.new_flops = self.new_seconds = self.new_waited = 0.0
        return line


class Tracker(Protocol):
    """Where metrics go."""

    def write(self, line: Line) -> None:
        """Take the metrics of a step."""
        ...

    def close(self) -> None:
        """Hand over what is left."""
        ...


class MetricsFile:
    """``metrics.jsonl``: lines of `kind` train or held_out, each with the steps taken so far.

    Parameters
    ----------
    path
        File to append to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Line) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def close(self) -> None:
        """Do nothing: every line is on disk."""

    def read(self) -> list[dict[str, float | int | str]]:
        """Return all whole lines; a last one that a kill has torn is left out."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def cut(self, step: int) -> None:
        """Drop the lines of steps after this one: they will be written again."""
        kept = [line for line in self.read() if int(line["step"]) <= step]
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(self.path)


class TensorBoard:
    """Event files for TensorBoard.

    Parameters
    ----------
    folder
        Folder of the event files.
    step
        Steps taken; what a killed run has written beyond them is hidden.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: Line) -> None:
        """Write each number as a scalar, named by its kind and set."""
        for name, value in _numbers(line):
            self._writer.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases; a resumed run goes on in it.

    Parameters
    ----------
    folder
        Run folder.
    identity
        Lasting name of the run.
    config
        Resolved config.
    """

    def __init__(self, folder: Path, *, identity: str, config: Mapping[str, object]) -> None:
        wandb: Any = import_module("wandb")
        self._run: Any = wandb.init(
            project="cellfm",
            name=folder.name,
            id=identity,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def write(self, line: Line) -> None:
        """Log each number, named by its kind and set."""
        self._run.log(dict(_numbers(line)), step=int(line["step"]))

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers whose package is not here; better now than after the data are read.

    Raises
    ------
    MissingDependencyError
        With the line that installs it.
    """
    for name in names:
        if find_spec(name) is None:
            msg = f"run.trackers asks for {name}, which is not installed: {PACKAGES[name]}, or leave it out."
            raise MissingDependencyError(msg)


def open_trackers(
    names: Sequence[str], folder: Path, *, step: int, identity: str, config: Mapping[str, object]
) -> list[Tracker]:
    """Open the trackers of ``run.trackers`` for a run folder.

    Parameters
    ----------
    names
        Of :class:`~cellfm.config.RunConfig`.
    folder
        Run folder.
    step
        Steps taken.
    identity
        Lasting name of the run.
    config
        Resolved config.
    """
    check_trackers(names)
    found: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            found.append(TensorBoard(folder / "tensorboard", step=step))
        else:
            found.append(WeightsAndBiases(folder, identity=identity, config=config))
    return found


def _numbers(line: Line) -> list[tuple[str, float]]:
    where = "/".join(str(line[key]) for key in ("kind", "set") if key in line)
    return [
        (f"{where}/{name}", value)
        for name, value in line.items()
        if name != "step" and not isinstance(value, str)
    ]
