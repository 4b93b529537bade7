"""What a pretraining run will take, before it is started: arithmetic only, no torch."""

from cellfm.train.plan.forecast import plan
from cellfm.train.plan.hardware import GPUS, Gpu, find_gpu
from cellfm.train.plan.memory import Memory, saved_bytes, training_memory, weight_copies
from cellfm.train.plan.outline import Checkpoints, Loader, Plan, Schedule, Speed, Work
from cellfm.train.plan.parameters import Parameters, count_parameters
from cellfm.train.plan.products import BatchShape, flops

__all__ = [
    "GPUS",
    "BatchShape",
    "Checkpoints",
    "Gpu",
    "Loader",
    "Memory",
    "Parameters",
    "Plan",
    "Schedule",
    "Speed",
    "Work",
    "count_parameters",
    "find_gpu",
    "flops",
    "plan",
    "saved_bytes",
    "training_memory",
    "weight_copies",
]
