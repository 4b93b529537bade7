"""A cell's embedding is a function of that cell alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.batch import CellBatch
from cellfm.nn.kernels.cell_state import CellStates
from tests.cells import batch, network

TOLERANCE = 1e-5  # the contract: fp32, relative
NET = network()
FAST = CellStates(NET)
FAST.tabulate(torch.arange(1, 41))
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=5)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).norm(dim=-1) <= TOLERANCE * b.norm(dim=-1)).all())


@settings(derandomize=True, deadline=None, max_examples=40)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_batch_order_and_chunk_change_nothing(lengths, seed):
    cells = batch(lengths, seed=seed)
    with torch.no_grad():
        together, fast = NET(cells), FAST(cells)
        alone = [NET(cells.cells(i, i + 1)) for i in range(cells.n_cells)]
        fast_alone = torch.cat([FAST(cells.cells(i, i + 1)) for i in range(cells.n_cells)])
    assert same(torch.cat([a.cell for a in alone]), together.cell)
    assert same(torch.cat([a.gene for a in alone]), together.gene)
    assert same(fast_alone, together.cell)
    assert same(fast, together.cell)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(length=st.integers(1, 40), seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_order_of_genes_changes_nothing(length, seed, order):
    cells = batch([length], seed=seed)
    places = list(range(length))
    order.shuffle(places)
    turned = CellBatch(
        gene=cells.gene[places], value=cells.value[places], offsets=cells.offsets, depth=cells.depth
    )
    with torch.no_grad():
        assert same(NET(turned).cell, NET(cells).cell)
        assert same(NET(turned).gene, NET(cells).gene[places])
        assert same(FAST(turned), NET(cells).cell)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_ragged_equals_padded(lengths, seed):
    """Against a transcription of the equations with padding, masks and all scales."""
    cells = batch(lengths, seed=seed)
    with torch.no_grad():
        assert same(padded_cell_states(cells), NET(cells).cell)


def padded_cell_states(cells: CellBatch) -> torch.Tensor:
    """Plain (cell, token, dim) encoder, float64."""
    net, lengths = NET, cells.offsets.diff()
    valid = torch.arange(int(lengths.max()) + 3) < lengths[:, None]
    gene = torch.zeros(valid.shape, dtype=torch.long).masked_scatter(valid, cells.gene)
    value = torch.zeros(valid.shape).masked_scatter(valid, cells.value)
    x = (net.gene_embedding(gene) + net.value_encoder(value)) * valid[..., None]
    depth = net.depth_embedding + net.depth_encoder(cells.depth)
    x = torch.cat([net.cls.expand(len(x), 1, -1), depth, x], 1).double()
    mask = torch.cat([torch.ones(len(x), 3, dtype=torch.bool), valid], 1).double()
    for layer in net.layers:
        r, g = layer.retention, layer.glu
        q, k, v, u = (
            (x @ m.weight.double().T).unflatten(2, (4, 4)).transpose(1, 2)
            for m in (r.query, r.key, r.value, r.gate)
        )
        q, k = q.relu() / 2, k.relu() / 2 * mask[:, None, :, None]
        o = q @ (k.transpose(2, 3) @ (v / mask.sum(1)[:, None, None, None] ** 0.5))
        o = o / o.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
        y = (o * u * u.sigmoid()).transpose(1, 2).flatten(2) @ r.out.weight.double().T
        x = normal(4**0.25 * x + y, layer.norm1)
        y = (
            (x @ g.left.weight.double().T) * (x @ g.right.weight.double().T)
        ) @ g.out.weight.double().T
        x = normal(4**0.25 * x + y, layer.norm2)
    return x[:, 0].float()


def normal(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()
    return centred / scale * norm.weight.double() + norm.bias.double()
