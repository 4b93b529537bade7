"""The progress bars of the long commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellfm.cli.console import progress_console, shows_progress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from cellfm.train import HeldOutScore, RunProgress

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
    from rich.progress import Progress

    console = progress_console()
    with Progress(
        *_columns(unit),
        console=console,
        transient=True,
        disable=not shows_progress(console),
        speed_estimate_period=SPEED_SECONDS,
    ) as bar:
        task = bar.add_task(what, total=None)
        # Rich leaves the first call out of the speed: what an earlier run has done does not count towards it.
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_line() -> "Iterator[Callable[[RunProgress], None]]":
    """Show on standard error how a run goes; on what is no terminal, a line for each evaluation.

    Nothing is shown before the first call: of many processes one is told.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = progress_console()
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=not shows_progress(console))
    task = bar.add_task("", start=False)

    def advance(now: "RunProgress") -> None:
        bar.start()  # again and again, which changes nothing
        bar.update(task, completed=now.step, total=now.n_steps, description=status_text(now))
        for score in now.held_out:
            text = f"step {now.step:,} of {now.n_steps:,}: {score_text(score)}"
            bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    try:
        yield advance
    finally:
        bar.stop()


def status_text(now: "RunProgress") -> str:
    """Say in a line how a run goes.

    Parameters
    ----------
    now
        Where it is.
    """
    hours, seconds = divmod(round(now.seconds_left), 3600)
    parts = [
        f"loss {now.loss:.4f}",
        f"{now.scored_per_second:,.0f} scored/s",
        f"{now.cells_per_second:,.0f} cells/s",
        f"MFU {now.mfu:.0%}",
        f"wait {now.wait_share:.0%}",
        f"{now.memory / 2**30:.1f} GiB",
        f"{hours}:{seconds // 60:02d}:{seconds % 60:02d} left",
    ]
    if now.skipped:
        parts.append(f"{now.skipped} skipped")
    return " · ".join(parts)


def score_text(score: "HeldOutScore") -> str:
    """Say how a network does on held-out cells, beside the lines to beat.

    Parameters
    ----------
    score
        Its errors and those of the baselines.
    """
    lines = "".join(f", {name} {loss:.4f}" for name, loss in score.baselines.items())
    return f"{score.name} gene-wise {score.gene_loss:.4f}, cell-wise {score.cell_loss:.4f}{lines}"


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage on standard error; on what is no terminal, a line when a stage begins."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    console = progress_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not shows_progress(console)) as bars:

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
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    console = progress_console()
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task(what, total=n_bytes)
        yield lambda done: progress.advance(task, done)


@contextmanager
def download_bar(what: str) -> Iterator[Advance]:
    """Show on standard error how much has been downloaded, how fast, and the time left; nothing when that is no terminal.

    Parameters
    ----------
    what
        Name of the work.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = progress_console()
    with Progress(
        *columns, console=console, transient=True, disable=not shows_progress(console)
    ) as bar:
        task = bar.add_task(what, total=None)
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
