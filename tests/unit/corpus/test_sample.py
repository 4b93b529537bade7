"""Epochs, thinned batches and evaluation batches."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from cellfm.config import ModelConfig
from cellfm.corpus.rows import row_source
from cellfm.corpus.sample import EpochSampler, InMemoryCells, evaluation_batches
from cellfm.errors import ConfigError, CountsError, DataError
from cellfm.nn import CellFM, initialise, masked_expression_loss

TOKEN = np.random.default_rng(5).permutation(41).astype(np.int32)


def make(n_cells=37):
    dense = np.random.default_rng(2).poisson(2.0, (n_cells, 41)).astype(np.float32)
    dense[n_cells // 2] = 0
    return InMemoryCells.from_source(row_source(sparse.csr_matrix(dense)), TOKEN)


def fields(batch):
    names = ("gene", "value", "offsets", "depth", "hidden", "scored", "target")
    return [getattr(batch, name).numpy() for name in names]


def same(first, second):
    for one, other in zip(fields(first), fields(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_holds_truth_and_mask():
    cells = make()
    sampler = EpochSampler(cells, token_budget=100, seed=4)
    batch, rows = sampler.batch(0), sampler.rows(0)
    lengths = cells.lengths[rows]
    assert batch.lengths == lengths.tolist()
    np.testing.assert_array_equal(batch.value, batch.target)
    np.testing.assert_array_equal(batch.depth[:, 0], batch.depth[:, 1])
    assert int(batch.scored.sum()) == sum(int(0.2 * n) for n in lengths)
    first = slice(*cells.offsets[rows[0] : rows[0] + 2])
    counts = cells.count[first]
    np.testing.assert_allclose(
        batch.value[: lengths[0]], np.log1p(counts / counts.sum() * 1e4), rtol=1e-6
    )
    np.testing.assert_allclose(batch.depth[0], np.log1p(counts.sum() / 1e3), rtol=1e-6)


def test_thinned_batch_shows_less_and_keeps_the_truth():
    cells = make()
    plain = EpochSampler(cells, token_budget=10**6, seed=4).batch(0)
    thin = EpochSampler(cells, token_budget=10**6, seed=4, thin=True).batch(0)
    np.testing.assert_array_equal(plain.target, thin.target)
    np.testing.assert_array_equal(plain.scored, thin.scored)
    np.testing.assert_array_equal(plain.depth[:, 1], thin.depth[:, 1])
    less = (thin.depth[:, 0] < thin.depth[:, 1]).numpy()
    assert 5 < less.sum() < 32
    # S is the total of what is shown: the values of a cell sum to 10⁴ before the logarithm
    for index in np.flatnonzero(less):
        shown = thin.value[slice(*thin.offsets[index : index + 2])].double()
        assert abs(float(shown.expm1().sum()) - 1e4) < 1


def test_epochs_differ_and_steps_run_through_them():
    sampler = EpochSampler(make(), token_budget=90, seed=0)
    first, second = sampler.n_batches(0), sampler.n_batches(1)
    assert sampler.locate(first - 1) == (0, first - 1)
    assert sampler.locate(first) == (1, 0)
    assert sampler.locate(first + second) == (2, 0)
    assert (sampler.n_batches(0), sampler.n_batches(1)) == (first, second)
    one = np.concatenate([sampler.rows(step) for step in range(first)])
    two = np.concatenate([sampler.rows(first + step) for step in range(second)])
    assert one.tolist() != two.tolist()
    assert one.tolist() != list(range(37))


def test_masks_change_from_epoch_to_epoch():
    sampler = EpochSampler(make(1 + 1), token_budget=10**6, seed=0)
    masks = {sampler.batch(step).scored.numpy().tobytes() for step in range(4)}
    assert len(masks) > 1


def test_evaluation_batches_are_fixed():
    cells = make()
    once = list(evaluation_batches(cells, token_budget=100, seed=9))
    again = list(evaluation_batches(cells, token_budget=100, seed=9))
    for one, other in zip(once, again, strict=True):
        same(one, other)
    assert sum(batch.n_cells for batch in once) == 37
    assert max(batch.n_tokens for batch in once) <= 100
    one = next(evaluation_batches(cells, token_budget=10**6, seed=9))
    np.testing.assert_array_equal(one.scored, np.concatenate([batch.scored for batch in once]))
    other = next(evaluation_batches(cells, token_budget=10**6, seed=8))
    assert (one.scored != other.scored).any()


def test_refusals():
    cells = make()
    with pytest.raises(ConfigError, match="token_budget is 0; it must be at least 1"):
        EpochSampler(cells, token_budget=0, seed=0)
    with pytest.raises(ConfigError, match=r"scored_fraction is -0\.1"):
        EpochSampler(cells, token_budget=9, seed=0, scored_fraction=-0.1)
    nothing = cells.select(np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="0 cells to make batches of"):
        EpochSampler(nothing, token_budget=9, seed=0)
    with pytest.raises(DataError, match="0 cells"):
        next(evaluation_batches(nothing, token_budget=9, seed=0))
    sampler = EpochSampler(cells, token_budget=9, seed=0)
    with pytest.raises(ConfigError, match="step is -1; it must be at least 0"):
        sampler.batch(-1)
    with pytest.raises(ConfigError, match="epoch is -2; it must be at least 0"):
        sampler.n_batches(-2)


def test_thinning_needs_integers():
    logged = np.log1p(np.random.default_rng(0).poisson(2.0, (4, 41)))
    cells = InMemoryCells.from_source(row_source(logged + 0.1), TOKEN, scale="log1p")
    EpochSampler(cells, token_budget=9, seed=0)
    with pytest.raises(CountsError, match=r"thin=True .* no integers .*log1p"):
        EpochSampler(cells, token_budget=9, seed=0, thin=True)


def plain(lengths, number=None):
    """Cells of given lengths, gene by gene."""
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    gene = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    cell = np.arange(len(lengths)) if number is None else number
    count = np.ones(offsets[-1], dtype=np.float32)
    return InMemoryCells(gene=gene, count=count, offsets=offsets, cell=cell)


class Stored:
    """Cells that are no longer recognised as being in memory."""

    def __init__(self, cells):
        self._cells = cells
        self.lengths, self.number = cells.lengths, cells.number

    def __len__(self):
        return len(self._cells)

    def read(self, start, stop):
        return self._cells.read(start, stop)


def epoch_rows(sampler, lane=0, epoch=0):
    first = sum(sampler.n_batches(e, lane=lane) for e in range(epoch))
    steps = range(first, first + sampler.n_batches(epoch, lane=lane))
    return [sampler.rows(step, lane=lane) for step in steps]


def variance_ratio(origin, batches, share):
    """Variance of an origin's share over the batches, relative to draws without replacement."""
    n_all = len(origin)
    found = [
        (origin[rows].mean() - share) ** 2
        / (share * (1 - share) / len(rows) * (n_all - len(rows)) / (n_all - 1))
        for rows in batches
    ]
    return np.mean(found)


