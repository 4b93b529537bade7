"""What ``cellfm annotate train --plan`` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import say, show_table

if TYPE_CHECKING:
    from rich.table import Table

    from cellfm.config import ModelConfig
    from cellfm.train.plan.finetune import FinetunePlan

MEMORY = 16.0
"""GiB of the accelerator that the settings are looked for."""
USABLE = 0.9
"""Share of it that tensors may take; the rest goes to the driver, the library and the gaps between tensors."""
DEFAULT_BUDGET = 6144
BUDGETS = (49_152, 24_576, 12_288, 6144, 3072, 1536)
"""Token budgets that are tried, largest first."""
ROWS = ("weights", "gradients", "optimiser", "activations")

Tuned = Literal["lora", "finetune"]
Precision = Literal["fp32", "bf16"]
SETTINGS: tuple[tuple[Precision, bool], ...] = (
    ("fp32", False),
    ("fp32", True),
    ("bf16", False),
    ("bf16", True),
)
"""Precision, and whether activations are computed again."""


def show_tune_plan(recipe: str, *, strength: str, rank: int) -> None:
    """Print the memory of fine-tuning a packaged recipe, by formula.

    Parameters
    ----------
    recipe
        Its name.
    strength
        As asked for; the one that is advised about, if it tunes the network.
    rank
        Of the adapters.

    Raises
    ------
    ConfigError
        There is no such recipe, or the rank is below 1.
    """
    from cellfm.config import preset
    from cellfm.train.plan.parameters import count_parameters

    model = preset(recipe)
    wanted: tuple[Tuned, ...] = ("lora", "finetune")
    advised = [kind for kind in wanted if kind == strength] or wanted
    tables = [_memory(model, kind, rank) for kind in wanted]
    fits = [_fits(model, kind, rank) for kind in advised]
    say(f"{recipe}: {count_parameters(model).total:,} parameters; nothing is trained")
    for table in (*tables, *fits):
        show_table(table)
    say(
        "Bytes by formula, on a GPU, for cells of 1,000 expressed genes; the best epoch's copy of the trained parameters is in host memory. "
        f"Usable are {USABLE:.0%} of the memory. In Python: train_annotator(…, tune=TuneConfig(precision=…, activation_checkpointing=…, token_budget=…))."
    )


def _plan(
    model: "ModelConfig",
    strength: Tuned,
    rank: int,
    *,
    budget: int,
    precision: Precision,
    again: bool,
) -> "FinetunePlan":
    from cellfm.train.plan.finetune import finetune_plan

    return finetune_plan(
        model,
        strength=strength,
        rank=rank,
        token_budget=budget,
        precision=precision,
        activation_checkpointing=again,
    )


def _memory(model: "ModelConfig", strength: Tuned, rank: int) -> "Table":
    plans = [
        _plan(model, strength, rank, budget=DEFAULT_BUDGET, precision=precision, again=again)
        for precision, again in SETTINGS
    ]
    title = f"{_name(strength, rank)}: {plans[0].n_trained:,} parameters trained; GiB at {DEFAULT_BUDGET:,} tokens a step"
    table = _table(title, ["", *(_setting(*setting) for setting in SETTINGS)])
    for row in (*ROWS, "total"):
        table.add_row(row, *(f"{getattr(plan, row) / 2**30:,.2f}" for plan in plans))
    return table


def _fits(model: "ModelConfig", strength: Tuned, rank: int) -> "Table":
    title = f"{_name(strength, rank)}: largest token budget that fits {MEMORY:.0f} GiB"
    table = _table(title, ["", "tokens a step", "GiB"])
    for precision, again in SETTINGS:
        found = largest_budget(model, strength, rank=rank, precision=precision, again=again)
        cells = ("does not fit", "") if found is None else (f"{found[0]:,}", f"{found[1]:,.2f}")
        table.add_row(_setting(precision, again), *cells)
    return table


def largest_budget(
    model: "ModelConfig", strength: Tuned, *, rank: int, precision: Precision, again: bool
) -> tuple[int, float] | None:
    """Return the largest token budget of those tried that fits, and its GiB; None if none does.

    Parameters
    ----------
    model
        Shape of the network.
    strength, rank, precision
        As in `finetune_plan`.
    again
        Whether activations are computed again.
    """
    for budget in BUDGETS:
        plan = _plan(model, strength, rank, budget=budget, precision=precision, again=again)
        size = plan.total / 2**30
        if size <= USABLE * MEMORY:
            return budget, size
    return None


def _name(strength: Tuned, rank: int) -> str:
    return f"LoRA, rank {rank}" if strength == "lora" else "full fine-tune"


def _setting(precision: Precision, again: bool) -> str:  # noqa: FBT001 - a pair of SETTINGS
    return f"{precision} + checkpointing" if again else precision


def _table(title: str, columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
