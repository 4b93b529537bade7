"""State of a run on disk: the check that a run goes on as it began, and its JSON files."""

import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cellfm.config.load import from_dict, to_dict
from cellfm.config.pretrain import PretrainConfig
from cellfm.errors import ConfigError, ResumeError
from cellfm.train.parallel import World

FORMAT = 2
PREFIX, PARTIAL = "step-", ".partial"
FREE = {
    "data.prefetch",
    "run.activation_checkpointing",
    "run.compile",
    "run.keep_checkpoints",
    "run.max_skipped",
    "run.parallel",
    "run.trackers",
}
"""Settings that say how a run is computed, not what: a resumed run may have others."""


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

    @property
    def about(self) -> Path:
        """File of what was found out at the start."""
        return self.path / "run.json"


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
    """A run folder that is ready; the same in every process."""

    step: int
    """Steps of the newest checkpoint to go on from, 0 if there is none."""
    routed: bool
    """Whether the run takes the faster float32 products; found out once, so that a resumed run computes the same."""
    untrained: bool
    """Whether the scores of the untrained network are known."""


def open_run(
    run: RunFolder, config: Mapping[str, object], *, pays: Callable[[], bool], world: World
) -> Opened:
    """Make a run folder, or check that the one there belongs to the same job; the first process does.

    Parameters
    ----------
    run
        Folder and vocabulary.
    config
        Resolved config, of :func:`cellfm.config.to_dict`.
    pays
        Tells a new run whether the faster float32 products are to be taken.
    world
        The processes.
    """
    step, begun = 0, dict[str, Any]()
    if world.is_first:
        begun = _open(run, config, pays=pays)
        newest = list_checkpoints(run)[-1:]
        step = step_of(newest[0]) if newest else 0
    return Opened(
        world.from_first(step),
        world.from_first(begun.get("routed") is True) == 1,
        world.from_first("untrained" in begun) == 1,
    )


def _open(
    run: RunFolder, config: Mapping[str, object], *, pays: Callable[[], bool]
) -> dict[str, Any]:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for left_over in run.checkpoints.glob(f".*{PARTIAL}"):
        shutil.rmtree(left_over)
    config_file = run.path / "config.json"
    if run.about.exists() and config_file.exists():
        begun = read_json(run.about)
        check_same_job(
            run, config, found=read_json(config_file), vocabulary=begun.get("vocabulary")
        )
        return begun
    write_json(config_file, config)
    begun = {
        "format": FORMAT,
        "id": secrets.token_hex(4),
        "vocabulary": run.vocabulary_hash,
        "versions": code_versions(),
        "routed": pays(),
    }
    write_json(run.about, begun)
    return begun


def add_to_run(run: RunFolder, **found: object) -> None:
    """Write more down about a run: what was found out once at its start."""
    write_json(run.about, {**read_json(run.about), **found})


def list_checkpoints(run: RunFolder) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(path for path in run.checkpoints.glob(f"{PREFIX}*") if path.is_dir())


def checkpoint_path(run: RunFolder, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return run.checkpoints / f"{PREFIX}{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the steps a checkpoint has taken, by its name."""
    return int(checkpoint.name.removeprefix(PREFIX))


def check_same_job(
    run: RunFolder, config: Mapping[str, object], *, found: Mapping[str, object], vocabulary: object
) -> None:
    """Refuse to go on with other settings or genes.

    Raises
    ------
    ResumeError
        Naming every setting that differs.
    """
    wanted, there = dict(_flat(config)), dict(_flat(_complete(found)))
    differing = [
        f"{key} ({there.get(key, 'absent')} there, {wanted.get(key, 'absent')} now)"
        for key in sorted(wanted.keys() | there.keys())
        if key not in FREE and wanted.get(key) != there.get(key)
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


def _complete(found: Mapping[str, object]) -> Mapping[str, object]:
    """Give settings that an earlier version did not know their defaults, which stand for what it did."""
    try:
        return to_dict(from_dict(PretrainConfig, found))
    except ConfigError:
        return found  # settings that this version does not know: they differ, and are named


def _flat(content: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that belongs to a run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {error}. It belongs to a damaged run or checkpoint; delete that or choose a new folder."
        raise ResumeError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds {type(content).__name__}, not an object; it was not written by cellfm. Choose a new folder."
        raise ResumeError(msg)
    return content


def flush(path: Path) -> None:
    """Make a file or folder survive a power cut before the rename that makes it count."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