def test_batches_of_cells_in_random_order_are_simple_random_samples():
    rng = np.random.default_rng(0)
    cells = Stored(plain(np.full(20_000, 4)))
    origin = rng.permutation(np.arange(20_000) < 6000)  # as the rows of a store are
    sampler = EpochSampler(cells, token_budget=400, seed=1, window_rows=2048, block_rows=256)
    # 200 batches: five standard deviations of a mean of chi-squared variables
    assert abs(variance_ratio(origin, epoch_rows(sampler), 0.3) - 1) < 5 * np.sqrt(2 / 200)


def test_batches_of_sorted_cells_have_the_variance_of_a_cluster_sample():
    cells = plain(np.full(40_960, 4))
    origin = np.arange(40_960) < 12_288
    n, expected = 100, {}
    for block, n_blocks in ((256, 8), (16, 128)):
        sampler = EpochSampler(
            Stored(cells), token_budget=400, seed=1, window_rows=2048, block_rows=block
        )
        ratios = [variance_ratio(origin, epoch_rows(sampler, epoch=e), 0.3) for e in range(4)]
        expected[block] = 1 + n / n_blocks
        # 20 windows an epoch, 4 epochs: a variance of 80 clusters is known to a sixth
        assert abs(np.mean(ratios) / expected[block] - 1) < 0.5
    in_memory = EpochSampler(cells, token_budget=400, seed=1, window_rows=2048)
    assert abs(variance_ratio(origin, epoch_rows(in_memory), 0.3) - 1) < 5 * np.sqrt(2 / 400)


