"""A folder that pip left behind is no package."""

from pathlib import Path

import pytest

from cellfm.errors import MissingDependencyError
from cellfm.optional import is_there, require


def test_a_folder_without_code_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_behind" / "__pycache__").mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_there("whole")
    assert not is_there("left_behind")
    assert not is_there("never_there")
    with pytest.raises(MissingDependencyError, match="left_behind cannot be imported"):
        require("whole", "left_behind")
