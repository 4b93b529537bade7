from dataclasses import replace

import pytest
import torch

from cellfm.nn.kernels.cell_state import CellStates
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.nn.kernels.workers import workers
from tests.cells import batch, network
from tests.unit.nn.test_encoder import close

MIXED = 2e-2  # bfloat16 has 8 bits; the residual stream is float32


@pytest.mark.parametrize(
    "changes", [{}, {"n_layers": 1}, {"n_layers": 3}, {"depth_tokens": False}, {"lora_rank": 2}]
)
@pytest.mark.parametrize("tabulated", [False, True])
def test_fast_path_equals_the_definition(changes, tabulated):
    net, cells = network(**changes), batch([7, 1, 0, 20, 40])
    fast = CellStates(net)
    if tabulated:
        assert fast.tabulate(torch.arange(1, 41)) == (net.config.n_layers > 1)
    with torch.no_grad():
        assert close(fast(cells), net.encode(cells, wanted="cell").cell)


def test_repeated_calls_do_not_change_the_tables():
    net, cells = network(), batch([7, 20])
    fast = CellStates(net)
    fast.tabulate(cells.gene)
    first = fast(cells)
    fast(batch([5], seed=3).cells(0, 0))
    assert torch.equal(fast(cells), first)


def test_unknown_gene_is_refused_by_the_table():
    fast = CellStates(network())
    fast.tabulate(torch.tensor([1, 2, 3]))
    with pytest.raises(IndexError):
        fast(batch([30]))


def test_table_respects_the_memory_limit():
    assert not CellStates(network()).tabulate(torch.arange(1, 41), max_bytes=1000)


def test_mixed_precision_stays_near():
    net, cells = network(), batch([7, 20, 40])
    fast = CellStates(net, precision="mixed")
    fast.tabulate(torch.arange(1, 41))
    with torch.no_grad():
        assert close(fast(cells), net.encode(cells, wanted="cell").cell, MIXED)


def test_hidden_genes_are_refused():
    with pytest.raises(ValueError, match=r"use CellFM\.encode"):
        CellStates(network())(batch([9], masked=True))


def test_negative_values_are_refused():
    cells = batch([9])
    with pytest.raises(ValueError, match=r"the smallest is -1; it must not be negative"):
        CellStates(network())(replace(cells, value=-torch.ones_like(cells.value)))


def test_dead_heads_give_the_same_zero():
    net, cells = network(), batch([7, 5])
    with torch.no_grad():
        net.layers[0].retention.query.weight[:4] = 0.0
        net.layers[1].retention.query.weight[:4] = 0.0
        assert close(CellStates(net)(cells), net.encode(cells, wanted="cell").cell)


def test_empty_batch():
    assert CellStates(network())(batch([])).shape == (0, 16)


def test_routing_puts_the_setting_back_and_stays_exact():
    before = torch.get_float32_matmul_precision()
    a, b = torch.rand(64, 300), torch.rand(300, 64)
    with fp32_routing(use=True):
        product = a @ b
    assert torch.get_float32_matmul_precision() == before
    assert close(product.double(), a.double() @ b.double(), 2e-6)


def test_routing_is_put_back_after_an_error():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), fp32_routing(use=True):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_probe_is_asked_once_and_answers():
    assert routing_pays(64) in (True, False)
    assert routing_pays(64) is routing_pays(64)


def test_workers_compute_alone_and_put_the_threads_back():
    net, parts = network(), [batch([9, 4], seed=seed) for seed in range(6)]
    fast, before = CellStates(net), torch.get_num_threads()
    with workers(torch.device("cpu")) as pool:
        assert torch.get_num_threads() == 1
        together = list(pool.map(fast, parts))
    assert torch.get_num_threads() == before
    assert all(torch.equal(a, fast(part)) for a, part in zip(together, parts, strict=True))
    with pytest.raises(KeyError), workers(torch.device("cpu")):
        raise KeyError
    assert torch.get_num_threads() == before
