"""Everything that decides a pretraining run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError


def _at_least(owner: object, **smallest: int) -> None:
    for name, least in smallest.items():
        found = getattr(owner, name)
        if found < least:
            msg = f"{type(owner).__name__}.{name} is {found}; it must be at least {least}. Give a number in that range."
            raise ConfigError(msg)


def _within(owner: object, name: str, interval: str, *, inside: bool) -> None:
    if not inside:
        found = getattr(owner, name)
        msg = f"{type(owner).__name__}.{name} is {found}; it must be in {interval}. Give a number in that range."
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which cells are learned from, and how they become batches."""

    token_budget: int = 16384
    """Expressed genes of all cells of a micro-batch together; it is cut by this, not by a number of cells."""
    lanes: int = 1
    """Micro-batches of a step. They are shared out over the processes: whatever their number, a step is the same."""
    window_rows: int = 8192
    """Rows that are read and shuffled together; a store is shuffled on disk already."""
    length_buckets: int = 1
    """Classes of similar length that the cells of a window are batched by; 1 mixes all lengths."""
    prefetch: int = 2
    """Steps whose batches are made ahead by a thread; 0 makes each when it is needed. Changes no result."""
    held_out: float = 0.1
    """Fraction of the cells, beside held-out datasets and donors, that is never trained on and judges the model."""
    held_out_datasets: tuple[str, ...] = ()
    """Datasets of a store that are never trained on; each is a held-out set of its own."""
    held_out_donors: tuple[str, ...] = ()
    """Donors of a store that are never trained on; together they are a held-out set."""
    held_out_cells: int = 2000
    """Cells of a held-out set that are judged at most; more are still never trained on."""
    where: tuple[str, ...] = ()
    """Conditions that all cells of a store must meet: tissue=blood, tissue=blood|lung, disease!=normal."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Visits to each cell of a dataset in an epoch; 1 for datasets that are not named."""
    scored_fraction: float = 0.2
    """Fraction of a cell's genes that enters the loss."""
    hidden_fraction: float = 0.8
    """Fraction of the scored genes whose value the network does not see."""
    genes_per_cell: int | None = None
    """Genes drawn from a longer cell, anew each epoch: more cells a step for the same work; null shows all of them."""
    gene_start: Literal["random", "pca"] = "random"
    """Where the gene table starts: at random, or at the gene loadings of a PCA of training cells, rotated at random."""
    thin: bool = False
    """Thin the counts of every second cell binomially and ask for the full ones: read-depth augmentation."""

    def __post_init__(self) -> None:
        _at_least(self, token_budget=1, lanes=1, window_rows=1, length_buckets=1, prefetch=0)
        _at_least(self, held_out_cells=1)
        if self.genes_per_cell is not None:
            _at_least(self, genes_per_cell=1)
        _within(self, "held_out", "[0, 1)", inside=0.0 <= self.held_out < 1.0)
        _within(self, "scored_fraction", "(0, 1]", inside=0.0 < self.scored_fraction <= 1.0)
        _within(self, "hidden_fraction", "[0, 1]", inside=0.0 <= self.hidden_fraction <= 1.0)
        for condition in self.where:
            if not condition.partition("=")[0].strip("! ") or "=" not in condition:
                msg = f"DataConfig.where has {condition!r}; expected COLUMN=VALUE, COLUMN=VALUE|VALUE or COLUMN!=VALUE, such as tissue=blood. Write the condition in one of these forms."
                raise ConfigError(msg)
        for name, weight in self.weights.items():
            if not 0.0 <= weight < math.inf:
                msg = f"DataConfig.weights of {name!r} is {weight}; it must be in [0, ∞): visits to each of its cells in an epoch. Give a number in that range."
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    name: str = "masked_expression"
    """Ours, or one that an installed package offers under the entry points ``cellfm.objectives``."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Numbers that an objective of another package asks for, by name."""
    detection: float = 0.0
    """Weight of the detection term: which genes a cell expresses, asked of its state; needs model.detection_head."""

    def __post_init__(self) -> None:
        _within(self, "detection", "[0, ∞)", inside=0.0 <= self.detection < math.inf)
        if not self.name:
            msg = "ObjectiveConfig.name is empty; name an objective, such as masked_expression."
            raise ConfigError(msg)


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
    """Learning rate over the steps: linear warm-up, then half a cosine, or level and a linear end."""

    n_steps: int
    """Optimiser steps of the whole run."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its highest value."""
    kind: Literal["cosine", "wsd"] = "cosine"
    """cosine falls from the warm-up on; wsd (warm-up, stable, decay) stays at the highest rate until the decay."""
    decay_fraction: float = 0.2
    """Of wsd: share of the steps, the last ones, over which the rate falls linearly."""
    final_fraction: float = 0.1
    """Rate of the last step as a fraction of the highest; 1 keeps the rate constant."""

    def __post_init__(self) -> None:
        _at_least(self, n_steps=1, warmup_steps=0)
        _within(self, "final_fraction", "[0, 1]", inside=0.0 <= self.final_fraction <= 1.0)
        _within(self, "decay_fraction", "[0, 1]", inside=0.0 <= self.decay_fraction <= 1.0)
        if self.warmup_steps > self.n_steps:
            msg = (
                f"ScheduleConfig.warmup_steps {self.warmup_steps} is more than n_steps {self.n_steps}; "
                "the highest learning rate would never be reached. Shorten the warm-up."
            )
            raise ConfigError(msg)
        if self.kind == "wsd" and self.warmup_steps + self.decay_steps > self.n_steps:
            msg = (
                f"ScheduleConfig.warmup_steps {self.warmup_steps} and the {self.decay_steps} steps of the decay (decay_fraction "
                f"{self.decay_fraction}) are more than n_steps {self.n_steps}. Shorten one of them."
            )
            raise ConfigError(msg)

    @property
    def decay_steps(self) -> int:
        """Steps of the decay of wsd."""
        return round(self.decay_fraction * self.n_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Seed, precision, processes and rhythm of a run."""

    seed: int = 0
    """Decides weights, order of cells, masks and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the matrix products; weights, norms and optimiser stay in fp32."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process holds the whole model (ddp), or its share of weights, gradients and moments (fsdp)."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: less memory, a third more work."""
    compile: bool = False
    """Compile the layers with torch.compile."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl."""
    max_skipped: int = 10
    """Steps in a row that are skipped because loss or gradient is not finite; one more ends the run."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    eval_every: int = 200
    """Steps between two evaluations on the held-out cells."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; older ones are deleted."""

    def __post_init__(self) -> None:
        _at_least(
            self,
            seed=0,
            max_skipped=0,
            log_every=1,
            eval_every=1,
            checkpoint_every=1,
            keep_checkpoints=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """A pretraining run: what is learned, from what, how, for how long."""

    model: ModelConfig
    """Shape of the network."""
    schedule: ScheduleConfig
    """Steps and learning rate over them."""
    data: DataConfig = DataConfig()
    """How cells become batches."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    run: RunConfig = RunConfig()
    """Seed, precision, processes and rhythm."""

    def __post_init__(self) -> None:
        if not self.model.decoders:
            msg = (
                "PretrainConfig.model.decoders is false, but masked-expression recovery needs the decoders. "
                "Set model.decoders=true."
            )
            raise ConfigError(msg)
        if self.objective.detection and not (self.model.detection_head or self.model.zero_heads):
            msg = (
                f"PretrainConfig.objective.detection is {self.objective.detection}, but the model has no head for it. "
                "Set model.detection_head=true, or objective.detection=0."
            )
            raise ConfigError(msg)
