"""Batches made ahead by a thread, so that a step need not wait for them."""

import queue
import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from cellfm.batch import CellBatch
from cellfm.train.parallel import World
from cellfm.train.sampler import Sampler

PATIENCE = 0.05
"""Seconds after which a thread that can hand nothing over looks whether it is still wanted."""


class Prepared(NamedTuple):
    """The micro-batches of a step, and where step and next step stand."""

    batches: Sequence[CellBatch]
    at: tuple[int, int]
    """Epoch and position of the step."""
    then: tuple[int, int]
    """Epoch and position of the next one."""


class Prefetch:
    """Micro-batches of one step after the other; what comes out does not depend on the depth.

    Parameters
    ----------
    sampler
        Where they come from; asked by one thread only.
    world
        Whose share to ask for.
    start, stop
        First step, and the one after the last.
    depth
        Steps to be ahead; 0 makes each when it is asked for.
    """

    def __init__(
        self, sampler: Sampler, *, world: World, start: int, stop: int, depth: int
    ) -> None:
        self._sampler, self._world = sampler, world
        self._step, self._stop = start, stop
        self._ready: queue.Queue[Prepared | BaseException] = queue.Queue(maxsize=max(depth, 1))
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if depth and start < stop:
            self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
            self._thread.start()

    def next(self) -> Prepared:
        """Return the next step's micro-batches; what the sampler raised is raised here."""
        if self._thread is None:
            step, self._step = self._step, self._step + 1
            return self._prepare(step)
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Stop the thread and wait for it: the sampler is free again."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        for step in range(self._step, self._stop):
            try:
                found: Prepared | BaseException = self._prepare(step)
            except BaseException as error:  # noqa: BLE001 - raised where the batch is asked for
                found = error
            while not self._closed.is_set():
                try:
                    self._ready.put(found, timeout=PATIENCE)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or isinstance(found, BaseException):
                return

    def _prepare(self, step: int) -> Prepared:
        world = self._world
        batches = self._sampler.batches(step, rank=world.rank, world_size=world.size)
        if world.device.type == "cuda":
            batches = [_pinned(batch) for batch in batches]
        return Prepared(batches, self._sampler.locate(step), self._sampler.locate(step + 1))


def _pinned(batch: CellBatch) -> CellBatch:
    """Put a batch where the device can fetch it without the processor; `offsets` stays on the CPU."""
    found = {
        field.name: value.pin_memory()
        for field in fields(batch)
        if field.name != "offsets" and (value := getattr(batch, field.name)) is not None
    }
    return replace(batch, **found)
