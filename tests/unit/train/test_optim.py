import pytest
import torch
from torch import nn

from cellfm.config import ModelConfig, OptimConfig
from cellfm.nn import CellFM
from cellfm.train import build_optimizer, clip_gradients
from cellfm.train.optim import decays, parameter_groups
from cellfm.weights.names import name_table

EVERYTHING = ModelConfig(
    n_genes=8, dim=8, n_layers=2, n_heads=2, value_bins=4, zero_heads=True, lora_rank=2
)
ANNOTATION = ModelConfig(n_genes=8, dim=8, n_layers=2, n_heads=2, value_bins=4, n_clusters=3)


@pytest.mark.parametrize("config", [EVERYTHING, ANNOTATION], ids=["everything", "annotation"])
def test_published_rule_is_that_of_the_official_names(config):
    theirs = {name.ours: name.theirs for name in name_table(config)}
    for name, parameter in CellFM(config).named_parameters():
        official = not any(word in theirs[name] for word in ("emb", "layernorm", "bias"))
        assert decays(name, parameter, "published") == official, name


def test_matrices_decay_and_nothing_else():
    decayed = {n for n, p in CellFM(EVERYTHING).named_parameters() if decays(n, p, "matrices")}
    assert "layers.0.retention.query.weight" in decayed
    assert "value_encoder.table.weight" in decayed
    assert "gene_zero_decoder.0.weight" in decayed
    assert "layers.1.glu.left.lora_a" in decayed
    kept = {n for n, _ in CellFM(EVERYTHING).named_parameters()} - decayed
    assert "gene_embedding.weight" in kept
    assert "depth_embedding" in kept
    assert "cls" in kept
    assert "layers.0.norm1.weight" in kept
    assert "layers.0.norm1.bias" in kept
    assert "value_encoder.alpha" in kept
    assert "cell_zero_decoder.bias" in kept
    clusters = CellFM(ANNOTATION).annotation.clusters
    assert not decays("annotation.clusters", clusters, "matrices")


def test_groups_hold_each_trainable_parameter_once():
    network = CellFM(EVERYTHING)
    network.cls.requires_grad_(requires_grad=False)
    groups = parameter_groups(network, OptimConfig(weight_decay=0.3))
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)


def test_a_group_without_parameters_is_left_out():
    groups = parameter_groups(nn.Linear(2, 2, bias=False), OptimConfig())
    assert len(groups) == 1


@pytest.mark.parametrize(("kind", "expected"), [("adamw", 0.9 * 2.0), ("adam", 2.0 - 0.1)])
def test_weight_decay_beside_or_inside_the_gradient(kind, expected):
    """With a zero gradient AdamW shrinks the weight by lr × decay; Adam's L2 gradient moves it by lr, whatever its size."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    network.weight.grad = torch.zeros(1, 1)
    build_optimizer(network, OptimConfig(kind=kind, lr=0.1, weight_decay=1.0)).step()
    assert network.weight.item() == pytest.approx(expected)


def gradients(*values):
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return [*parameters, nn.Parameter(torch.zeros(1))]


def clipped(parameters, **fields):
    norm = clip_gradients(parameters, OptimConfig(**fields))
    return norm.item(), [p.grad.tolist() for p in parameters if p.grad is not None]


def test_clip_the_whole_model():
    norm, found = clipped(gradients([3.0, 0.0], [0.0, 4.0]), clip_norm=1.0)
    assert norm == 5.0
    assert found == [pytest.approx([0.6, 0.0]), pytest.approx([0.0, 0.8])]


def test_clip_each_tensor():
    norm, found = clipped(
        gradients([3.0, 4.0], [0.0, 0.5], [0.0]), clip_norm=1.0, clip_per="tensor"
    )
    assert norm == pytest.approx(25.25**0.5)
    assert found == [pytest.approx([0.6, 0.8]), [0.0, 0.5], [0.0]]


def test_short_gradients_stay_as_they_are():
    assert clipped(gradients([0.25, 0.5]), clip_norm=1.0)[1] == [[0.25, 0.5]]


def test_no_clipping():
    assert clipped(gradients([3.0, 4.0]), clip_norm=None) == (5.0, [[3.0, 4.0]])


def test_no_gradients():
    assert clip_gradients([nn.Parameter(torch.zeros(1))], OptimConfig()).item() == 0.0
