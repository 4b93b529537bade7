"""Fine-tuning: the trainable parameters of a module, a loss, and an end that the validation part decides."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cellfm.batch import CellBatch
from cellfm.config.pretrain import OptimConfig, ScheduleConfig
from cellfm.errors import ConfigError
from cellfm.nn import CellFM
from cellfm.train.optim import FUSED, clip_gradients, decays
from cellfm.train.schedule import learning_rate
from cellfm.train.step import NonFiniteLossError, autocast, noise, repeatable


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """How to fine-tune; the defaults are for some thousand cells and take minutes with a small network on one core."""

    n_epochs: int = 6
    """Epochs at most; the learning rate falls over all of them."""
    patience: int = 3
    """Epochs in a row without a lower validation loss after which training ends."""
    lr: float = 1e-4
    """Highest learning rate of the network's own parameters."""
    lora_lr: float = 1e-3
    """Highest learning rate of adapters: they start at a product of zero, and have to go further."""
    head_lr: float = 1e-3
    """Highest learning rate of all other parameters."""
    weight_decay: float = 1e-2
    """Of AdamW, on matrices only: no embedding (so that rows of genes that never occur stay), norm or bias."""
    warmup: float = 0.05
    """Share of the steps over which the rates rise linearly; then half a cosine."""
    clip: float = 1.0
    """Largest L2 norm of the gradient."""
    token_budget: int = 6144
    """Genes of all cells of a step together."""
    max_genes: int | None = 2048
    """Highest genes of a longer cell that are trained on; None for all."""
    seed: int = 0
    """Of heads, adapters, order and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products; weights and optimiser stay in fp32."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: less memory, a third more work."""

    def __post_init__(self) -> None:
        least = {"n_epochs": 1, "patience": 1, "token_budget": 1, "seed": 0, "max_genes": 1}
        for name, number in least.items():
            found = getattr(self, name)
            if found is not None and found < number:
                msg = f"TuneConfig.{name} is {found}; it must be at least {number}. Give a number in that range."
                raise ConfigError(msg)
        for name in ("lr", "lora_lr", "head_lr", "clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                msg = f"TuneConfig.{name} is {getattr(self, name)}; it must be in (0, ∞). Give a number in that range."
                raise ConfigError(msg)
        if not 0.0 <= self.weight_decay < math.inf or not 0.0 <= self.warmup <= 1.0:
            msg = f"TuneConfig.weight_decay is {self.weight_decay} and warmup {self.warmup}; they must be in [0, ∞) and [0, 1]. Give a number in that range."
            raise ConfigError(msg)


Batch = TypeVar("Batch", CellBatch, Tensor)
"""Cells, or their frozen states when only a head is trained."""
Batch_co = TypeVar("Batch_co", CellBatch, Tensor, covariant=True)


class Batches(Protocol[Batch_co]):
    """What is trained on."""

    def n_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""

    def epoch(self, epoch: int) -> Iterator[tuple[Batch_co, Tensor]]:
        """Yield the batches of an epoch, each with the rows of its cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch has seen."""

    epoch: int
    """From 0."""
    loss: float
    """Mean over the steps of the epoch, dropout on."""
    validation: float | None
    """What the validation function returned after it; lower is better."""
    grad_norm: float
    """Mean L2 norm of the gradient before clipping."""
    seconds: float
    """Of training and validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """How training went; the module holds the parameters of the best epoch."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    """The one with the lowest validation loss, -1 for the parameters as they were; the last one where there is no validation."""
    best: float | None
    """Its validation loss."""
    start: float | None
    """Validation loss before training."""
    seconds: float


def tune(
    module: nn.Module,
    loss: Callable[[Batch, Tensor], Tensor],
    *,
    train: Batches[Batch],
    validate: Callable[[], float] | None,
    config: TuneConfig,
    keep_start: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TuneResult:
    """Train the parameters of a module that require a gradient, and keep those of the best epoch, or as they were if none is better.

    The result is a function of module, batches and config: dropout is drawn from (seed, step), and the caller's
    generators are left as they were.

    Parameters
    ----------
    module
        Holds the parameters; those of a :class:`~cellfm.nn.CellFM` inside it get ``lr``, or ``lora_lr`` if they are
        adapters, all others ``head_lr``. It is left in evaluation mode.
    loss
        Mean loss of a batch, which is on the device of the module, with the rows of its cells, which are on the CPU.
    train
        Batches of the training part.
    validate
        Called before training and after each epoch in evaluation mode without gradient; lower is better. None trains all
        epochs and keeps the last.
    config
        How.
    keep_start
        Whether the parameters as they were may be the best; not for random ones, which would then never have to leave the start.
    progress
        Called with (epochs done, epochs at most).

    Returns
    -------
    History, the best epoch, and the seconds it took.

    Raises
    ------
    NonFiniteLossError
        The loss, its gradient or the validation loss is infinite or not a number.
    ConfigError
        No parameter requires a gradient.
    """
    started = time.perf_counter()
    run = _Run(module, loss, config, n_steps=max(1, config.n_epochs * train.n_batches(0)))
    keeper = _Keeper(module)
    history: list[EpochRecord] = []
    start = run.validation(validate, "before training")
    if keep_start:
        keeper.see(-1, start)
    with _recomputed(module, use=config.activation_checkpointing):
        for epoch in range(config.n_epochs):
            history.append(_epoch(run, epoch, train, validate))
            keeper.see(epoch, history[-1].validation)
            if progress is not None:
                progress(epoch + 1, config.n_epochs)
            if epoch - keeper.epoch >= config.patience:
                break
    keeper.restore()
    return TuneResult(
        history=tuple(history),
        best_epoch=keeper.epoch,
        best=keeper.best,
        start=start,
        seconds=time.perf_counter() - started,
    )


def tune_groups(
    module: nn.Module, config: TuneConfig
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Split the trainable parameters by learning rate, and by whether they decay.

    Parameters
    ----------
    module
        As in :func:`tune`.
    config
        Rates and decay.

    Raises
    ------
    ConfigError
        No parameter requires a gradient.
    """
    networks = [part for part in module.modules() if isinstance(part, CellFM)]
    inside = {id(parameter) for network in networks for parameter in network.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            adapter = config.lora_lr if name.endswith(("lora_a", "lora_b")) else config.lr
            rate = adapter if id(parameter) in inside else config.head_lr
            decay = config.weight_decay if decays(name, parameter, "matrices") else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        msg = "No parameter of the module requires a gradient, so that nothing would be trained; unfreeze some, or add adapters."
        raise ConfigError(msg)
    return [
        {"params": parameters, "peak": rate, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


class _Run(Generic[Batch]):
    """Module, optimiser and the number of steps taken."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Batch, Tensor], Tensor],
        config: TuneConfig,
        *,
        n_steps: int,
    ) -> None:
        self.module, self.config = module, config
        self._loss: Callable[[Batch, Tensor], Tensor] = loss
        self.device = next(module.parameters()).device
        fused = self.device.type in FUSED
        self.optimizer = torch.optim.AdamW(tune_groups(module, config), lr=config.lr, fused=fused)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._clip = OptimConfig(clip_norm=config.clip)
        warmup = min(n_steps, round(config.warmup * n_steps))
        self._schedule = ScheduleConfig(n_steps=n_steps, warmup_steps=warmup, final_fraction=0.0)
        self.taken = 0

    def step(self, batch: Batch, rows: Tensor) -> tuple[float, float]:
        """Take one step; return the loss before it and the norm of its gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.taken, peak=group["peak"], schedule=self._schedule)
        self.optimizer.zero_grad(set_to_none=True)
        # Layers that are computed again in the backward pass bring their noise along.
        with repeatable(self.device), noise(self.device, seed=self.config.seed, step=self.taken):
            with autocast(self.device, self.config.precision):
                value = self._loss(batch.to(self.device), rows)
            value.backward()
        norm = clip_gradients(self._trained, self._clip)
        found = float(value.detach()), float(norm)
        if not all(map(math.isfinite, found)):
            msg = (
                f"Step {self.taken + 1} of fine-tuning has the loss {found[0]} and a gradient of length {found[1]}; both must be "
                f"finite. Lower the learning rates ({_rates(self.config)}), or check the input for NaN."
            )
            raise NonFiniteLossError(msg)
        self.optimizer.step()
        self.taken += 1
        return found

    def validation(self, validate: Callable[[], float] | None, when: str) -> float | None:
        """Return the validation loss, which must be finite; leaves the module in evaluation mode."""
        self.module.eval()
        if validate is None:
            return None
        with torch.no_grad():
            value = float(validate())
        if not math.isfinite(value):
            msg = f"The validation loss {when} is {value}; it must be finite. Lower the learning rates ({_rates(self.config)})."
            raise NonFiniteLossError(msg)
        return value


def _rates(config: TuneConfig) -> str:
    return f"lr {config.lr}, lora_lr {config.lora_lr}, head_lr {config.head_lr}"


def _epoch(
    run: _Run[Batch],
    epoch: int,
    train: Batches[Batch],
    validate: Callable[[], float] | None,
) -> EpochRecord:
    started = time.perf_counter()
    run.module.train()
    seen = [run.step(batch, rows) for batch, rows in train.epoch(epoch)]
    value = run.validation(validate, f"after epoch {epoch + 1}")
    return EpochRecord(
        epoch=epoch,
        loss=sum(found for found, _ in seen) / max(len(seen), 1),
        validation=value,
        grad_norm=sum(norm for _, norm in seen) / max(len(seen), 1),
        seconds=time.perf_counter() - started,
    )


class _Keeper:
    """Holds the trained parameters of the best epoch, on the CPU."""

    def __init__(self, module: nn.Module) -> None:
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._kept: list[Tensor] = []
        self.best: float | None = None
        self.epoch = 0

    def see(self, epoch: int, value: float | None) -> None:
        """Keep the parameters as they are now if they are the best so far; without validation the last are."""
        if value is None:
            self.epoch = epoch
        elif self.best is None or value < self.best:
            self.epoch, self.best = epoch, value
            self._kept = [p.detach().to("cpu", copy=True) for p in self._trained]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept parameters back."""
        for parameter, kept in zip(self._trained, self._kept, strict=bool(self._kept)):
            parameter.copy_(kept)


@contextmanager
def _recomputed(module: nn.Module, *, use: bool) -> Iterator[None]:
    """Let the layers of every network inside compute their activations again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    networks = [part for part in module.modules() if isinstance(part, CellFM)] if use else []
    layers = [layer for network in networks for layer in network.encoder_layers]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
