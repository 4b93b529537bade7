"""Sizes, spread and independence of masks and thinning."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from cellfm.corpus import mask
from cellfm.corpus.draw import child, key_of, mix, scramble, uniform
from cellfm.corpus.mask import (
    RATE_BITS,
    beta_2_2,
    binomial,
    draw_genes,
    mask_cells,
    rates,
    thin_counts,
)
from cellfm.errors import ConfigError


def ragged(lengths):
    offsets = np.r_[0, np.cumsum(lengths)]
    gene = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    return gene, offsets, np.arange(len(lengths))


def per_cell(flags, offsets):
    return np.array([flags[a:b].sum() for a, b in pairwise(offsets)])


@pytest.mark.parametrize("fractions", [(0.2, 0.8), (0.5, 1.0), (1.0, 0.5), (0.0, 0.8), (0.15, 0)])
def test_numbers_are_those_of_the_formula(fractions):
    lengths = np.arange(301)
    gene, offsets, cell = ragged(lengths)
    drawn = mask_cells(
        gene,
        offsets,
        cell,
        seed=0,
        epoch=0,
        scored_fraction=fractions[0],
        hidden_fraction=fractions[1],
    )
    n_scored = [int(fractions[0] * n) for n in lengths.tolist()]
    assert per_cell(drawn.scored, offsets).tolist() == n_scored
    assert per_cell(drawn.hidden, offsets).tolist() == [int(fractions[1] * n) for n in n_scored]
    assert not (drawn.hidden & ~drawn.scored).any()


def test_cells_of_fewer_than_five_genes_score_nothing():
    gene, offsets, cell = ragged([4, 5])
    assert per_cell(mask_cells(gene, offsets, cell, seed=1, epoch=1).scored, offsets).tolist() == [
        0,
        1,
    ]


def test_every_gene_is_drawn_equally_often():
    gene, offsets, cell = ragged([50] * 4000)
    drawn = mask_cells(gene, offsets, cell, seed=3, epoch=2)
    scored, hidden = drawn.scored.reshape(4000, 50), drawn.hidden.reshape(4000, 50)
    # five standard deviations of a share estimated from 4,000 draws
    assert np.abs(scored.mean(axis=0) - 0.2).max() < 5 * np.sqrt(0.16 / 4000)
    assert np.abs(hidden.mean(axis=0) - 0.16).max() < 5 * np.sqrt(0.1344 / 4000)
    together = (scored[:, :-1] & scored[:, 1:]).mean()
    assert abs(together - 0.2 * 9 / 49) < 0.002


def test_seed_epoch_and_cell_matter():
    gene, offsets, cell = ragged([200])
    first = mask_cells(gene, offsets, cell, seed=0, epoch=0).scored
    for other in (
        mask_cells(gene, offsets, cell, seed=1, epoch=0),
        mask_cells(gene, offsets, cell, seed=0, epoch=1),
        mask_cells(gene, offsets, cell + 1, seed=0, epoch=0),
    ):
        assert (other.scored != first).any()


def lowest(rank, lengths, number):
    """The slow way: sort the ranks of each cell."""
    ends = np.cumsum(lengths)
    return [
        np.sort(rank[end - n : end])[k - 1] if k else None
        for end, n, k in zip(ends, lengths, number, strict=True)
    ]


@pytest.mark.parametrize("kind", ["usual", "few bits", "all in one bin"])
def test_limits_are_the_ranks_that_a_sort_finds(kind):
    rng = np.random.default_rng(1)
    lengths = np.array([0, 300, 7, 0, 1, 4000, 5, 64, 0])
    n = lengths.sum()
    rank = rng.permutation(n).astype(np.uint32)
    rank = {
        "usual": rng.integers(0, 2**32, n).astype(np.uint32),
        "few bits": rank << np.uint32(18),
        "all in one bin": rank + np.uint32(0xFFFFE000),
    }[kind]
    for share in (0.0, 0.2, 0.5, 1.0):
        numbers = (share * lengths).astype(int), (share * 0.8 * lengths).astype(int)
        found = mask._limits(rank, lengths, numbers)
        for limits, number in zip(found, numbers, strict=True):
            for limit, expected in zip(limits, lowest(rank, lengths, number), strict=True):
                assert expected is None or limit == expected


def test_masks_do_not_depend_on_how_many_cells_are_drawn_at_once(monkeypatch):
    gene, offsets, cell = ragged([300, 7, 0, 1200, 5] * 20)
    whole = mask_cells(gene, offsets, cell, seed=5, epoch=0)
    monkeypatch.setattr(mask, "CHUNK", 1500)
    parts = mask_cells(gene, offsets, cell, seed=5, epoch=0)
    np.testing.assert_array_equal(whole.scored, parts.scored)
    np.testing.assert_array_equal(whole.hidden, parts.hidden)


def test_triples_of_genes_are_drawn_together_as_often_as_they_should():
    # hashes of neighbouring tokens under one key must not move together
    gene, offsets, cell = ragged([40] * 8000)
    scored = mask_cells(gene, offsets, cell, seed=7, epoch=1).scored.reshape(8000, 40)
    expected = 8 * 7 * 6 / (40 * 39 * 38)
    for step in (1, 2, 8, 13):
        triple = scored[:, : 40 - 2 * step] & scored[:, step : 40 - step] & scored[:, 2 * step :]
        assert abs(triple.mean() - expected) < 5 * np.sqrt(expected / triple.size) * 2
    assert abs(np.corrcoef(scored[0::2].ravel(), scored[1::2].ravel())[0, 1]) < 5 / np.sqrt(160_000)


@pytest.mark.parametrize("n_genes", [1, 7, 64, 300, 10**6])
def test_so_many_genes_are_drawn_and_short_cells_keep_all(n_genes):
    lengths = np.array([0, 1, 7, 8, 0, 64, 65, 299, 300, 301, 5000, 3, 0])
    gene, offsets, cell = ragged(lengths)
    kept = draw_genes(gene, offsets, cell, n_genes=n_genes, seed=2, epoch=1)
    assert per_cell(kept, offsets).tolist() == np.minimum(lengths, n_genes).tolist()
    nothing = draw_genes(gene[:0], offsets[:1], cell[:0], n_genes=n_genes, seed=2, epoch=1)
    assert not len(nothing)


def test_every_gene_is_drawn_equally_often_and_pairs_are_too():
    n_cells, n, k = 6000, 48, 12
    gene, offsets, cell = ragged([n] * n_cells)
    kept = draw_genes(gene, offsets, cell, n_genes=k, seed=3, epoch=2).reshape(n_cells, n)
    share = k / n
    # Draws without replacement: this sum is a chi-squared of n - 1 degrees of freedom, of mean 47 and deviation 10.
    spread = (kept.mean(axis=0) - share) ** 2 / (share * (1 - share) / n_cells)
    assert spread.sum() * (n - 1) / n < 47 + 5 * np.sqrt(2 * 47)
    pairs, together = share * (k - 1) / (n - 1), (kept[:, :-1] & kept[:, 1:]).mean()
    assert abs(together - pairs) < 5 * np.sqrt(pairs / (n_cells * (n - 1)))


def test_drawn_genes_belong_to_seed_epoch_and_cell():
    gene, offsets, cell = ragged([200, 90, 10])
    options = {"n_genes": 40, "seed": 0, "epoch": 0}
    first = draw_genes(gene, offsets, cell, **options)
    assert np.array_equal(first, draw_genes(gene, offsets, cell, **options))
    for other in (
        draw_genes(gene, offsets, cell, **options | {"seed": 1}),
        draw_genes(gene, offsets, cell, **options | {"epoch": 1}),
        draw_genes(gene, offsets, cell + 1, **options),
    ):
        assert (other != first)[:200].any()
        assert (other != first)[200:290].any()
        assert other[290:].all()
    # alone, a cell shows what it shows among others
    alone = draw_genes(gene[200:290], np.array([0, 90]), cell[1:2], **options)
    np.testing.assert_array_equal(alone, first[200:290])
    # and what is shown is not what is scored: these are draws of their own
    scored = mask_cells(gene, offsets, cell, seed=0, epoch=0, scored_fraction=0.2).scored
    assert not np.array_equal(scored[:200], first[:200])


def test_drawn_genes_do_not_depend_on_how_many_cells_are_drawn_at_once(monkeypatch):
    gene, offsets, cell = ragged([300, 7, 0, 1200, 5] * 20)
    whole = draw_genes(gene, offsets, cell, n_genes=100, seed=5, epoch=0)
    monkeypatch.setattr(mask, "CHUNK", 1500)
    parts = draw_genes(gene, offsets, cell, n_genes=100, seed=5, epoch=0)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("name", ["scored_fraction", "hidden_fraction"])
def test_fractions_outside(name):
    gene, offsets, cell = ragged([3])
    with pytest.raises(ConfigError, match=f"{name} is 1.5; expected a fraction"):
        mask_cells(gene, offsets, cell, seed=0, epoch=0, **{name: 1.5})


def test_beta_is_the_inverse_distribution_function():
    quantile = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(beta_2_2(quantile), stats.beta(2, 2).ppf(quantile), atol=1e-9)


def drawn(n, rate, size=40_000):
    token = np.arange(size)
    low, high = (np.full(size, word, dtype=np.uint32) for word in (12345, 678))
    each = np.full(size, n, dtype=np.int64), np.full(size, rate, dtype=np.int32)
    return binomial(token, *each, keys=(low, high))


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 30, 127, 128, 143, 1023, 2500, 70_000])
@pytest.mark.parametrize("rate", [0, 37, 128, 255])
def test_binomial_has_the_right_distribution(n, rate):
    found, truth = drawn(n, rate), stats.binom(n, rates()[rate])
    assert 0 <= found.min() <= found.max() <= n
    # quantiles: about a chi-squared of 7 degrees of freedom; 35 is exceeded once in 100,000
    edges = np.unique(truth.ppf(np.arange(1, 8) / 8))
    cells = np.searchsorted(edges, found)
    mass = np.diff(np.concatenate([[0.0], truth.cdf(edges), [1.0]]))
    counts = np.bincount(cells, minlength=len(mass))[: len(mass)]
    some = mass > 1e-9
    assert ((counts - mass * len(found))[some] ** 2 / (mass * len(found))[some]).sum() < 35


def test_tables_are_the_distribution_function():
    for n in (2, 15, 127):
        table = mask._table(n).reshape(-1, n + 1).astype(float)
        truth = stats.binom(n, rates()[:, None]).cdf(np.arange(n + 1))
        np.testing.assert_allclose((table + 1) / 2.0**32, truth, atol=2.0**-31)


def test_rates_are_beta():
    assert len(rates()) == 1 << RATE_BITS
    assert abs(rates().mean() - 0.5) < 1e-12
    assert abs(rates().var() - 1 / 20) < 1e-4


def test_scramble_is_a_bijection_under_one_key():
    numbers = np.arange(1 << 16)
    key = [np.full(len(numbers), word, dtype=np.uint32) for word in (99, 4_000_000_000)]
    words = scramble(numbers, *key)
    assert len(np.unique(words)) == len(numbers)
    assert abs(words.mean() / 2.0**32 - 0.5) < 0.01
    # one bit in, half of the bits out
    flipped = np.bitwise_count(words ^ scramble(numbers ^ 1, *key))
    assert abs(flipped.mean() - 16) < 0.2


def thinned(count, n_cells=4000):
    gene, offsets, cell = ragged([3] * n_cells)
    raw = np.full(len(gene), count, dtype=np.float32)
    return raw.reshape(n_cells, 3), thin_counts(gene, raw, offsets, cell, seed=2, epoch=0).reshape(
        n_cells, 3
    )


@pytest.mark.parametrize("count", [12, 200])
def test_moments_of_thinning(count):
    raw, less = thinned(count)
    touched = (less != raw).any(axis=1)
    assert abs(touched.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)
    share = less[touched] / count
    # Beta(2, 2) has mean 1/2 and variance 1/20; the binomial adds E[p(1 - p)] / n = 1 / (5n)
    assert abs(share.mean() - 0.5) < 0.02
    assert abs(share.var() - (1 / 20 + 1 / (5 * count))) < 0.008
    # all genes of a cell share p: they vary together
    assert np.corrcoef(share[:, 0], share[:, 1])[0, 1] > 0.6
    assert not np.array_equal(share[:, 0], share[:, 1])


def test_thinning_keeps_every_gene_and_leaves_the_input():
    raw, less = thinned(2)
    assert set(np.unique(less)) == {1, 2}
    assert (raw == 2).all()
    ones, same = thinned(1)
    np.testing.assert_array_equal(ones, same)


def test_splitmix64_of_the_published_seed():
    # the first three numbers of the reference generator started at 1234567
    words = child(np.array([1234567], dtype=np.uint64), np.arange(3))
    assert words.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_and_keys():
    words = mix(np.arange(10_000, dtype=np.uint64))
    numbers = uniform(words)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.015
    assert (
        len({int(key_of(*pair)[0]) for pair in [(0, 0), (0, 1), (1, 0), (-1, 0), (0, -1), (0,)]})
        == 6
    )
