"""Heads on a network, and the losses that train them."""

import pytest
import torch

from cellfm.nn.classifier import CellClassifier, class_loss, multi_label_loss, new_head
from cellfm.nn.heads import MlpHead, initialise_head
from tests.cells import batch, network

CELLS = batch([5, 0, 30, 12])


def classifier(kind: str, n_classes=(3, 2)) -> CellClassifier:
    net, generator = network(), torch.Generator().manual_seed(0)
    heads = [new_head(kind, net, n) for n in n_classes]
    for head in heads:
        initialise_head(head, generator)
    return CellClassifier(net, heads).eval()


@pytest.mark.parametrize("kind", ["clusters", "mlp"])
def test_a_head_for_each_column(kind):
    logits = classifier(kind).logits(CELLS)
    assert [tuple(scores.shape) for scores in logits] == [(4, 3), (4, 2)]
    assert all(torch.isfinite(scores).all() for scores in logits)


@pytest.mark.parametrize("kind", ["clusters", "mlp"])
def test_a_cell_is_scored_alone(kind):
    module = classifier(kind)
    together = module.logits(CELLS)[0]
    alone = torch.cat([module.logits(CELLS.cells(i, i + 1))[0] for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_class_queries_are_those_of_the_published_network():
    """The same head inside the network gives the same logits: it reads all rows of the cell."""
    net = network(n_clusters=3)
    module = CellClassifier(net, [net.annotation])
    torch.testing.assert_close(module.logits(CELLS)[0], net.cluster_logits(CELLS), rtol=0, atol=0)


def test_a_perceptron_reads_the_state_of_cls():
    module = classifier("mlp")
    state = module.network.encode(CELLS).cell
    torch.testing.assert_close(
        module.logits(CELLS)[1], module.heads[1](state), rtol=1e-5, atol=1e-6
    )


def test_a_perceptron_standardises():
    head = MlpHead(4, 8, 2)
    initialise_head(head, torch.Generator().manual_seed(0))
    states = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    states[:, 3] = 7.0  # the same in all cells: nothing to divide by
    other = states * torch.tensor([3.0, 0.01, 1.0, 1.0]) + 5.0
    head.eval().standardise(states)
    before = head(states)
    head.standardise(other)
    torch.testing.assert_close(head(other), before, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(before).all()
    assert not {"mean", "scale"} & {name for name, _ in head.named_parameters()}


def test_heads_are_made_of_the_generator_alone():
    state = torch.get_rng_state()
    one, same = classifier("clusters"), classifier("clusters")
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), state)


# Losses

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])


def test_the_loss_is_the_weighted_cross_entropy_of_labelled_cells():
    code = torch.tensor([0, 1, -1, 2])
    weight = torch.tensor([1.0, 2.0, 0.5])
    log_p = LOGITS.log_softmax(1)
    expected = -(1.0 * log_p[0, 0] + 2.0 * log_p[1, 1] + 0.5 * log_p[3, 2]) / 3
    found = class_loss((LOGITS,), code[:, None], [weight])
    torch.testing.assert_close(found, expected)


def test_columns_add_up_and_one_without_labels_adds_nothing():
    codes = torch.tensor([[0, 1, -1], [1, 0, -1], [2, 1, -1], [0, 0, -1]])
    two = LOGITS[:, :2]
    ones = [torch.ones(3), torch.ones(2), torch.ones(2)]
    each = [
        class_loss((scores,), codes[:, [i]], [ones[i]])
        for i, scores in enumerate((LOGITS, two, two))
    ]
    assert each[2] == 0
    logits = (LOGITS.clone().requires_grad_(), two, two.clone().requires_grad_())
    total = class_loss(logits, codes, ones)
    torch.testing.assert_close(total, each[0] + each[1])
    total.backward()
    assert torch.isfinite(logits[0].grad).all()
    assert not logits[2].grad.any()


def test_multi_label_asks_each_class_by_itself():
    codes = torch.tensor([[1, 1, 0], [0, -1, 0], [-1, -1, -1], [0, 1, 1]])
    weight = torch.tensor([3.0, 1.0, 2.0])
    p = LOGITS.sigmoid()
    terms = [
        -torch.log(p[i, k]) * weight[k] if codes[i, k] else -torch.log(1 - p[i, k])
        for i in range(4)
        for k in range(3)
        if codes[i, k] >= 0
    ]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(multi_label_loss(LOGITS, codes, weight), expected)
    assert multi_label_loss(LOGITS, torch.full((4, 3), -1), weight) == 0
