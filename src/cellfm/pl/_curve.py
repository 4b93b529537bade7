"""How a training run went."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Sequence[Mapping[str, float | int | str]]

STYLES = {
    "training, gene-wise decoder": ("-", "lightgray"),
    "held out, gene-wise decoder": ("o-", "tab:blue"),
    "held out, cell-wise decoder": ("o-", "tab:orange"),
    "held out, each gene's mean": ("--", "black"),
    "held out, PCA": (":", "tab:green"),
    "held out, ridge regression": ("-.", "tab:green"),
    "held out, untrained network": (":", "tab:red"),
}
"""Line and colour of each curve."""

HELD_OUT = {
    "gene_loss": "held out, gene-wise decoder",
    "cell_loss": "held out, cell-wise decoder",
    "gene_mean_loss": "held out, each gene's mean",
    "pca_loss": "held out, PCA",
    "ridge_loss": "held out, ridge regression",
    "untrained_gene_loss": "held out, untrained network",
}
"""Curve of each number in a line of held-out metrics."""


def learning_curve(
    metrics: Path | str | Metrics, *, held_out: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw the held-out losses over the steps, beside the lines that they must beat.

    Parameters
    ----------
    metrics
        ``metrics.jsonl`` of a run folder, or its lines.
    held_out
        Which held-out set, such as ``"dataset=pbmc"``; the first one by default.
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
    scores = _of_set([line for line in lines if line.get("kind") == "held_out"], held_out)
    if not train and not scores:
        msg = f"The metrics have {len(lines)} lines and none of kind train or held_out. Give the metrics.jsonl of a run folder."
        raise DataError(msg)
    ax = new_axes(5.6, 3.8) if ax is None else ax
    _line(ax, train, "gene_loss", "training, gene-wise decoder")
    for name, label in HELD_OUT.items():
        _line(ax, scores, name, label)
    ax.set(xlabel="step", ylabel="mean squared error")
    if scores:
        # The first training steps, and a baseline that fails, are far above everything that is to be seen.
        names = [name for name in list(HELD_OUT)[:3] if name in scores[0]]
        ax.set_ylim(0, 1.5 * max(float(line[name]) for line in scores for name in names))
        if "set" in scores[0]:
            ax.set_title(f"held out: {scores[0]['set']}", fontsize=9)
    ax.legend(fontsize=8, loc="upper right", framealpha=0.9, edgecolor="none")
    return ax


def _of_set(scores: Metrics, name: str | None) -> Metrics:
    """Return the lines of one held-out set."""
    names = list(dict.fromkeys(line.get("set") for line in scores))
    if name is None:
        return [line for line in scores if line.get("set") == names[0]]
    if name not in names:
        msg = f"There is no held-out set {name!r} in the metrics; they have {names}. Choose one of these."
        raise DataError(msg)
    return [line for line in scores if line.get("set") == name]


def _line(ax: "Axes", lines: Metrics, name: str, label: str) -> None:
    # A line of training has no loss if all of its steps were skipped.
    lines = [line for line in lines if name in line]
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
