"""Names and shapes of the parameters: weights that were written once must open for ever."""

import hashlib

import pytest
import torch

from cellfm.config import ModelConfig, preset, presets
from cellfm.nn import CellFM

HASHES = {
    "3b": "e634674710974a28161bdebce51f8f6f2d1b0e907dc1ffe64f0f082f14b15d97",
    "800m": "db4e4f5a72bba465eff975e2ee2427266b1779ef3a8a12004ccc9ea82027b8d2",
    "80m": "6bff56a37155b67ef3fe94e1bf2107d7e4b49c8a2970abb7e33ba6e14de6ffe7",
    "mini": "35c88c4d67923ce8af7dbee19627c9d82011544b4513838121f8dae03c2a96ca",
    "debug": "32ce48d0cca0cb3ce332cfca5bd79df241a0dbdb684cc1253852bfe9bdc881bf",
    "small": "571799803c434fef9ff2e24459d88b9df66d19f1781cf5b1ab4a33da249baceb",
    "everything": "fc324e76e3f171a2b35df4e0be00c859d8315e5463b1e14987ce53e48fa70b1e",
}
"""SHA-256 of the lines "name shape" in alphabetical order; a change here breaks every weights folder there is."""

SMALL = ModelConfig(n_genes=20, dim=8, n_layers=1, n_heads=2, value_bins=4)
SMALL_SHAPES = {
    "cls": (8,),
    "mask_embedding": (8,),
    "zero_embedding": (8,),
    "depth_embedding": (2, 8),
    "gene_embedding.weight": (24, 8),
    "value_encoder.alpha": (1,),
    "value_encoder.first.weight": (4, 1),
    "value_encoder.second.weight": (4, 4),
    "value_encoder.table.weight": (8, 4),
    "depth_encoder.alpha": (1,),
    "depth_encoder.first.weight": (4, 1),
    "depth_encoder.second.weight": (4, 4),
    "depth_encoder.table.weight": (8, 4),
    "layers.0.retention.query.weight": (8, 8),
    "layers.0.retention.key.weight": (8, 8),
    "layers.0.retention.value.weight": (8, 8),
    "layers.0.retention.gate.weight": (8, 8),
    "layers.0.retention.out.weight": (8, 8),
    "layers.0.glu.left.weight": (8, 8),
    "layers.0.glu.right.weight": (8, 8),
    "layers.0.glu.out.weight": (8, 8),
    "layers.0.norm1.weight": (8,),
    "layers.0.norm1.bias": (8,),
    "layers.0.norm2.weight": (8,),
    "layers.0.norm2.bias": (8,),
    "gene_decoder.first.weight": (8, 8),
    "gene_decoder.second.weight": (1, 8),
    "cell_decoder.map.weight": (8, 8),
}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = CellFM(config)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def digest(config: ModelConfig) -> str:
    lines = [f"{name} {shape}" for name, shape in sorted(shapes(config).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def everything() -> ModelConfig:
    """A network with every optional part."""
    return ModelConfig(
        n_genes=20,
        dim=8,
        n_layers=2,
        n_heads=2,
        value_bins=4,
        zero_heads=True,
        lora_rank=2,
        n_clusters=3,
    )


@pytest.mark.parametrize("name", HASHES)
def test_names_and_shapes_are_pinned(name: str) -> None:
    assert digest(everything() if name == "everything" else preset(name)) == HASHES[name]


def test_every_preset_is_pinned() -> None:
    assert set(HASHES) == {*presets(), "everything"}


def test_names_and_shapes_of_a_small_network() -> None:
    assert shapes(SMALL) == SMALL_SHAPES