def test_steps_of_lanes_do_not_depend_on_the_processes():
    sampler = EpochSampler(make(60), token_budget=150, seed=2, lanes=5, thin=True)
    for step in (0, 3, 11):
        whole = sampler.batches(step)
        for world_size in (2, 3, 5):
            shared = [
                sampler.batches(step, rank=r, world_size=world_size) for r in range(world_size)
            ]
            for lane, batch in enumerate(whole):
                same(batch, shared[lane % world_size][lane // world_size])
    assert len({batch.value.numpy().tobytes() for batch in sampler.batches(0)}) == 5


def test_lanes_of_unequal_length_each_go_on_with_their_next_epoch():
    lengths = np.r_[np.full(12, 2), np.full(12, 40)]
    sampler = EpochSampler(plain(lengths), token_budget=40, seed=3, lanes=3, window_rows=4)
    sizes = [sampler.n_batches(0, lane=lane) for lane in range(3)]
    assert len(set(sizes)) > 1
    step = min(sizes)
    epochs = {sampler.locate(step, lane=lane)[0] for lane in range(3)}
    assert epochs == {0, 1}


def test_visits_follow_the_weights_and_have_masks_of_their_own():
    n = 400
    weight = np.repeat([0.0, 1.0, 2.25, 3.0], n // 4)
    cells = plain(np.full(n, 20))
    sampler = EpochSampler(cells, token_budget=100, seed=6, weight=weight)
    visits = [
        np.bincount(np.concatenate(epoch_rows(sampler, epoch=e)), minlength=n) for e in range(4)
    ]
    for found in visits:
        assert set(found[:100]) == {0}
        assert set(found[100:200]) == {1}
        assert set(found[200:300]) == {2, 3}
        assert set(found[300:]) == {3}
    share = np.mean([found[200:300] == 3 for found in visits])
    assert abs(share - 0.25) < 5 * np.sqrt(0.1875 / 400)
    assert (visits[0] != visits[1]).any()
    once = EpochSampler(cells, token_budget=100, seed=6, rows=np.arange(100, 400))
    masks, first = ({row: set() for row in range(n)} for _ in range(2))
    for of, found in ((sampler, masks), (once, first)):
        for step in range(of.n_batches(0)):
            batch = of.batch(step)
            for i, row in enumerate(of.rows(step).tolist()):
                found[row].add(batch.cells(i, i + 1).scored.numpy().tobytes())
    assert all(len(masks[row]) == 3 for row in range(300, 400))
    assert all(first[row] <= masks[row] for row in range(100, 400))


def test_weights_of_one_change_nothing():
    cells = make()
    options = {"token_budget": 100, "seed": 4}
    weighted = EpochSampler(cells, weight=np.ones(37), **options)
    for step in range(8):
        same(weighted.batch(step), EpochSampler(cells, **options).batch(step))


def test_cells_of_a_batch_are_alike_in_length_with_buckets():
    lengths = np.random.default_rng(0).integers(5, 200, 2000)
    cells = plain(lengths)
    spread = {}
    for n_buckets in (1, 4):
        sampler = EpochSampler(
            cells, token_budget=2000, seed=0, window_rows=500, length_buckets=n_buckets
        )
        batches = epoch_rows(sampler)
        assert sorted(np.concatenate(batches)) == list(range(2000))
        spread[n_buckets] = np.mean([np.ptp(lengths[rows]) for rows in batches])
        # the order of the batches is not the order of their lengths
        means = [lengths[rows].mean() for rows in batches]
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
    assert spread[4] < spread[1] / 3


def whole_of(sampler, epoch=0):
    """What each cell shows in an epoch: row → (gene → (value, target), depth)."""
    first = sum(sampler.n_batches(e) for e in range(epoch))
    found = {}
    for step in range(first, first + sampler.n_batches(epoch)):
        batch = sampler.batch(step)
        for i, row in enumerate(sampler.rows(step).tolist()):
            cell = batch.cells(i, i + 1)
            pairs = zip(cell.value.tolist(), cell.target.tolist(), strict=True)
            assert row not in found
            found[row] = dict(zip(cell.gene.tolist(), pairs, strict=True)), cell.depth.tolist()
    return found


@pytest.mark.parametrize("thin", [False, True])
def test_drawn_genes_keep_the_values_and_the_depth_of_their_whole_cell(thin):
    cells = make(60)
    options = {"seed": 4, "thin": thin}
    whole = whole_of(EpochSampler(cells, token_budget=500, **options))
    few = EpochSampler(cells, token_budget=100, genes_per_cell=12, **options)
    shown = whole_of(few)
    assert shown.keys() == whole.keys() == set(range(60))
    for row, (genes, depth) in shown.items():
        assert len(genes) == min(12, cells.lengths[row])
        assert list(genes) == sorted(genes)
        assert genes.items() <= whole[row][0].items()
        assert depth == whole[row][1]
    again = whole_of(few, epoch=1)
    assert {tuple(genes) for genes, _ in shown.values()} != {tuple(g) for g, _ in again.values()}


@pytest.mark.parametrize("kind", ["in memory", "stored", "narrow"])
def test_the_budget_is_of_drawn_genes(kind):
    cells = plain(np.full(200, 40))
    if kind != "in memory":
        cells = Stored(cells)
    if kind == "narrow":
        cells.lengths = cells.lengths.astype(np.uint16)
    options = {"token_budget": 100, "seed": 1}
    sampler = EpochSampler(cells, genes_per_cell=10, **options)
    batches = [sampler.batch(step) for step in range(sampler.n_batches(0))]
    assert sum(batch.n_cells for batch in batches) == 200
    assert {batch.n_tokens for batch in batches} == {100}
    assert {int(batch.scored.sum()) for batch in batches} == {20}
    # more than a narrow length can say is simply all
    everything = EpochSampler(cells, genes_per_cell=(1 << 16) + 3, **options)
    same(everything.batch(2), EpochSampler(cells, **options).batch(2))


def test_cells_that_are_short_enough_are_untouched():
    for options in ({"thin": True}, {"lanes": 2}):
        all_of_them = EpochSampler(make(), token_budget=100, seed=4, **options)
        few = EpochSampler(make(), token_budget=100, seed=4, genes_per_cell=41, **options)
        for one, other in zip(all_of_them.batches(3), few.batches(3), strict=True):
            same(one, other)


def test_absent_genes_lack_in_the_whole_cell_and_stand_beside_scored_ones():
    cells = make(60)
    options = {"token_budget": 90, "seed": 4, "genes_per_cell": 12, "thin": True}
    sampler, plainly = EpochSampler(cells, absent=True, **options), EpochSampler(cells, **options)
    n_asked = n_scored = 0
    for step in range(sampler.n_batches(0)):
        batch = sampler.batch(step)
        same(batch, plainly.batch(step))
        assert plainly.batch(step).absent is None
        assert not batch.absent[~batch.scored].any()
        for i, row in enumerate(sampler.rows(step).tolist()):
            expressed = cells.gene[slice(*cells.offsets[row : row + 2])].tolist()
            asked = batch.cells(i, i + 1).absent
            assert not set(asked.tolist()) & set(expressed)
        n_asked += int((batch.absent > 0).sum())
        n_scored += int(batch.scored.sum())
    assert 0.05 < n_asked / n_scored < 1


def test_absent_genes_need_masks():
    sampler = EpochSampler(make(), token_budget=90, seed=4, scored_fraction=None, absent=True)
    assert sampler.batch(0).absent is None


def test_values_without_masks():
    sampler = EpochSampler(make(), token_budget=100, seed=4, scored_fraction=None)
    batch = sampler.batch(0)
    assert batch.scored is None
    assert batch.hidden is None
    masked = EpochSampler(make(), token_budget=100, seed=4).batch(0)
    np.testing.assert_array_equal(batch.value, masked.value)


def test_narrow_counts_give_the_same_batches():
    cells = make()
    narrow = InMemoryCells(
        gene=cells.gene.astype(np.uint16),
        count=cells.count.astype(np.uint16),
        offsets=cells.offsets,
        cell=cells.cell,
    )
    for thin in (False, True):
        options = {"token_budget": 300, "seed": 4, "thin": thin}
        same(EpochSampler(narrow, **options).batch(1), EpochSampler(cells, **options).batch(1))
    one, other = (next(evaluation_batches(c, token_budget=300, seed=4)) for c in (narrow, cells))
    same(one, other)


def test_the_network_takes_narrow_tokens():
    batch = EpochSampler(make(), token_budget=300, seed=4).batch(0)
    assert batch.gene.dtype == torch.int32
    config = ModelConfig(n_genes=41, dim=16, n_layers=2, n_heads=2)
    found = []
    for cells in (batch, replace(batch, gene=batch.gene.long())):
        network = initialise(CellFM(config), torch.Generator().manual_seed(0)).eval()
        loss = masked_expression_loss(network, cells).total
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_asked_for_from_threads():
    sampler = EpochSampler(make(100), token_budget=90, seed=0, window_rows=16)
    alone = EpochSampler(make(100), token_budget=90, seed=0, window_rows=16)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(sampler.batch, [*range(30), *range(30)]))
    for step, batch in enumerate(found):
        same(batch, alone.batch(step % 30))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lanes": 0}, ConfigError, "lanes is 0; it must be at least 1"),
        ({"window_rows": 0}, ConfigError, "window_rows is 0"),
        ({"block_rows": -1}, ConfigError, "block_rows is -1"),
        ({"genes_per_cell": 0}, ConfigError, "genes_per_cell is 0; it must be at least 1, or None for all"),
        ({"length_buckets": 0}, ConfigError, "length_buckets is 0; it must be at least 1, 1 for none"),
        ({"lanes": 38}, ConfigError, "37 visits of 37 cells, but there are 38 lanes"),
        ({"weight": np.full(37, 0.01)}, ConfigError, "0.37 visits of 37 cells"),
        ({"weight": np.ones(36)}, ConfigError, "weight has 36 entries for 37 cells"),
        ({"weight": np.full(37, -1.0)}, ConfigError, "or some are negative"),
        ({"weight": np.zeros(37)}, DataError, "0 cells to make batches of"),
        ({"rows": np.arange(0)}, DataError, "0 cells to make batches of"),
        ({"rows": np.array([3, 2])}, DataError, "rows must be ascending and between 0 and 36"),
        ({"rows": np.array([36, 37])}, DataError, "rows must be ascending"),
        ({"rows": np.array([-1, 3])}, DataError, "rows must be ascending"),
    ],
)  # fmt: skip
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        EpochSampler(make(), token_budget=9, seed=0, **options)


def test_refused_processes():
    sampler = EpochSampler(make(), token_budget=9, seed=0, lanes=4)
    for rank, world_size in ((0, 5), (4, 4), (-1, 2), (0, 0)):
        with pytest.raises(
            ConfigError, match=rf"rank {rank} of world_size {world_size} has no part in 4"
        ):
            sampler.batches(0, rank=rank, world_size=world_size)
    with pytest.raises(ConfigError, match="for one lane, but there are 4; ask for batches"):
        sampler.batch(0)
