import pytest
import torch
from jaxtyping import TypeCheckError

from cellfm.batch import CellBatch
from cellfm.config.model import ModelConfig
from cellfm.nn import CellFM, initialise, masked_expression_loss, merge_lora
from cellfm.nn.retention import Segments, linear_attention, rms_normalise
from tests.cells import batch, network

FP32 = 1e-5  # relative; sums of some hundred float32 terms in another order


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = FP32) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm().clamp(min=1e-12))


def test_linear_attention_is_softmax_free_attention():
    q, k, v = torch.rand(3, 5, 2, 4).unbind(0)
    o = linear_attention(q, k, v, Segments.same((2, 3)))
    scores = torch.einsum("qhd,khd->hqk", q[2:], k[2:])
    assert close(o[2:], torch.einsum("hqk,khd->qhd", scores, v[2:]))


def test_sums_over_genes_stay_float32_under_autocast():
    q, k, v = torch.rand(3, 50, 2, 8).bfloat16().unbind(0)
    expected = linear_attention(q.float(), k.float(), v.float(), Segments.same((50,)))
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_attention(q, k, v, Segments.same((50,)))
    assert found.dtype == torch.float32
    assert close(found, expected)


def test_dead_head_has_zero_output_and_zero_gradient():
    o = torch.zeros(3, 4, requires_grad=True)
    y = rms_normalise(o)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(3, 4))
    assert torch.equal(o.grad, torch.zeros(3, 4))


def test_network_with_dead_queries_has_finite_gradients():
    net = network().train()
    with torch.no_grad():
        net.layers[0].retention.query.weight.zero_()
        net.layers[1].retention.key.weight.neg_().clamp_(max=0.0)
    loss = masked_expression_loss(net, batch([7, 5], masked=True)).total
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_asking_for_some_rows_gives_the_same_states(n_layers, masked):
    net, cells = network(n_layers=n_layers), batch([7, 1, 12], masked=masked)
    full = net(cells)
    assert close(net.encode(cells, wanted="cell").cell, full.cell)
    if masked:
        scored = net.encode(cells, wanted="scored")
        assert close(scored.cell, full.cell)
        assert close(scored.gene, full.gene[cells.scored])


def test_loss_gradients_do_not_depend_on_row_selection():
    net, cells = network(), batch([9, 6], masked=True)
    masked_expression_loss(net, cells).total.backward()
    few = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    states = net(cells)
    cell = states.cell.repeat_interleave(cells.offsets.diff(), 0)
    gene_error = (net.gene_decoder(states.gene) - cells.target)[cells.scored]
    cell_error = (net.cell_decoder(net.gene_embedding(cells.gene), cell) - cells.target)[
        cells.scored
    ]
    (gene_error.square().mean() + cell_error.square().mean()).backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert close(few[name], parameter.grad, 1e-4), name


def test_hidden_genes_reach_nobody_in_the_first_half():
    net = network(n_layers=1)  # depth 1: no layer hides
    cells = batch([8], masked=True)
    changed = torch.where(cells.hidden, cells.value + 3.0, cells.value)
    other = CellBatch(
        **{
            f: getattr(cells, f) for f in ("gene", "offsets", "depth", "hidden", "scored", "target")
        },
        value=changed,
    )
    assert torch.equal(net(cells).cell, net(other).cell)  # their value is never seen, at any depth
    two = network(n_layers=2)
    with torch.no_grad():
        before = two.layers[0](*_first_layer(two, cells))
        moved = CellBatch(
            **{
                f: getattr(cells, f)
                for f in ("value", "offsets", "depth", "hidden", "scored", "target")
            },
            gene=torch.where(cells.hidden, cells.gene % 40 + 1, cells.gene),
        )
        after = two.layers[0](*_first_layer(two, moved))
    shown = torch.cat([torch.ones(3, dtype=torch.bool), ~cells.hidden])
    assert torch.equal(before[shown], after[shown])
    assert not torch.equal(two(cells).cell, two(moved).cell)


def _first_layer(net, cells):
    from cellfm.nn.encoder import Layout

    layout = Layout.of(cells, net.config.n_prefix)
    shown = net.shown_rows(cells, layout)
    return net.embed_rows(cells, layout), Segments.same(layout.lengths), shown


def test_empty_batch_and_empty_cell_are_defined():
    net = network()
    assert net(batch([])).cell.shape == (0, 16)
    states = net(batch([0, 3]))
    assert states.cell.isfinite().all()
    assert states.gene.shape == (3, 16)
    assert torch.equal(net.encode(batch([]), wanted="cell").cell, torch.zeros(0, 16))


