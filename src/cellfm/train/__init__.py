"""Pretraining: one loop, one step function, one state on disk."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellfm.train.checkpoint import CheckpointWriter, Snapshot
    from cellfm.train.evaluate import HeldOut, HeldOutScore
    from cellfm.train.loop import RunResult, pretrain
    from cellfm.train.optim import build_optimizer, clip_gradients
    from cellfm.train.parallel import Trainee, World, is_launched, open_world
    from cellfm.train.progress import RunProgress
    from cellfm.train.sampler import Sampler
    from cellfm.train.schedule import learning_rate
    from cellfm.train.state import RunFolder, list_checkpoints
    from cellfm.train.step import NonFiniteLossError, StepResult, train_step
    from cellfm.train.track import MetricsFile, Tracker, check_trackers

__all__ = [
    "CheckpointWriter",
    "HeldOut",
    "HeldOutScore",
    "MetricsFile",
    "NonFiniteLossError",
    "RunFolder",
    "RunProgress",
    "RunResult",
    "Sampler",
    "Snapshot",
    "StepResult",
    "Tracker",
    "Trainee",
    "World",
    "build_optimizer",
    "check_trackers",
    "clip_gradients",
    "is_launched",
    "learning_rate",
    "list_checkpoints",
    "open_world",
    "pretrain",
    "train_step",
]

_MODULES = {
    "Snapshot": "checkpoint",
    "CheckpointWriter": "checkpoint",
    "HeldOutScore": "evaluate",
    "HeldOut": "evaluate",
    "pretrain": "loop",
    "RunResult": "loop",
    "clip_gradients": "optim",
    "build_optimizer": "optim",
    "World": "parallel",
    "is_launched": "parallel",
    "open_world": "parallel",
    "Trainee": "parallel",
    "RunProgress": "progress",
    "Sampler": "sampler",
    "learning_rate": "schedule",
    "list_checkpoints": "state",
    "RunFolder": "state",
    "StepResult": "step",
    "train_step": "step",
    "NonFiniteLossError": "step",
    "Tracker": "track",
    "check_trackers": "track",
    "MetricsFile": "track",
}


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562): the plan of a run needs no torch."""
    if name in _MODULES:
        return getattr(import_module(f"cellfm.train.{_MODULES[name]}"), name)
    msg = f"module 'cellfm.train' has no attribute {name!r}"
    raise AttributeError(msg)
