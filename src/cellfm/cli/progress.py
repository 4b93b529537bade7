"""The progress bars of the long commands."""

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


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage on standard error; on what is no terminal, a line when a stage begins."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not console.is_terminal:
                    console.print(f"{stage} …", highlight=False)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


@contextmanager
def byte_bar(what: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of bytes on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=n_bytes)
        yield lambda done: progress.advance(task, done)


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
