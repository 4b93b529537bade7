"""The text that goes with weights: what they are and what may be done with them."""

from collections.abc import Mapping
from math import prod

from cellfm.config.model import ModelConfig
from cellfm.weights.names import name_table

OFFICIAL_LICENCE = "CC BY-NC-ND 4.0"

_IMPORTED = """\
# {title}

Weights imported from the MindSpore checkpoint `{source}`
(SHA-256 `{source_sha256}`).

{shape}

## Licence

The weights published by the authors of CellFM (Zeng et al. 2025, Nat. Commun. 16, 4679) are under {licence}:
no commercial use, and nothing derived from them, converted or not, may be redistributed. This folder holds a converted copy:
if the checkpoint is one of theirs, or was tuned from one, keep the folder to yourself. Weights you trained from scratch are
under your own terms.

## Conversion

- stored as: {stored_as}; kept here as float32
- dropped: {dropped}
- filled with zeros because the file has none: {zero_filled}
"""


def imported_card(title: str, config: ModelConfig, provenance: Mapping[str, str]) -> str:
    """Return the card of weights imported from a MindSpore checkpoint."""
    told = {"title": title, "shape": shape_text(config), "licence": OFFICIAL_LICENCE}
    return _IMPORTED.format_map({"zero_filled": "nothing", **provenance, **told})


def shape_text(config: ModelConfig) -> str:
    """Describe a network in a sentence."""
    parts = [
        f"{n_parameters(config):,} parameters",
        f"{config.n_genes:,} genes",
        f"width {config.dim}",
        f"{config.n_layers} layers",
        f"{config.n_heads} heads",
    ]
    options = {
        "depth tokens [S, T]": config.depth_tokens,
        "decoders": config.decoders,
        "zero heads": config.zero_heads,
        "detection head": config.detection_head and not config.zero_heads,
        f"adapters of rank {config.lora_rank}": config.lora_rank,
        f"annotation head of {config.n_clusters} classes": config.n_clusters,
    }
    return ", ".join(parts + [text for text, there in options.items() if there]) + "."


def n_parameters(config: ModelConfig) -> int:
    """Count the parameters of a network without building it."""
    return sum(prod(name.shape) for name in name_table(config))
