"""Work in the background, with its progress, that can be stopped."""

import logging
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

from cellfm.errors import CellFMError, DataError

_log = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "stopped"]


class Stopped(Exception):
    """The job is to end: the user's wish, no error."""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One piece of work; written by its own thread and read by others."""

    number: int
    what: str
    state: State = "running"
    stage: str = "waiting"
    done: int = 0
    total: int = 0
    message: str = ""
    """What went wrong, in full."""
    private: str = ""
    """Folder of the session that messages do not show."""
    result: object = None
    """What it has made, as JSON can hold it."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def advance(self, stage: str, done: int, total: int) -> None:
        """Note how far the work is.

        Raises
        ------
        Stopped
            It is to end.
        """
        if self._stop.is_set():
            raise Stopped
        self.stage, self.done, self.total = stage, done, total

    def stage_progress(self, stage: str) -> Callable[[int, int], None]:
        """Return what a function of `tl` calls with (done, in all)."""
        self.advance(stage, 0, 0)
        return lambda done, total: self.advance(stage, done, total)

    def stop(self) -> None:
        """Ask the work to end at its next step."""
        self._stop.set()

    def described(self) -> dict[str, object]:
        """Return its state for the page."""
        return {
            "job": self.number,
            "what": self.what,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "message": self.message,
            "result": self.result,
        }


class Jobs:
    """All jobs of a session; heavy ones wait for each other."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._threads: list[threading.Thread] = []
        self._heavy, self._numbers = threading.Lock(), threading.Lock()

    def start(
        self,
        what: str,
        work: Callable[[Job], object],
        *,
        heavy: bool = True,
        private: str = "",
    ) -> Job:
        """Begin work in a thread.

        Parameters
        ----------
        what
            Name of the work.
        work
            Called with its job; returns the result.
        heavy
            Wait for other heavy work.
        private
            Folder that is left out of messages.
        """
        with self._numbers:
            job = Job(number=len(self._jobs), what=what, private=private)
            self._jobs.append(job)
        # Daemons: a step that takes long must not keep the program from ending.
        thread = threading.Thread(
            target=self._run,
            args=(job, work, heavy),
            name=f"cellfm-view-{job.number}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()
        return job

    def get(self, number: int) -> Job:
        """Return a job.

        Raises
        ------
        DataError
            There is no such job.
        """
        if not 0 <= number < len(self._jobs):
            msg = f"There is no job {number}; the server was started anew. Load the page again."
            raise DataError(msg)
        return self._jobs[number]

    def stop_all(self, *, seconds: float) -> None:
        """Ask all to end and wait a little for them.

        Parameters
        ----------
        seconds
            To wait for all of them together.
        """
        for job in self._jobs:
            job.stop()
        for thread in self._threads:
            thread.join(timeout=seconds / max(1, len(self._threads)))

    def _run(self, job: Job, work: Callable[[Job], object], heavy: bool) -> None:  # noqa: FBT001
        try:
            with self._heavy if heavy else nullcontext():
                job.advance("starting", 0, 0)
                job.result = work(job)
            job.state = "done"
        except Stopped:
            job.state, job.message = "stopped", f"{job.what} was stopped."
        except (CellFMError, OSError) as error:
            job.message = (
                message_of(error).replace(job.private, "") if job.private else message_of(error)
            )
            job.state = "failed"
        except Exception as error:  # noqa: BLE001 - the page must say so, whatever it is
            _log.error("%s failed\n%s", job.what, traceback.format_exc())
            job.message = f"{job.what} failed ({type(error).__name__}: {error}). The terminal in which cellfm view runs shows where."
            job.state = "failed"


def message_of(error: BaseException) -> str:
    """Return what an error says, with its notes.

    Parameters
    ----------
    error
        Of cellfm, or of the system.
    """
    notes = getattr(error, "__notes__", [])
    return "\n".join([str(error) or type(error).__name__, *notes])
