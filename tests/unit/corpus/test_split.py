import numpy as np
import pytest

from cellfm.corpus.split import TEST, VALIDATION, split_cells, split_hash, whole_groups
from cellfm.errors import ConfigError, DataError

LABEL = np.array(["T"] * 60 + ["B"] * 30 + ["rare"] + ["pDC"] * 9)
DONOR = np.array([f"d{i % 5}" for i in range(100)])


def test_whole_donors_are_dealt() -> None:
    # the one cell of its type must stay with training, and its donor with it
    part = split_cells(LABEL, DONOR, validation=0.2, test=0.2, seed=0)
    assert whole_groups(part, DONOR)
    assert np.bincount(part).tolist() == [60, 20, 20]
    assert part[90] == 0
    assert set(LABEL[part == 0]) == set(LABEL)


@pytest.mark.parametrize("donor", [None, np.array(["a", "b"] * 50)])
def test_cells_are_dealt_within_labels_without_enough_donors(donor) -> None:
    part = split_cells(LABEL, donor, validation=0.1, test=0.3, seed=1)
    assert set(LABEL[part == 0]) == set(LABEL)
    for name, n in (("T", 60), ("B", 30)):
        assert abs((part[name == LABEL] == TEST).sum() - 0.3 * n) <= 1
        assert abs((part[name == LABEL] == VALIDATION).sum() - 0.1 * n) <= 1
    assert np.array_equal(part, split_cells(LABEL, donor, validation=0.1, test=0.3, seed=1))
    assert not np.array_equal(part, split_cells(LABEL, donor, validation=0.1, test=0.3, seed=2))


def test_donors_with_types_of_their_own_cannot_be_dealt() -> None:
    label = np.repeat(["a", "b", "c"], 10)  # each donor is a type: none can leave the training part
    part = split_cells(label, label, validation=0.0, test=0.2, seed=0)
    assert not whole_groups(part, label)
    assert (part == TEST).sum() == 6


def test_small_labels_together_give_their_share() -> None:
    label = np.repeat([f"t{i}" for i in range(20)], 2)
    part = split_cells(label, None, validation=0.0, test=0.25, seed=0)
    assert (part == TEST).sum() == 10


def test_hash_does_not_depend_on_order_but_on_parts() -> None:
    names, part = ["a", "b", "c"], np.array([0, 1, 2], np.int8)
    same = split_hash(names, part)
    assert split_hash(names[::-1], part[::-1]) == same
    assert split_hash(names, part[::-1]) != same


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="leave no cell to train on"):
        split_cells(LABEL, None, validation=0.5, test=0.5, seed=0)
    with pytest.raises(ConfigError, match="test"):
        split_cells(LABEL, None, validation=0.0, test=1.5, seed=0)
    with pytest.raises(DataError, match="needs labels or groups"):
        split_cells(None, None, validation=0.1, test=0.1, seed=0)
    with pytest.raises(DataError, match="needs labels or groups"):
        split_cells(LABEL, DONOR[:4], validation=0.1, test=0.1, seed=0)
