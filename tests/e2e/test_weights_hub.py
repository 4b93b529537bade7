"""Weights by name from the command line, against a server that plays the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import anndata
import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from tests.e2e.conftest import Cellfm
from tests.hub import COMMIT, LARGE, TOKEN, Hub

PINNED = f"hf://lab/blood@{COMMIT}"

# The library sends large files in a way that its own library for HTTP will drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    playing = Hub()
    playing.publish("lab/blood", model)
    for variable in ("CELLFM_HUB", "HF_TOKEN", "HF_HUB_OFFLINE", "CELLFM_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", playing.url)
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield playing
    playing.close()


def test_get_list_show_and_use(
    cellfm: Cellfm,
    server: Hub,
    simulated: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = cellfm("weights", "get", "hf://lab/blood", "--json")
    assert done.code == 0
    (table,) = json.loads(done.out)["tables"]
    assert table["values"]["name"] == PINNED
    assert "Write that name to get the same again" in caplog.text
    folder = Path(table["values"]["folder"])
    assert (folder / LARGE).is_file()
    listed = cellfm("weights", "list")
    assert listed.code == 0
    assert PINNED in listed.out
    assert "mini" in listed.out
    shown = cellfm("weights", "show", PINNED)
    assert shown.code == 0
    assert server.url in shown.out
    monkeypatch.setenv("CELLFM_OFFLINE", "1")
    out = tmp_path / "out.h5ad"
    used = cellfm("embed", simulated, out, "--model", PINNED)
    assert used.code == 0, used.err
    assert anndata.read_h5ad(out).uns["cellfm"]["X_cellfm"]["weights"] == PINNED


def test_refusals_are_sentences(
    cellfm: Cellfm, server: Hub, tmp_path: Path, simulated: Path
) -> None:
    for words, said in (
        (("weights", "get", "hf://../x"), "Nothing was requested"),
        (("weights", "get", "hf://lab/none"), "has no repository lab/none"),
        (("weights", "get", "mini", "--sha256", "0" * 64), "expected " + "0" * 64),
        (
            ("embed", simulated, tmp_path / "o.h5ad", "--model", "hf://lab/none"),
            "has no repository",
        ),
        (("weights", "whiten", PINNED, simulated), "Copy the folder"),
        (("weights", "official", "9b"), "80m and 800m"),
        (("weights", "official", "80m", "--genes", tmp_path / "g.csv"), "needs both files"),
        (("weights", "official", "80m", "--out", tmp_path / "o"), "is given without files"),
        (("weights", "upload", "mini", "hf://lab/mine"), "hf auth login"),
    ):
        done = cellfm(*words)
        assert done.code == 2, done.err
        assert said in done.err
        assert "Traceback" not in done.err


def test_again_after_damage(cellfm: Cellfm, server: Hub) -> None:
    done = cellfm("weights", "get", PINNED, "--json")
    folder = Path(json.loads(done.out)["tables"][0]["values"]["folder"])
    data = bytearray((folder / LARGE).read_bytes())
    data[-1] ^= 1
    (folder / LARGE).write_bytes(data)
    assert "--overwrite" in cellfm("weights", "get", PINNED).err
    assert cellfm("weights", "get", PINNED, "--overwrite").code == 0
    assert cellfm("weights", "get", PINNED).code == 0


def test_upload(cellfm: Cellfm, server: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = cellfm("weights", "upload", model, "hf://lab/mine", "--private")
    assert done.code == 0, done.err
    assert f"hf://lab/mine@{COMMIT}" in done.out
    assert "No licence is stated" in done.out
    assert server.repositories["lab/mine"].private
    assert TOKEN not in done.out + done.err
    assert cellfm("weights", "get", "hf://lab/mine").code == 0


def test_official(cellfm: Cellfm) -> None:
    done = cellfm("weights", "official", "80m")
    assert done.code == 0
    for part in ("CellFM_80M_weight.ckpt", "expand_gene_info.csv", "CC BY-NC-ND 4.0"):
        assert part in done.out
