"""The loop: batches in, weights, metrics and checkpoints out."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cellfm.config.load import to_dict
from cellfm.config.pretrain import PretrainConfig
from cellfm.errors import ConfigError
from cellfm.nn import CellFM
from cellfm.nn.kernels.routing import fp32_routing, routing_pays
from cellfm.nn.objectives import make_objective
from cellfm.train.checkpoint import CheckpointWriter, Snapshot, restore
from cellfm.train.evaluate import HeldOut, HeldOutScore, evaluate
from cellfm.train.interrupt import Interrupt, deferred_interrupt
from cellfm.train.optim import build_optimizer
from cellfm.train.parallel import Trainee, World, check_lanes
from cellfm.train.plan.products import flops
from cellfm.train.prefetch import Prefetch, Prepared
from cellfm.train.progress import Pace, RunProgress
from cellfm.train.sampler import Sampler
from cellfm.train.schedule import learning_rate
from cellfm.train.state import RunFolder, add_to_run, code_versions, open_run, read_json
from cellfm.train.step import NonFiniteLossError, StepResult, train_step
from cellfm.train.throughput import memory_bytes, peak_flops
from cellfm.train.track import Line, Meter, MetricsFile, Tracker, check_trackers, open_trackers


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Where a run stands after :func:`pretrain`."""

    folder: Path
    """Run folder."""
    step: int
    """Steps taken, those of earlier calls included."""
    finished: bool
    """Whether that is all of them."""
    held_out: tuple[HeldOutScore, ...]
    """Scores of the final weights, once finished, one for each held-out set."""
    skipped: int = 0
    """Steps that changed nothing because loss or gradient was not finite."""
    network: CellFM | None = field(default=None, compare=False, repr=False)
    """The whole network as it stands, in the first process; None in the others."""


def pretrain(  # noqa: PLR0913 - what a run is made of
    config: PretrainConfig,
    sampler: Sampler,
    *,
    network: CellFM,
    run_folder: RunFolder,
    held_out: Sequence[HeldOut] = (),
    world: World | None = None,
    gene_start: Tensor | None = None,
    progress: Callable[[RunProgress], None] | None = None,
    stop_after: int | None = None,
) -> RunResult:
    """Train a network by the objective of the config; go on from the newest checkpoint of the folder, bit for bit.

    The first process writes ``config.json`` (resolved; itself a recipe), ``run.json`` (vocabulary hash, versions, scores of
    the untrained network), ``metrics.jsonl`` and ``checkpoints/step-…/`` into the run folder; the others write their shares of
    the checkpoints.

    Parameters
    ----------
    config
        Everything that decides the run.
    sampler
        Batches by step.
    network
        Network of ``config.model``: initialised, then trained in place; or on the meta device, then made from ``run.seed``.
    run_folder
        Folder and vocabulary.
    held_out
        Sets of cells to judge by before the first step, every ``run.eval_every`` steps and at the end.
    world
        The processes, of :func:`~cellfm.train.parallel.open_world`, and their devices; one process on the CPU by default.
    progress
        Told after each step how the run goes.
    stop_after
        End this call after so many steps, with a checkpoint.

    Raises
    ------
    ConfigError
        There are more processes than micro-batches in a step, or the network is another.
    ResumeError
        When the folder holds a run with other settings or another vocabulary.
    NonFiniteLossError
        When loss or gradient was not finite in more than ``run.max_skipped`` steps in a row.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the step is finished and its checkpoint written; its argument is the signal.
    """
    world = World() if world is None else world
    _check_network(network, config)
    check_lanes(config.data.lanes, world)
    check_trackers(config.run.trackers)
    with ExitStack() as stack:
        interrupt = stack.enter_context(deferred_interrupt())
        run = _Run.start(
            config,
            sampler,
            network=network,
            folder=run_folder,
            world=world,
            gene_start=gene_start,
        )
        stack.enter_context(fp32_routing(use=run.routed))
        stack.enter_context(run.closing())
        run.begin(held_out)
        last = config.schedule.n_steps
        stop = last if stop_after is None else min(last, run.step + stop_after)
        _train(run, stop, interrupt, progress)
        run.save()
        run.writer.finish()
        if world.any(flag=interrupt.asked):
            raise KeyboardInterrupt(interrupt.signal or signal.SIGTERM)
        return run.result(finished=run.step == last)


def _train(
    run: "_Run",
    stop: int,
    interrupt: Interrupt,
    progress: Callable[[RunProgress], None] | None,
) -> None:
    """Take steps until the last one, or until some process is asked to end."""
    depth = run.config.data.prefetch
    with closing(
        Prefetch(run.sampler, world=run.world, start=run.step, stop=stop, depth=depth)
    ) as prefetch:
        try:
            while run.step < stop and not run.is_to_end(asked=interrupt.asked):
                run.advance(prefetch)
                if progress is not None:
                    progress(run.progress())
        except KeyboardInterrupt:
            # Not agreed upon: others wait in the step. And inside the optimiser's there is nothing to save.
            if run.torn or run.world.size > 1:
                raise
            interrupt.ask()


