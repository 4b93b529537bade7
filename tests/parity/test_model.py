"""Outputs, losses and gradients against the original MindSpore model."""

import numpy as np
import pytest
import torch

from cellfm.nn import masked_expression_loss, merge_lora
from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.loss import elastic_cell_similarity
from tests.parity.fixtures import HEADS, imported, numbers, ragged, their_names

RELATIVE_L2 = 1e-5  # the fixtures' own note: float32 on both sides


@pytest.fixture(scope="module", params=sorted(HEADS))
def case(request, tmp_path_factory):
    name = request.param
    network = imported(name, tmp_path_factory.mktemp(name))
    found = numbers(name)
    valid, batch = ragged(found)
    return name, network, found, valid, batch


def error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    a = ours.detach().double().numpy()
    return float(np.linalg.norm(a - theirs) / np.linalg.norm(theirs))


def cell_predictions(network, batch, states) -> torch.Tensor:
    repeated = states.cell.repeat_interleave(batch.offsets.diff(), 0)
    return network.cell_decoder(network.gene_embedding(batch.gene), repeated)


def test_outputs(case):
    _, network, found, valid, batch = case
    states = network(batch)
    assert error(states.cell, found["out/cls_token"]) < RELATIVE_L2
    assert error(states.gene, found["out/expr_emb"][valid]) < RELATIVE_L2
    assert error(network.gene_decoder(states.gene), found["out/gw_pred"][valid]) < RELATIVE_L2
    assert (
        error(cell_predictions(network, batch, states), found["out/cw_pred"][valid]) < RELATIVE_L2
    )


def test_loss_and_gradients(case):
    name, network, found, valid, batch = case
    network.zero_grad()
    loss = masked_expression_loss(network, batch)
    total = loss.total
    if name == "tiny_st":
        # The original compares rows of predictions that include padding, where the decoder sees gene 0: σ(0) = ½.
        states = network(batch)
        padding = (states.cell.sum(1, keepdim=True) / 2).expand(valid.shape)
        rows = padding.masked_scatter(
            torch.from_numpy(valid), cell_predictions(network, batch, states)
        )
        total = total + elastic_cell_similarity(rows)
    np.testing.assert_allclose(total.item(), found["loss"], rtol=RELATIVE_L2)
    total.backward()
    theirs = their_names(network)
    compared = 0
    for ours, parameter in network.named_parameters():
        key, norm = f"grad/{theirs[ours]}", found[f"gradnorm/{theirs[ours]}"]
        if parameter.grad is None:
            assert norm == 0.0, ours
            continue
        gradient = parameter.grad
        np.testing.assert_allclose(
            gradient[_rows(ours)].norm().item(), norm, rtol=RELATIVE_L2, err_msg=ours
        )
        if key in found:
            expected = found[key].reshape(gradient.shape)
            assert error(gradient[_rows(ours)], expected[_rows(ours)]) < RELATIVE_L2, ours
            compared += 1
    assert compared > 25


def _rows(name: str) -> slice:
    """Padding's embedding is never trained here; in the original it gets what padding leaks into the ECS term."""
    return slice(1, None) if name == "gene_embedding.weight" else slice(None)


def test_activations_of_the_first_layers(tmp_path):
    network, found = imported("tiny_cellfm", tmp_path), numbers("tiny_cellfm")
    valid, batch = ragged(found)
    captured = {}
    hooks = {
        "act/value_enc_raw": (network.value_encoder, False),
        "act/attn0": (network.layers[0].retention, True),
        "act/ffn0": (network.layers[0].glu, True),
        "act/layer0": (network.layers[0], True),
        "act/layer1": (network.layers[1], True),
        "act/layer2": (network.layers[2], True),
    }
    for key, (module, _) in hooks.items():
        module.register_forward_hook(lambda _m, _i, out, key=key: captured.update({key: out}))
    network(batch)
    for key, (_, with_cls) in hooks.items():
        theirs, shown = found[key], valid[: len(found[key])]
        if with_cls:
            shown = np.concatenate([np.ones((len(shown), 1), bool), shown], axis=1)
        assert error(captured[key][: shown.sum()], theirs[shown]) < RELATIVE_L2, key


def test_backbone_without_masks(tmp_path):
    """The annotation backbone: nothing hidden, padding seen by nobody."""
    network, found = imported("tiny_cellfm", tmp_path), numbers("tiny_cellfm")
    valid, batch = ragged(found, masked=False)
    states = network(batch)
    theirs = found["backbone/emb_2d"]
    assert error(states.cell, theirs[:, 0]) < RELATIVE_L2
    assert error(states.gene, theirs[:, 1:][valid]) < RELATIVE_L2
    assert error(CellStates(network)(batch), theirs[:, 0]) < RELATIVE_L2


def test_two_dimensional_input_of_the_main_model(tmp_path):
    """Only the cell that fills its row: for the others the original lets padding leak into the first half."""
    network, found = imported("tiny_cellfm", tmp_path), numbers("tiny_cellfm")
    _, batch = ragged(found, masked=False)
    states = network(batch.cells(0, 1))
    assert error(states.cell, found["nomask2d/cls_token"][:1]) < RELATIVE_L2
    assert error(states.gene, found["nomask2d/expr_emb"][0]) < RELATIVE_L2
    assert error(network(batch).cell[1:], found["nomask2d/cls_token"][1:]) > 0.1


def test_merged_adapters_are_the_adapters(tmp_path):
    network, found = imported("tiny_lora", tmp_path), numbers("tiny_lora")
    _, batch = ragged(found)
    merge_lora(network)
    assert error(network(batch).cell, found["out/cls_token"]) < RELATIVE_L2
