import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cellfm.errors import MissingDependencyError
from cellfm.train import MetricsFile, StepResult
from cellfm.train.throughput import memory_bytes, peak_flops
from cellfm.train.track import Meter, check_trackers, open_trackers

STEP = StepResult(
    loss=3.0, gene_loss=1.0, cell_loss=2.0, grad_norm=4.0, n_cells=5, n_tokens=100, n_scored=20
)
SECOND = StepResult(
    loss=5.0, gene_loss=2.0, cell_loss=3.0, grad_norm=0.0, n_cells=1, n_tokens=10, n_scored=4
)
HELD_OUT = {"kind": "held_out", "step": 2, "set": "donor=A", "gene_loss": 0.5}


def test_meter_gives_means_since_the_last_line_and_totals():
    meter = Meter()
    meter.add(STEP, seconds=1.0, waited=0.25, flops=30.0)
    meter.add(SECOND, seconds=2.0, waited=0.5, flops=30.0)
    expected = {"loss": 4.0, "gene_loss": 1.5, "cell_loss": 2.5, "grad_norm": 2.0}
    assert meter.read(peak=100.0) == {
        **expected,
        "cells": 6,
        "tokens": 110,
        "scored": 24,
        "skipped": 0,
        "seconds": 3.0,
        "cells_per_second": 2.0,
        "scored_per_second": 8.0,
        "wait_share": 0.25,
        "mfu": 0.2,
    }
    meter.add(STEP, seconds=0.5)
    line = meter.read()
    assert (line["loss"], line["cells"], line["cells_per_second"], line["seconds"]) == (
        3.0,
        11,
        10.0,
        3.5,
    )
    assert "mfu" not in line


def test_skipped_steps_are_counted_and_leave_the_means_alone():
    meter = Meter()
    for result in (STEP, replace(STEP, loss=math.nan), replace(STEP, grad_norm=math.inf)):
        meter.add(result, seconds=1.0)
    assert (meter.skipped, meter.skipped_in_a_row) == (2, 2)
    line = meter.read()
    assert (line["loss"], line["skipped"], line["cells"]) == (3.0, 2, 15)
    meter.add(STEP, seconds=1.0)
    assert (meter.skipped, meter.skipped_in_a_row) == (2, 0)
    meter.read()
    meter.add(replace(STEP, loss=math.nan), seconds=1.0)
    assert "loss" not in meter.read()


def test_metrics_are_cut_back(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert metrics.read() == []
    for step in (1, 2, 2, 3):
        metrics.write({"kind": "train", "step": step})
    with metrics.path.open("a") as file:
        file.write('{"kind"')
    metrics.cut(2)
    assert [line["step"] for line in metrics.read()] == [1, 2, 2]
    metrics.cut(0)
    assert metrics.path.read_text() == ""


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("wandb", "pip install wandb"),
        ("tensorboard", r"pip install 'cellfm\[track\]'"),
    ],
)
def test_a_tracker_that_is_not_installed(monkeypatch, name, install):
    monkeypatch.setattr("cellfm.train.track.find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError,
        match=f"run.trackers asks for {name}, which is not installed: {install}, or leave it out",
    ):
        check_trackers([name])


def test_no_run_begins_without_its_tracker(job, monkeypatch):
    monkeypatch.setattr("cellfm.train.track.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError):
        job.changed("run", trackers=("wandb",)).train("run")
    assert not list(job.root.iterdir())


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, value in ((0, 1.0), (2, 2.0)):
        (board,) = open_trackers(["tensorboard"], tmp_path, step=step, identity="x", config={})
        board.write({**HELD_OUT, "step": step + 1, "gene_loss": value})
        board.write({"kind": "train", "step": step + 1, "loss": value})
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"held_out/donor=A/gene_loss", "train/loss"}
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (3, 2.0)]


def test_weights_and_biases(tmp_path, monkeypatch):
    """Its calls, on a stand-in: the real one wants an account."""
    calls = []

    def init(**options):
        calls.append(options)
        return SimpleNamespace(
            log=lambda line, step: calls.append((line, step)), finish=lambda: calls.append("end")
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=object()))
    (tracker,) = open_trackers(
        ["wandb"], tmp_path / "mini", step=0, identity="ab12", config={"a": 1}
    )
    tracker.write(HELD_OUT)
    tracker.close()
    assert calls[0]["id"] == "ab12"
    assert (calls[0]["name"], calls[0]["resume"], calls[0]["config"]) == ("mini", "allow", {"a": 1})
    assert calls[1:] == [({"held_out/donor=A/gene_loss": 0.5}, 2), "end"]


def test_peak_and_memory_are_those_of_a_machine():
    device = torch.device("cpu")
    assert 1e8 < peak_flops(device, "fp32", torch.get_num_threads()) < 1e14
    assert memory_bytes(device) > 2**20
