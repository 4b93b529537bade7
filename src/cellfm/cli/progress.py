"""The progress bar of every long command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Advance = Callable[[int, int], None]
"""Called with what is done and what there is to do in all."""

SPEED_SECONDS = 600.0
"""The speed is a mean over so long; a block of a large model takes minutes."""


@contextmanager
def progress_bar(what: str, *, unit: str) -> Iterator[Advance]:
    """Show on standard error what is done, how fast, and the time left; nothing when that is no terminal.

    Parameters
    ----------
    what
        Name of the work.
    unit
        Plural of what is counted, such as ``"cells"``.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        *_columns(unit),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=SPEED_SECONDS,
    ) as bar:
        task = bar.add_task(what, total=None)
        # Rich leaves the first call out of the speed: what an earlier run has done does not count towards it.
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _columns(unit: str) -> "list[ProgressColumn]":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Units per second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="cyan")

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    ]
