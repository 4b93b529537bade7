"""Fixtures of all tests; shape checks are on in tests only."""

import os
from pathlib import Path

import pytest

if not os.environ.get("CELLFM_NO_SHAPE_CHECK"):
    from jaxtyping import install_import_hook

    # Checks every annotated tensor boundary of the network and of what feeds it.
    install_import_hook(["cellfm.nn", "cellfm.batch"], "beartype.beartype")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real data sets that are not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not here")
    return folder
