"""The network's shape."""

from dataclasses import dataclass

from cellfm.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a CellFM network (Zeng et al. 2025); the constants of the publication are not options."""

    n_genes: int
    """Genes in the vocabulary; the embedding table has this plus one padding row, rounded up to a multiple of 8."""
    dim: int
    """Width of a token state."""
    n_layers: int
    """ERetNet layers."""
    n_heads: int
    """Retention heads; must divide `dim`."""
    value_bins: int = 256
    """Rows of the soft look-up table of the value encoder."""
    depth_tokens: bool = True
    """Put the two read-depth tokens [S, T] after [CLS], as the released 80M weights do."""
    decoders: bool = True
    """Carry the gene-wise and cell-wise decoders of the masked-expression objective."""
    zero_heads: bool = False
    """Carry the two heads that predict the probability of expression."""
    detection_head: bool = False
    """Carry the cell-wise one of these heads, which the detection term of pretraining needs."""
    lora_rank: int = 0
    """Rank of the adapters on every projection of every layer; 0 means none."""
    n_clusters: int = 0
    """Classes of the cluster-query annotation head; 0 means no head."""
    dropout: float = 0.1
    """Dropout of layer i is `dropout * i / n_layers`."""

    def __post_init__(self) -> None:
        smallest = {
            "n_genes": 1,
            "dim": 1,
            "n_layers": 1,
            "n_heads": 1,
            "value_bins": 1,
            "lora_rank": 0,
            "n_clusters": 0,
        }
        for name, least in smallest.items():
            if getattr(self, name) < least:
                msg = f"ModelConfig.{name} is {getattr(self, name)}; it must be at least {least}. Give a number in that range."
                raise ConfigError(msg)
        if self.dim % self.n_heads:
            msg = f"ModelConfig.dim {self.dim} is not a multiple of n_heads {self.n_heads}; choose dim = n_heads × head width."
            raise ConfigError(msg)
        if not 0.0 <= self.dropout < 1.0:
            msg = f"ModelConfig.dropout is {self.dropout}; it must be in [0, 1). Give a number in that range."
            raise ConfigError(msg)
        if self.zero_heads and not self.decoders:
            msg = "ModelConfig.zero_heads is true but decoders is false; the zero heads extend the decoders. Set decoders to true, or zero_heads to false."
            raise ConfigError(msg)
        if self.detection_head and not self.decoders:
            msg = "ModelConfig.detection_head is true but decoders is false; the head extends the decoders. Set decoders to true, or detection_head to false."
            raise ConfigError(msg)

    @property
    def n_rows(self) -> int:
        """Rows of the gene table: padding row 0, the genes, and unused rows up to a multiple of 8."""
        return -(-(self.n_genes + 1) // 8) * 8

    @property
    def n_prefix(self) -> int:
        """Tokens in front of the genes: [CLS] or [CLS, S, T]."""
        return 3 if self.depth_tokens else 1
