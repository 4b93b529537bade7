"""The bar shows what is done; what an earlier run has done does not count towards the speed."""

import re
import time
from dataclasses import replace

import pytest

from cellfm.cli.progress import progress_bar, training_line
from cellfm.train import HeldOutScore, RunProgress

SCORE = HeldOutScore(
    name="donor=A",
    gene_loss=0.5,
    cell_loss=0.75,
    baselines={"gene_mean": 1.0, "pca": 0.625},
    gene_r2=0.5,
    n_scored=9,
)
NOW = RunProgress(
    step=40,
    n_steps=100,
    loss=1.25,
    scored_per_second=12_345.6,
    cells_per_second=78.9,
    mfu=0.42,
    wait_share=0.07,
    seconds_left=3_723.4,
    memory=3 * 2**29,
    skipped=0,
    held_out=(),
)


def test_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("embedding", unit="cells") as progress:
        progress(400, 1000)  # of an earlier run
        time.sleep(0.05)
        progress(500, 1000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "embedding" in shown.err
    assert "500/1000" in shown.err
    speed = float(re.findall(r"([\d,.]+) cells/s", shown.err)[-1].replace(",", ""))
    assert 0.0 < speed <= 100 / 0.05


def test_no_bar_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("embedding", unit="cells") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")


def test_training_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with training_line() as progress:
        progress(replace(NOW, skipped=3))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "40/100" in shown.err
    line = "loss 1.2500 · 12,346 scored/s · 79 cells/s · MFU 42% · wait 7% · 1.5 GiB · 1:02:03 left"
    assert f"{line} · 3 skipped" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.err)


def test_training_in_a_pipe_tells_of_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    with training_line() as progress:
        progress(NOW)
        progress(replace(NOW, held_out=(SCORE,)))
    assert capsys.readouterr() == (
        "",
        "step 40 of 100: donor=A gene-wise 0.5000, cell-wise 0.7500, gene_mean 1.0000, pca 0.6250\n",
    )


def test_a_process_that_is_told_nothing_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with training_line():
        pass
    assert capsys.readouterr() == ("", "")
