"""The plan of a run: model, work, memory, time, data and disk from a recipe and a machine."""

import math
from typing import Literal

from cellfm.config.pretrain import PretrainConfig
from cellfm.errors import ConfigError
from cellfm.train.plan.advice import advice
from cellfm.train.plan.hardware import Gpu, find_gpu
from cellfm.train.plan.memory import FP32, MOMENTS, Memory, training_memory
from cellfm.train.plan.outline import (
    Checkpoints,
    Loader,
    Plan,
    Schedule,
    Speed,
    Work,
    usable_bytes,
)
from cellfm.train.plan.parameters import Parameters, count_parameters
from cellfm.train.plan.products import BatchShape, flops

UTILISATION = 0.4
"""Share of the peak that products are taken to reach when nobody has measured; fast transformer codes report 0.37 to 0.43."""
STORED_BYTES_PER_GENE = 2.0
"""A uint16 gene and a uint16 count, compressed in zarr; measured: 3,990 bytes for 2,000 genes."""
READ_BYTES_PER_GENE = 4.0
"""The same in memory, not compressed."""
SECONDS_PER_DAY = 86_400.0


def plan(
    config: PretrainConfig,
    *,
    n_cells: int,
    n_gpus: int,
    gpu: str | Gpu,
    mfu: float | None = None,
    genes_per_cell: float = 1492.0,
    n_epochs: float | None = None,
    gpus_per_node: int = 8,
) -> Plan:
    """Work out what a pretraining run takes.

    Nothing is measured: counts of operations and bytes follow from the shapes (tests hold them to what torch counts);
    peaks are those of data sheets; the speed follows from an assumed share of the peak.

    Parameters
    ----------
    config
        The recipe.
    n_cells
        Cells of the corpus.
    n_gpus
        Accelerators, one process each.
    gpu
        Their kind: a name of :data:`~cellfm.train.plan.hardware.GPUS`, or its figures.
    mfu
        Share of the peak that the model's operations reach. Left out, products are taken to reach 0.4 of the peak, of
        which recomputation takes its part when activation checkpointing is on.
    genes_per_cell
        Mean number of expressed genes.
    n_epochs
        Length of the run in epochs, instead of the recipe's steps.
    gpus_per_node
        Accelerators that share a host, and so a loader.

    Raises
    ------
    ConfigError
        An argument cannot be, or there is no such accelerator.
    """
    _check(n_cells=n_cells, n_gpus=n_gpus, genes_per_cell=genes_per_cell, mfu=mfu)
    _check(n_epochs=n_epochs, gpus_per_node=gpus_per_node)
    card = find_gpu(gpu) if isinstance(gpu, str) else gpu
    shown = min(genes_per_cell, config.data.genes_per_cell or math.inf)
    work = _work(config, shown)
    reached = UTILISATION * work.step / work.executed if mfu is None else mfu
    schedule = _schedule(config, n_cells=n_cells, n_gpus=n_gpus, genes=shown, n_epochs=n_epochs)
    speed = _speed(schedule, work, reached, n_gpus=n_gpus, peak=card.peak(config.run.precision))
    layouts = _layouts(config, shown, n_gpus=n_gpus, device=_device(card))
    chosen = next(
        layout
        for layout in layouts
        if layout.parallel == config.run.parallel
        and layout.activation_checkpointing == config.run.activation_checkpointing
    )
    tokens = max(float(config.data.token_budget), shown)
    budgets = tuple(_largest_budget(layout, tokens, card) for layout in layouts)
    per_node = min(n_gpus, gpus_per_node)
    loader = _loader(speed.cells_per_second / n_gpus, genes_per_cell, per_node)
    parameters = count_parameters(config.model)
    return Plan(
        gpu=card,
        n_gpus=n_gpus,
        n_nodes=math.ceil(n_gpus / gpus_per_node),
        n_cells=n_cells,
        genes_per_cell=genes_per_cell,
        precision=config.run.precision,
        token_budget=config.data.token_budget,
        parameters=parameters,
        work=work,
        memory=chosen,
        layouts=layouts,
        largest_budgets=budgets,
        schedule=schedule,
        speed=speed,
        loader=loader,
        checkpoints=_checkpoints(parameters, config.run.keep_checkpoints),
        warnings=advice(
            config,
            card,
            chosen=chosen,
            usable=usable_bytes(card),
            fitting=tuple(zip(layouts, budgets, strict=True)),
            n_gpus=n_gpus,
            loader_rate=loader.cells_per_second_per_gpu,
        ),
    )


