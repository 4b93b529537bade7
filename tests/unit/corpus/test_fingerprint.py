"""What a cell is."""

from itertools import pairwise

import numpy as np
import pytest

from cellfm.corpus.draw import child, key_of, mix
from cellfm.corpus.fingerprint import cell_numbers, content_hash, content_hex, fingerprint

GENE = np.array([1, 7, 40_000, 2, 3, 5], dtype=np.int32)
COUNT = np.array([3, 1, 2**24 - 1, 9, 1, 1], dtype=np.uint32)
OFFSETS = np.array([0, 3, 3, 4, 6])


def by_definition(pairs):
    words = []
    for lane in range(2):
        total = 0
        for token, count in pairs:
            weight = int((child(key_of(0xCE11, lane), np.array([token])) | np.uint64(1))[0])
            total += weight * count
        words.append(int(mix(np.array([total % 2**64], dtype=np.uint64))[0]))
    return words


def test_it_is_the_stated_formula():
    found = fingerprint(GENE, COUNT, OFFSETS)
    pairs = list(zip(GENE.tolist(), COUNT.tolist(), strict=True))
    expected = [by_definition(pairs[a:b]) for a, b in pairwise(OFFSETS)]
    assert found.dtype == np.uint64
    assert found.tolist() == expected
    assert found[1].tolist() == [0, 0]


def test_it_is_pinned():
    """A corpus on disk is sorted by it: these numbers may never change."""
    words = fingerprint(GENE[:3], COUNT[:3], OFFSETS[:2])[0].tolist()
    assert words == PINNED


PINNED = [13347817521585514034, 1322805972942812262]


def test_no_cells():
    none = np.zeros(0, dtype=np.int32)
    assert fingerprint(none, none, np.zeros(1, dtype=np.int64)).shape == (0, 2)
    assert content_hash(np.zeros((0, 2), dtype=np.uint64)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.float32])
def test_types_order_parts_and_zeros_do_not_matter(dtype):
    count = np.minimum(COUNT, 60_000)
    expected = fingerprint(GENE, count, OFFSETS)
    assert (fingerprint(GENE.astype(np.uint16), count.astype(dtype), OFFSETS) == expected).all()
    backwards = fingerprint(GENE[2::-1], count[2::-1].astype(dtype), OFFSETS[:2])
    assert (backwards == expected[:1]).all()
    parts = fingerprint(np.array([2, 9, 2]), np.array([4, 0, 5], dtype), np.array([0, 3]))
    assert (parts == expected[2]).all()


def test_a_slice_of_cells_has_their_fingerprints():
    assert (fingerprint(GENE, COUNT, OFFSETS[2:]) == fingerprint(GENE, COUNT, OFFSETS)[2:]).all()


def test_swapped_counts_are_another_cell():
    one, other = np.array([1, 2]), np.array([2, 1])
    offsets = np.array([0, 2])
    assert (fingerprint(one, one, offsets) != fingerprint(one, other, offsets)).all()


def test_no_two_of_many_small_cells_agree():
    rng = np.random.default_rng(0)
    cells = {tuple(rng.integers(1, 4, 6)) for _ in range(3000)}
    counts = np.array(sorted(cells))
    gene = np.tile(np.arange(1, 7), len(counts))
    words = fingerprint(gene, counts.ravel(), np.arange(len(counts) + 1) * 6)
    assert len(set(words[:, 0].tolist())) == len(set(words[:, 1].tolist())) == len(counts)


def test_content_is_that_of_the_set_and_adds_up():
    words = fingerprint(GENE, COUNT, OFFSETS)
    whole = content_hash(words)
    assert (content_hash(words[::-1]) == whole).all()
    assert (content_hash(words[:1]) + content_hash(words[1:]) == whole).all()
    assert content_hex(whole) != content_hex(content_hash(words[1:]))
    assert len(content_hex(np.array([1, 2**64 - 1], dtype=np.uint64))) == 32


def test_numbers_are_the_second_lane():
    words = np.array([[1, 2**64 - 1], [2, 5]], dtype=np.uint64)
    assert cell_numbers(words[:, 1]).tolist() == [-1, 5]
