"""Frozen configs and the recipes they are read from; no torch here."""

from cellfm.config.load import from_dict, load, preset, presets, to_dict
from cellfm.config.model import ModelConfig
from cellfm.config.pretrain import (
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    ScheduleConfig,
)

__all__ = [
    "DataConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
    "ScheduleConfig",
    "from_dict",
    "load",
    "preset",
    "presets",
    "to_dict",
]
