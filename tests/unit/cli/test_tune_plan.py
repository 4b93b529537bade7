"""What fits a small accelerator when a network is tuned."""

from dataclasses import replace

from cellfm.cli.tune_plan import BUDGETS, MEMORY, USABLE, largest_budget
from cellfm.config import preset
from cellfm.train.plan.finetune import finetune_plan


def test_the_largest_budget_that_fits_is_found() -> None:
    model = preset("800m")
    found = largest_budget(model, "lora", rank=8, precision="bf16", again=True)
    assert found is not None
    budget, size = found
    assert size <= USABLE * MEMORY
    larger = BUDGETS[BUDGETS.index(budget) - 1]
    plan = finetune_plan(
        model,
        strength="lora",
        rank=8,
        token_budget=larger,
        precision="bf16",
        activation_checkpointing=True,
    )
    assert plan.total / 2**30 > USABLE * MEMORY
    assert largest_budget(preset("mini"), "finetune", rank=8, precision="fp32", again=False) == (
        BUDGETS[0],
        largest_budget(preset("mini"), "finetune", rank=1, precision="fp32", again=False)[1],
    )


def test_nothing_fits_a_network_that_is_too_large() -> None:
    huge = replace(preset("800m"), n_layers=400)
    assert largest_budget(huge, "finetune", rank=8, precision="bf16", again=True) is None
