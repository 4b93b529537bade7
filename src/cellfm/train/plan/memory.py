"""Where the memory of a training process goes, by formula."""

from dataclasses import dataclass
from typing import Literal

from cellfm.config.model import ModelConfig
from cellfm.train.plan.parameters import count_parameters
from cellfm.train.plan.products import BatchShape

FP32, BF16 = 4, 2
MOMENTS = 2 * FP32
"""Adam's two running means, kept in float32 whatever the precision of the products."""
INDEX_BYTES = 25
"""Per gene: token and row number (8 each), value, visibility (4 each), hidden flag."""
WORKING_STATES = {"fp32": 1, "bf16": 3}
"""Float32 states of all rows that the backward pass of a layer holds besides what was saved; measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one accelerator at the worst moment of a step: the beginning of the last backward pass."""

    parallel: Literal["ddp", "fsdp"]
    """Replicated or sharded weights."""
    activation_checkpointing: bool
    """Whether layers forget their insides and compute them again."""
    weights: float
    """Float32 weights, or this process's share of them."""
    gradients: float
    """Float32 gradients; copies exchange them through buckets that hold them once more."""
    moments: float
    """Optimiser state."""
    working_weights: float
    """bfloat16 copies of the weights that autocast makes, or the layers that FSDP has gathered."""
    activations: float
    """What the forward pass saves for the backward pass."""
    temporary: float
    """What the backward pass holds besides: a recomputed layer, gradients of states."""

    @property
    def states(self) -> float:
        """What is there whatever the batch."""
        return self.weights + self.gradients + self.moments + self.working_weights

    @property
    def total(self) -> float:
        """All of it."""
        return self.states + self.activations + self.temporary


def training_memory(
    config: ModelConfig,
    shape: BatchShape,
    *,
    precision: Literal["fp32", "bf16"],
    parallel: Literal["ddp", "fsdp"] = "ddp",
    n_gpus: int = 1,
    activation_checkpointing: bool = False,
    device: Literal["cpu", "cuda"] = "cuda",
) -> Memory:
    """Add up the memory of one process.

    Parameters
    ----------
    config
        Shape of the network.
    shape
        A micro-batch.
    precision, parallel, activation_checkpointing
        As in the recipe.
    n_gpus
        Processes that share the state when it is sharded.
    device
        The CPU keeps dropout noise in the precision of the products, a GPU as one byte.
    """
    parameters = count_parameters(config)
    shards = n_gpus if parallel == "fsdp" else 1
    buckets = parameters.total if parallel == "ddp" and n_gpus > 1 else 0
    layer = layer_bytes(config, shape, precision=precision, device=device)
    state = FP32 * shape.rows(config) * config.dim
    again = layer if activation_checkpointing else 0.0
    return Memory(
        parallel=parallel,
        activation_checkpointing=activation_checkpointing,
        weights=FP32 * parameters.total / shards,
        gradients=FP32 * (parameters.trained / shards + buckets),
        moments=MOMENTS * parameters.trained / shards,
        working_weights=_gathered(config, precision)
        if shards > 1
        else weight_copies(config, precision),
        activations=saved_bytes(
            config,
            shape,
            precision=precision,
            activation_checkpointing=activation_checkpointing,
            device=device,
        ),
        temporary=again + WORKING_STATES[precision] * state,
    )


def saved_bytes(
    config: ModelConfig,
    shape: BatchShape,
    *,
    precision: Literal["fp32", "bf16"],
    activation_checkpointing: bool = False,
    device: Literal["cpu", "cuda"] = "cuda",
) -> float:
    """Return the bytes that autograd saves in the forward pass of a batch, weights and their copies left out.

    Parameters
    ----------
    config
        Shape of the network.
    shape
        The batch.
    precision, activation_checkpointing, device
        As in :func:`training_memory`.
    """
    outside = _embedding_bytes(config, shape, precision) + _decoder_bytes(config, shape, precision)
    if activation_checkpointing:
        return outside + config.n_layers * FP32 * config.dim * shape.rows(config)
    rows = shape.rows(config)
    kept, asked = _key_bytes(config, precision), _query_bytes(config, precision)
    noise = _noise_bytes(config, precision, device)
    whole = (config.n_layers - 1) * rows * (kept + asked)
    last = rows * kept + shape.asked * (asked + _selected_bytes(config, precision))
    # Layer 0 has no dropout; a network of one layer has none at all.
    dropped = noise * (max(config.n_layers - 2, 0) * rows + (config.n_layers > 1) * shape.asked)
    return outside + whole + last + dropped + config.n_layers * _state_bytes(config, shape)


def layer_bytes(
    config: ModelConfig,
    shape: BatchShape,
    *,
    precision: Literal["fp32", "bf16"],
    device: Literal["cpu", "cuda"] = "cuda",
) -> float:
    """Return the bytes that one layer saves when all rows are asked for.

    Parameters
    ----------
    config, shape, precision, device
        As in :func:`saved_bytes`.
    """
    per_row = _key_bytes(config, precision) + _query_bytes(config, precision)
    per_row += _noise_bytes(config, precision, device)
    return shape.rows(config) * per_row + _state_bytes(config, shape)


