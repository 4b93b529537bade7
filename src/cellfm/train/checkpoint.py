"""Checkpoints: weights and moments of all processes, whole or absent, readable by any number of processes.

Every process writes its share as a safetensors file of its own; the header of the file tells where in the whole tensors its
pieces belong, in the form of torch.distributed.checkpoint (``DCP_SHARDING_INFO``), whose reader and planner put together what
a process of another world needs. torch's own safetensors writer does the same, but talks between processes from its thread
and holds a second copy; here a thread only writes, and the processes agree between two steps. No pickle is read or written.
"""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cellfm.errors import ResumeError
from cellfm.train.parallel import Trainee, first_row, is_share, share
from cellfm.train.state import (
    FORMAT,
    PARTIAL,
    RunFolder,
    check_same_job,
    checkpoint_path,
    flush,
    list_checkpoints,
    read_json,
    write_json,
)

STATE, MODEL = "state.json", "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a checkpoint knows besides tensors."""

    step: int
    """Steps taken; the next batch is that of this step."""
    epoch: int
    """Epoch of the next batch."""
    position: int
    """Position of the next batch in its epoch."""
    vocabulary: str
    """Hash of the gene list."""
    config: Mapping[str, Any]
    """Resolved config of the run."""
    meter: Mapping[str, Any]
    """Sums since the last line of metrics, and totals."""
    versions: Mapping[str, str]
    """Code that wrote the checkpoint."""
    shards: int = 1
    """Files that the tensors are spread over."""


class CheckpointWriter:
    """Writes checkpoints beside the training; every process calls the same methods between the same steps.

    Parameters
    ----------
    run
        Folder of the run.
    trainee
        Network and processes.
    optimizer
        Its moments.
    keep
        Checkpoints to keep.
    newest
        Step of the newest checkpoint that is there, 0 for none.
    """

    def __init__(
        self,
        run: RunFolder,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        *,
        keep: int,
        newest: int,
    ) -> None:
        self._run, self._trainee, self._optimizer = run, trainee, optimizer
        self._keep, self._begun = keep, newest
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def is_written(self) -> bool:
        """Whether this process's share of a checkpoint that is under way is on disk.

        Raises
        ------
        OSError
            It could not be written; the checkpoint will never be named.
        """
        if self._thread is None or self._thread.is_alive():
            return False
        self._raise()
        return True

    def begin(self, snapshot: Snapshot) -> None:
        """Copy weights and moments, and let a thread write them; training may go on at once."""
        self.finish()
        if snapshot.step == self._begun:
            return
        pieces = dict(_pieces(self._trainee, self._optimizer))
        # The folder must be there, and empty, before any process writes into it.
        partial = self._partial(snapshot.step)
        if self._trainee.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        self._trainee.world.wait()
        self._thread = threading.Thread(
            target=self._write, args=(partial, pieces, snapshot), name="checkpoint", daemon=True
        )
        self._begun = snapshot.step
        self._thread.start()

    def commit(self) -> None:
        """Give the checkpoint its name, now that every process has written; then delete the oldest beyond `keep`."""
        self._thread = None
        if self._trainee.world.is_first:
            self._partial(self._begun).replace(checkpoint_path(self._run, self._begun))
            flush(self._run.checkpoints)
            for old in list_checkpoints(self._run)[: -self._keep]:
                # Renamed first, so that a kill in the middle leaves no half checkpoint behind.
                shutil.rmtree(old.rename(old.with_name(f".{old.name}{PARTIAL}")))

    def finish(self) -> None:
        """Wait for a checkpoint that is under way, in all processes."""
        if self._thread is not None:
            self._thread.join()
            self._raise()
            self._trainee.world.wait()
            self.commit()

    def _raise(self) -> None:
        if self._failure is not None:
            failure, self._failure, self._thread, self._begun = self._failure, None, None, -1
            raise failure

    def _partial(self, step: int) -> Path:
        final = checkpoint_path(self._run, step)
        return final.with_name(f".{final.name}{PARTIAL}")

    def _write(self, partial: Path, pieces: Mapping[str, "_Piece"], snapshot: Snapshot) -> None:
        world = self._trainee.world
        try:
            if pieces:
                _save(partial / _file_name(world.rank, snapshot.shards), pieces)
            if world.is_first:
                write_json(partial / STATE, {"format": FORMAT, **asdict(snapshot)})
                flush(partial / STATE)
            flush(partial)
        except BaseException as error:  # noqa: BLE001 - raised between two steps
            self._failure = error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """A process's share of a tensor, on the CPU."""

    tensor: Tensor
    offsets: tuple[int, ...]
    """Where it begins in the whole tensor, along each axis."""


