"""Every error message ends in a next step, and the page of them is complete."""

import ast
import importlib.util
import re
import sys

import pytest

from cellfm import errors
from tests.api.test_source import ROOT


def load_tool():
    """Import a file that is not in a package."""
    spec = importlib.util.spec_from_file_location("list_errors", ROOT / "tools" / "list_errors.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["list_errors"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
VERBS = [
    "draw",
    "say",
    "unset",
    "loosen",
    "compare",
    "change",
    "restore",
    "go",
    "recover",
    "colour",
    "predict",
    "score",
    "separate",
    "wrap",
    "prefer",
    "widen",
    "accept",
    "add",
    "allow",
    "annotate",
    "ask",
    "build",
    "call",
    "check",
    "choose",
    "clear",
    "close",
    "collect",
    "convert",
    "copy",
    "correct",
    "count",
    "cut",
    "decompress",
    "delete",
    "download",
    "drop",
    "embed",
    "exclude",
    "export",
    "fetch",
    "filter",
    "find",
    "finish",
    "fit",
    "fix",
    "follow",
    "free",
    "get",
    "give",
    "import",
    "import",
    "install",
    "join",
    "keep",
    "leave",
    "let",
    "list",
    "load",
    "log",
    "look",
    "lower",
    "make",
    "map",
    "merge",
    "move",
    "name",
    "open",
    "pass",
    "pick",
    "point",
    "pool",
    "prepare",
    "pretrain",
    "print",
    "put",
    "raise",
    "read",
    "recode",
    "remove",
    "rename",
    "repeat",
    "replace",
    "report",
    "restart",
    "run",
    "save",
    "see",
    "select",
    "set",
    "shorten",
    "simulate",
    "sort",
    "split",
    "start",
    "state",
    "stop",
    "store",
    "subset",
    "take",
    "train",
    "transpose",
    "try",
    "turn",
    "unpack",
    "unzip",
    "update",
    "upgrade",
    "use",
    "wait",
    "write",
]
LEAD = r"(?:(?:If|To|For|With|Where|When|Otherwise|Or|Then|First|Else|On|In)\b[^.;:,]*[,:] |(?:Or|Then|First|Either|Otherwise) )"
STEP = re.compile(
    rf"(?:^|[;:] (?:or |then |and )?|, (?:or|and|then) ){LEAD}?(?:{'|'.join(VERBS)})\b(?! (?:in {{|(?:is|are|has|have|was|were|must|of|go|come|holds|cannot)\b))",
    re.IGNORECASE,
)
PASSED_ON = re.compile(r"\{\w+Error\}$")
COMMAND = re.compile(r"cellfm [a-z]+|--[a-z][a-z-]+\b")


def is_step(sentence):
    """Whether it says what to do: an imperative begins it or one of its clauses, or it names a command or an option of one."""
    return bool(STEP.search(sentence) or COMMAND.search(sentence) or PASSED_ON.search(sentence))


@pytest.fixture(scope="module")
def package():
    return tool.Package.read()


def test_every_message_ends_in_a_next_step(package):
    without = [
        f"{one.module}:{one.line} {one.text}"
        for one in package.messages()
        if not is_step(one.next_step)
    ]
    assert without == []


def test_the_page_is_complete(package):
    made = tool.page(package)
    assert tool.PAGE.read_text(encoding="utf-8") == made, "run python tools/list_errors.py"


def test_the_whole_tree_is_found(package):
    defined = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert defined < set(package.kinds)
    assert "NonFiniteLossError" in package.kinds
    assert {one.kind for one in package.messages()} >= defined - {"CellFMError"}


def test_every_class_that_is_raised_is_read(package):
    """A class of the tree may be made with a message only: nothing is raised without one, or under another name."""
    for module in package.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                assert node.exc.id not in package.kinds, f"{module.name}:{node.lineno}"
            if isinstance(node, ast.Call) and tool._called(node.func) in package.kinds:
                assert node.args, f"{module.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module == "cellfm.errors":
                assert not any(alias.asname for alias in node.names)


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("Check the path.", True),
        ("If it is damaged, get it again.", True),
        ("It is damaged: get it again.", True),
        ("'cellfm weights get' downloads it again.", True),
        ("{CountsError}", True),
        ("It has 3 columns.", False),
        ("Expected a file of checks.", False),
        ("The choice is checked.", False),
        ("drop is 3; expected columns.", False),
        ("{error}", False),
    ],
)
def test_what_counts_as_a_next_step(sentence, says):
    assert is_step(sentence) is says


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ('raise DataError(f"{a.b} is {c!r}. Go.")', ["{b} is {c}. Go."]),
        ('msg = "A. Go."\n    raise DataError(msg)', ["A. Go."]),
        (
            'msg = "A." if x else "B."\n    msg += " Go."\n    raise DataError(msg)',
            ["A. Go.", "B. Go."],
        ),
        ("raise DataError(said())", ["Said."]),
    ],
)
def test_how_messages_are_read(tmp_path, body, texts):
    (tmp_path / "m.py").write_text(
        "class CellFMError(Exception):\n    pass\n\nclass DataError(CellFMError):\n    pass\n\n"
        f'def said():\n    return "Said."\n\ndef f(c):\n    {body}\n'
    )
    assert [one.text for one in tool.Package.read(tmp_path).messages()] == texts


def test_a_message_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "m.py").write_text(
        "class CellFMError(Exception):\n    pass\n\ndef f(text):\n    raise CellFMError(text)\n"
    )
    with pytest.raises(tool.UnreadableError, match=r"cellfm\.m:5 is made of the parameter text"):
        tool.Package.read(tmp_path).messages()