def weight_copies(
    config: ModelConfig, precision: Literal["fp32", "bf16"], *, layers: bool = True
) -> float:
    """Return the bytes of the bfloat16 copies that autocast makes of every matrix it multiplies with.

    Parameters
    ----------
    config
        Shape of the network.
    precision
        There are none in fp32.
    layers
        Count those of the layers; with activation checkpointing the backward pass does not keep them.
    """
    if precision == "fp32":
        return 0.0
    d, bins = config.dim, config.value_bins
    encoders = (2 if config.depth_tokens else 1) * (bins + bins**2 + bins * d)
    in_layers = config.n_layers * 8 * (d**2 + 2 * d * config.lora_rank) if layers else 0
    head = d**2 + d if config.detection_head else 0
    return BF16 * (encoders + 2 * d**2 + d + head + in_layers)


def _gathered(config: ModelConfig, precision: Literal["fp32", "bf16"]) -> float:
    """Add up what a sharded process holds whole: two layers, the gradient of one, and all that is in no layer.

    Weights are gathered, and gradients arise, in the precision of the products; they are summed in float32.
    """
    size = _product_size(precision)
    parameters = count_parameters(config)
    layer = (parameters.layers + parameters.adapters) / config.n_layers
    weights = size * (2 * layer + parameters.outside_layers)
    return weights + (size + FP32) * (layer + parameters.outside_layers)


def _product_size(precision: Literal["fp32", "bf16"]) -> int:
    return BF16 if precision == "bf16" else FP32


def _input_copies(precision: Literal["fp32", "bf16"], n_readers: int) -> int:
    """Bytes of a float32 input that `n_readers` projections save: once as it is, or a bfloat16 copy for each."""
    return n_readers * BF16 if precision == "bf16" else FP32


def _key_bytes(config: ModelConfig, precision: Literal["fp32", "bf16"]) -> float:
    """Per key row: input of key and value, key after ReLU, both by head in float32."""
    size = _product_size(precision)
    copies = BF16 * 2 if precision == "bf16" else FP32  # in fp32 the one input of all projections
    lora = _adapter_bytes(config, precision, n_float32_inputs=2, n_projections=2)
    return config.dim * (copies + size + 2 * FP32) + lora + size


def _query_bytes(config: ModelConfig, precision: Literal["fp32", "bf16"]) -> float:
    """Per query row: query, mixture, gate and their products; norm inputs; the gated unit."""
    size = _product_size(precision)
    copies = BF16 * 2 if precision == "bf16" else 0
    retention = copies + size + 2 * FP32 + 4 * size  # query by head and mixture are float32
    unit = _input_copies(precision, 2) + 3 * size
    norms = 2 * FP32
    small = (
        5 * config.n_heads + 4 * FP32
    )  # alive flag and scale of each head; mean and scale of each norm
    lora = _adapter_bytes(config, precision, n_float32_inputs=4, n_projections=6)
    return config.dim * (retention + unit + norms) + small + lora


def _selected_bytes(config: ModelConfig, precision: Literal["fp32", "bf16"]) -> float:
    """Per asked row of the last layer: its number, and in fp32 its own copy of the input."""
    return 8 + (0 if precision == "bf16" else FP32 * config.dim)


def _adapter_bytes(
    config: ModelConfig,
    precision: Literal["fp32", "bf16"],
    *,
    n_float32_inputs: int,
    n_projections: int,
) -> float:
    if not config.lora_rank:
        return 0.0
    again = n_float32_inputs * BF16 * config.dim if precision == "bf16" else 0
    return again + n_projections * config.lora_rank * _product_size(precision)


def _noise_bytes(
    config: ModelConfig, precision: Literal["fp32", "bf16"], device: Literal["cpu", "cuda"]
) -> float:
    """Per row: dropout noise behind the retention and behind the gated unit."""
    if not config.dropout:
        return 0.0
    return 2 * config.dim * (1 if device == "cuda" else _product_size(precision))


def _state_bytes(config: ModelConfig, shape: BatchShape) -> float:
    """Sum over the keys of each cell, a square a head."""
    return FP32 * shape.n_cells * config.dim * (config.dim // config.n_heads)


def _embedding_bytes(
    config: ModelConfig, shape: BatchShape, precision: Literal["fp32", "bf16"]
) -> float:
    # Before and behind the first activation, and the softmax; its bfloat16 copy besides.
    bins = config.value_bins * (2 * BF16 + FP32 + BF16 if precision == "bf16" else 3 * FP32)
    numbers = shape.n_tokens + (2 * shape.n_cells if config.depth_tokens else 0)
    placed = FP32 * config.dim * shape.rows(config)
    return numbers * bins + placed + INDEX_BYTES * shape.n_tokens


def _decoder_bytes(
    config: ModelConfig, shape: BatchShape, precision: Literal["fp32", "bf16"]
) -> float:
    # State, hidden layer before and behind its activation, gene embedding, its map, and the cell's state.
    size = _product_size(precision)
    cell = FP32  # the cell's state stays in float32
    return shape.n_scored * (config.dim * (5 * size + cell + _detection_bytes(config, size)) + 24)


def _detection_bytes(config: ModelConfig, size: int) -> float:
    """Per number of a scored gene's row: its map; the absent gene beside it, its map, and the cell's state once more.

    In float32 the first map reads the embedding that is kept anyway, in bfloat16 a copy of it.
    """
    if not config.detection_head:
        return 0.0
    return (4 if size == BF16 else 3) * size + FP32
