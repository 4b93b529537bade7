"""Epochs cover every cell once; masks belong to cells; a step is a pure function."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.corpus.mask import mask_cells
from cellfm.corpus.sample import EpochSampler, InMemoryCells

quick = settings(derandomize=True, deadline=None, max_examples=60)
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=30)
BUDGET = st.integers(1, 120)
SEED = st.integers(0, 2**64 - 1)
GENES = st.none() | st.integers(1, 45)


def make(lengths):
    rng = np.random.default_rng(sum(lengths))
    gene = [np.sort(rng.choice(100, n, replace=False)) + 1 for n in lengths]
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return InMemoryCells(
        gene=np.concatenate(gene).astype(np.int32),
        count=rng.integers(1, 40, offsets[-1]).astype(np.float32),
        offsets=offsets,
        cell=np.arange(len(lengths)) * 7,
    )


def arrays(batch):
    names = ("gene", "value", "offsets", "depth", "hidden", "scored", "target", "absent")
    return [value.numpy() for name in names if (value := getattr(batch, name)) is not None]


@quick
@given(LENGTHS, BUDGET, SEED, GENES)
def test_every_cell_once_an_epoch_within_the_budget(lengths, budget, seed, n_genes):
    sampler = EpochSampler(
        make(lengths), token_budget=budget, seed=seed, genes_per_cell=n_genes, absent=True
    )
    shown = [n if n_genes is None else min(n, n_genes) for n in lengths]
    step = 0
    for epoch in range(3):
        seen = []
        for index in range(sampler.n_batches(epoch)):
            assert sampler.locate(step) == (epoch, index)
            rows = sampler.rows(step)
            assert len(rows)
            assert len(rows) == 1 or sum(shown[row] for row in rows) <= budget
            assert sampler.batch(step).lengths == [shown[row] for row in rows]
            seen += rows.tolist()
            step += 1
        assert sorted(seen) == list(range(len(lengths)))


@quick
@given(
    LENGTHS,
    st.fixed_dictionaries(
        {
            "token_budget": BUDGET,
            "seed": SEED,
            "thin": st.booleans(),
            "genes_per_cell": GENES,
            "absent": st.booleans(),
        }
    ),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
)
def test_a_step_is_a_pure_function(lengths, options, steps):
    cells = make(lengths)
    straight = EpochSampler(cells, **options)
    for step in range(max(steps) + 1):
        straight.rows(step)
    for step in steps:  # in any order, on an old sampler and on a new one
        resumed = EpochSampler(cells, **options).batch(step)
        for one, other in zip(arrays(straight.batch(step)), arrays(resumed), strict=True):
            np.testing.assert_array_equal(one, other)


@quick
@given(LENGTHS, SEED, st.integers(0, 4), st.booleans(), GENES)
def test_what_a_cell_shows_does_not_depend_on_its_batch(lengths, seed, epoch, thin, n_genes):
    cells = make(lengths)
    drawn = {}
    for budget in (1, 37, 10**6):
        sampler = EpochSampler(
            cells, token_budget=budget, seed=seed, thin=thin, genes_per_cell=n_genes
        )
        first = sum(sampler.n_batches(earlier) for earlier in range(epoch))
        for step in range(first, first + sampler.n_batches(epoch)):
            batch = sampler.batch(step)
            for position, row in enumerate(sampler.rows(step).tolist()):
                alone = arrays(batch.cells(position, position + 1))
                for one, other in zip(alone, drawn.setdefault(row, alone), strict=True):
                    np.testing.assert_array_equal(one, other)


@quick
@given(LENGTHS, BUDGET, SEED, st.booleans(), GENES)
def test_a_part_of_a_cell_is_that_of_the_whole(lengths, budget, seed, thin, n_genes):
    """Values, targets and depth are as without the draw, and no gene of the whole cell is called absent."""
    cells, options = make(lengths), {"seed": seed, "thin": thin}
    whole = {}
    sampler = EpochSampler(cells, token_budget=10**6, **options)
    for position, row in enumerate(sampler.rows(0).tolist()):
        whole[row] = sampler.batch(0).cells(position, position + 1)
    few = EpochSampler(cells, token_budget=budget, genes_per_cell=n_genes, absent=True, **options)
    for step in range(few.n_batches(0)):
        batch = few.batch(step)
        for position, row in enumerate(few.rows(step).tolist()):
            part, cell = batch.cells(position, position + 1), whole[row]
            at = np.searchsorted(cell.gene.numpy(), part.gene.numpy())
            for name in ("gene", "value", "target"):
                np.testing.assert_array_equal(getattr(part, name), getattr(cell, name)[at])
            np.testing.assert_array_equal(part.depth, cell.depth)
            assert not np.isin(part.absent[part.absent > 0], cell.gene).any()
            assert not part.absent[~part.scored].any()


@quick
@given(LENGTHS, st.floats(0, 1), SEED)
def test_splits_are_whole_and_disjoint(lengths, fraction, seed):
    cells = make(lengths)
    train, held_out = cells.split(fraction, seed=seed)
    assert sorted([*train.cell, *held_out.cell]) == cells.cell.tolist()
    assert len(held_out) == round(fraction * len(cells))
    assert train.offsets[-1] + held_out.offsets[-1] == cells.offsets[-1]


@quick
@given(
    st.lists(st.integers(0, 40), min_size=8, max_size=60),
    st.fixed_dictionaries(
        {
            "token_budget": BUDGET,
            "seed": SEED,
            "lanes": st.integers(1, 8),
            "window_rows": st.integers(1, 40),
            "block_rows": st.integers(1, 16),
            "length_buckets": st.integers(1, 4),
        }
    ),
    st.booleans(),
)
def test_lanes_share_out_an_epoch(lengths, options, some):
    rows = np.flatnonzero(np.arange(len(lengths)) % 3) if some else None
    if rows is not None and len(rows) < options["lanes"]:
        rows = None
    sampler = EpochSampler(make(lengths), rows=rows, **options)
    for epoch in range(2):
        seen = []
        for lane in range(sampler.n_lanes):
            first = sum(sampler.n_batches(e, lane=lane) for e in range(epoch))
            for index in range(sampler.n_batches(epoch, lane=lane)):
                assert sampler.locate(first + index, lane=lane) == (epoch, index)
                found = sampler.rows(first + index, lane=lane)
                assert len(found) == 1 or sum(lengths[r] for r in found) <= options["token_budget"]
                seen += found.tolist()
        assert sorted(seen) == (list(range(len(lengths))) if rows is None else rows.tolist())


@quick
@given(
    st.lists(st.integers(1, 30), min_size=8, max_size=40),
    SEED,
    st.integers(1, 8),
    st.integers(0, 30),
    st.data(),
)
def test_a_step_is_the_same_whatever_the_processes(lengths, seed, lanes, step, data):
    cells, options = make(lengths), {"token_budget": 60, "seed": seed, "lanes": lanes, "thin": True}
    options |= {"genes_per_cell": data.draw(GENES), "absent": True}
    whole = EpochSampler(cells, window_rows=10, **options).batches(step)
    world_size = data.draw(st.integers(1, lanes))
    shared = {}
    for rank in range(world_size):  # each process has a sampler of its own, and resumes here
        found = EpochSampler(cells, window_rows=10, **options).batches(
            step, rank=rank, world_size=world_size
        )
        shared |= dict(zip(range(rank, lanes, world_size), found, strict=True))
    for lane, batch in enumerate(whole):
        for one, other in zip(arrays(batch), arrays(shared[lane]), strict=True):
            np.testing.assert_array_equal(one, other)


@quick
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1), SEED
)
def test_masks_have_the_exact_numbers(lengths, scored, hidden, seed):
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    gene = np.concatenate([np.arange(1, n + 1) for n in lengths])
    drawn = mask_cells(
        gene, offsets, np.arange(len(lengths)), seed=seed, epoch=1,
        scored_fraction=scored, hidden_fraction=hidden,
    )  # fmt: skip
    for start, stop, n in zip(offsets[:-1], offsets[1:], lengths, strict=True):
        assert drawn.scored[start:stop].sum() == int(scored * n)
        assert drawn.hidden[start:stop].sum() == int(hidden * int(scored * n))
    assert not (drawn.hidden & ~drawn.scored).any()
