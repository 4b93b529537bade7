"""One optimiser step, as a function of its micro-batches, the seed and the step number alone."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch.utils import deterministic

from cellfm.batch import CellBatch
from cellfm.config.pretrain import OptimConfig
from cellfm.errors import CellFMError
from cellfm.train.optim import clip_gradients
from cellfm.train.parallel import Trainee

if TYPE_CHECKING:
    from cellfm.nn import Loss


class NonFiniteLossError(CellFMError, FloatingPointError):
    """The loss or its gradient is infinite or not a number, again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step of all processes has seen."""

    loss: float
    """Total loss over all scored genes before the step."""
    gene_loss: float
    """Its gene-wise half."""
    cell_loss: float
    """Its cell-wise half."""
    grad_norm: float
    """L2 norm of the gradient before clipping."""
    n_cells: int
    """Cells of the step."""
    n_tokens: int
    """Genes of the step."""
    n_scored: int
    """Scored genes of the step."""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are numbers; if not, nothing was changed."""
        return bool(torch.isfinite(torch.tensor([self.loss, self.grad_norm])).all())


def train_step(
    trainee: Trainee,
    batches: Sequence[CellBatch],
    optimizer: torch.optim.Optimizer,
    *,
    optim: OptimConfig,
    step: int,
    seed: int,
    precision: Literal["fp32", "bf16"],
) -> StepResult:
    r"""Take one step at the learning rate that the optimiser's groups hold.

    The loss is the mean over all scored genes of all micro-batches m of all processes,

    .. math:: L = \sum_m n_m L_m \Big/ \sum_m n_m,

    so that neither the number of processes nor the cut into micro-batches changes it. Weights and moments are untouched,
    in every process, when the loss or its gradient is not finite.

    Parameters
    ----------
    trainee
        Network in training mode.
    batches
        Micro-batches of this process: those of the lanes rank, rank + size, …
    optimizer
        Of :func:`~cellfm.train.optim.build_optimizer`.
    optim
        Settings of the clipping.
    step, seed
        With the lane they decide the dropout noise; the caller's generators are left as they were.
    precision
        Of the matrix products.
    """
    world, device = trainee.world, trainee.world.device
    n_each = [_n_scored(batch) for batch in batches]
    n_cells, n_tokens = sum(b.n_cells for b in batches), sum(b.n_tokens for b in batches)
    n_scored, n_cells, n_tokens = map(int, world.total([sum(n_each), n_cells, n_tokens]))
    optimizer.zero_grad(set_to_none=True)
    parts = torch.zeros(3, device=device)
    with repeatable(device):
        for i, (batch, n) in enumerate(zip(batches, n_each, strict=True)):
            lane, weight = world.rank + i * world.size, n / max(n_scored, 1)
            with (
                noise(device, seed=seed, step=step, lane=lane),
                trainee.accumulating(last=i + 1 == len(batches)),
            ):
                with autocast(device, precision):
                    loss = cast("Loss", trainee.module(batch.to(device)))
                # Copies and shares average the gradients of the processes; this is a sum.
                (loss.total * (weight * world.size)).backward()
            of_batch = torch.stack([loss.total, loss.gene, loss.cell]).detach()
            parts += weight * of_batch.to(parts)
    norm = clip_gradients(trainee.network.parameters(), optim, world=world)
    total, gene, cell, length = torch.cat([world.total_of(parts), norm.to(parts)[None]]).tolist()
    result = StepResult(
        loss=total,
        gene_loss=gene,
        cell_loss=cell,
        grad_norm=length,
        n_cells=n_cells,
        n_tokens=n_tokens,
        n_scored=n_scored,
    )
    if result.is_finite:
        optimizer.step()
    return result


def _n_scored(batch: CellBatch) -> int:
    return 0 if batch.scored is None else int(batch.scored.sum())


def autocast(
    device: torch.device, precision: Literal["fp32", "bf16"]
) -> AbstractContextManager[object]:
    """Return the context in which the network runs."""
    return (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )


@contextmanager
def noise(device: torch.device, *, seed: int, step: int, lane: int = 0) -> Iterator[None]:
    """Make random draws inside a function of seed, step and lane, and give the generators back as they were."""
    digest = hashlib.blake2b(f"{seed}/{step}/{lane}".encode(), digest_size=4).digest()
    drawn = int.from_bytes(digest, "little")
    accelerators = [] if device.type == "cpu" else [torch.get_device_module(device)]
    with torch.random.fork_rng(devices=[device] if accelerators else []):
        torch.default_generator.manual_seed(drawn)
        for accelerator in accelerators:
            accelerator.manual_seed(drawn)
        yield


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make sums over repeated rows come out in one order on the CPU, whose threads otherwise race for them.

    On CUDA these sums are ordered anyway, and the mode would ask for a process-wide cuBLAS setting.
    """
    if device.type != "cpu":
        yield
        return
    mode = torch.are_deterministic_algorithms_enabled()
    fill: bool = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(mode=True)
    # Filling is an eighth of a step, and nothing reads what it fills.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=mode)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
