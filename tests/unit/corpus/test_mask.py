"""Sizes, spread and independence of masks and thinning."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from cellfm.corpus import mask
from cellfm.corpus.draw import child, key_of, mix, uniform
from cellfm.corpus.mask import beta_2_2, binomial, mask_cells, thin_counts
from cellfm.errors import ConfigError, DataError


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


def test_the_shortcut_of_the_sort_changes_nothing(monkeypatch):
    gene, offsets, cell = ragged([300, 7, 1200, 5] * 20)
    quick = mask_cells(gene, offsets, cell, seed=5, epoch=0)
    monkeypatch.setattr(
        mask,
        "_ordered_lowest",
        lambda keys, _, lengths, __: (np.sort(keys), np.cumsum(lengths) - lengths),
    )
    full = mask_cells(gene, offsets, cell, seed=5, epoch=0)
    np.testing.assert_array_equal(quick.scored, full.scored)
    np.testing.assert_array_equal(quick.hidden, full.hidden)


def test_the_shortcut_sorts_all_when_it_chose_too_few():
    keys = np.arange(1, 11, dtype=np.uint64) + (np.uint64(0xFFFFFF) << np.uint64(20))
    ordered, start = mask._ordered_lowest(keys, np.zeros(10, int), np.array([10]), np.array([1]))
    assert len(ordered) == 10
    assert start.tolist() == [0]


def test_masks_of_too_much_at_once():
    many = np.zeros((1 << 20) + 2, dtype=np.int64)
    with pytest.raises(DataError, match=r"1,048,577 cells .* cannot be masked at once"):
        mask_cells(np.array([], np.int32), many, many[:-1], seed=0, epoch=0)
    with pytest.raises(DataError, match="tokens up to 1,048,576"):
        mask_cells(np.array([1 << 20]), np.array([0, 1]), np.array([0]), seed=0, epoch=0)


@pytest.mark.parametrize("name", ["scored_fraction", "hidden_fraction"])
def test_fractions_outside(name):
    gene, offsets, cell = ragged([3])
    with pytest.raises(ConfigError, match=f"{name} is 1.5; expected a fraction"):
        mask_cells(gene, offsets, cell, seed=0, epoch=0, **{name: 1.5})


def test_beta_is_the_inverse_distribution_function():
    quantile = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(beta_2_2(quantile), stats.beta(2, 2).ppf(quantile), atol=1e-9)


def test_binomial_is_the_inverse_distribution_function():
    rng = np.random.default_rng(0)
    n, p, quantile = rng.integers(0, 60, 4000), rng.beta(2, 2, 4000), rng.random(4000)
    np.testing.assert_array_equal(binomial(quantile, n, p), stats.binom(n, p).ppf(quantile).clip(0))


def test_binomial_at_its_ends():
    n = np.array([0, 3, 16, 17, 500, 5, 40])
    p = np.array([0.5, 0.0, 1.0, 1.0, 0.0, 0.3, 0.3])
    assert binomial(np.full(7, 0.5), n, p)[:5].tolist() == [0, 0, 16, 17, 0]
    assert binomial(np.zeros(7), n, p)[5:].tolist() == [0, 0]
    assert (binomial(np.full(7, 1 - 2.0**-53), n, p) <= n).all()


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
