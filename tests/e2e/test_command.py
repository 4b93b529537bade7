"""Exit codes, help and the frame around every command."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cellfm import __version__
from cellfm import cli as cellfm_cli
from cellfm.errors import CellFMError
from tests.e2e.conftest import Cellfm


def test_version(cellfm: Cellfm) -> None:
    assert cellfm("--version") == (0, f"{__version__}\n", "")


def test_help_lists_the_commands(cellfm: Cellfm) -> None:
    for words in ([], ["--help"]):
        outcome = cellfm(*words)
        assert outcome.code == 0
        for command in ("demo", "embed", "genes", "pretrain", "weights"):
            assert command in outcome.out
        assert "Exit codes" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embd"], 'Did you mean "embed"?'),
        (["embed", "a.h5ad"], "--target"),
        (["embed", "a.h5ad", "b.h5ad", "--modl", "c"], "Did you mean --model?"),
        (["embed", "a.h5ad", "b.h5ad", "--model", "c", "--scale", "raw"], "raw"),
    ],
)
def test_mistyped_commands_end_with_two(cellfm: Cellfm, words: list[str], message: str) -> None:
    outcome = cellfm(*words)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_debug_shows_where(cellfm: Cellfm, tmp_path: Path) -> None:
    words = ["genes", "check", tmp_path / "absent.h5ad"]
    assert "Traceback" not in cellfm(*words).err
    outcome = cellfm("--debug", *words)
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert "cellfm: There is no file" in outcome.err


def raising(error: BaseException) -> Callable[..., None]:
    def app(*_: object, **__: object) -> None:
        raise error

    app.parse_commands = cellfm_cli.app.parse_commands  # type: ignore[attr-defined]
    return app


def test_interruption_and_failing_disk(cellfm: Cellfm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellfm_cli, "app", raising(KeyboardInterrupt()))
    outcome = cellfm("embed")
    assert outcome.code == 130
    assert "Interrupted. The same command given again goes on" in outcome.err
    outcome = cellfm("pretrain", "mini", "store")
    assert "The same command with --resume goes on" in outcome.err
    assert "begins anew" in cellfm("annotate", "query.h5ad").err
    monkeypatch.setattr(cellfm_cli, "app", raising(OSError(28, "No space left on device")))
    outcome = cellfm("embed")
    assert outcome.code == 1
    assert "No space left on device" in outcome.err
    assert (
        outcome.err.splitlines()[-1]
        == "Free some space, or choose a place on another disk. Where it happened in the program: --debug."
    )


def test_notes_of_an_error_are_shown(cellfm: Cellfm, monkeypatch: pytest.MonkeyPatch) -> None:
    error = CellFMError("The list is wrong.")
    error.add_note("It is genes.csv.")
    monkeypatch.setattr(cellfm_cli, "app", raising(error))
    outcome = cellfm("embed")
    assert (outcome.code, outcome.err) == (2, "cellfm: The list is wrong.\nIt is genes.csv.\n")


def test_terminals_get_a_frame(cellfm: Cellfm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take the stream for a terminal
    monkeypatch.setattr(cellfm_cli, "app", raising(CellFMError("Wrong [bold]list[/bold].")))
    outcome = cellfm("embed")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.err)
    assert "─ Error ─" in plain
    assert "Wrong [bold]list[/bold]." in plain


def test_installed_script() -> None:
    script = Path(sys.executable).with_name("cellfm")
    if not script.exists():
        pytest.skip("cellfm is not installed as a script here")
    done = subprocess.run([script, "embd"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
