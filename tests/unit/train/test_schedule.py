import pytest

from cellfm.config import ScheduleConfig
from cellfm.train import learning_rate


def rates(**fields):
    schedule = ScheduleConfig(**fields)
    return [learning_rate(step, peak=2.0, schedule=schedule) for step in range(schedule.n_steps)]


def test_values_by_hand():
    found = rates(n_steps=8, warmup_steps=4, final_fraction=0.5)
    # cos(π/4), cos(π/2), cos(3π/4), cos(π) between 2 and 1
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.8535534, 1.5, 1.1464466, 1.0])


def test_warm_up_stable_decay_by_hand():
    found = rates(kind="wsd", n_steps=10, warmup_steps=2, decay_fraction=0.4, final_fraction=0.0)
    assert found == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0])
    to_half = rates(kind="wsd", n_steps=5, decay_fraction=0.4, final_fraction=0.5)
    assert to_half == pytest.approx([2.0, 2.0, 2.0, 1.5, 1.0])


def test_wsd_without_decay_is_level():
    assert rates(kind="wsd", n_steps=5, decay_fraction=0.0) == [2.0] * 5


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_constant(kind):
    assert rates(kind=kind, n_steps=5, final_fraction=1.0) == [2.0] * 5


def test_warm_up_only():
    assert rates(n_steps=4, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_after_the_end_it_stays(kind):
    schedule = ScheduleConfig(kind=kind, n_steps=5, final_fraction=0.25)
    assert learning_rate(50, peak=2.0, schedule=schedule) == 0.5
