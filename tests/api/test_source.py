"""House rules that no linter knows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 600, 60


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's statements; signature and docstring are read in the documentation."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    long = {
        node.name: body_lines(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > LONGEST_FUNCTION
    }
    assert not long


def test_the_longest_function_is_found() -> None:
    lines = "\n".join(f"    x = {i}" for i in range(61))
    (function,) = ast.parse(f'def f():\n    """Say."""\n{lines}\n').body
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 61


LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|/(home|root|tmp|work|opt)/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_is_left_over(path: Path) -> None:
    found = [
        line for line in path.read_text(encoding="utf-8").splitlines() if LEFT_OVER.search(line)
    ]
    assert not found
