"""Where the work of a build is done: in this process, in others on this machine, or on Dask workers."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import ParamSpec, TypeVar

from cellfm.errors import CellFMError, ConfigError, CorpusError, MissingDependencyError

Job = TypeVar("Job")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class InProcessExecutor(Executor):
    """Does each task as it is handed in."""

    def submit(
        self,
        function: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> "Future[Result]":
        """Do a task now; an interrupt goes through."""
        future: Future[Result] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)
        return future


@contextmanager
def executor(*, n_workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Give an executor; its workers end with the block, and with this process.

    Parameters
    ----------
    n_workers
        Processes; 1 works in this one; by default as many as there are cores for us.
    scheduler
        Address of a Dask scheduler, instead. Its workers must see the files under the same paths.

    Raises
    ------
    MissingDependencyError
        Dask is asked for and not installed.
    ConfigError
        There are no workers, or the scheduler does not answer.
    """
    if n_workers is not None and n_workers < 1:
        msg = f"n_workers is {n_workers}; it must be at least 1. Give a number in that range."
        raise ConfigError(msg)
    if scheduler is not None:
        if n_workers is not None:
            msg = "Both n_workers and scheduler were given; the scheduler knows its workers. Give one of the two."
            raise ConfigError(msg)
        with _dask(scheduler) as pool:
            yield pool
        return
    n_workers = n_cores() if n_workers is None else n_workers
    if n_workers == 1:
        yield InProcessExecutor()
        return
    # spawn: the threads of zarr and HDF5 do not survive a fork
    pool = ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    pool: Executor,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Do a task for each job and return the results in the order of the jobs; the first error stops all.

    Raises
    ------
    CorpusError
        A worker died.
    """

    def tell(n_done: int) -> None:
        if progress is not None:
            progress(n_done, len(jobs))

    tell(0)
    futures: dict[Future[Result], int] = {}
    results: dict[int, Result] = {}
    try:
        for number, job in enumerate(jobs):
            with _deaths_explained():
                future = pool.submit(function, job)
                futures[future] = number
                if (
                    future.done()
                ):  # in this process: stop at the first error, not after the last job
                    results[number] = future.result()
            tell(len(results))
        for future in as_completed([f for f, number in futures.items() if number not in results]):
            with _deaths_explained():
                results[futures[future]] = future.result()
            tell(len(results))
    finally:
        for future in futures:
            future.cancel()
    return [results[number] for number in range(len(jobs))]


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Watch the process that started this one: a worker must not outlive a build that was killed."""
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _deaths_explained() -> Iterator[None]:
    """Say in words that a worker died; what a task raised passes."""
    try:
        yield
    except CellFMError:
        raise
    except BrokenExecutor as error:
        msg = (
            "A worker process ended unexpectedly: it was killed, often because memory was short, or the calling script lacks "
            '`if __name__ == "__main__":`. Run the same command again, maybe with fewer workers; what is finished is kept.'
        )
        raise CorpusError(msg) from error
    except Exception as error:
        if type(error).__name__ not in ("KilledWorker", "FutureCancelledError", "CancelledError"):
            raise
        msg = f"Dask lost a task ({error}): its worker was killed, often because memory was short. Run the same command again; what is finished is kept."
        raise CorpusError(msg) from error


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """Give the executor of a Dask cluster."""
    try:
        from distributed import Client
    except ImportError as error:
        msg = 'A Dask scheduler was given, but Dask is not installed. Install it: pip install "cellfm[cluster]"'
        raise MissingDependencyError(msg) from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"The Dask scheduler {address} does not answer ({error}). Give the address that `dask scheduler` prints, such as tcp://host:8786."
        raise ConfigError(msg) from error
    with client:
        yield client.get_executor(pure=False)