def _check_network(network: CellFM, config: PretrainConfig) -> None:
    if network.config != config.model:
        msg = f"The network is {network.config}, but the config asks for {config.model}. Build the network from config.model."
        raise ConfigError(msg)


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run between two steps."""

    config: PretrainConfig
    sampler: Sampler
    trainee: Trainee
    folder: RunFolder
    optimizer: torch.optim.Optimizer
    writer: CheckpointWriter
    trackers: list[Tracker]
    routed: bool
    """Takes the faster float32 products."""
    held_out: Sequence[HeldOut] = ()
    meter: Meter = field(default_factory=Meter)
    pace: Pace
    peak: float = 0.0
    """Floating-point operations a second of all devices together."""
    step: int = 0
    then: tuple[int, int] | None = None
    """Epoch and position of the next step."""
    knows_untrained: bool = False
    untrained: dict[str, HeldOutScore] = field(default_factory=dict)
    """Scores before the first step."""
    torn: bool = False
    """Inside an optimiser step, where weights and step number disagree."""
    last: StepResult | None = None
    scored: tuple[int, tuple[HeldOutScore, ...]] | None = None
    """Newest held-out scores and their step."""

    @property
    def world(self) -> World:
        """The processes."""
        return self.trainee.world

    @classmethod
    def start(
        cls,
        config: PretrainConfig,
        sampler: Sampler,
        *,
        network: CellFM,
        folder: RunFolder,
        world: World,
        gene_start: Tensor | None,
    ) -> "_Run":
        """Begin a run, or take up one that its folder holds."""
        settings, precision = to_dict(config), config.run.precision
        opened = open_run(
            folder,
            settings,
            pays=lambda: (
                world.device.type == "cpu"
                and precision == "fp32"
                and routing_pays(config.model.dim)
            ),
            world=world,
        )
        loss = make_objective(config.objective).loss
        trainee = Trainee.of(network.train(), loss, run=config.run, world=world)
        if gene_start is not None:
            trainee.start_genes(gene_start)
        optimizer = build_optimizer(trainee.network, config.optim)
        meter = Meter()
        if opened.step:
            snapshot = restore(
                folder, opened.step, config=settings, trainee=trainee, optimizer=optimizer
            )
            meter = Meter(**snapshot.meter)
        run = cls(
            config=config,
            sampler=sampler,
            trainee=trainee,
            folder=folder,
            optimizer=optimizer,
            writer=CheckpointWriter(
                folder, trainee, optimizer, keep=config.run.keep_checkpoints, newest=opened.step
            ),
            trackers=_trackers(config, folder, step=opened.step) if world.is_first else [],
            routed=opened.routed,
            meter=meter,
            pace=Pace(n_steps=config.schedule.n_steps),
            step=opened.step,
            knows_untrained=opened.untrained,
        )
        return run

    def begin(self, held_out: Sequence[HeldOut]) -> None:
        """Probe the device, and score the untrained network once in a run."""
        device, precision = self.world.device, self.config.run.precision
        peak = peak_flops(device, precision, torch.get_num_threads())
        self.peak = self.world.total([peak])[0]
        self.held_out = held_out
        if not self.knows_untrained:
            scores = self.score() if self.step == 0 else ()
            if self.world.is_first:
                add_to_run(self.folder, untrained={score.name: score.line() for score in scores})
        if self.world.is_first:
            lines = read_json(self.folder.about)["untrained"]
            self.untrained = {name: _untrained(line) for name, line in lines.items()}
        self.scored = None

    def is_to_end(self, *, asked: bool) -> bool:
        """Agree with the other processes whether to end, and name a checkpoint that all have written."""
        n_asked, n_written = self.world.total([float(asked), float(self.writer.is_written)])
        if n_written == self.world.size:
            self.writer.commit()
        return n_asked > 0

    def advance(self, prefetch: Prefetch) -> None:
        """Take one step, and write what is due after it."""
        rate = learning_rate(self.step, peak=self.config.optim.lr, schedule=self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        began = time.perf_counter()
        prepared = prefetch.next()
        waited = time.perf_counter() - began
        self.torn = True
        self.last = train_step(
            self.trainee,
            prepared.batches,
            self.optimizer,
            optim=self.config.optim,
            step=self.step,
            seed=self.config.run.seed,
            precision=self.config.run.precision,
        )
        self.step, self.then = self.step + 1, prepared.then
        self._count(self.last, seconds=time.perf_counter() - began, waited=waited)
        self.torn = False
        self._check_finite(self.last)
        self._write_what_is_due(prepared, rate)

    def _count(self, result: StepResult, *, seconds: float, waited: float) -> None:
        work = flops(
            self.config.model,
            n_cells=result.n_cells,
            n_tokens=result.n_tokens,
            n_scored=result.n_scored,
            training=True,
            detection=self.config.objective.detection > 0,
        )
        self.meter.add(result, seconds=seconds, waited=waited, flops=work)
        self.pace.add(result, seconds=seconds, waited=waited, flops=work)

    def _check_finite(self, result: StepResult) -> None:
        if self.meter.skipped_in_a_row <= self.config.run.max_skipped:
            return
        msg = (
            f"Step {self.step - 1}: the loss is {result.loss} and the norm of its gradient {result.grad_norm}; both must be "
            f"finite. {self.meter.skipped_in_a_row} steps in a row were skipped, and run.max_skipped is "
            f"{self.config.run.max_skipped}. The weights were not changed and the last checkpoint is intact. Check the counts of "
            "the data; then start again in a new folder with a lower optim.lr, a longer schedule.warmup_steps or "
            "run.precision=fp32."
        )
        raise NonFiniteLossError(msg)

    def _write_what_is_due(self, prepared: Prepared, rate: float) -> None:
        line: Line = {"kind": "train", "step": self.step, "epoch": prepared.at[0], "lr": rate}
        if self._due(self.config.run.log_every):
            memory = round(memory_bytes(self.world.device) / 2**30, 3)
            self.write({**line, **self.meter.read(peak=self.peak), "memory_gib": memory})
        if self._due(self.config.run.eval_every):
            for score in self.score():
                self.write({"kind": "held_out", "step": self.step, **score.line()})
        if self._due(self.config.run.checkpoint_every):
            self.save()

    def write(self, line: Line) -> None:
        """Give a line of metrics to every tracker."""
        for tracker in self.trackers:
            tracker.write(line)

    def score(self) -> tuple[HeldOutScore, ...]:
        """Score the weights as they are on the held-out cells, once for a step."""
        if self.scored is None or self.scored[0] != self.step:
            found = [
                evaluate(self.trainee, held_out, precision=self.config.run.precision)
                for held_out in self.held_out
            ]
            self.scored = self.step, tuple(self._beside_untrained(score) for score in found)
        return self.scored[1]

    def _beside_untrained(self, score: HeldOutScore) -> HeldOutScore:
        before = self.untrained.get(score.name)
        if before is None:
            return score
        return replace(
            score, untrained_gene_loss=before.gene_loss, untrained_cell_loss=before.cell_loss
        )

    def save(self) -> None:
        """Begin a checkpoint of the step that the run stands at."""
        epoch, position = self.then or self.sampler.locate(self.step)
        snapshot = Snapshot(
            step=self.step,
            epoch=epoch,
            position=position,
            vocabulary=self.folder.vocabulary_hash,
            config=to_dict(self.config),
            meter=asdict(self.meter),
            versions=code_versions(),
            shards=self.world.size if self.trainee.sharded else 1,
        )
        self.writer.begin(snapshot)

    def progress(self) -> RunProgress:
        """Say how the run goes."""
        assert self.last is not None  # asked after a step
        fresh = self.scored is not None and self.scored[0] == self.step
        return self.pace.read(
            self.step,
            loss=self.last.loss,
            peak=self.peak,
            memory=memory_bytes(self.world.device),
            skipped=self.meter.skipped,
            held_out=self.scored[1] if fresh and self.scored else (),
        )

    def result(self, *, finished: bool) -> RunResult:
        """Sum up."""
        scores = self.score() if finished else ()
        return RunResult(
            folder=self.folder.path,
            step=self.step,
            finished=finished,
            held_out=scores,
            skipped=self.meter.skipped,
            network=self.trainee.whole(),
        )

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Let go of trackers and threads at the end, and complete a checkpoint that is under way."""
        try:
            yield
        except BaseException as error:
            # Any other error may have come to this process alone; waiting for the rest would never end.
            if self.world.size == 1 or isinstance(error, NonFiniteLossError):
                self.writer.finish()
            raise
        finally:
            for tracker in self.trackers:
                tracker.close()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.schedule.n_steps


def _trackers(config: PretrainConfig, folder: RunFolder, *, step: int) -> list[Tracker]:
    """Open metrics.jsonl, cut back to where the run goes on, and the trackers asked for."""
    metrics = MetricsFile(folder.metrics)
    others = open_trackers(
        config.run.trackers,
        folder.path,
        step=step,
        identity=str(read_json(folder.about)["id"]),
        config=to_dict(config),
    )
    metrics.cut(step)
    return [metrics, *others]


def _untrained(line: Line) -> HeldOutScore:
    return HeldOutScore(
        name=str(line["set"]),
        gene_loss=float(line["gene_loss"]),
        cell_loss=float(line["cell_loss"]),
        baselines={},
        gene_r2=None,
        n_scored=int(line["n_scored"]),
    )
