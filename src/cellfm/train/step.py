"""One optimiser step, as a function of the batch, the seed and the step number alone."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils import deterministic

from cellfm.batch import CellBatch
from cellfm.config.pretrain import OptimConfig
from cellfm.errors import CellFMError
from cellfm.nn import CellFM, Loss
from cellfm.train.optim import clip_gradients

Objective = Callable[[CellFM, CellBatch], Loss]
"""What is minimised: a function of network and batch whose `total` has a gradient."""


class NonFiniteLossError(CellFMError, FloatingPointError):
    """The loss or its gradient is infinite or not a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step has seen."""

    loss: float
    """Total loss of the batch before the step."""
    gene_loss: float
    """Its gene-wise half."""
    cell_loss: float
    """Its cell-wise half."""
    grad_norm: float
    """L2 norm of the gradient before clipping."""
    n_cells: int
    """Cells of the batch."""
    n_tokens: int
    """Genes of the batch."""


def train_step(
    network: CellFM,
    batch: CellBatch,
    optimizer: torch.optim.Optimizer,
    *,
    objective: Objective,
    optim: OptimConfig,
    step: int,
    seed: int,
    precision: Literal["fp32", "bf16"],
) -> StepResult:
    """Take one step at the learning rate that the optimiser's groups hold.

    Weights and moments are untouched when the loss or its gradient is not finite.

    Parameters
    ----------
    network
        Network in training mode.
    batch
        Cells on the device of the network.
    optimizer
        Of :func:`~cellfm.train.optim.build_optimizer`.
    objective
        What is minimised.
    optim
        Settings of the clipping.
    step, seed
        Decide the dropout noise; the caller's generators are left as they were.
    precision
        Of the matrix products.

    Raises
    ------
    NonFiniteLossError
        When the loss or the gradient is not finite.
    """
    device = batch.gene.device
    optimizer.zero_grad(set_to_none=True)
    with noise(device, seed=seed, step=step), repeatable(device):
        with autocast(device, precision):
            loss = objective(network, batch)
        loss.total.backward()
    norm = clip_gradients(network.parameters(), optim)
    total, gene, cell, length = torch.stack(
        [x.detach().to(norm) for x in (loss.total, loss.gene, loss.cell, norm)]
    ).tolist()
    _check_finite(total, length, step=step)
    optimizer.step()
    return StepResult(
        loss=total,
        gene_loss=gene,
        cell_loss=cell,
        grad_norm=length,
        n_cells=batch.n_cells,
        n_tokens=batch.n_tokens,
    )


def autocast(
    device: torch.device, precision: Literal["fp32", "bf16"]
) -> AbstractContextManager[object]:
    """Return the context in which the network runs."""
    return (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )


@contextmanager
def noise(device: torch.device, *, seed: int, step: int) -> Iterator[None]:
    """Make random draws inside a function of seed and step, and give the generators back as they were."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest()
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


def _check_finite(loss: float, grad_norm: float, *, step: int) -> None:
    if torch.isfinite(torch.tensor([loss, grad_norm])).all():
        return
    msg = (
        f"Step {step}: the loss is {loss} and the norm of its gradient {grad_norm}; both must be finite. The weights "
        "were not changed and the last checkpoint is intact. Check the counts of the data; then start again in a new "
        "folder with a lower optim.lr, a longer schedule.warmup_steps or run.precision=fp32."
    )
    raise NonFiniteLossError(msg)