def _check(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is None:
            continue
        highest = 1.0 if name == "mfu" else math.inf
        least = 0.0 if name in ("mfu", "n_epochs", "genes_per_cell") else 1.0
        if not (least <= number <= highest and 0.0 < number < math.inf):
            end = "1]" if name == "mfu" else "∞)"
            start = "(0" if least == 0.0 else "[1"
            msg = f"plan: {name} is {number:g}; it must be in {start}, {end}. Give a number in that range."
            raise ConfigError(msg)


def _device(gpu: Gpu) -> Literal["cpu", "cuda"]:
    return "cpu" if gpu.name == "cpu" else "cuda"


def _work(config: PretrainConfig, genes: float) -> Work:
    def per_cell(*, training: bool, again: bool) -> float:
        return flops(
            config.model,
            n_cells=1.0,
            n_tokens=genes,
            n_scored=config.data.scored_fraction * genes,
            training=training,
            activation_checkpointing=again,
            detection=training and config.objective.detection > 0,
        )

    again = config.run.activation_checkpointing
    return Work(
        forward=per_cell(training=False, again=False),
        step=per_cell(training=True, again=False),
        executed=per_cell(training=True, again=again),
    )


def _schedule(
    config: PretrainConfig, *, n_cells: int, n_gpus: int, genes: float, n_epochs: float | None
) -> Schedule:
    # Fewer lanes than processes cannot run (the advice says so): planned as if each process had one.
    lanes = max(config.data.lanes, n_gpus)
    # A micro-batch is closed by the cell that no longer fits: half a cell of its budget stays empty on average.
    cells = lanes * max(1.0, config.data.token_budget / genes - 0.5)
    per_epoch = n_cells * (1.0 - config.data.held_out) / cells
    n_steps = config.schedule.n_steps if n_epochs is None else math.ceil(n_epochs * per_epoch)
    return Schedule(
        lanes=lanes,
        cells_per_step=cells,
        tokens_per_step=cells * genes,
        steps_per_epoch=per_epoch,
        n_steps=n_steps,
        n_epochs=n_steps / per_epoch,
    )


def _speed(schedule: Schedule, work: Work, mfu: float, *, n_gpus: int, peak: float) -> Speed:
    # A step takes as long as the process with the most lanes.
    rounds = math.ceil(schedule.lanes / n_gpus)
    seconds = rounds * (schedule.cells_per_step / schedule.lanes) * work.step / (mfu * peak)
    days = schedule.n_steps * seconds / SECONDS_PER_DAY
    return Speed(
        mfu=mfu,
        cells_per_second=schedule.cells_per_step / seconds,
        tokens_per_second=schedule.tokens_per_step / seconds,
        seconds_per_step=seconds,
        days_per_epoch=schedule.steps_per_epoch * seconds / SECONDS_PER_DAY,
        days=days,
        gpu_hours=24.0 * days * n_gpus,
    )


def _layouts(
    config: PretrainConfig, genes: float, *, n_gpus: int, device: Literal["cpu", "cuda"]
) -> tuple[Memory, ...]:
    budget = config.data.token_budget
    shape = BatchShape(
        n_cells=max(1.0, budget / genes),
        n_tokens=max(budget, genes),
        n_scored=config.data.scored_fraction * max(budget, genes),
    )
    ways: list[tuple[Literal["ddp", "fsdp"], bool]] = [
        (parallel, again) for parallel in ("ddp", "fsdp") for again in (False, True)
    ]
    if n_gpus == 1:  # nothing to shard
        ways = [way for way in ways if way[0] == config.run.parallel]
    return tuple(
        training_memory(
            config.model,
            shape,
            precision=config.run.precision,
            parallel=parallel,
            n_gpus=n_gpus,
            activation_checkpointing=again,
            device=device,
        )
        for parallel, again in ways
    )


def _largest_budget(layout: Memory, tokens: float, gpu: Gpu) -> int:
    """Return the token budget that just fits: what depends on the batch grows in proportion to its tokens."""
    free = usable_bytes(gpu) - layout.states
    return max(0, math.floor(tokens * free / (layout.activations + layout.temporary)))


def _loader(per_gpu: float, genes: float, gpus_per_node: int) -> Loader:
    per_node = per_gpu * gpus_per_node
    return Loader(
        cells_per_second_per_gpu=per_gpu,
        cells_per_second_per_node=per_node,
        disk_megabytes_per_second_per_node=per_node * genes * STORED_BYTES_PER_GENE / 1e6,
        read_megabytes_per_second_per_node=per_node * genes * READ_BYTES_PER_GENE / 1e6,
    )


def _checkpoints(parameters: Parameters, keep: int) -> Checkpoints:
    weights = FP32 * parameters.total
    state = weights + MOMENTS * parameters.trained
    return Checkpoints(weights=weights, state=state, kept=(keep + 1) * state)
