"""A tiny problem that can be learned: two kinds of cells, each with its own level for every gene."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from cellfm.batch import CellBatch
from cellfm.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    ScheduleConfig,
)
from cellfm.nn import CellFM, initialise
from cellfm.train import (
    HeldOut,
    MetricsFile,
    RunFolder,
    RunResult,
    list_checkpoints,
    pretrain,
)

N_GENES, N_CELLS, STEPS_PER_EPOCH = 40, 6, 7
TIMES = (
    "seconds",
    "cells_per_second",
    "scored_per_second",
    "wait_share",
    "mfu",
    "memory_gib",
)
LEVELS = torch.rand(2, N_GENES + 1, generator=torch.Generator().manual_seed(0)) * 4


@dataclass(frozen=True)
class TwoKinds:
    """Micro-batches by step and lane; `poison` are the steps whose values are not numbers; `absent` genes are any at all."""

    poison: tuple[int, ...] = ()
    n_lanes: int = 1
    absent: bool = False

    def batches(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[CellBatch]:
        return [self.batch(step, lane) for lane in range(rank, self.n_lanes, world_size)]

    def batch(self, step: int, lane: int = 0) -> CellBatch:
        generator = torch.Generator().manual_seed(1000 + step + 100_000 * lane)
        lengths = torch.randint(12, 30, (N_CELLS,), generator=generator)
        kinds = torch.randint(0, 2, (N_CELLS,), generator=generator)
        genes = [
            1 + torch.randperm(N_GENES, generator=generator)[:n].sort().values for n in lengths
        ]
        value = torch.cat([LEVELS[kind][gene] for kind, gene in zip(kinds, genes, strict=True)])
        scored = torch.rand(len(value), generator=generator) < 0.3
        if step in self.poison:
            value = value * torch.nan
        return CellBatch(
            gene=torch.cat(genes),
            value=value,
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            depth=torch.ones(N_CELLS, 2),
            hidden=scored & (torch.rand(len(value), generator=generator) < 0.8),
            scored=scored,
            target=value,
            absent=torch.cat(genes).flip(0) * scored if self.absent else None,
        )

    def locate(self, step: int) -> tuple[int, int]:
        return divmod(step, STEPS_PER_EPOCH)


@dataclass(frozen=True)
class Job:
    """A config with all that goes with it, trained in folders under `root`."""

    root: Path
    config: PretrainConfig
    sampler: TwoKinds = field(default_factory=TwoKinds)
    vocabulary: str = "a" * 64

    @property
    def held_out(self) -> HeldOut:
        batches = [TwoKinds().batch(step) for step in (-1, -2, -3)]
        means = [LEVELS.mean(0)[batch.gene[batch.scored]] for batch in batches]
        return HeldOut(name="cells", batches=batches, baselines={"gene_mean": means})

    def changed(self, section: str, **changes: object) -> "Job":
        part = replace(getattr(self.config, section), **changes)
        return replace(self, config=replace(self.config, **{section: part}))

    def network(self) -> CellFM:
        return initialise(CellFM(self.config.model), torch.Generator().manual_seed(1))

    def folder(self, name: str) -> RunFolder:
        return RunFolder(path=self.root / name, vocabulary_hash=self.vocabulary)

    def newest(self, name: str) -> Path:
        return list_checkpoints(self.folder(name))[-1]

    def lines(self, name: str) -> list[dict[str, object]]:
        """Metrics without what the clock decides."""
        lines = MetricsFile(self.folder(name).metrics).read()
        return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]

    def train(self, name: str, network: CellFM | None = None, **options: object) -> RunResult:
        return pretrain(
            self.config,
            self.sampler,
            network=network or self.network(),
            run_folder=self.folder(name),
            **{"held_out": (self.held_out,), **options},
        )


def small_config() -> PretrainConfig:
    """Twenty steps of a network with every kind of parameter."""
    model = ModelConfig(
        n_genes=N_GENES, dim=16, n_layers=3, n_heads=2, value_bins=8, zero_heads=True, dropout=0.3
    )
    return PretrainConfig(
        model=model,
        data=DataConfig(token_budget=100),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(n_steps=20, warmup_steps=3),
        run=RunConfig(seed=5, log_every=3, eval_every=8, checkpoint_every=6),
    )


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(root=tmp_path, config=small_config())
