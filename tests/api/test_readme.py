"""The README's two commands: the demo, and the tests as the checks run them."""

import operator
import re
import shlex
from pathlib import Path

import pytest

import cellfm
from cellfm.cli import app

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)

MARK = "<!-- test -->"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """Shell blocks of the README, long lines joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.replace("\\\n", " ") for block in BLOCK.findall(text)]


def commands(block: str) -> list[str]:
    """Single commands of a block, in one spelling."""
    lines = [re.sub(r"(^|\s)#\s.*", "", line) for line in block.splitlines()]
    parts = [part for line in lines for part in re.split(r"&&|;", line)]
    return [" ".join(part.split()).removeprefix("$ ") for part in parts if part.strip()]


def test_the_first_block_runs_the_demo(blocks: list[str]) -> None:
    demo = commands(blocks[0])
    assert any("venv" in command for command in demo)
    assert any("pip install" in command and "constraints.txt" in command for command in demo)
    assert re.search(r"(^|/)cellfm demo", demo[-1])


def test_the_checks_run_the_second_block(blocks: list[str]) -> None:
    own = commands(blocks[1])
    assert any("pip install" in command and "constraints.txt" in command for command in own)
    assert any("pytest" in command for command in own)
    # .ci/run takes the block behind this mark, whatever it says.
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"/^{MARK}$/,/^```$/p' README.md" in checks
    _, mark, behind = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n{MARK}\n")
    assert mark
    assert behind.startswith("```")
    assert commands(BLOCK.findall(behind)[0].replace("\\\n", " ")) == own


def test_commands_that_are_shown_exist(blocks: list[str]) -> None:
    shown = [shlex.split(command) for block in blocks for command in commands(block)]
    own = [words[1:] for words in shown if words and Path(words[0]).name == "cellfm"]
    assert len(own) > 1
    for words in own:
        # Names and options are checked here, nothing is run.
        command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("cellfm.cli.")


def test_python_that_is_shown_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    compile(code, "README.md", "exec")
    used = set(re.findall(r"\bcellfm((?:\.\w+)+)\(", code))
    assert len(used) > 1
    for path in used:
        assert callable(operator.attrgetter(path[1:])(cellfm))
