"""What ``cellfm pretrain --plan`` prints."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellfm.cli.console import say, show_table

if TYPE_CHECKING:
    from rich.table import Table

    from cellfm.train.plan import Memory, Plan

WORDS = {
    "cells": "cells of the corpus, such as 100e6",
    "gpus": "number of accelerators (1)",
    "gpu": "their kind, such as h200 or cpu",
    "mfu": "share of the peak the model reaches (0.4 without recomputation)",
    "genes": "expressed genes of a mean cell (1492)",
    "epochs": "length of the run, instead of schedule.n_steps",
    "gpus_per_node": "accelerators of a machine (8)",
}
"""Words that describe corpus and machine; all others change the recipe."""


def show_plan(recipe: str, words: Sequence[str]) -> None:
    """Print the plan of a run as tables.

    Parameters
    ----------
    recipe
        Packaged recipe or YAML file.
    words
        As given on the command line: key=value, see :func:`plan_of_words`.
    """
    plan = plan_of_words(recipe, words)
    machine = f"{plan.n_gpus:,} × {plan.gpu.description}"
    where = f", {plan.n_nodes:,} nodes" if plan.n_nodes > 1 else ""
    say(f"{recipe}: {plan.n_cells:,} cells on {machine}{where}")
    for table in (_model(plan), _memory(plan), _time(plan), _data(plan)):
        show_table(table)
    for warning in plan.warnings:
        say(f"! {warning}")
    say(
        "Counts of parameters, operations and bytes are those of this implementation. Peaks are the vendors' (cpu: measured); "
        "the MFU is assumed, not measured, and times follow from it; communication and waiting are part of it."
    )


def plan_of_words(recipe: str, words: Sequence[str]) -> "Plan":
    """Plan what the words say.

    Parameters
    ----------
    recipe
        Packaged recipe or YAML file.
    words
        Each ``key=value``; keys of :data:`WORDS` describe corpus and machine, the others are overrides of the recipe.

    Raises
    ------
    ConfigError
        A word is not known, its value is no number, or cells or gpu are not given.
    """
    from cellfm.config import PretrainConfig, load
    from cellfm.train.plan import plan

    own = {key: value for key, value in _pairs(words) if key in WORDS}
    _check_words(words, own)
    numbers = {key: _number(key, value) for key, value in own.items() if key != "gpu"}
    config = load(PretrainConfig, recipe, [word for word in words if _key(word) not in WORDS])
    return plan(
        config,
        n_cells=round(numbers["cells"]),
        n_gpus=_whole("gpus", numbers.get("gpus", 1.0)),
        gpu=own["gpu"],
        mfu=numbers.get("mfu"),
        genes_per_cell=numbers.get("genes", 1492.0),
        n_epochs=numbers.get("epochs"),
        gpus_per_node=_whole("gpus_per_node", numbers.get("gpus_per_node", 8.0)),
    )


def _key(word: str) -> str:
    return word.partition("=")[0]


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def _check_words(words: Sequence[str], own: dict[str, str]) -> None:
    from cellfm.config import PretrainConfig
    from cellfm.errors import ConfigError

    sections = list(PretrainConfig.__dataclass_fields__)
    for key in map(_key, words):
        if "." not in key and key not in (*WORDS, *sections):
            near = difflib.get_close_matches(key, [*WORDS, *sections], n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = (
                f"{key!r} is no word of a plan.{hint} A plan takes {', '.join(WORDS)}, and changes to the recipe such as "
                "data.token_budget=16384. Correct the word."
            )
            raise ConfigError(msg)
    missing = [key for key in ("cells", "gpu") if not own.get(key)]
    if missing:
        needed = " and ".join(f"{key}=… ({WORDS[key]})" for key in missing)
        msg = f"A plan needs {needed}, as in 'cells=100e6 gpus=32 gpu=h200'. Add it."
        raise ConfigError(msg)


def _number(key: str, text: str) -> float:
    from cellfm.errors import ConfigError

    try:
        return float(text)
    except ValueError:
        msg = f"{key}={text!r} is not a number; expected {WORDS[key]}. Correct the value."
        raise ConfigError(msg) from None


def _whole(key: str, number: float) -> int:
    from cellfm.errors import ConfigError

    if number != int(number):
        msg = f"{key}={number:g} is not a whole number; expected {WORDS[key]}. Give a whole number."
        raise ConfigError(msg)
    return int(number)


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=len(columns) > 1
    )
    table.add_column(columns[0] if len(columns) > 1 else "")
    for column in columns[1:] or ("",):
        table.add_column(column, justify="right")
    return table


def _rows(title: str, rows: Sequence[tuple[str, str]]) -> "Table":
    table = _table(title, "")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _model(plan: "Plan") -> "Table":
    parts, work = plan.parameters, plan.work
    rows = [
        ("parameters", f"{parts.total:,}"),
        ("  gene table", f"{parts.gene_table:,}"),
        ("  layers", f"{parts.layers + parts.adapters:,}"),
        ("  decoders", f"{parts.decoders:,}"),
        ("  encoders and special tokens", f"{parts.value_encoders + parts.special_tokens:,}"),
        ("  not trained here", f"{parts.unused:,}"),
        (f"GFLOP a cell of {plan.genes_per_cell:,.0f} genes, forward", _giga(work.forward)),
        ("  training step", _giga(work.step)),
    ]
    if work.executed > work.step:
        rows.append(("  with layers computed again", _giga(work.executed)))
    return _rows("Model", rows)


def _memory(plan: "Plan") -> "Table":
    names = [_layout_name(layout) for layout in plan.layouts]
    marked = [
        f"→ {name}" if layout == plan.memory else name
        for name, layout in zip(names, plan.layouts, strict=True)
    ]
    title = f"Memory of one accelerator, GiB; {plan.token_budget:,} tokens, {plan.precision}"
    table = _table(title, "", *marked)
    parts = {
        "weights": [layout.weights for layout in plan.layouts],
        "gradients": [layout.gradients for layout in plan.layouts],
        "optimiser": [layout.moments for layout in plan.layouts],
        "working weights": [layout.working_weights for layout in plan.layouts],
        "activations": [layout.activations for layout in plan.layouts],
        "temporary": [layout.temporary for layout in plan.layouts],
        "total": [layout.total for layout in plan.layouts],
    }
    for name, sizes in parts.items():
        table.add_row(name, *(f"{size / 2**30:,.1f}" for size in sizes))
    usable = f"fits {plan.usable_memory / 2**30:,.1f}"
    fits = ["yes" if layout.total <= plan.usable_memory else "no" for layout in plan.layouts]
    table.add_row(usable, *fits)
    table.add_row("largest token budget", *(f"{budget:,}" for budget in plan.largest_budgets))
    return table


def _layout_name(layout: "Memory") -> str:
    return layout.parallel + (" + recompute" if layout.activation_checkpointing else "")


def _time(plan: "Plan") -> "Table":
    schedule, speed = plan.schedule, plan.speed
    return _rows(
        f"Time, at an MFU of {speed.mfu:.2f} ({plan.precision})",
        [
            ("micro-batches a step (lanes)", f"{schedule.lanes:,}"),
            ("cells a step", f"{schedule.cells_per_step:,.0f}"),
            ("steps an epoch", f"{schedule.steps_per_epoch:,.0f}"),
            ("steps of the run", f"{schedule.n_steps:,} = {schedule.n_epochs:,.2f} epochs"),
            ("cells a second", f"{speed.cells_per_second:,.0f}"),
            ("tokens a second", f"{speed.tokens_per_second:,.0f}"),
            ("seconds a step", f"{speed.seconds_per_step:,.3g}"),
            ("an epoch", _duration(speed.days_per_epoch)),
            ("the run", _duration(speed.days)),
            ("GPU-hours of the run", f"{speed.gpu_hours:,.1f}"),
        ],
    )


def _data(plan: "Plan") -> "Table":
    loader, disk = plan.loader, plan.checkpoints
    return _rows(
        "Data and disk",
        [
            ("loader, cells/s for a process", f"{loader.cells_per_second_per_gpu:,.0f}"),
            ("loader, cells/s for a node", f"{loader.cells_per_second_per_node:,.0f}"),
            ("  from disk, MB/s", f"{loader.disk_megabytes_per_second_per_node:,.1f}"),
            ("  decompressed, MB/s", f"{loader.read_megabytes_per_second_per_node:,.1f}"),
            ("weights folder, GB", f"{disk.weights / 1e9:,.2f}"),
            ("checkpoint, GB", f"{disk.state / 1e9:,.2f}"),
            ("checkpoints at most, GB", f"{disk.kept / 1e9:,.2f}"),
        ],
    )


def _giga(number: float) -> str:
    return f"{number / 1e9:,.4g}" if number < 1e12 else f"{number / 1e9:,.0f}"


def _duration(days: float) -> str:
    if days >= 2.0:
        return f"{days:,.1f} days"
    return f"{24 * days:,.1f} hours" if days >= 1 / 12 else f"{1440 * days:,.1f} minutes"
