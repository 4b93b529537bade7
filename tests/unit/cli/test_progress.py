"""The bar shows what is done; what an earlier run has done does not count towards the speed."""

import re
import time

import pytest

from cellfm.cli.progress import progress_bar


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
