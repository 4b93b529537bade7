import threading

import pytest
import torch
from tests.unit.train.conftest import TwoKinds

from cellfm.train import World
from cellfm.train.prefetch import Prefetch

SAMPLER, ALONE = TwoKinds(n_lanes=3), World()


def taken(depth, *, start=0, stop=6, world=ALONE):
    prefetch = Prefetch(SAMPLER, world=world, start=start, stop=stop, depth=depth)
    found = [prefetch.next() for _ in range(start, stop)]
    prefetch.close()
    return found


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
def test_what_comes_out_does_not_depend_on_the_depth(depth):
    found = taken(depth, start=4, stop=9)
    assert [prepared.at for prepared in found] == [SAMPLER.locate(step) for step in range(4, 9)]
    assert [prepared.then for prepared in found] == [SAMPLER.locate(step) for step in range(5, 10)]
    for step, prepared in enumerate(found, 4):
        expected = SAMPLER.batches(step)
        assert len(prepared.batches) == 3
        for one, other in zip(prepared.batches, expected, strict=True):
            assert torch.equal(one.value, other.value)


def test_each_process_gets_its_lanes():
    (prepared,) = taken(1, stop=1, world=World(rank=1, size=2))
    assert len(prepared.batches) == 1
    assert torch.equal(prepared.batches[0].value, SAMPLER.batch(0, lane=1).value)


def test_an_error_comes_where_its_step_is_asked_for():
    class Broken(TwoKinds):
        def batches(self, step, *, rank=0, world_size=1):
            if step == 2:
                raise ZeroDivisionError
            return super().batches(step, rank=rank, world_size=world_size)

    prefetch = Prefetch(Broken(), world=World(), start=0, stop=9, depth=5)
    prefetch.next(), prefetch.next()
    with pytest.raises(ZeroDivisionError):
        prefetch.next()
    prefetch.close()


def test_closing_ends_the_thread():
    before = threading.active_count()
    prefetch = Prefetch(SAMPLER, world=World(), start=0, stop=10**9, depth=2)
    prefetch.next()
    prefetch.close()
    prefetch.close()
    assert threading.active_count() == before


def test_no_thread_for_no_steps():
    before = threading.active_count()
    Prefetch(SAMPLER, world=World(), start=3, stop=3, depth=2).close()
    assert threading.active_count() == before
