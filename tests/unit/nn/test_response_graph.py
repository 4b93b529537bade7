import numpy as np
import pytest
import torch

from cellfm.nn.response_graph import (
    GeneGraph,
    ResponseGraphHead,
    initialise_response_head,
    response_loss,
    standardised,
)

N_GENES, STATE, EMBEDDING = 7, 5, 4


def head(*, seed=0, spread=0.3) -> ResponseGraphHead:
    """Return a head whose gene-specific weights are not 0."""
    made = ResponseGraphHead(
        state_dim=STATE, embedding_dim=EMBEDDING, n_genes=N_GENES, hidden=6, dropout=0.2
    )
    generator = torch.Generator().manual_seed(seed)
    initialise_response_head(made, torch.linspace(-1, 1, N_GENES), generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=spread)
    return made.eval()


def inputs(n_conditions=3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(N_GENES, STATE, generator=generator),
        torch.randn(n_conditions, EMBEDDING, generator=generator),
    )


def test_new_head_says_the_mean_of_every_perturbation() -> None:
    made = head(spread=0.0)
    expected = torch.linspace(-1, 1, N_GENES).expand(3, -1)
    torch.testing.assert_close(made(*inputs()), expected)


def test_gradients_flow_into_every_parameter() -> None:
    made = head()
    made(*inputs()).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_order_of_genes_and_of_conditions_does_not_matter() -> None:
    states, perturbed = inputs()
    made, order = head(), torch.tensor([3, 0, 6, 1, 2, 5, 4])
    expected = made(states, perturbed)
    torch.testing.assert_close(made(states, perturbed[[2, 0, 1]]), expected[[2, 0, 1]])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "." not in name:
                parameter.copy_(parameter[order].clone())
        made.across.first.weight.copy_(made.across.first.weight[:, order].clone())
    torch.testing.assert_close(made(states[order], perturbed), expected[:, order])


def test_cross_gene_term_lets_one_gene_move_another() -> None:
    made, (states, perturbed) = head(), inputs()
    before = made(states, perturbed)
    with torch.no_grad():
        made.decoder_bias[2] += 1.0
    change = (made(states, perturbed) - before).detach()
    assert (change[:, [0, 1, 3, 4, 5, 6]] != 0).any(dim=0).sum() >= 4


def test_smoothing_is_the_power_of_the_normalised_adjacency() -> None:
    a = np.array([[0, 0.5, 0.2], [0.5, 0, 0], [0.2, 0, 0]])
    d = np.diag((1 + a.sum(axis=1)) ** -0.5)
    matrix = d @ (a + np.eye(3)) @ d
    target, source = np.nonzero(a)
    graph = GeneGraph(
        source=torch.from_numpy(source),
        target=torch.from_numpy(target),
        weight=torch.from_numpy(a[target, source]),
        n_genes=3,
    )
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2)))
    for n_hops in range(4):
        expected = np.linalg.matrix_power(matrix, n_hops) @ x.numpy()
        np.testing.assert_allclose(graph.smooth(x, n_hops).numpy(), expected)


def test_gene_that_joins_leaves_the_others_as_they_are() -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    old = GeneGraph(source=torch.tensor([0, 1]), target=torch.tensor([1, 0]), weight=torch.ones(2), n_genes=2)  # fmt: skip
    new = GeneGraph(
        source=torch.tensor([0, 1, 0]),
        target=torch.tensor([1, 0, 2]),
        weight=torch.ones(3),
        n_genes=3,
    )
    smoothed = new.smooth(x, 2)
    torch.testing.assert_close(smoothed[:2], old.smooth(x[:2], 2))
    assert not torch.equal(smoothed[2], x[2])


def test_loss_is_the_published_one() -> None:
    true = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    predicted = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    weight = torch.tensor([3.0, 1.0])
    # first condition: (0.5⁴ + 2⁴ + 0.1 · (0 + 4)) / 2
    expected = 0.75 * (0.0625 + 16 + 0.4) / 2
    assert response_loss(predicted, true, weight).item() == pytest.approx(expected)
    squared = response_loss(predicted, true, weight, focus=0.0, direction=0.0)
    assert squared.item() == pytest.approx(0.75 * (0.25 + 4) / 2)
    close = predicted.clone().requires_grad_()
    response_loss(close, true, weight).backward()
    assert torch.isfinite(close.grad).all()


def test_genes_without_a_vector_are_the_mean_gene() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [torch.nan, torch.nan]])
    found = standardised(x, torch.tensor([True, True, False]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    assert (standardised(x, torch.zeros(3, dtype=torch.bool)) == 0).all()
    more = torch.cat([x, torch.tensor([[4.0, 6.0]])])
    found = standardised(more, torch.tensor([True, True, False, True]), n_fitted=3)
    torch.testing.assert_close(found[3], torch.tensor([2.0, 1.0]))
