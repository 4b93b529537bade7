"""The detection term: which genes a cell expresses, asked of its state."""

from dataclasses import fields, replace

import pytest
import torch

from cellfm.batch import CellBatch
from cellfm.nn import masked_expression_loss
from cellfm.nn.loss import mean_square, predict_scored
from tests.cells import batch, network

LENGTHS = [9, 1, 14, 6]


def asked(lengths: list[int] = LENGTHS, *, seed: int = 0, none: float = 0.3) -> CellBatch:
    """Return masked cells with a gene that each lacks beside its scored ones; `none` is the share without one."""
    cells = batch(lengths, seed=seed, masked=True)
    generator = torch.Generator().manual_seed(seed)
    absent = torch.zeros_like(cells.gene)
    for i in range(cells.n_cells):
        part = slice(*cells.offsets[i : i + 2].tolist())
        lacking = [token for token in range(1, 41) if token not in cells.gene[part].tolist()]
        drawn = torch.randint(len(lacking), (cells.lengths[i],), generator=generator)
        absent[part] = torch.tensor(lacking)[drawn]
    kept = torch.rand(len(absent), generator=generator) >= none
    return replace(cells, absent=torch.where(cells.scored & kept, absent, 0))


def cell_of(cells: CellBatch) -> torch.Tensor:
    return torch.arange(cells.n_cells).repeat_interleave(cells.offsets.diff())


def gradients(net, cells, **options):
    net.zero_grad()
    loss = masked_expression_loss(net, cells, **options)
    loss.total.backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return loss, found


def test_detection_is_the_equation():
    """Gene by gene, in double precision, with the probabilities of the head."""
    net, cells = network(detection_head=True), asked()
    states, table = net(cells).cell.double(), net.gene_embedding.weight.double()
    weight, bias = net.cell_zero_decoder.weight.double(), net.cell_zero_decoder.bias.double()

    def probability(token: int, cell: int) -> torch.Tensor:
        return 1 / (1 + torch.exp(-(weight @ table[token] + bias) @ states[cell]))

    cost, scored = 0.0, cells.scored.nonzero().flatten().tolist()
    owner, absent = cell_of(cells).tolist(), cells.absent.tolist()
    for place in scored:
        cost -= probability(int(cells.gene[place]), owner[place]).log() / 2
        if absent[place]:
            cost -= (1 - probability(absent[place], owner[place])).log() / 2
    assert 0 < sum(absent[place] > 0 for place in scored) < len(scored)
    loss = masked_expression_loss(net, cells, detection=0.7)
    assert loss.detection.item() == pytest.approx(cost.item() / len(scored), rel=1e-5)
    parts = loss.gene + loss.cell + 0.7 * loss.detection
    assert loss.total.item() == pytest.approx(parts.item(), rel=1e-6)


def test_gradient_reaches_state_table_and_head():
    net, cells = network(detection_head=True), asked()
    _, without = gradients(net, cells)
    net.zero_grad()
    masked_expression_loss(net, cells, detection=1.0).detection.backward()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert found["cell_zero_decoder.weight"].any()
    assert found["cell_zero_decoder.bias"].any()
    assert found["cls"].any()
    assert all(found[f"layers.{i}.retention.query.weight"].any() for i in range(2))
    # Genes that no cell of the batch expresses are learned of too.
    only_absent = set(cells.absent.tolist()) - set(cells.gene.tolist()) - {0}
    assert only_absent
    for token in only_absent:
        assert found["gene_embedding.weight"][token].any()
        assert not without["gene_embedding.weight"][token].any()
    assert not found["gene_embedding.weight"][0].any()
    assert "gene_decoder.first.weight" not in found
    assert "cell_decoder.map.weight" not in found


def test_without_the_term_nothing_changes():
    """Bit for bit the loss of the publication, with or without a head and absent genes."""
    net, cells = network(detection_head=True), asked()
    target = cells.target[cells.scored]
    prediction = predict_scored(net, cells)
    gene, cell = (mean_square(part - target) for part in prediction)
    net.zero_grad()
    (gene + cell).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    loss, found = gradients(net, cells, detection=0.0)
    assert loss.detection is None
    assert torch.equal(loss.total, gene + cell)
    assert not [name for name in found if name.startswith("cell_zero_decoder")]
    bare = network()
    bare.load_state_dict(net.state_dict(), strict=False)
    plain, of_bare = gradients(bare, replace(cells, absent=None))
    assert torch.equal(plain.total, loss.total)
    assert found.keys() == expected.keys() == of_bare.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name
        assert torch.equal(gradient, of_bare[name]), name


def test_only_absent_genes_of_scored_ones_are_asked_about():
    net, cells = network(detection_head=True), asked()
    loss = masked_expression_loss(net, cells, detection=1.0)
    noise = torch.where(cells.scored, cells.absent, 7)
    other = masked_expression_loss(net, replace(cells, absent=noise), detection=1.0)
    assert torch.equal(loss.total, other.total)


def test_cells_that_have_all_candidates_are_asked_about_their_own_genes_only():
    net, cells = network(detection_head=True), asked(none=1.0)
    assert not cells.absent.any()
    loss, found = gradients(net, cells, detection=1.0)
    rows = cells.gene[cells.scored], cell_of(cells)[cells.scored]
    probability = net.cell_zero_decoder(net.gene_embedding(rows[0]), net(cells).cell[rows[1]])
    assert loss.detection.item() == pytest.approx(-probability.log().mean().item() / 2, rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_nothing_scored_is_zero():
    net, cells = network(detection_head=True), asked()
    nothing = replace(cells, scored=torch.zeros_like(cells.scored))
    loss, found = gradients(net, nothing, detection=1.0)
    assert [part.item() for part in loss] == [0.0] * 4
    assert not any(gradient.any() for gradient in found.values())
    empty = replace(batch([], masked=True), absent=torch.zeros(0, dtype=torch.int64))
    assert masked_expression_loss(net, empty, detection=1.0).total == 0


def test_batches_without_absent_genes_are_refused():
    net, cells = network(detection_head=True), batch(LENGTHS, masked=True)
    with pytest.raises(ValueError, match="The detection term needs a batch with `absent`"):
        masked_expression_loss(net, cells, detection=0.1)


def test_sure_and_wrong_answers_still_have_a_slope():
    """Where a probability rounds to 0 or 1 its logarithm has neither a value nor a slope; the log odds have."""
    net, cells = network(detection_head=True), asked()
    with torch.no_grad():
        net.cell_zero_decoder.weight.zero_()
        net.cell_zero_decoder.bias.zero_()
        net.layers[1].norm2.bias.fill_(3.0)
        net.layers[1].norm2.weight.fill_(1e-3)
        net.cell_zero_decoder.bias[0] = -100.0
    loss, found = gradients(net, cells, detection=1.0)
    assert loss.detection.item() == pytest.approx(150.0, rel=0.01)  # half of a logit of 300
    assert found["cell_zero_decoder.bias"].abs().max() > 1.0


def test_the_term_is_close_in_bf16():
    net, cells = network(detection_head=True), asked()
    whole = masked_expression_loss(net, cells, detection=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        half = masked_expression_loss(net, cells, detection=1.0)
    assert half.detection.dtype == torch.float32
    assert half.detection.item() == pytest.approx(whole.detection.item(), rel=0.03)


def test_absent_genes_are_cut_and_moved_with_their_cells():
    cells = asked()
    part = cells.cells(1, 3)
    assert torch.equal(part.absent, cells.absent[9:24])
    moved = cells.to("meta")
    for field in fields(cells):
        value = getattr(moved, field.name)
        assert value is None or value.is_meta == (field.name != "offsets")
