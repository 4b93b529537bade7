"""Pretraining: one loop, one step function, one state on disk."""

from cellfm.train.evaluate import HeldOut, HeldOutScore, evaluate
from cellfm.train.loop import RunResult, pretrain
from cellfm.train.optim import build_optimizer, clip_gradients
from cellfm.train.sampler import Sampler
from cellfm.train.schedule import learning_rate
from cellfm.train.state import RunFolder, list_checkpoints
from cellfm.train.step import NonFiniteLossError, StepResult, train_step
from cellfm.train.track import MetricsFile

__all__ = [
    "HeldOut",
    "HeldOutScore",
    "MetricsFile",
    "NonFiniteLossError",
    "RunFolder",
    "RunResult",
    "Sampler",
    "StepResult",
    "build_optimizer",
    "clip_gradients",
    "evaluate",
    "learning_rate",
    "list_checkpoints",
    "pretrain",
    "train_step",
]
