"""The two lists of names, and what they tell about the network."""

from math import prod
from pathlib import Path

import pytest
import torch

from cellfm.config.model import ModelConfig
from cellfm.errors import VocabularyError, WeightsError
from cellfm.nn import CellFM
from cellfm.weights.card import n_parameters, shape_text
from cellfm.weights.names import check_tensors, infer_config, name_table
from cellfm.weights.protobuf import index

TINY = {"n_genes": 60, "dim": 32, "n_layers": 2, "n_heads": 2}
KINDS = {
    "pretrained": {},
    "without depth": {"depth_tokens": False},
    "zero heads": {"zero_heads": True},
    "detection head": {"detection_head": True},
    "adapters": {"lora_rank": 4},
    "annotation": {"n_clusters": 7, "decoders": False, "depth_tokens": False},
    "annotation with everything": {"n_clusters": 7, "lora_rank": 2, "zero_heads": True},
    "backbone alone": {"decoders": False},
    "few bins": {"value_bins": 16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_our_names_are_the_networks(kind: str) -> None:
    config = ModelConfig(**TINY, **KINDS[kind])
    with torch.device("meta"):
        state = CellFM(config).state_dict()
    assert {name.ours: name.shape for name in name_table(config)} == {
        key: tuple(tensor.shape) for key, tensor in state.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_shape_of_the_network_is_found_again(kind: str) -> None:
    config = ModelConfig(**TINY, **KINDS[kind])
    shapes = {name.theirs: name.their_shape for name in name_table(config)}
    assert len(shapes) == len(name_table(config))
    assert infer_config(shapes, n_genes=60, n_heads=2) == config


@pytest.mark.parametrize(
    ("name", "n_genes"), [("tiny_cellfm", 100), ("tiny_st", 60), ("tiny_lora", 60)]
)
def test_files_of_the_original(parity: Path, name: str, n_genes: int) -> None:
    found = {entry.name: entry.shape for entry in index(parity / f"{name}.ckpt")}
    config = infer_config(found, n_genes=n_genes, n_heads=2)
    assert [(name.theirs, name.their_shape) for name in name_table(config)] == list(found.items())


@pytest.mark.parametrize(
    ("n_genes", "n_layers", "zero_heads", "n_parameters"),
    [
        (27_855, 2, False, 86_193_666),
        (24_078, 40, True, 804_937_219),
        (24_078, 40, False, 797_853_186),
    ],
    ids=["released 80M", "released 800M", "800M without zero heads"],
)
def test_released_sizes(
    n_genes: int, n_layers: int, n_parameters: int, *, zero_heads: bool
) -> None:
    config = ModelConfig(
        n_genes=n_genes, dim=1536, n_layers=n_layers, n_heads=48, zero_heads=zero_heads
    )
    table = name_table(config)
    assert sum(prod(name.shape) for name in table) == n_parameters
    shapes = {name.theirs: name.their_shape for name in table}
    assert infer_config(shapes, n_genes=n_genes, n_heads=None) == config


def test_a_detection_head_is_a_matrix_and_a_bias() -> None:
    plain, head = ModelConfig(**TINY), ModelConfig(**TINY, detection_head=True)
    assert n_parameters(head) - n_parameters(plain) == 32 * 32 + 32
    with torch.device("meta"):
        network = CellFM(head)
    assert n_parameters(head) == sum(parameter.numel() for parameter in network.parameters())
    assert "decoders, detection head." in shape_text(head)
    assert "detection head" not in shape_text(plain)
    # of the two zero heads it is one: with both there is nothing besides
    both = ModelConfig(**TINY, zero_heads=True, detection_head=True)
    assert name_table(both) == name_table(ModelConfig(**TINY, zero_heads=True))
    assert "decoders, zero heads." in shape_text(both)


def _shapes(**changes) -> dict[str, tuple[int, ...]]:
    return {name.theirs: name.their_shape for name in name_table(ModelConfig(**TINY | changes))}


def test_heads_must_be_given_for_other_widths() -> None:
    with pytest.raises(
        WeightsError, match=r"heads cannot be read from a checkpoint, and a width of 32 .*--heads"
    ):
        infer_config(_shapes(), n_genes=60, n_heads=None)


@pytest.mark.parametrize("n_genes", [55, 64])
def test_vocabulary_of_the_wrong_size(n_genes: int) -> None:
    message = (
        f"has {n_genes} genes, which need {-(-(n_genes + 1) // 8) * 8} rows .* has 64 rows"
        ".* 24,078 genes belongs to 24,080 rows .800M. .* 27,855 genes to 27,856 rows .80M."
    )
    with pytest.raises(VocabularyError, match=message):
        infer_config(_shapes(), n_genes=n_genes, n_heads=2)


def test_other_models_are_refused() -> None:
    with pytest.raises(
        WeightsError,
        match=r"no CellFM checkpoint: expected a gene table 'gene_emb'.*found none among 1",
    ):
        infer_config({"weight": (2, 3)}, n_genes=60, n_heads=2)
    with pytest.raises(WeightsError, match=r"expected a gene table 'gene_emb'.*found \[64\]"):
        infer_config({"gene_emb": (64,)}, n_genes=60, n_heads=2)
    with pytest.raises(WeightsError, match="it has a gene table but no layer"):
        infer_config({"gene_emb": (64, 32), "encoder.x.y": (1,)}, n_genes=60, n_heads=2)


def test_every_difference_is_listed() -> None:
    expected = {f"w{i}": (i, 2) for i in range(20)}
    found = {f"w{i}": (i, 2) for i in range(15)} | {"w0": (9,), "other": (3,)}
    with pytest.raises(WeightsError) as caught:
        check_tensors(found, expected, source="x.ckpt")
    assert str(caught.value).splitlines() == [
        "The tensors of x.ckpt do not fit the network:",
        "  5 missing: w15 [15, 2], w16 [16, 2], w17 [17, 2], w18 [18, 2], w19 [19, 2]",
        "  1 not part of this model: other [3]",
        "  1 of the wrong shape: w0 [9] instead of [0, 2]",
        "Check that the checkpoint is whole and of this model; another file of it may hold the weights.",
    ]
    with pytest.raises(WeightsError, match=r"w11 .*, and 8 more"):
        check_tensors({}, expected, source="x.ckpt")
