"""The README's two commands: the demo, and the tests as the checks run them."""

import re
import shlex
from pathlib import Path

import pytest

from cellfm.cli import app

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """Shell blocks of the README, long lines joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.replace("\\\n", " ") for block in BLOCK.findall(text)]


def commands(block: str) -> list[str]:
    """Single commands of a block, in one spelling."""
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    parts = [part for line in lines for part in re.split(r"&&|;", line)]
    return [" ".join(part.split()).removeprefix("$ ") for part in parts if part.strip()]


def test_the_first_block_runs_the_demo(blocks: list[str]) -> None:
    demo = commands(blocks[0])
    assert any("venv" in command for command in demo)
    assert any("pip install" in command and "constraints.txt" in command for command in demo)
    assert re.search(r"(^|/)cellfm demo", demo[-1])


def test_the_checks_run_the_second_block(blocks: list[str]) -> None:
    own = commands(blocks[1])
    assert any("pytest" in command for command in own)
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    if "README.md" in checks:
        return  # taken from the README when they run
    there = " ; ".join(commands(checks))
    # Where the environment is made may differ; what is installed and tested may not.
    missing = [
        command
        for command in own
        if not re.search(r"venv|activate", command) and command not in there
    ]
    assert not missing


def test_commands_that_are_shown_exist(blocks: list[str]) -> None:
    shown = [shlex.split(command) for block in blocks for command in commands(block)]
    own = [words[1:] for words in shown if words and Path(words[0]).name == "cellfm"]
    assert own
    for words in own:
        _, apps, _ = app.parse_commands(words)
        assert len(apps) > 1, words
