"""What to change when a planned run will not work, or not well."""

from cellfm.config.pretrain import PretrainConfig
from cellfm.train.plan.hardware import Gpu
from cellfm.train.plan.memory import Memory

LOADER_RATE = 100_000.0
"""Cells a second that one process was seen to read from plain zarr in blocks."""
SMALLEST_BUDGET = 2048
"""A micro-batch below this holds hardly a cell, and its products are too small to be fast."""

Fitting = tuple[tuple[Memory, int], ...]
"""Each way to lay out the memory, and the token budget that just fits it."""


def advice(
    config: PretrainConfig,
    gpu: Gpu,
    *,
    chosen: Memory,
    usable: float,
    fitting: Fitting,
    n_gpus: int,
    loader_rate: float,
) -> tuple[str, ...]:
    """Return a sentence for each thing that stands in the way of a plan.

    Parameters
    ----------
    config, gpu, n_gpus
        What is planned.
    chosen, usable
        Memory that one process needs and has.
    fitting
        The ways out.
    loader_rate
        Cells a second that each process must read.
    """
    found = [
        *_memory(config, gpu, chosen=chosen, usable=usable, fitting=fitting),
        *_lanes(config.data.lanes, n_gpus),
    ]
    if config.run.parallel == "fsdp" and n_gpus == 1:
        found.append(
            "run.parallel=fsdp shards nothing on one accelerator: it is planned as replicated."
        )
    if config.run.precision == "fp32" and gpu.name != "cpu":
        factor = gpu.bf16_tflops / gpu.fp32_tflops
        found.append(
            f"run.precision=fp32 uses {1 / factor:.0%} of what this card does in bfloat16; run.precision=bf16 has a "
            f"{factor:.0f} times higher peak."
        )
    if loader_rate > LOADER_RATE:
        found.append(
            f"Each process must read {loader_rate:,.0f} cells/s; about {LOADER_RATE:,.0f} was measured for one. Expect the "
            "step to wait: watch `wait_share`."
        )
    return tuple(found)


def _memory(
    config: PretrainConfig, gpu: Gpu, *, chosen: Memory, usable: float, fitting: Fitting
) -> list[str]:
    if chosen.total <= usable:
        return []
    ways = _ways_to_fit(config.data.token_budget, chosen, fitting)
    text = (
        f"Memory does not fit: {_gib(chosen.total)} GiB needed, {_gib(usable)} of {gpu.memory_gib:g} GiB can be planned "
        f"with on {gpu.name}. Any of: {'; '.join(ways)}."
    )
    return [text]


def _ways_to_fit(budget: int, chosen: Memory, fitting: Fitting) -> list[str]:
    best = {(layout.parallel, layout.activation_checkpointing): most for layout, most in fitting}
    parallel, again = chosen.parallel, chosen.activation_checkpointing
    settings = {
        (parallel, again): "",
        (parallel, True): "run.activation_checkpointing=true",
        ("fsdp", again): "run.parallel=fsdp",
        ("fsdp", True): "run.parallel=fsdp run.activation_checkpointing=true",
    }
    ways: list[str] = []
    for way, changes in settings.items():
        # Sharding is worth its traffic only where it makes room.
        sharding = way[0] != parallel
        if way not in best or best[way] < SMALLEST_BUDGET:
            continue
        if sharding and best[way] <= best[parallel, way[1]]:
            continue
        smaller = "" if best[way] >= budget else f"data.token_budget={best[way] // 1024 * 1024}"
        ways.append(" ".join(part for part in (changes, smaller) if part))
    return [*ways, "more accelerators with run.parallel=fsdp, or larger ones"]


def _lanes(lanes: int, n_gpus: int) -> list[str]:
    if lanes < n_gpus:
        few = (
            f"data.lanes={lanes} is less than the {n_gpus} processes, and each needs at least one: set data.lanes={n_gpus} "
            "or a multiple of it (planned as such)."
        )
        return [few]
    if lanes % n_gpus:
        rounds = -(-lanes // n_gpus)
        uneven = (
            f"data.lanes={lanes} is not a multiple of {n_gpus}: some processes have {rounds} micro-batches and the others wait; "
            f"{1 - lanes / (rounds * n_gpus):.0%} of the time is lost. Set data.lanes={rounds * n_gpus}."
        )
        return [uneven]
    return []


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:,.1f}"
