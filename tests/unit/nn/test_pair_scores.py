"""Ranks of retention weights are those of a loop over all pairs, ties in the middle, whatever the block."""

import pytest
import torch
from torch import Tensor

from cellfm.nn.kernels import pair_scores
from cellfm.nn.kernels.pair_scores import HeadVectors, head_vectors, pair_ranks
from cellfm.nn.retention import feature_map
from tests.cells import batch, network

EXACT = 1e-12  # float64: sums of the same numbers


def vectors(n: int, *, seed: int = 0, n_heads: int = 3, d: int = 4) -> HeadVectors:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, n_heads, d, generator=generator).double().relu() for _ in range(2))
    return HeadVectors(query=q, key=k)


def naive(own: HeadVectors, ranked: str) -> Tensor:
    """Every pair of one cell by itself, shape (head, source, target)."""
    n, n_heads, _ = own.query.shape
    length = own.query.norm(dim=2, keepdim=True).clamp(min=1e-300)
    query = own.query / length if ranked == "targets" else own.query
    weight = torch.einsum("ihd,jhd->hij", query, own.key)  # i reads j
    result = torch.full((n_heads, n, n), torch.nan, dtype=torch.float64)
    for head in range(n_heads):
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                if ranked == "sources":
                    others = [weight[head, i, x] for x in range(n) if x not in (i, j)]
                else:
                    others = [weight[head, x, j] for x in range(n) if x not in (i, j)]
                below = sum(bool(w < weight[head, i, j]) for w in others)
                equal = sum(bool(w == weight[head, i, j]) for w in others)
                result[head, j, i] = (below + equal / 2) / (n - 2)
    return result


def agree(found: Tensor, expected: Tensor, source: Tensor, target: Tensor) -> bool:
    expected = expected[:, source][:, :, target]
    pairs = ~expected.isnan()
    return torch.allclose(found[pairs], expected[pairs], atol=EXACT, rtol=0)


@pytest.mark.parametrize("ranked", ["sources", "targets"])
@pytest.mark.parametrize("block", [1, 30, 10_000])
def test_ranks_are_those_of_a_loop_over_all_pairs(ranked, block):
    own = vectors(11)
    source, target = torch.tensor([7, 0, 3]), torch.tensor([1, 3, 2, 10, 7])
    found = pair_ranks(own, source, target, ranked=ranked, block=block)
    expected = naive(own, ranked)
    assert found.shape == (3, 3, 5)
    assert agree(found, expected, source, target)
    # the other direction, or the other ranking, is something else
    assert not agree(found, expected.transpose(1, 2), source, target)
    assert not agree(found, naive(own, {"sources": "targets"}.get(ranked, "sources")), source, target)  # fmt: skip


@pytest.mark.parametrize("ranked", ["sources", "targets"])
def test_ties_take_the_middle_in_any_order_of_genes(ranked):
    own = vectors(12, n_heads=2, d=2)
    query, key = own.query.clone(), own.key.clone()
    key[[1, 4, 5]] = 0.0  # read by nobody
    key[8] = key[2]  # read equally, and not zero
    query[[3, 6]] = 0.0  # read nothing
    query[9] = query[10]
    own = HeadVectors(query=query, key=key)
    everything = torch.arange(12)
    found = pair_ranks(own, everything, everything, ranked=ranked)
    assert agree(found, naive(own, ranked), everything, everything)
    order = torch.tensor([5, 11, 0, 8, 3, 1, 10, 2, 9, 4, 7, 6])
    place = order.argsort()
    shuffled = pair_ranks(
        HeadVectors(query=query[order], key=key[order]), place, place, ranked=ranked
    )
    off = ~torch.eye(12, dtype=torch.bool).expand(2, 12, 12)
    assert torch.allclose(shuffled[off], found[off], atol=EXACT, rtol=0)
    if ranked == "sources":
        who_reads_nothing = found[:, [0, 1, 2], 3]
        assert torch.equal(who_reads_nothing, torch.full_like(who_reads_nothing, 0.5))


def test_the_length_of_a_query_says_nothing():
    own = vectors(9)
    louder = HeadVectors(query=own.query * torch.arange(1.0, 10.0)[:, None, None], key=own.key)
    source, target = torch.tensor([0, 1]), torch.arange(2, 9)
    for ranked in ("sources", "targets"):
        found = pair_ranks(louder, source, target, ranked=ranked)
        assert torch.allclose(found, pair_ranks(own, source, target, ranked=ranked), atol=EXACT)


def test_sorting_elsewhere_than_on_the_cpu_gives_the_same(monkeypatch):
    own = vectors(15)
    source, target = torch.arange(4), torch.arange(15)
    expected = pair_ranks(own, source, target)
    monkeypatch.setattr(pair_scores, "_sorted", lambda weight: weight.sort(dim=-1).values)
    assert torch.equal(pair_ranks(own, source, target), expected)


@pytest.mark.parametrize("changes", [{}, {"n_layers": 1}, {"n_layers": 3, "depth_tokens": False}])
def test_vectors_are_those_the_network_computes_with(changes):
    net, cells = network(**changes), batch([5, 0, 9])
    seen: list[list[Tensor]] = []
    for layer in net.encoder_layers:
        outputs: list[Tensor] = []
        seen.append(outputs)
        for projection in (layer.retention.query, layer.retention.key):
            projection.register_forward_hook(lambda *a, to=outputs: to.append(feature_map(a[2])))
    with torch.inference_mode():
        net.encode(cells)
        expected = [list(outputs) for outputs in seen]
        found = list(head_vectors(net, cells))
    assert len(found) == net.config.n_layers
    n_prefix = net.config.n_prefix
    rows = [n_prefix + i for i in range(5)] + [5 + 3 * n_prefix + i for i in range(9)]
    for own, (query, key) in zip(found, expected, strict=True):
        assert torch.allclose(own.query.flatten(1), query[rows], atol=1e-6)
        assert torch.allclose(own.key.flatten(1), key[rows], atol=1e-6)


def test_hidden_genes_are_refused():
    with pytest.raises(ValueError, match="hidden or zero"):
        next(head_vectors(network(), batch([6], masked=True)))
