"""Files of every released format open with today's code, and say what they said when they were made."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.archive.opening import ARCHIVE, OPENERS, entries, formats, read_expected

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 400_000


def assert_same(found: object, expected: object, where: str) -> None:
    """Texts and whole numbers exactly; others to what differs between machines."""
    if isinstance(expected, list) and expected and not isinstance(expected[0], str | int):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3, err_msg=where)
    else:
        assert found == expected, where


@pytest.mark.parametrize("kind", OPENERS)
@pytest.mark.parametrize("folder", entries(), ids=lambda folder: folder.name)
def test_files_of_every_format_open(folder: Path, kind: str) -> None:
    if kind == "annotator":
        pytest.importorskip("sklearn")
        pytest.importorskip("scanpy")
    expected = read_expected(folder)[kind]
    found = OPENERS[kind](folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_same(found[name], value, f"{folder.name}/{kind}: {name}")


def test_the_newest_formats_are_in_the_archive() -> None:
    kept = {kind: set[int]() for kind in formats()}
    for folder in entries():
        for kind, number in read_expected(folder)["formats"].items():
            kept[kind].add(number)
    missing = {kind: number for kind, number in formats().items() if number not in kept[kind]}
    assert not missing, (
        f"The code writes formats of which the archive has no files: {missing}. Raising a format needs a new entry: "
        "python tools/make_archive.py"
    )


def test_numbers_that_are_others_are_found() -> None:
    assert_same([0.5, 1.0], [0.5, 1.0002], "near enough")
    with pytest.raises(AssertionError, match="states"):
        assert_same([0.5, 1.0], [0.5, 1.01], "states")
    with pytest.raises(AssertionError, match="labels"):
        assert_same(["a", "b"], ["a", "c"], "labels")
    with pytest.raises(AssertionError, match="step"):
        assert_same(3, 4, "step")


def test_the_archive_is_small_and_holds_no_pickle() -> None:
    files = [path for folder in entries() for path in folder.rglob("*") if path.is_file()]
    assert files
    for folder in entries():
        size = sum(path.stat().st_size for path in files if folder in path.parents)
        assert size < MOST_BYTES
    for path in files:
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
        assert not path.read_bytes().startswith(b"\x80"), f"{path} begins like a pickle"


def test_git_keeps_every_file() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = [str(path.relative_to(ROOT)) for path in ARCHIVE.glob("format-*/**/*")]
    git = ["git", "check-ignore", "--no-index", *files]
    asked = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 1, f"git ignores {asked.stdout}{asked.stderr}"
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert "tests/archive/format-*/** -text" in attributes  # digests hold on Windows, too
