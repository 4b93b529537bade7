from cellfm.train import MetricsFile, StepResult
from cellfm.train.track import Meter

STEP = StepResult(loss=3.0, gene_loss=1.0, cell_loss=2.0, grad_norm=4.0, n_cells=5, n_tokens=100)


def test_meter_gives_means_since_the_last_line_and_totals():
    meter = Meter()
    meter.add(STEP, seconds=1.0)
    meter.add(
        StepResult(loss=5.0, gene_loss=2.0, cell_loss=3.0, grad_norm=0.0, n_cells=1, n_tokens=10),
        seconds=2.0,
    )
    expected = {"loss": 4.0, "gene_loss": 1.5, "cell_loss": 2.5, "grad_norm": 2.0}
    assert meter.read() == {
        **expected,
        "cells": 6,
        "tokens": 110,
        "seconds": 3.0,
        "cells_per_second": 2.0,
    }
    meter.add(STEP, seconds=0.5)
    line = meter.read()
    assert (line["loss"], line["cells"], line["cells_per_second"], line["seconds"]) == (
        3.0,
        11,
        10.0,
        3.5,
    )


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
