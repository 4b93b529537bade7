"""Where the memory of fine-tuning goes, by formula."""

from dataclasses import dataclass, replace
from typing import Literal

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError
from cellfm.train.plan.memory import (
    BF16,
    FP32,
    MOMENTS,
    WORKING_STATES,
    layer_bytes,
    saved_bytes,
    weight_copies,
)
from cellfm.train.plan.parameters import count_parameters
from cellfm.train.plan.products import BatchShape

Strength = Literal["lora", "finetune"]
KEY_INPUTS, QUERY_INPUTS = 2, 4
"""Float32 inputs of a layer's products per key row and per query row, of which bfloat16 products keep a copy each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePlan:
    """Bytes on one device at the worst moment of a step, and what has to be stored afterwards."""

    strength: Strength
    rank: int
    token_budget: int
    precision: Literal["fp32", "bf16"]
    activation_checkpointing: bool
    n_trained: int
    """Parameters that are trained."""
    weights: float
    """All weights in float32, frozen ones included, and the bfloat16 copies that autocast makes of them."""
    gradients: float
    """Of what is trained, in float32."""
    optimiser: float
    """Two moments of what is trained, in float32."""
    activations: float
    """What the forward pass saves, and what the backward pass holds besides."""
    best_epoch: float
    """Copy of the trained parameters at the best epoch: in the memory of the host, not of an accelerator."""

    @property
    def total(self) -> float:
        """All of it but the copy of the best epoch."""
        return self.weights + self.gradients + self.optimiser + self.activations


def finetune_plan(  # noqa: PLR0913 - one keyword for each choice of a fit
    model: ModelConfig,
    *,
    strength: Strength,
    rank: int,
    token_budget: int,
    precision: Literal["fp32", "bf16"],
    activation_checkpointing: bool = False,
    genes_per_cell: float = 1000.0,
    n_classes: int = 20,
    device: Literal["cpu", "cuda"] = "cuda",
) -> FinetunePlan:
    """Add up the memory of fine-tuning with a perceptron on the cell's state.

    Adapters leave the gradients and moments of a few million parameters, but the activations of a full step save for those
    of the embeddings: it is activation checkpointing, or a small token budget, that makes a large network fit.

    Parameters
    ----------
    model
        Shape of the pretrained network.
    strength
        ``"lora"``: adapters and head; ``"finetune"``: everything that the cell's state depends on, and the head.
    rank
        Of the adapters; not looked at without them.
    token_budget
        Genes of all cells of a step together.
    precision, activation_checkpointing
        As in :class:`~cellfm.train.finetune.TuneConfig`.
    genes_per_cell
        Expressed genes of a cell, on average.
    n_classes
        Scores of the head.
    device
        The CPU keeps dropout noise in the precision of the products, a GPU as one byte.

    Raises
    ------
    ConfigError
        The rank is below 1 with adapters, or the budget or the genes per cell are.
    """
    _check(strength=strength, rank=rank, token_budget=token_budget, genes_per_cell=genes_per_cell)
    lora = strength == "lora"
    config = replace(model, lora_rank=rank if lora else 0)
    n_cells = max(1.0, token_budget / genes_per_cell)
    shape = BatchShape(n_cells=n_cells, n_tokens=token_budget, n_scored=0)
    parameters, head = count_parameters(config), _head(config.dim, n_classes)
    n_trained = head + (parameters.adapters if lora else encoder_parameters(config))
    held = tuning_bytes(
        config,
        shape,
        precision=precision,
        activation_checkpointing=activation_checkpointing,
        device=device,
    )
    copies = tuning_copies(config, precision, activation_checkpointing=activation_checkpointing)
    copies += BF16 * head if precision == "bf16" else 0
    return FinetunePlan(
        strength=strength,
        rank=config.lora_rank,
        token_budget=token_budget,
        precision=precision,
        activation_checkpointing=activation_checkpointing,
        n_trained=n_trained,
        weights=FP32 * (parameters.total + head) + copies,
        gradients=FP32 * n_trained,
        optimiser=MOMENTS * n_trained,
        activations=held
        + _temporary(config, shape, precision, device, again=activation_checkpointing),
        best_epoch=FP32 * n_trained,
    )


def encoder_parameters(config: ModelConfig) -> int:
    """Count what a cell's state depends on: no decoder, no other head, no embedding of hidden genes.

    Parameters
    ----------
    config
        Shape of the network, without adapters.
    """
    parameters = count_parameters(config)
    special = parameters.special_tokens - config.dim  # the mask's embedding
    return parameters.gene_table + parameters.value_encoders + special + parameters.layers


def tuning_bytes(
    config: ModelConfig,
    shape: BatchShape,
    *,
    precision: Literal["fp32", "bf16"],
    activation_checkpointing: bool = False,
    device: Literal["cpu", "cuda"] = "cuda",
) -> float:
    """Return the bytes that autograd saves in the forward pass, weights and their copies left out.

    With adapters (``config.lora_rank``) the weights and the embeddings are frozen: neither the insides of the value encoders
    nor the bfloat16 inputs of the frozen products are kept.

    Parameters
    ----------
    config
        Shape of the network.
    shape
        The batch; nothing is scored.
    precision, activation_checkpointing, device
        As in :func:`~cellfm.train.plan.memory.saved_bytes`.
    """
    saved = saved_bytes(
        config,
        shape,
        precision=precision,
        activation_checkpointing=activation_checkpointing,
        device=device,
    )
    if not config.lora_rank:
        return saved
    outside = saved_bytes(
        replace(config, n_layers=1),
        shape,
        precision=precision,
        activation_checkpointing=True,
        device=device,
    )
    embedding = outside - FP32 * config.dim * shape.rows(config)
    if activation_checkpointing:
        return saved - embedding
    rows, asked = shape.rows(config), shape.asked
    whole = (config.n_layers - 1) * rows * (KEY_INPUTS + QUERY_INPUTS)
    inputs = whole + rows * KEY_INPUTS + asked * QUERY_INPUTS
    return saved - embedding - _input_bytes(config, precision) * inputs


def _input_bytes(config: ModelConfig, precision: Literal["fp32", "bf16"]) -> int:
    """Bytes of the copy that a frozen product would keep of a row of its input, were it trained."""
    return BF16 * config.dim if precision == "bf16" else 0


def tuning_copies(
    config: ModelConfig, precision: Literal["fp32", "bf16"], *, activation_checkpointing: bool
) -> float:
    """Return the bytes of the network's bfloat16 weights at the worst moment; none in fp32.

    Autocast keeps the copies of trained weights until the end of the forward pass. Those of frozen weights live as long as
    something saved them: with activation checkpointing that is one layer's.

    Parameters
    ----------
    config
        Shape of the network, with adapters or without.
    precision, activation_checkpointing
        As in :func:`finetune_plan`.
    """
    if precision == "fp32":
        return 0.0
    bare = replace(config, zero_heads=False, detection_head=False)
    outside = weight_copies(bare, precision, layers=False)
    layers = weight_copies(bare, precision) - outside
    if not config.lora_rank:
        decoders = BF16 * (2 * config.dim**2 + config.dim)
        return layers + outside - decoders
    return layers / config.n_layers if activation_checkpointing else layers


def _temporary(
    config: ModelConfig,
    shape: BatchShape,
    precision: Literal["fp32", "bf16"],
    device: Literal["cpu", "cuda"],
    *,
    again: bool,
) -> float:
    """Return what the backward pass holds besides: gradients of states, and a layer that was computed again."""
    rows = shape.rows(config)
    states = WORKING_STATES[precision] * FP32 * rows * config.dim
    if not again:
        return states
    layer = layer_bytes(config, shape, precision=precision, device=device)
    if config.lora_rank:
        layer -= rows * _input_bytes(config, precision) * (KEY_INPUTS + QUERY_INPUTS)
    return states + layer


def _head(dim: int, n_classes: int) -> int:
    """Count the parameters of :class:`~cellfm.nn.heads.MlpHead` with a hidden layer as wide as a state."""
    return dim * dim + dim + 2 * (dim * n_classes + n_classes)


def _check(*, strength: Strength, rank: int, token_budget: int, genes_per_cell: float) -> None:
    if strength not in ("lora", "finetune"):
        msg = f"strength is {strength!r}; it must be 'lora' or 'finetune'. Choose one of these."
        raise ConfigError(msg)
    if strength == "lora" and rank < 1:
        msg = f"rank is {rank}; adapters need at least 1, usually 4 to 64. Give a number in that range."
        raise ConfigError(msg)
    if token_budget < 1 or genes_per_cell < 1:
        msg = f"token_budget is {token_budget} and genes_per_cell {genes_per_cell}; both must be at least 1. Give a number in that range."
        raise ConfigError(msg)