def _file_name(rank: int, shards: int) -> str:
    return f"shard-{rank:05d}-of-{shards:05d}.safetensors"


def _pieces(trainee: Trainee, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, _Piece]]:
    """Copy what this process has to write: its shares; what all hold is written by the first."""
    for name, tensor in _tensors(trainee.network, optimizer):
        local = share(tensor.detach())
        if (is_share(tensor) and len(local)) or (not is_share(tensor) and trainee.world.is_first):
            start = first_row(tensor, trainee.world) if is_share(tensor) else 0
            offsets = (start, *[0] * (tensor.ndim - 1))[: tensor.ndim]
            yield name, _Piece(tensor=local.to("cpu", copy=True).contiguous(), offsets=offsets)


def _tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    n_states = 0
    for name, parameter in network.named_parameters():
        yield f"{MODEL}.{name}", parameter
        # A parameter that never had a gradient has no moments.
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{kind}.{name}", value
        n_states += parameter in optimizer.state
    # A network whose shares are put together has other parameters than those that were optimised.
    assert n_states == len(optimizer.state), "parameters of the optimiser are not in the network"


def _save(path: Path, pieces: Mapping[str, _Piece]) -> None:
    where = {name: {"saved_offsets": piece.offsets} for name, piece in pieces.items()}
    save_file(
        {name: piece.tensor for name, piece in pieces.items()},
        path,
        metadata={"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(where)},
    )
    flush(path)


def restore(
    run: RunFolder,
    step: int,
    *,
    config: Mapping[str, object],
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
) -> Snapshot:
    """Fill network and optimiser from a checkpoint of the same job and return what else it knows.

    Parameters
    ----------
    run
        Folder and vocabulary.
    step
        Of the checkpoint.
    config
        Resolved config.
    trainee, optimizer
        What is filled, whatever the world that wrote the checkpoint.

    Raises
    ------
    ResumeError
        The checkpoint is damaged, or of another job.
    """
    checkpoint = checkpoint_path(run, step)
    content = read_json(checkpoint / STATE)
    if content.pop("format", None) != FORMAT:
        msg = f"{checkpoint / STATE} is not of format {FORMAT}; it was written by another version of cellfm. Use that one."
        raise ResumeError(msg)
    try:
        snapshot = Snapshot(**content)
        check_same_job(run, config, found=snapshot.config, vocabulary=snapshot.vocabulary)
        _check_files(checkpoint, snapshot.shards)
        _load(checkpoint, trainee.network, optimizer)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, ResumeError):
            raise
        msg = f"{checkpoint} is damaged: {error}. Delete that folder to resume from the checkpoint before it."
        raise ResumeError(msg) from error
    return snapshot


def _check_files(checkpoint: Path, shards: int) -> None:
    """Find every file: torch's reader takes those that are there for all."""
    wanted = {_file_name(rank, shards) for rank in range(shards)}
    missing = sorted(wanted - {path.name for path in checkpoint.iterdir()})
    if missing:
        msg = f"{len(missing)} of its {shards} files are missing, first {missing[0]}"
        raise ValueError(msg)


@torch.no_grad()
def _load(checkpoint: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read into the tensors of this process, put together from the shares of whoever wrote them."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(checkpoint))
    found = reader.read_metadata()
    targets = _targets(set(found.state_dict_metadata), network, optimizer)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(targets, found, is_coordinator=True)
    reader.set_up_storage_reader(found, is_coordinator=True)
    plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
    reader.read_data(plan, planner).wait()


def _targets(
    names: set[str], network: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the tensors to read into: the weights, and new moments for what had some."""
    targets: dict[str, Tensor] = {}
    parameters = dict(network.named_parameters())
    fused = all(group["fused"] for group in optimizer.param_groups)
    for name, parameter in parameters.items():
        targets[f"{MODEL}.{name}"] = parameter.detach()
    for key in names - targets.keys():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        value = torch.zeros_like(parameter)
        if kind == "step":
            value = torch.zeros((), device=parameter.device if fused else None)
        optimizer.state[parameter][kind] = targets[key] = value
    return targets
