from dataclasses import replace

import pytest
import torch

from cellfm.batch import CellBatch
from cellfm.nn.encoder import CellFM
from cellfm.nn.kernels import knockout
from cellfm.nn.kernels.knockout import EditedStates, Edits
from tests.cells import batch, network
from tests.unit.nn.test_encoder import close


def edited(cell: CellBatch, removed: int, added: int | None, value: float | None) -> CellBatch:
    """The same cell written down anew, in the naive way: depth and all other values stay."""
    keep = torch.ones(cell.n_tokens, dtype=torch.bool)
    if removed >= 0:
        keep[removed] = False
    gene, values = cell.gene[keep], cell.value[keep]
    if added is not None:
        gene = torch.cat([gene, torch.tensor([added])])
        values = torch.cat([values, torch.tensor([value])])
    return replace(cell, gene=gene, value=values, offsets=torch.tensor([0, len(gene)]))


def definition(net: CellFM, cell: CellBatch, edits: Edits) -> torch.Tensor:
    """Encode each edited cell by itself."""
    none = [None] * len(edits)
    added = none if edits.added is None else edits.added.tolist()
    value = none if edits.value is None else edits.value.tolist()
    cells = [edited(cell, *edit) for edit in zip(edits.removed.tolist(), added, value, strict=True)]
    with torch.no_grad():
        return torch.cat([net.encode(one, wanted="cell").cell for one in cells])


def each_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return all(close(a, b) for a, b in zip(found, expected, strict=True))


SHAPES = [
    {},
    {"n_layers": 1},
    {"n_layers": 3},
    {"n_heads": 1},
    {"depth_tokens": False},
    {"depth_tokens": False, "n_layers": 1},
    {"lora_rank": 2, "n_layers": 3},
]


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_knockouts_equal_encoding_the_cell_without_the_gene(changes, budget):
    net, cell = network(**changes), batch([20])
    edits = Edits(removed=torch.tensor([*range(20), -1]))
    found = EditedStates(net)(cell, edits, row_budget=budget)
    expected = definition(net, cell, edits)
    assert each_close(found, expected)
    # that test would pass for a kernel that does nothing, were the knock-outs not farther apart than rounding
    assert (expected[:-1] - expected[-1]).norm(dim=1).min() > 1e-4 * expected[-1].norm()


@pytest.mark.parametrize("changes", SHAPES)
def test_new_values_and_new_genes_equal_encoding_the_changed_cell(changes):
    net, cell = network(**changes), batch([20])
    absent = sorted(set(range(1, 41)) - set(cell.gene.tolist()))[:3]
    edits = Edits(
        removed=torch.tensor([*range(20), -1, -1, -1]),
        added=torch.cat([cell.gene, torch.tensor(absent)]),
        value=torch.cat([cell.value + 1.0, torch.tensor([0.5, 2.0, 5.0])]),
    )
    found = EditedStates(net)(cell, edits, row_budget=100)
    assert each_close(found, definition(net, cell, edits))


@pytest.mark.parametrize("changes", [{}, {"n_layers": 1}, {"depth_tokens": False}])
def test_only_gene_of_a_cell(changes):
    net, cell = network(**changes), batch([1])
    edits = Edits(removed=torch.tensor([0]))
    assert each_close(EditedStates(net)(cell, edits), definition(net, cell, edits))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_dead_heads_stay_dead(n_layers):
    net, cell = network(n_layers=n_layers), batch([20])
    with torch.no_grad():
        for layer in net.encoder_layers:
            layer.retention.query.weight[:4] = 0.0
            layer.retention.key.weight[4:8] = 0.0
    edits = Edits(removed=torch.arange(20))
    assert each_close(EditedStates(net)(cell, edits), definition(net, cell, edits))


def heard_nearly_alone(cell: CellBatch, places: tuple[int, int], **changes) -> CellFM:
    """A network whose first head hears one gene of a cell loudly, another a millionth as loudly, and nothing else."""
    net = network(**changes)
    with torch.no_grad():
        for weight in (net.gene_embedding.weight, net.depth_embedding):
            weight[:, 0] = 0.0
        net.cls[0] = net.value_encoder.table.weight[0] = net.depth_encoder.table.weight[0] = 0.0
        for place, loudness in zip(places, (3.0, 3e-6), strict=True):
            net.gene_embedding.weight[cell.gene[place], 0] = loudness
        net.layers[0].retention.key.weight[:4] = 0.0
        net.layers[0].retention.key.weight[:4, 0] = 1.0
    return net


@pytest.mark.parametrize("n_layers", [1, 2])
def test_sum_that_hangs_on_the_removed_gene_is_made_anew(n_layers, monkeypatch):
    """S − φ(k)ᵀv is mostly rounding noise there, and the norm would blow it up to full size."""
    cell = batch([20])
    net = heard_nearly_alone(cell, (5, 9), n_layers=n_layers)
    edits = Edits(removed=torch.arange(20), added=cell.gene, value=cell.value + 1.0)
    plain = Edits(removed=torch.arange(20))
    for some in (edits, plain):
        assert each_close(EditedStates(net)(cell, some), definition(net, cell, some))
    monkeypatch.setattr(knockout, "CANCELLED", float("inf"))
    assert not each_close(EditedStates(net)(cell, plain), definition(net, cell, plain))


def test_network_of_another_kind_of_input_is_refused():
    states, cells = EditedStates(network()), batch([3, 4])
    none = Edits(removed=torch.tensor([-1]))
    with pytest.raises(ValueError, match="takes one plain cell, but got 2 cells"):
        states(cells, none)
    with pytest.raises(ValueError, match="hidden or zero genes"):
        states(batch([9], masked=True), none)
    with pytest.raises(
        ValueError, match=r"goes from 4 to 4; places of this cell's genes are 0 to 3"
    ):
        states(cells.cells(1, 2), Edits(removed=torch.tensor([4])))
    with pytest.raises(ValueError, match="needs its token and its value"):
        states(cells.cells(1, 2), Edits(removed=torch.tensor([0]), added=torch.tensor([3])))


def test_no_edits_give_no_states():
    empty = torch.zeros(0, dtype=torch.int64)
    assert EditedStates(network())(batch([5]), Edits(removed=empty)).shape == (0, 16)
