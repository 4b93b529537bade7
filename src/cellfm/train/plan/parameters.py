"""How many parameters a network has, by formula."""

from dataclasses import dataclass

from cellfm.config.model import ModelConfig

N_ANNOTATION_LAYERS = 2  # of the published head; cellfm.nn.annotation.N_LAYERS, which needs torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Numbers of parameters by part."""

    gene_table: int
    """Gene embedding, padding rows included."""
    value_encoders: int
    """Of the values and, with depth tokens, of the read depths."""
    special_tokens: int
    """[CLS], mask, zero and depth embeddings."""
    layers: int
    """Layers without adapters."""
    adapters: int
    """Adapters (LoRA) of all projections of all layers."""
    decoders: int
    """Gene-wise and cell-wise decoder, and the detection head."""
    unused: int
    """Zero heads, annotation head and zero embedding: carried, but without gradient in pretraining."""

    @property
    def total(self) -> int:
        """All parameters of the network."""
        return self.trained + self.unused

    @property
    def trained(self) -> int:
        """Those with a gradient in pretraining, and so with two moments in the optimiser."""
        return self.outside_layers + self.layers + self.adapters

    @property
    def outside_layers(self) -> int:
        """Trained ones that belong to no layer."""
        return self.gene_table + self.value_encoders + self.special_tokens + self.decoders


def count_parameters(config: ModelConfig) -> Parameters:
    """Count the parameters of a network without building it.

    Parameters
    ----------
    config
        Shape of the network.
    """
    d, bins, rank = config.dim, config.value_bins, config.lora_rank
    n_encoders = 2 if config.depth_tokens else 1
    return Parameters(
        gene_table=config.n_rows * d,
        value_encoders=n_encoders * (1 + bins + bins**2 + bins * d),
        special_tokens=d * (4 if config.depth_tokens else 2),
        layers=config.n_layers * (8 * d**2 + 4 * d),
        adapters=config.n_layers * 8 * rank * 2 * d,
        decoders=((2 * d**2 + d) if config.decoders else 0) + _detection_head(config),
        unused=d + _zero_heads(config) + _annotation_head(config),
    )


def _detection_head(config: ModelConfig) -> int:
    return config.dim**2 + config.dim if config.detection_head else 0


def _zero_heads(config: ModelConfig) -> int:
    d = config.dim
    if not config.zero_heads:
        return 0
    of_cell = 0 if config.detection_head else d**2 + d  # the same matrix, counted there
    return 2 * (d**2 + d) + d + 1 + of_cell


def _annotation_head(config: ModelConfig) -> int:
    d = config.dim
    if not config.n_clusters:
        return 0
    # Two retentions (5 projections each), a gated unit (3) and three norms a layer; queries; classifier.
    return N_ANNOTATION_LAYERS * (13 * d**2 + 6 * d) + config.n_clusters * d + d
