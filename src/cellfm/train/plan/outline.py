"""What a plan consists of."""

from dataclasses import asdict, dataclass
from typing import Literal

from cellfm.train.plan.hardware import Gpu
from cellfm.train.plan.memory import Memory
from cellfm.train.plan.parameters import Parameters

HEADROOM = 0.92
"""Share of an accelerator's memory to plan with: context, communication buffers and fragmentation take the rest."""


def usable_bytes(gpu: Gpu) -> float:
    """Return the bytes to plan with on an accelerator."""
    return HEADROOM * gpu.memory_gib * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of the matrix products for a mean cell."""

    forward: float
    """Of the objective, without gradient."""
    step: float
    """Forward and backward: what MFU counts."""
    executed: float
    """The same with the layers computed again, when activation checkpointing is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Steps, and what one is."""

    lanes: int
    """Micro-batches of a step, over all processes."""
    cells_per_step: float
    """Cells of all of them; the budget is not filled to the last gene."""
    tokens_per_step: float
    """Their expressed genes."""
    steps_per_epoch: float
    """Steps until each training cell was seen once."""
    n_steps: int
    """Steps of the run."""
    n_epochs: float
    """The same in epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast, if the MFU is what it is taken to be; communication and waiting are part of it."""

    mfu: float
    """Operations of the model (recomputation not counted) as a share of the peak."""
    cells_per_second: float
    tokens_per_second: float
    seconds_per_step: float
    days_per_epoch: float
    days: float
    """Of the whole run."""
    gpu_hours: float
    """Of the whole run, all accelerators together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """What the data side has to deliver."""

    cells_per_second_per_gpu: float
    cells_per_second_per_node: float
    disk_megabytes_per_second_per_node: float
    """Compressed, from the store; 10⁶ bytes."""
    read_megabytes_per_second_per_node: float
    """The same after decompression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Bytes on disk."""

    weights: int
    """A weights folder."""
    state: int
    """A checkpoint to resume from: weights and both moments."""
    kept: int
    """All that are kept, and one being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run takes; see :func:`~cellfm.train.plan.forecast.plan`."""

    gpu: Gpu
    n_gpus: int
    n_nodes: int
    n_cells: int
    """Cells of the corpus, held-out ones included."""
    genes_per_cell: float
    precision: Literal["fp32", "bf16"]
    token_budget: int
    parameters: Parameters
    work: Work
    memory: Memory
    """Of one accelerator, as the recipe has it."""
    layouts: tuple[Memory, ...]
    """The same for ddp and fsdp (on more than one), each with and without activation checkpointing."""
    largest_budgets: tuple[int, ...]
    """The token budget that just fits, for each of them; 0 when the states alone do not."""
    schedule: Schedule
    speed: Speed
    loader: Loader
    checkpoints: Checkpoints
    warnings: tuple[str, ...]
    """What will not work, or not well, and what to change."""

    @property
    def usable_memory(self) -> float:
        """Bytes that a process may plan with."""
        return usable_bytes(self.gpu)

    def to_dict(self) -> dict[str, object]:
        """Return the plan as nested plain values, totals included."""
        content: dict[str, object] = asdict(self)
        content["parameters"] = asdict(self.parameters) | {
            "total": self.parameters.total,
            "trained": self.parameters.trained,
        }
        content["memory"] = asdict(self.memory) | {"total": self.memory.total}
        content["layouts"] = [asdict(layout) | {"total": layout.total} for layout in self.layouts]
        content["largest_budgets"] = list(self.largest_budgets)
        content["warnings"] = list(self.warnings)
        content["usable_memory"] = self.usable_memory
        return content
