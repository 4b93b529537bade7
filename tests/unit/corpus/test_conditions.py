import numpy as np
import pytest

from cellfm.corpus.conditions import (
    Condition,
    first_tested,
    fold_conditions,
    parse_condition,
    split_conditions,
)
from cellfm.errors import ConfigError, DataError

SINGLES = [Condition((f"G{i}",)) for i in range(10)]
DOUBLES = [Condition.of((f"G{i}", f"G{i + 1}")) for i in range(8)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ctrl", "ctrl"),
        ("Non-Targeting", "ctrl"),
        ("STAT1", "STAT1"),
        ("STAT1+ctrl", "STAT1"),
        ("ctrl + STAT1", "STAT1"),
        ("STAT1+JAK2", "JAK2+STAT1"),
        ("STAT1+STAT1", "STAT1"),
        ("mock", "ctrl"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert parse_condition(text, controls=("Mock",)).name == name


def test_singles_of_a_pair() -> None:
    pair = parse_condition("B+A")
    assert [each.name for each in pair.singles] == ["A", "B"]
    assert Condition().singles == ()


@pytest.mark.parametrize(("text", "what"), [("A++B", "empty part"), ("A+B+C", "3 genes")])
def test_bad_names(text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        parse_condition(text)


def test_a_tested_gene_is_in_no_training_condition() -> None:
    conditions = SINGLES + DOUBLES
    split = split_conditions(conditions, test=0.2, validation=0.2, seed=3)
    held = {c.genes[0] for c, p in zip(conditions, split.part, strict=True) if p == 2 and len(c.genes) == 1}  # fmt: skip
    assert len(held) == 2
    for condition, part in zip(conditions, split.part, strict=True):
        assert (part == 2) == bool(held & set(condition.genes))
    assert set(split.part) == {0, 1, 2}


def test_groups_say_what_training_has_seen() -> None:
    conditions = SINGLES + DOUBLES
    split = split_conditions(conditions, test=0.3, validation=0.1, seed=0)
    trained = {c.genes[0] for c, p in zip(conditions, split.part, strict=True) if p == 0 and len(c.genes) == 1}  # fmt: skip
    for condition, part, group in zip(conditions, split.part, split.group, strict=True):
        n = len(trained & set(condition.genes))
        if part == 0:
            assert group == "seen"
        elif len(condition.genes) == 1:
            assert group == "unseen_single"
        else:
            assert group == f"combo_seen{n}"


def test_pairs_are_held_out_with_their_genes_trained_on() -> None:
    split = split_conditions(SINGLES + DOUBLES, protocol="doubles", test=0.25, validation=0.25)
    assert (split.part[:10] == 0).all()
    assert np.bincount(split.part[10:]).tolist() == [4, 2, 2]
    assert {g for g, p in zip(split.group, split.part, strict=True) if p} == {"combo_seen2"}


@pytest.mark.parametrize("protocol", ["singles", "doubles"])
def test_folds_test_everything_once(protocol: str) -> None:
    conditions = SINGLES + DOUBLES
    splits = fold_conditions(conditions, n_folds=4, protocol=protocol)
    taken = np.concatenate(first_tested(splits))
    expected = range(18) if protocol == "singles" else range(10, 18)
    assert sorted(taken.tolist()) == list(expected)
    assert len({split.hash for split in splits}) == 4
    for split in splits:
        assert {0, 1, 2} == set(split.part.tolist())


def test_a_split_is_known_by_names_and_parts() -> None:
    one = split_conditions(SINGLES, seed=1)
    turned = split_conditions(SINGLES[::-1], seed=1)
    assert one.hash == turned.hash
    assert one.hash != split_conditions(SINGLES, seed=2).hash


def test_refusals() -> None:
    with pytest.raises(DataError, match="3 perturbed genes; at least 4"):
        split_conditions(SINGLES[:3])
    with pytest.raises(DataError, match="0 doubles"):
        fold_conditions(SINGLES, protocol="doubles")
    with pytest.raises(ConfigError, match="protocol is 'triples'"):
        split_conditions(SINGLES, protocol="triples")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        split_conditions(SINGLES, test=0.6, validation=0.4)
    with pytest.raises(ConfigError, match="n_folds is 2"):
        fold_conditions(SINGLES, n_folds=2)