def test_adapters_merge_exactly():
    net, cells = network(lora_rank=3), batch([6, 4])
    with_adapters = net(cells)
    names = len(net.state_dict())
    merge_lora(net)
    assert close(net(cells).gene, with_adapters.gene)
    assert len(net.state_dict()) == names - 2 * 8 * 2


def test_fresh_adapters_change_nothing():
    config = ModelConfig(n_genes=40, dim=16, n_layers=2, n_heads=4, lora_rank=2)
    net = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
    cells = batch([6])
    before = net(cells).cell
    merge_lora(net)
    assert torch.equal(net(cells).cell, before)


def test_annotation_head_reads_each_cell_alone():
    net = network(n_clusters=3, depth_tokens=False)
    cells = batch([6, 4])
    logits = net.cluster_logits(cells)
    assert logits.shape == (2, 3)
    assert close(net.cluster_logits(cells.cells(1, 2)), logits[1:])
    states = net(cells)
    rows = torch.cat([states.cell[:1], states.gene[:6]])
    assert close(net.annotation(rows, (7,)), logits[:1])
    with pytest.raises(ValueError, match="n_clusters is 0"):
        network().cluster_logits(cells)


def test_annotation_head_is_the_equation():
    """One cell, written out: self-retention of the classes, cross-retention to the rows, gated unit; plain residuals."""
    net = network(n_clusters=3, depth_tokens=False)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))

    def mix(r, x, y):
        q, k, v, u = (
            x @ r.query.weight.T,
            y @ r.key.weight.T,
            y @ r.value.weight.T,
            x @ r.gate.weight.T,
        )
        parts = []
        for h in range(4):
            head = slice(4 * h, 4 * h + 4)
            o = (q[:, head].relu() @ k[:, head].relu().T) @ v[:, head]
            parts.append(
                o
                / o.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
                * u[:, head]
                * u[:, head].sigmoid()
            )
        return torch.cat(parts, 1) @ r.out.weight.T

    x = net.annotation.clusters
    for layer in net.annotation.layers:
        x = layer.norm1(x + mix(layer.self_retention, x, x))
        x = layer.norm2(x + mix(layer.cross_retention, x, rows))
        g = layer.glu
        x = layer.norm3(x + ((x @ g.left.weight.T) * (x @ g.right.weight.T)) @ g.out.weight.T)
    expected = (x @ net.annotation.classifier.weight.T).T
    assert close(net.annotation(rows, (5,)), expected)


def test_zero_heads_give_probabilities():
    net, cells = network(zero_heads=True), batch([6, 4])
    states = net(cells)
    cell = states.cell.repeat_interleave(cells.offsets.diff(), 0)
    for p in (
        net.gene_zero_decoder(states.gene),
        net.cell_zero_decoder(net.gene_embedding(cells.gene), cell),
    ):
        assert p.shape == (10,)
        assert ((p > 0) & (p < 1)).all()


def test_uninitialised_network_cannot_pass_for_a_real_one():
    net = CellFM(ModelConfig(n_genes=40, dim=16, n_layers=1, n_heads=2)).eval()
    assert net(batch([3])).cell.isnan().all()


def test_initialisation_is_a_function_of_the_generator_alone():
    config = ModelConfig(n_genes=40, dim=16, n_layers=2, n_heads=4)
    torch.rand(1)
    a, b = (
        initialise(CellFM(config), torch.Generator().manual_seed(5)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not a["gene_embedding.weight"][0].any()
    assert torch.equal(a["layers.1.norm2.weight"], torch.ones(16))


def test_published_initial_scales():
    config = ModelConfig(n_genes=27_855, dim=1536, n_layers=2, n_heads=48)
    state = initialise(CellFM(config), torch.Generator().manual_seed(0)).state_dict()
    assert state["gene_embedding.weight"][1:].std().item() == pytest.approx(0.00412, rel=0.01)
    assert state["cls"].std().item() == pytest.approx(0.0128, rel=0.1)
    assert state["depth_embedding"].std().item() == pytest.approx(0.0104, rel=0.1)
    gain = (8 * 2) ** -0.25
    assert state["layers.0.retention.value.weight"].std().item() == pytest.approx(
        gain * 1536**-0.5, rel=0.01
    )


def test_shape_check_is_on():
    """Canary: without the import hook every other shape test would be blind."""
    net = network()
    with pytest.raises(TypeCheckError):
        net.gene_decoder(torch.zeros(3, 16, 2))
    with pytest.raises(TypeCheckError):
        net.cell_decoder(torch.zeros(3, 16), torch.zeros(4, 16))
