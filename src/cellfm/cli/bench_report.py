"""The commands ``cellfm bench compare``, ``report`` and ``export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import say, show_table, wrote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellfm.bench.compare import Comparison


def report(out: Path, *, to: Path | None = None) -> None:
    """Write the results of a run as one HTML page.

    The page says first how the candidates stand to their controls, then holds sortable tables with intervals, paired
    differences, curves, what the weights have seen of the data, versions, seeds and hashes. It is one file and needs no network.

    Parameters
    ----------
    out
        Folder that cellfm bench run wrote.
    to
        File to write instead of report.html in that folder; one that exists is replaced.

    Examples
    --------
    cellfm bench report runs/bench

    cellfm bench report runs/bench --to bench.html
    """
    from cellfm.bench.report import write_report

    path = write_report(out, to)
    wrote(path)


def compare(
    out: Path,
    other: Path | None = None,
    *,
    method: str,
    against: str,
    task: str | None = None,
    dataset: str | None = None,
    metric: str | None = None,
) -> None:
    """Compare two methods wherever both were scored on the same cells.

    Prints the difference of their scores in the same bootstrap resamples, with its 95 % interval. Where the interval
    includes 0, neither is shown to be better.

    Parameters
    ----------
    out
        Folder that cellfm bench run wrote, with results of the method.
    other
        Folder with results of what it is compared with, such as those of other weights; the same folder by default.
    method
        Name of a method.
    against
        Name of the method that it is compared with.
    task
        Only this task.
    dataset
        Only this data set.
    metric
        This metric instead of the first one of each task.

    Examples
    --------
    cellfm bench compare runs/bench --method cellfm+linear --against pca50+linear --task annotation

    cellfm bench compare runs/new runs/old --method cellfm+linear --against cellfm+linear
    """
    from cellfm.bench.compare import compare as compare_methods

    found = compare_methods(
        out, other, method=method, against=against, task=task, dataset=dataset, metric=metric
    )
    _show(found)


def export(
    out: Path,
    to: Path,
    *,
    format: Literal["open-problems", "cz-benchmarks"],
    overwrite: bool = False,
) -> None:
    """Write the results of a run in the form of Open Problems or of cz-benchmarks.

    Parameters
    ----------
    out
        Folder that cellfm bench run wrote.
    to
        JSON file to write.
    format
        Whose form: a list like the results.json of Open Problems' tasks, or lists of cz-benchmarks' metric results.
    overwrite
        Replace an existing file.

    Examples
    --------
    cellfm bench export runs/bench results.json --format open-problems
    """
    from cellfm.bench.export import export as export_results

    path, lost = export_results(out, to, form=format, overwrite=overwrite)
    wrote(path)
    if lost:
        say(f"left out, as {format} has no metric of this meaning: {', '.join(lost)}")


def _show(found: "Sequence[Comparison]") -> None:
    from rich.table import Table

    first = found[0]
    table = Table("case", "n", first.method, first.against, "difference", "verdict")
    for each in found:
        few = "" if each.k is None else f", {each.k} per type"
        bounds = "" if each.low is None else f"\n{each.low:+.3f} to {each.high:+.3f}"
        table.add_row(
            f"{each.task} on {each.dataset}\n{each.split} split{few}, {each.metric}",
            f"{each.n_units:,} × {each.unit}\n{each.n_seeds} seed{'' if each.n_seeds == 1 else 's'}",
            f"{each.value:.3f}",
            f"{each.other:.3f}",
            f"{each.difference:+.3f}{bounds}",
            each.verdict,
        )
    show_table(table)
    say(
        "Below each difference its 95 % interval; not shown: it includes 0, so neither is shown to be better."
    )
