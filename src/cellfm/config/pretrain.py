"""Everything that decides a pretraining run."""

import math
from dataclasses import dataclass
from typing import Literal

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError


def _at_least(owner: object, **smallest: int) -> None:
    for name, least in smallest.items():
        found = getattr(owner, name)
        if found < least:
            msg = f"{type(owner).__name__}.{name} is {found}; it must be at least {least}."
            raise ConfigError(msg)


def _within(owner: object, name: str, interval: str, *, inside: bool) -> None:
    if not inside:
        found = getattr(owner, name)
        msg = f"{type(owner).__name__}.{name} is {found}; it must be in {interval}."
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How cells become batches."""

    token_budget: int = 16384
    """Expressed genes of all cells of a batch together; a batch is cut by this, not by a number of cells."""
    held_out: float = 0.1
    """Fraction of the cells that is never trained on and judges the model."""
    scored_fraction: float = 0.2
    """Fraction of a cell's genes that enters the loss."""
    hidden_fraction: float = 0.8
    """Fraction of the scored genes whose value the network does not see."""
    thin: bool = False
    """Thin the counts of every second cell binomially and ask for the full ones: read-depth augmentation."""

    def __post_init__(self) -> None:
        _at_least(self, token_budget=1)
        _within(self, "held_out", "[0, 1)", inside=0.0 <= self.held_out < 1.0)
        _within(self, "scored_fraction", "(0, 1]", inside=0.0 < self.scored_fraction <= 1.0)
        _within(self, "hidden_fraction", "[0, 1]", inside=0.0 <= self.hidden_fraction <= 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The optimiser; `adam`, `tensor` and `published` together are the rule of the publication's code."""

    kind: Literal["adamw", "adam"] = "adamw"
    """adamw shrinks the weights beside the step; adam adds the L2 term to the gradient."""
    lr: float = 3e-4
    """Highest learning rate, reached after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running mean of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: float = 0.1
    """Strength of the weight decay (adamw) or of the L2 term (adam)."""
    clip_norm: float | None = 1.0
    """Largest L2 norm of the gradient; null never clips."""
    clip_per: Literal["model", "tensor"] = "model"
    """Clip the gradient of the whole model, or each tensor's on its own."""
    decay: Literal["matrices", "published"] = "matrices"
    """Decay projections only, or all but embeddings and biases of heads (so norms and [CLS] too)."""

    def __post_init__(self) -> None:
        _within(self, "lr", "(0, ∞)", inside=0.0 < self.lr < math.inf)
        _within(self, "eps", "(0, ∞)", inside=0.0 < self.eps < math.inf)
        _within(self, "weight_decay", "[0, ∞)", inside=0.0 <= self.weight_decay < math.inf)
        _within(self, "betas", "[0, 1)", inside=all(0.0 <= beta < 1.0 for beta in self.betas))
        if self.clip_norm is not None:
            _within(self, "clip_norm", "(0, ∞)", inside=0.0 < self.clip_norm < math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the steps: linear warm-up, then half a cosine."""

    n_steps: int
    """Optimiser steps of the whole run."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its highest value."""
    final_fraction: float = 0.1
    """Rate of the last step as a fraction of the highest; 1 keeps the rate constant."""

    def __post_init__(self) -> None:
        _at_least(self, n_steps=1, warmup_steps=0)
        _within(self, "final_fraction", "[0, 1]", inside=0.0 <= self.final_fraction <= 1.0)
        if self.warmup_steps > self.n_steps:
            msg = (
                f"ScheduleConfig.warmup_steps {self.warmup_steps} is more than n_steps {self.n_steps}; "
                "the highest learning rate would never be reached. Shorten the warm-up."
            )
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Seed, precision and rhythm of a run."""

    seed: int = 0
    """Decides weights, order of cells, masks and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the matrix products; weights, norms and optimiser stay in fp32."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    eval_every: int = 200
    """Steps between two evaluations on the held-out cells."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; older ones are deleted."""

    def __post_init__(self) -> None:
        _at_least(self, seed=0, log_every=1, eval_every=1, checkpoint_every=1, keep_checkpoints=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """A pretraining run: what is learned, from what, how, for how long."""

    model: ModelConfig
    """Shape of the network."""
    schedule: ScheduleConfig
    """Steps and learning rate over them."""
    data: DataConfig = DataConfig()
    """How cells become batches."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    run: RunConfig = RunConfig()
    """Seed, precision and rhythm."""

    def __post_init__(self) -> None:
        if not self.model.decoders:
            msg = (
                "PretrainConfig.model.decoders is false, but masked-expression recovery needs the decoders. "
                "Set model.decoders=true."
            )
            raise ConfigError(msg)
