"""A file of simulated counts and a random model, made once by the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cellfm.cli import run
from tests.e2e import simulate


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cellfm = Callable[..., Outcome]


@pytest.fixture
def cellfm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cellfm:
    """The command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = run([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate.counts(tmp_path_factory.mktemp("counts") / "simulated.h5ad")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "random"
    assert run(["weights", "new", "debug", str(folder)]) == 0
    return folder
