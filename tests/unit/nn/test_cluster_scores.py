"""Attention of class queries and of marked cells: as a plain loop over what the network computes itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from cellfm.nn.annotation import AnnotationHead
from cellfm.nn.classifier import CellClassifier, new_head
from cellfm.nn.heads import initialise_head
from cellfm.nn.kernels.cluster_scores import ClusterScores, rank_shares
from cellfm.nn.kernels.marked_scores import marked_vectors
from cellfm.nn.kernels.pair_scores import head_vectors
from cellfm.nn.retention import feature_map
from tests.cells import batch, network

CELLS = batch([5, 0, 30, 12])
SAME = {"rtol": 1e-5, "atol": 1e-6}


def head_of(net, n: int = 3, seed: int = 0) -> AnnotationHead:
    head = new_head("clusters", net, n)
    initialise_head(head, torch.Generator().manual_seed(seed))
    return head.eval()


def seen(module: torch.nn.Module, run) -> torch.Tensor:
    """What a part of a network returns while all of it runs."""
    found = []
    handle = module.register_forward_hook(lambda _, __, out: found.append(out.detach()))
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    (one,) = found
    return one


def test_ranks_are_shares_of_the_row_and_ties_share_theirs():
    row = torch.tensor([[0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.5, 4.0, 1.5, 3.0], [2.5, 2.5, 2.5, 2.5]]) / 4
    torch.testing.assert_close(rank_shares(row), expected)


def test_scores_are_those_of_a_plain_loop():
    net = network()
    head = head_of(net)
    module = CellClassifier(net, [head]).eval()
    cross = head.layers[-1].cross_retention
    query = feature_map(seen(cross.query, lambda: module.logits(CELLS))).numpy()
    key = feature_map(seen(cross.key, lambda: module.logits(CELLS))).numpy()
    d, n_prefix = net.config.dim // net.config.n_heads, net.config.n_prefix
    (found,) = ClusterScores(net, [head])(CELLS)
    start = 0
    for cell, n in enumerate([5, 0, 30, 12]):
        genes = key[start + n_prefix : start + n_prefix + n]  # what stands before them is no gene
        start += n_prefix + n
        assert found[cell].shape == (3, n)
        for cluster in range(3):
            q = query[3 * cell + cluster]
            ranks = [
                rankdata(genes[:, h * d : (h + 1) * d] @ q[h * d : (h + 1) * d]) / n
                for h in range(net.config.n_heads)
                if n
            ]
            expected = np.mean(ranks, axis=0) if n else np.zeros(0)
            np.testing.assert_allclose(found[cell][cluster].numpy(), expected, atol=1e-6)


def test_every_cell_has_the_same_mean_however_long_it_is():
    net = network()
    (found,) = ClusterScores(net, [head_of(net)])(CELLS)
    for n, each in zip([5, 30, 12], (found[0], found[2], found[3]), strict=True):
        torch.testing.assert_close(each.mean(1), torch.full((3,), (n + 1) / (2 * n)), **SAME)
        assert each.max() <= 1


def test_a_cell_is_scored_alone_and_its_order_changes_nothing():
    net = network()
    scores = ClusterScores(net, [head_of(net), head_of(net, 2, seed=1)])
    first, second = scores(CELLS)
    alone = scores(CELLS.cells(2, 3))
    torch.testing.assert_close(alone[0][0], first[2], **SAME)
    torch.testing.assert_close(alone[1][0], second[2], **SAME)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    cell = CELLS.cells(2, 3)
    mixed = replace(cell, gene=cell.gene[order], value=cell.value[order])
    torch.testing.assert_close(scores(mixed)[0][0], first[2][:, order], **SAME)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_a_marked_gene_is_hidden_where_the_network_hides_it(n_layers):
    net = network(n_layers=n_layers)
    token = int(CELLS.gene[7])
    hidden = replace(CELLS, hidden=CELLS.gene == token)
    found = list(marked_vectors(net, CELLS, token))
    heard = list(range(n_layers // 2, n_layers))
    assert len(found) == len(heard)
    rows = _gene_rows(net)
    for each, i in zip(found, heard, strict=True):
        part = net.encoder_layers[i].retention
        for name in ("query", "key"):
            whole = feature_map(seen(getattr(part, name), lambda: net.encode(hidden)))[rows]
            ours = getattr(each, name).detach().flatten(1)
            torch.testing.assert_close(ours, whole, **SAME)


def test_without_the_gene_nothing_is_marked():
    net = network(n_layers=3)
    absent = next(t for t in range(1, net.config.n_genes) if not (CELLS.gene == t).any())
    plain = list(head_vectors(net, CELLS))[1:]
    for ours, theirs in zip(marked_vectors(net, CELLS, absent), plain, strict=True):
        torch.testing.assert_close(ours.key, theirs.key, **SAME)
        torch.testing.assert_close(ours.query, theirs.query, **SAME)


def _gene_rows(net) -> torch.Tensor:
    """Rows of the genes among those of the network: each cell is its prefix, then its genes."""
    rows, start = [], 0
    for n in CELLS.offsets.diff().tolist():
        start += net.config.n_prefix
        rows.extend(range(start, start + n))
        start += n
    return torch.tensor(rows)
