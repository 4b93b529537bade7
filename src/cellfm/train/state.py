"""State of a run on disk: checkpoints that are whole or absent, and the check that a run goes on as it began."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cellfm.errors import ResumeError

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
PREFIX, PARTIAL = "step-", ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where a run lives, and the vocabulary its tokens belong to."""

    path: Path
    """Folder of the run; made when absent, resumed from when it holds a checkpoint."""
    vocabulary_hash: str
    """``Vocabulary.hash`` of the gene list behind the batches."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """File of the metrics."""
        return self.path / "metrics.jsonl"


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


def code_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    try:
        own = metadata.version("cellfm")
    except metadata.PackageNotFoundError:  # run from a source tree that was not installed
        own = "unknown"
    return {"cellfm": own, "torch": torch.__version__, "python": platform.python_version()}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


class Opened(NamedTuple):
    """A run folder that is ready."""

    checkpoint: Path | None
    """The newest checkpoint to go on from, if there is one."""
    routed: bool
    """Whether the run takes the faster float32 products; found out once, so that a resumed run computes the same."""


def open_run(run: RunFolder, config: Mapping[str, object], *, pays: Callable[[], bool]) -> Opened:
    """Make a run folder, or check that the one there belongs to the same job.

    Parameters
    ----------
    run
        Folder and vocabulary.
    config
        Resolved config, of :func:`cellfm.config.to_dict`.
    pays
        Tells a new run whether the faster float32 products are to be taken.
    """
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for left_over in run.checkpoints.glob(f".*{PARTIAL}"):
        shutil.rmtree(left_over)
    config_file, run_file = run.path / "config.json", run.path / "run.json"
    if run_file.exists() and config_file.exists():
        begun = _read_json(run_file)
        _check_same_job(
            run, config, found=_read_json(config_file), vocabulary=begun.get("vocabulary")
        )
    else:
        write_json(config_file, config)
        begun = {
            "format": FORMAT,
            "vocabulary": run.vocabulary_hash,
            "versions": code_versions(),
            "routed": pays(),
        }
        write_json(run_file, begun)
    newest = list_checkpoints(run)[-1:]
    return Opened(newest[0] if newest else None, begun.get("routed") is True)


def list_checkpoints(run: RunFolder) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(path for path in run.checkpoints.glob(f"{PREFIX}*") if path.is_dir())


def save_checkpoint(
    run: RunFolder,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    snapshot: Snapshot,
    *,
    keep: int,
) -> Path:
    """Write a checkpoint under a temporary name, rename it, then delete the oldest beyond `keep`."""
    final = run.checkpoints / f"{PREFIX}{snapshot.step:08d}"
    if not final.exists():
        partial = run.checkpoints / f".{final.name}{PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file(
            {name: x.detach().cpu() for name, x in network.state_dict().items()}, partial / MODEL
        )
        save_file(dict(_moments(network, optimizer)), partial / OPTIMIZER)
        write_json(partial / STATE, {"format": FORMAT, **asdict(snapshot)})
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        partial.replace(final)
        _flush(run.checkpoints)
    for old in list_checkpoints(run)[:-keep]:
        # Renamed first, so that a kill in the middle leaves no half checkpoint behind.
        shutil.rmtree(old.rename(run.checkpoints / f".{old.name}{PARTIAL}"))
    return final


def restore(
    checkpoint: Path,
    run: RunFolder,
    *,
    config: Mapping[str, object],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Snapshot:
    """Fill network and optimiser from a checkpoint of the same job and return what else it knows."""
    content = _read_json(checkpoint / STATE)
    if content.pop("format", None) != FORMAT:
        msg = f"{checkpoint / STATE} is not of format {FORMAT}; it was written by another version of cellfm. Use that one."
        raise ResumeError(msg)
    try:
        snapshot = Snapshot(**content)
        _check_same_job(run, config, found=snapshot.config, vocabulary=snapshot.vocabulary)
        tensors, moments = load_file(checkpoint / MODEL), load_file(checkpoint / OPTIMIZER)
        _load_moments(network, optimizer, moments)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, TypeError, KeyError, RuntimeError) as error:
        if isinstance(error, ResumeError):
            raise
        msg = f"{checkpoint} is damaged: {error}. Delete that folder to resume from the checkpoint before it."
        raise ResumeError(msg) from error
    return snapshot


def _named_parameters(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[int, str, nn.Parameter]]:
    """Yield the number that the optimiser gives a parameter, its name, and itself."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    yield from ((i, names[id(parameter)], parameter) for i, parameter in enumerate(ordered))


def _moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for _, name, parameter in _named_parameters(network, optimizer):
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{kind}.{name}", value.detach().cpu()


def _load_moments(
    network: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
) -> None:
    per_name: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        kind, _, name = key.partition(".")
        per_name.setdefault(name, {})[kind] = value
    # A parameter that never had a gradient has no moments.
    state = {
        i: per_name[name]
        for i, name, _ in _named_parameters(network, optimizer)
        if name in per_name
    }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _check_same_job(
    run: RunFolder, config: Mapping[str, object], *, found: Mapping[str, object], vocabulary: object
) -> None:
    wanted, there = dict(_flat(config)), dict(_flat(found))
    differing = [
        f"{key} ({there.get(key, 'absent')} there, {wanted.get(key, 'absent')} now)"
        for key in sorted(wanted.keys() | there.keys())
        if wanted.get(key) != there.get(key)
    ]
    if vocabulary != run.vocabulary_hash:
        differing.append(
            f"vocabulary ({str(vocabulary)[:12]} there, {run.vocabulary_hash[:12]} now)"
        )
    if differing:
        msg = (
            f"{run.path} holds a run with other settings: {', '.join(differing)}. "
            "Resume with the settings it began with, or choose a new folder."
        )
        raise ResumeError(msg)


def _flat(content: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {error}. It belongs to a damaged run or checkpoint; delete that or choose a new folder."
        raise ResumeError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds {type(content).__name__}, not an object; it was not written by cellfm. Choose a new folder."
        raise ResumeError(msg)
    return content


def _flush(path: Path) -> None:
    """Make a file or folder survive a power cut before the rename that makes it count."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
