"""The loop: batches in, weights, metrics and checkpoints out."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from cellfm.config.load import to_dict
from cellfm.config.pretrain import PretrainConfig
from cellfm.errors import ConfigError
from cellfm.nn import CellFM, masked_expression_loss
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.train.evaluate import HeldOut, HeldOutScore, evaluate
from cellfm.train.interrupt import deferred_interrupt
from cellfm.train.optim import build_optimizer
from cellfm.train.sampler import Sampler
from cellfm.train.schedule import learning_rate
from cellfm.train.state import (
    RunFolder,
    Snapshot,
    code_versions,
    open_run,
    restore,
    save_checkpoint,
)
from cellfm.train.step import Objective, train_step
from cellfm.train.track import Meter, MetricsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Where a run stands after :func:`pretrain`."""

    folder: Path
    """Run folder."""
    step: int
    """Steps taken, those of earlier calls included."""
    finished: bool
    """Whether that is all of them."""
    held_out: HeldOutScore | None
    """Score of the final weights, once finished and if there were held-out cells."""


def pretrain(
    config: PretrainConfig,
    sampler: Sampler,
    *,
    network: CellFM,
    run_folder: RunFolder,
    held_out: HeldOut | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    stop_after: int | None = None,
) -> RunResult:
    """Train a network by masked-expression recovery; go on from the newest checkpoint of the folder, bit for bit.

    Writes ``config.json`` (resolved; itself a recipe), ``run.json`` (vocabulary hash, versions), ``metrics.jsonl`` and
    ``checkpoints/step-…/`` into the run folder.

    Parameters
    ----------
    config
        Everything that decides the run.
    sampler
        Batches by step.
    network
        Initialised network of ``config.model``; trained in place and moved to the device.
    run_folder
        Folder and vocabulary.
    held_out
        Cells to judge by every ``run.eval_every`` steps and at the end.
    device
        Device of the run.
    progress
        Called with the number of steps taken after each.
    stop_after
        End this call after so many steps, with a checkpoint.

    Raises
    ------
    ResumeError
        When the folder holds a run with other settings or another vocabulary.
    NonFiniteLossError
        When the loss or its gradient is not finite.
    KeyboardInterrupt
        After Ctrl-C, once the step is finished and its checkpoint written.
    """
    run = _Run.start(
        config, sampler, network=network.to(device), folder=run_folder, held_out=held_out
    )
    last = config.schedule.n_steps
    stop = last if stop_after is None else min(last, run.step + stop_after)
    with deferred_interrupt() as interrupt, fp32_routing(use=run.routed):
        try:
            while run.step < stop and not interrupt.asked:
                run.advance()
                if progress is not None:
                    progress(run.step)
        except KeyboardInterrupt:
            interrupt.asked = True
        if not run.torn:
            run.save()
        if interrupt.asked:
            raise KeyboardInterrupt
        finished = run.step == last
        score = run.score() if finished else None
    return RunResult(folder=run_folder.path, step=run.step, finished=finished, held_out=score)


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run between two steps."""

    config: PretrainConfig
    sampler: Sampler
    network: CellFM
    folder: RunFolder
    held_out: HeldOut | None
    optimizer: torch.optim.Optimizer
    metrics: MetricsFile
    objective: Objective = masked_expression_loss
    meter: Meter = field(default_factory=Meter)
    step: int = 0
    routed: bool = False
    """Takes the faster float32 products."""
    torn: bool = False
    """Inside an optimiser step, where weights and step number disagree."""
    scored: tuple[int, HeldOutScore] | None = None
    """Newest held-out score and its step."""

    @classmethod
    def start(
        cls,
        config: PretrainConfig,
        sampler: Sampler,
        *,
        network: CellFM,
        folder: RunFolder,
        held_out: HeldOut | None,
    ) -> "_Run":
        """Begin a run, or take up one that its folder holds."""
        if network.config != config.model:
            msg = f"The network is {network.config}, but the config asks for {config.model}. Build the network from config.model."
            raise ConfigError(msg)
        run = cls(
            config=config,
            sampler=sampler,
            network=network.train(),
            folder=folder,
            held_out=held_out,
            optimizer=build_optimizer(network, config.optim),
            metrics=MetricsFile(folder.metrics),
        )
        device, precision = network.cls.device.type, config.run.precision
        checkpoint, run.routed = open_run(
            folder,
            to_dict(config),
            pays=lambda: device == "cpu" and precision == "fp32" and routing_pays(config.model.dim),
        )
        if checkpoint is not None:
            snapshot = restore(
                checkpoint, folder, config=to_dict(config), network=network, optimizer=run.optimizer
            )
            run.step, run.meter = snapshot.step, Meter(**snapshot.meter)
        run.metrics.cut(run.step)
        return run

    def advance(self) -> None:
        """Take one step, and write what is due after it."""
        rate = learning_rate(self.step, peak=self.config.optim.lr, schedule=self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        began = time.perf_counter()
        batch = self.sampler.batch(self.step).to(self.network.cls.device)
        self.torn = True
        result = train_step(
            self.network,
            batch,
            self.optimizer,
            objective=self.objective,
            optim=self.config.optim,
            step=self.step,
            seed=self.config.run.seed,
            precision=self.config.run.precision,
        )
        self.step += 1
        self.meter.add(result, seconds=time.perf_counter() - began)
        self.torn = False
        if self._due(self.config.run.log_every):
            self.log(rate)
        if self._due(self.config.run.eval_every) and (score := self.score()) is not None:
            self.metrics.write({"kind": "held_out", "step": self.step, **asdict(score)})
        if self._due(self.config.run.checkpoint_every):
            self.save()

    def log(self, rate: float) -> None:
        """Write a line of training metrics: means since the last one."""
        epoch, _ = self.sampler.locate(self.step - 1)
        self.metrics.write(
            {"kind": "train", "step": self.step, "epoch": epoch, "lr": rate, **self.meter.read()}
        )

    def score(self) -> HeldOutScore | None:
        """Score the weights as they are on the held-out cells, once for a step."""
        if self.held_out is None:
            return None
        if self.scored is None or self.scored[0] != self.step:
            score = evaluate(
                self.network,
                self.held_out,
                objective=self.objective,
                precision=self.config.run.precision,
            )
            self.scored = self.step, score
        return self.scored[1]

    def save(self) -> None:
        """Write a checkpoint of the step that the run stands at."""
        epoch, position = self.sampler.locate(self.step)
        snapshot = Snapshot(
            step=self.step,
            epoch=epoch,
            position=position,
            vocabulary=self.folder.vocabulary_hash,
            config=to_dict(self.config),
            meter=asdict(self.meter),
            versions=code_versions(),
        )
        save_checkpoint(
            self.folder,
            self.network,
            self.optimizer,
            snapshot,
            keep=self.config.run.keep_checkpoints,
        )

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.schedule.n_steps
