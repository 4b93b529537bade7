"""How many floating-point operations the matrix products of a network take, as this implementation performs them."""

from dataclasses import dataclass

from cellfm.config.model import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Size of a batch; fractions are allowed, so that a mean cell is a batch too."""

    n_cells: float
    """Cells."""
    n_tokens: float
    """Expressed genes of all cells."""
    n_scored: float
    """Genes in the loss."""

    def rows(self, config: ModelConfig) -> float:
        """Rows of the network: prefix and genes of all cells."""
        return self.n_tokens + config.n_prefix * self.n_cells

    @property
    def asked(self) -> float:
        """Rows that the last layer asks for: [CLS] of each cell and the scored genes."""
        return self.n_cells + self.n_scored


def flops(
    config: ModelConfig,
    *,
    n_cells: float,
    n_tokens: float,
    n_scored: float,
    training: bool,
    activation_checkpointing: bool = False,
    detection: bool = False,
) -> float:
    r"""Count the operations of all matrix products of a batch; a product of (m, k) and (k, n) is :math:`2mkn`.

    Counted is what this implementation computes: no padding; in the last layer keys and values of all rows, the rest
    for [CLS] and the scored genes only; both decoders on the scored genes only; value encoder, adapters and the
    products inside the retention included. Element-wise work is not counted. Backward costs two products for each
    one forward, save for the first map of a value encoder, whose input needs no gradient.

    Parameters
    ----------
    config
        Shape of the network.
    n_cells, n_tokens, n_scored
        Cells, their expressed genes, and the genes in the loss.
    training
        Count the backward pass too.
    activation_checkpointing
        Count the second forward pass of the layers in training; leave it out for the model's own operations, which the
        usual MFU is about.
    detection
        Count the detection term: one map for each scored gene and for the absent one beside it.
    """
    shape = BatchShape(n_cells=n_cells, n_tokens=n_tokens, n_scored=n_scored)
    layers = _layers(config, shape)
    forward = _value_encoders(config, shape) + layers + _decoders(config, shape)
    if detection:
        forward += 2.0 * (2.0 * shape.n_scored) * config.dim**2
    if not training:
        return forward
    again = layers if activation_checkpointing else 0.0
    return 3.0 * forward - _first_maps(config, shape) + again


def _numbers(config: ModelConfig, shape: BatchShape) -> float:
    """Numbers that pass a value encoder: a value a gene, two depths a cell."""
    return shape.n_tokens + (2.0 * shape.n_cells if config.depth_tokens else 0.0)


def _value_encoders(config: ModelConfig, shape: BatchShape) -> float:
    bins = config.value_bins
    return 2.0 * _numbers(config, shape) * (bins + bins**2 + bins * config.dim)


def _first_maps(config: ModelConfig, shape: BatchShape) -> float:
    return 2.0 * _numbers(config, shape) * config.value_bins


def _layers(config: ModelConfig, shape: BatchShape) -> float:
    rows = shape.rows(config)
    whole = _layer(config, keys=rows, queries=rows)
    return (config.n_layers - 1) * whole + _layer(config, keys=rows, queries=shape.asked)


def _layer(config: ModelConfig, *, keys: float, queries: float) -> float:
    d, head_width = config.dim, config.dim // config.n_heads
    # Key and value for every key row; query, gate, out and the three of the gated unit for every query row.
    projected = 2.0 * keys + 6.0 * queries
    retention = 2.0 * d * head_width * (keys + queries)
    return projected * (2.0 * d**2 + 4.0 * d * config.lora_rank) + retention


def _decoders(config: ModelConfig, shape: BatchShape) -> float:
    d = config.dim
    return 2.0 * shape.n_scored * (2.0 * d**2 + d) if config.decoders else 0.0
