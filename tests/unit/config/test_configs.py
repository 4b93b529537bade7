import re

import pytest
import torch

from cellfm.config import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    ScheduleConfig,
    preset,
)
from cellfm.errors import ConfigError
from cellfm.nn import CellFM

SHAPE = {"n_genes": 8, "dim": 4, "n_layers": 1, "n_heads": 2}


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (DataConfig, {"token_budget": 0}, "DataConfig.token_budget is 0; it must be at least 1."),
        (DataConfig, {"held_out": 1.0}, "DataConfig.held_out is 1.0; it must be in [0, 1)."),
        (
            DataConfig,
            {"scored_fraction": 0.0},
            "DataConfig.scored_fraction is 0.0; it must be in (0, 1].",
        ),
        (
            DataConfig,
            {"hidden_fraction": 1.1},
            "DataConfig.hidden_fraction is 1.1; it must be in [0, 1].",
        ),
        (
            DataConfig,
            {"genes_per_cell": 0},
            "DataConfig.genes_per_cell is 0; it must be at least 1.",
        ),
        (
            ObjectiveConfig,
            {"detection": -0.1},
            "ObjectiveConfig.detection is -0.1; it must be in [0, ∞).",
        ),
        (
            ObjectiveConfig,
            {"detection": float("inf")},
            "ObjectiveConfig.detection is inf; it must be",
        ),
        (DataConfig, {"lanes": 0}, "DataConfig.lanes is 0; it must be at least 1."),
        (DataConfig, {"window_rows": 0}, "DataConfig.window_rows is 0; it must be at least 1."),
        (DataConfig, {"length_buckets": 0}, "DataConfig.length_buckets is 0; it must be"),
        (DataConfig, {"prefetch": -1}, "DataConfig.prefetch is -1; it must be at least 0."),
        (DataConfig, {"held_out_cells": 0}, "DataConfig.held_out_cells is 0; it must be"),
        (
            DataConfig,
            {"where": ("tissue=blood", "=lung")},
            "DataConfig.where has '=lung'; expected COLUMN=VALUE, COLUMN=VALUE|VALUE or COLUMN!=VALUE",
        ),
        (DataConfig, {"where": ("blood",)}, "DataConfig.where has 'blood'; expected COLUMN=VALUE"),
        (
            DataConfig,
            {"weights": {"pbmc": -1.0}},
            "DataConfig.weights of 'pbmc' is -1.0; it must be in [0, ∞)",
        ),
        (
            ScheduleConfig,
            {"n_steps": 10, "kind": "wsd", "decay_fraction": 1.5},
            "ScheduleConfig.decay_fraction is 1.5; it must be in [0, 1].",
        ),
        (
            ScheduleConfig,
            {"n_steps": 10, "kind": "wsd", "warmup_steps": 6, "decay_fraction": 0.5},
            "ScheduleConfig.warmup_steps 6 and the 5 steps of the decay (decay_fraction 0.5) are more than n_steps 10.",
        ),
        (RunConfig, {"max_skipped": -1}, "RunConfig.max_skipped is -1; it must be at least 0."),
        (OptimConfig, {"lr": 0.0}, "OptimConfig.lr is 0.0; it must be in (0, ∞)."),
        (OptimConfig, {"lr": float("nan")}, "OptimConfig.lr is nan; it must be in (0, ∞)."),
        (OptimConfig, {"eps": 0.0}, "OptimConfig.eps is 0.0; it must be in (0, ∞)."),
        (
            OptimConfig,
            {"betas": (0.9, 1.0)},
            "OptimConfig.betas is (0.9, 1.0); it must be in [0, 1).",
        ),
        (
            OptimConfig,
            {"weight_decay": -1.0},
            "OptimConfig.weight_decay is -1.0; it must be in [0, ∞).",
        ),
        (OptimConfig, {"clip_norm": 0.0}, "OptimConfig.clip_norm is 0.0; it must be in (0, ∞)."),
        (ScheduleConfig, {"n_steps": 0}, "ScheduleConfig.n_steps is 0; it must be at least 1."),
        (
            ScheduleConfig,
            {"n_steps": 1, "final_fraction": 2.0},
            "ScheduleConfig.final_fraction is 2.0; it must be in [0, 1].",
        ),
        (
            ScheduleConfig,
            {"n_steps": 5, "warmup_steps": 6},
            "ScheduleConfig.warmup_steps 6 is more than n_steps 5; the highest learning rate would never be reached.",
        ),
        (
            RunConfig,
            {"keep_checkpoints": 0},
            "RunConfig.keep_checkpoints is 0; it must be at least 1.",
        ),
        (RunConfig, {"seed": -1}, "RunConfig.seed is -1; it must be at least 0."),
        (ModelConfig, {**SHAPE, "n_genes": 0}, "ModelConfig.n_genes is 0; it must be at least 1."),
        (ModelConfig, {**SHAPE, "n_heads": 3}, "ModelConfig.dim 4 is not a multiple of n_heads 3"),
        (
            ModelConfig,
            {**SHAPE, "dropout": 1.0},
            "ModelConfig.dropout is 1.0; it must be in [0, 1).",
        ),
        (
            ModelConfig,
            {**SHAPE, "zero_heads": True, "decoders": False},
            "ModelConfig.zero_heads is true but decoders is false",
        ),
        (
            ModelConfig,
            {**SHAPE, "detection_head": True, "decoders": False},
            "ModelConfig.detection_head is true but decoders is false",
        ),
        (
            PretrainConfig,
            {
                "model": ModelConfig(**SHAPE),
                "schedule": ScheduleConfig(n_steps=1),
                "objective": ObjectiveConfig(detection=0.5),
            },
            "PretrainConfig.objective.detection is 0.5, but the model has no head for it. Set model.detection_head=true, or",
        ),
        (
            PretrainConfig,
            {"model": ModelConfig(**SHAPE, decoders=False), "schedule": ScheduleConfig(n_steps=1)},
            "PretrainConfig.model.decoders is false, but masked-expression recovery needs the decoders. Set model.decoders=true.",
        ),
    ],
)
def test_what_cannot_work_is_refused(config, fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**fields)


@pytest.mark.parametrize("head", ["detection_head", "zero_heads"])
def test_either_head_can_tell_which_genes_there_are(head):
    schedule, objective = ScheduleConfig(n_steps=1), ObjectiveConfig(detection=0.5)
    model = ModelConfig(**SHAPE, **{head: True})
    config = PretrainConfig(model=model, schedule=schedule, objective=objective)
    assert hasattr(CellFM(config.model), "cell_zero_decoder")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (preset("80m"), 86_193_666),
        (preset("800m"), 804_937_219),
        (
            ModelConfig(n_genes=24_078, dim=1536, n_layers=40, n_heads=48, depth_tokens=False),
            797_391_105,
        ),
    ],
    ids=["80m", "800m", "800m of the paper's code"],
)
def test_parameters_of_the_published_shapes(config, expected):
    with torch.device("meta"):
        network = CellFM(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("n_genes", "rows"), [(7, 8), (8, 16), (24_078, 24_080), (27_855, 27_856)])
def test_gene_rows(n_genes, rows):
    assert ModelConfig(**{**SHAPE, "n_genes": n_genes}).n_rows == rows


def test_mini_has_heads_of_the_published_width():
    mini = preset("mini")
    assert mini.dim // mini.n_heads == 32
