"""Metrics of a run: one JSON object a line, cut back to the checkpoint on resume."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellfm.train.step import StepResult


@dataclass(slots=True, kw_only=True)
class Meter:
    """Sums over the steps since the last line, and totals of the run; part of a checkpoint."""

    n_steps: int = 0
    """Steps since the last line."""
    loss: float = 0.0
    """Sum over these steps, like the next six."""
    gene_loss: float = 0.0
    cell_loss: float = 0.0
    grad_norm: float = 0.0
    new_cells: int = 0
    new_seconds: float = 0.0
    cells: int = 0
    """Cells of the whole run."""
    tokens: int = 0
    """Genes of the whole run."""
    seconds: float = 0.0
    """Time spent in steps, of the whole run."""

    def add(self, result: StepResult, *, seconds: float) -> None:
        """Count a step."""
        self.n_steps += 1
        for name in ("loss", "gene_loss", "cell_loss", "grad_norm"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.new_cells += result.n_cells
        self.new_seconds += seconds
        self.cells += result.n_cells
        self.tokens += result.n_tokens
        self.seconds += seconds

    def read(self) -> dict[str, float | int]:
        """Return means over the steps since the last line, and the totals; start anew."""
        n = max(self.n_steps, 1)
        line: dict[str, float | int] = {
            name: getattr(self, name) / n
            for name in ("loss", "gene_loss", "cell_loss", "grad_norm")
        }
        line |= {"cells": self.cells, "tokens": self.tokens, "seconds": round(self.seconds, 3)}
        line["cells_per_second"] = round(self.new_cells / max(self.new_seconds, 1e-9), 1)
        self.n_steps = self.new_cells = 0
        self.loss = self.gene_loss = self.cell_loss = self.grad_norm = self.new_seconds = 0.0
        return line


class MetricsFile:
    """``metrics.jsonl``: lines of `kind` train or held_out, each with the steps taken so far.

    Parameters
    ----------
    path
        File to append to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Mapping[str, float | int | str]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

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
