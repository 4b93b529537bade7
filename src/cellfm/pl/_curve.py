"""How a training run went."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.errors import DataError
from cellfm.pl._axes import new_axes
from cellfm.pl._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Sequence[Mapping[str, float | int | str]]

STYLES = {
    "training, gene-wise decoder": ("-", "lightgray"),
    "held out, gene-wise decoder": ("o-", "tab:blue"),
    "held out, cell-wise decoder": ("o-", "tab:orange"),
    "held out, each gene's mean": ("--", "black"),
}
"""Line and colour of each curve."""


def learning_curve(metrics: Path | str | Metrics, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the held-out losses over the steps, beside the gene-mean line that they must beat.

    Parameters
    ----------
    metrics
        ``metrics.jsonl`` of a run folder, or its lines.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("curve.png")``.

    Raises
    ------
    DataError
        There is nothing to draw.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.learning_curve("runs/mini/metrics.jsonl")  # doctest: +SKIP
    """
    require("matplotlib")
    lines = _read(Path(metrics)) if isinstance(metrics, str | Path) else list(metrics)
    train = [line for line in lines if line.get("kind") == "train"]
    held_out = [line for line in lines if line.get("kind") == "held_out"]
    if not train and not held_out:
        msg = f"The metrics have {len(lines)} lines and none of kind train or held_out. Give the metrics.jsonl of a run folder."
        raise DataError(msg)
    ax = new_axes(5.6, 3.8) if ax is None else ax
    _line(ax, train, "gene_loss", "training, gene-wise decoder")
    _line(ax, held_out, "gene_loss", "held out, gene-wise decoder")
    _line(ax, held_out, "cell_loss", "held out, cell-wise decoder")
    _line(ax, held_out, "gene_mean_loss", "held out, each gene's mean")
    ax.set(xlabel="step", ylabel="mean squared error")
    if held_out:
        # The first training steps are far above everything that is to be seen.
        names = ("gene_loss", "cell_loss", "gene_mean_loss")
        ax.set_ylim(0, 1.5 * max(float(line[name]) for line in held_out for name in names))
    ax.legend(frameon=False, fontsize=8)
    return ax


def _line(ax: "Axes", lines: Metrics, name: str, label: str) -> None:
    if lines:
        style, color = STYLES[label]
        steps = [float(line["step"]) for line in lines]
        losses = [float(line[name]) for line in lines]
        ax.plot(steps, losses, style, color=color, markersize=3, label=label)


def _read(path: Path) -> list[Mapping[str, float | int | str]]:
    if not path.is_file():
        msg = f"There is no metrics file {path}. Give the metrics.jsonl of a run folder."
        raise DataError(msg)
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        msg = f"{path} is not a metrics file: {error}. Give the metrics.jsonl of a run folder."
        raise DataError(msg) from error
