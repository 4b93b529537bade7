"""Processes: who this one is, how the network is spread over them, and what they tell each other.

Every process of a run calls the same functions in the same order. Numbers that a decision rests on are summed over all of
them first, so that all decide alike.
"""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, distributed, nn

from cellfm.batch import CellBatch
from cellfm.config.pretrain import RunConfig
from cellfm.errors import ConfigError
from cellfm.nn import CellFM, Loss
from cellfm.nn.encoder import ERetNetLayer
from cellfm.nn.initialise import fill
from cellfm.nn.loss import Prediction, predict_scored
from cellfm.nn.objectives import LossFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of a run, as seen from one of them."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this process."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over all processes, in float64 on the CPU."""
        if self.size == 1:
            return list(numbers)
        return cast(
            "list[float]", self.total_of(torch.tensor(numbers, dtype=torch.float64)).tolist()
        )

    def total_of(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, *, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return self.total([float(flag)])[0] > 0

    def all(self, *, flag: bool) -> bool:
        """Whether the flag is up in every process."""
        return self.total([float(flag)])[0] == self.size

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Fill a CPU tensor in every process with the first one's."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.total([0.0])

    def from_first(self, number: int) -> int:
        """Return the first process's number in all of them."""
        return int(self.total([float(number) if self.is_first else 0.0])[0])


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def open_world(device: torch.device | str) -> Iterator[World]:
    """Join the processes that torchrun started; alone, a world of one.

    Parameters
    ----------
    device
        Kind of device; on ``"cuda"`` every process takes the one of its number on its machine.
    """
    device = torch.device(device)
    if not is_launched():
        yield World(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
    # Numbers go over gloo from CPU to CPU, without waiting for the device.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        world = World(rank=distributed.get_rank(), size=distributed.get_world_size(), device=device)
        yield world
        world.wait()  # none hangs up while another still talks
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # Copies and shares that are still referred to would keep gloo's threads alive beyond the interpreter, which aborts.
        gc.collect()
        distributed.destroy_process_group()


def check_lanes(lanes: int, world: World) -> None:
    """Refuse more processes than there are micro-batches in a step.

    Raises
    ------
    ConfigError
        Some process would have nothing to do.
    """
    if world.size > lanes:
        msg = (
            f"{world.size} processes share a step of data.lanes={lanes} micro-batches: {world.size - lanes} of them would have "
            f"nothing to do. Give data.lanes={world.size} or a multiple of it (and divide data.token_budget to keep a step's size), "
            "or start fewer processes. A begun run keeps its lanes. Keep them on resuming, too."
        )
        raise ConfigError(msg)


class Replica(nn.Module):
    """A network whose call is its objective: what gradients flow through and parallel wrappers wrap.

    Parameters
    ----------
    network
        The network.
    objective
        What is minimised.
    """

    def __init__(self, network: CellFM, objective: LossFunction) -> None:
        super().__init__()
        self.network = network
        self._objective = objective

    def forward(self, batch: CellBatch, *, predict: bool = False) -> Loss | Prediction:
        """Return the loss of a batch, or the predictions of its scored genes."""
        if predict:
            return predict_scored(self.network, batch)
        return self._objective(self.network, batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainee:
    """A network, spread over the processes of a run."""

    network: CellFM
    """The network; its parameters are shares of the whole under fsdp."""
    module: nn.Module
    """What is called with a batch."""
    world: World = World()
    sharded: bool = False
    """Whether each process holds a share of every parameter."""

    @classmethod
    def of(
        cls, network: CellFM, objective: LossFunction, *, run: RunConfig, world: World
    ) -> "Trainee":
        """Spread a network over the processes.

        Parameters
        ----------
        network
            Initialised, the same in every process; or on the meta device: then it is made from ``run.seed``.
        objective
            What is minimised.
        run
            Its parallel, precision, activation_checkpointing, compile and seed.
        world
            The processes.
        """
        sharded = run.parallel == "fsdp" and world.size > 1
        for layer in network.encoder_layers:
            _prepare_layer(layer, run)
        replica = Replica(network, objective)
        if sharded:
            _shard(replica, run, world)
        _fill(network, run.seed, world)
        if world.size == 1 or sharded:
            return cls(network=network, module=replica, world=world, sharded=sharded)
        # Zero heads may have no part in this loss.
        copies = nn.parallel.DistributedDataParallel(replica, find_unused_parameters=True)
        return cls(network=network, module=copies, world=world)

    @torch.no_grad()
    def start_genes(self, table: Tensor) -> None:
        """Put rows into the gene table, shape (token, dim); rows of zeros are left as they are."""
        parameter = self.network.gene_embedding.weight
        held = share(parameter)
        start = first_row(parameter, self.world) if is_share(parameter) else 0
        rows = table[start : start + len(held)].to(held)
        given = rows.any(dim=1).nonzero().squeeze(1)
        held[given] = rows[given]

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Leave the exchange of gradients between copies to the last micro-batch of a step."""
        if last or not isinstance(self.module, nn.parallel.DistributedDataParallel):
            yield
            return
        with self.module.no_sync():
            yield

    @torch.no_grad()
    def predict(self, batch: CellBatch) -> Prediction:
        """Predict the scored genes of a batch."""
        if isinstance(self.module, nn.parallel.DistributedDataParallel):
            # Copies need not talk to each other for this; shares must.
            return cast("Prediction", self.module.module(batch, predict=True))
        prediction = cast("Prediction", self.module(batch, predict=True))
        if self.sharded:
            # Without a backward pass the outermost parameters would stay whole, and not be those that the optimiser knows.
            cast("_Shared", self.module).reshard()
        return prediction

    def whole(self) -> CellFM | None:
        """Return the whole network on the CPU in the first process, None in the others."""
        if not self.sharded:
            return self.network.cpu() if self.world.is_first else None
        with torch.device("meta"):
            network = CellFM(self.network.config)
        state = {}
        for name, parameter in self.network.named_parameters():
            full = whole_tensor(parameter.detach())
            if self.world.is_first:
                state[name] = full.cpu()
            del full
        if not self.world.is_first:
            return None
        network.load_state_dict(state, strict=True, assign=True)
        return network.train(self.network.training)


class _Shared(Protocol):
    """A module whose parameters are shared out (FSDPModule)."""

    def reshard(self) -> None: ...


class _Share(Protocol):
    """One process's share of a larger tensor (a DTensor, whose module takes half a second to load)."""

    def to_local(self) -> Tensor: ...

    def full_tensor(self) -> Tensor: ...


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is one process's share of a larger one."""
    return hasattr(tensor, "to_local")


def share(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return cast("_Share", tensor).to_local() if is_share(tensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """Put the shares of all processes together; all must ask."""
    return cast("_Share", tensor).full_tensor() if is_share(tensor) else tensor


def first_row(tensor: Tensor, world: World) -> int:
    """Return where this process's share begins along the first axis: shares are as equal as rounding up lets them be."""
    n_rows = tensor.shape[0]
    return min(world.rank * -(-n_rows // world.size), n_rows)


def _prepare_layer(layer: ERetNetLayer, run: RunConfig) -> None:
    """Compile a layer and let it recompute its activations, as asked for; names of parameters stay."""
    forward = layer.forward
    if run.compile:
        # The sum over each cell's genes is a loop over cells: traced, it would be another program for every batch.
        layer.retention.forward = torch.compiler.disable(layer.retention.forward)  # type: ignore[method-assign]
        forward = torch.compile(forward, dynamic=True)
    if run.activation_checkpointing:
        forward = partial(_recompute, forward)
    if forward is not layer.forward:
        layer.forward = forward  # type: ignore[method-assign] # hooks of shards stay around it


def _recompute(forward: Callable[..., Tensor], *inputs: object) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*inputs)
    return cast("Tensor", checkpoint(forward, *inputs, use_reentrant=False))


def _shard(replica: Replica, run: RunConfig, world: World) -> None:
    """Share out every layer's parameters, and the rest as one group (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    half = torch.bfloat16 if run.precision == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in replica.network.encoder_layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(replica, mesh=mesh, mp_policy=policy)


@torch.no_grad()
def _fill(network: CellFM, seed: int, world: World) -> None:
    """Bring a network to its device; one on the meta device gets its weights there, the same for any world."""
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.to(world.device)
        return
    network.to_empty(device=world.device)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        # One whole parameter at a time: a model that fits no single machine can be begun.
        whole, held = torch.empty(parameter.shape), share(parameter)
        fill(name, whole, n_layers=network.config.n_layers, generator=generator)
        start = first_row(parameter, world) if is_share(parameter) else 0
        held.copy_(whole[start : start + len(held)])
