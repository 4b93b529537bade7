"""Weights by name against a server that plays the hub: what comes is checked, and what goes wrong is said and leaves nothing usable."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants
from tests.hub import COMMIT, LARGE, TOKEN, Hub, Trouble
from tests.hub_cases import (
    CASES,
    CHUNK,
    CONFIG,
    CUT,
    NAME,
    OTHER,
    PINNED,
    WRONG,
    Case,
    edited,
    flipped,
)

import cellfm
from cellfm.errors import MissingDependencyError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.tl._bound_weights import check_weights, describe_weights, weights_of
from cellfm.weights import hub, hub_cache, hub_transfer
from cellfm.weights.folder import find, load, save
from cellfm.weights.hub_names import parse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = initialise(CellFM(CONFIG), torch.Generator().manual_seed(0))
    vocabulary = Vocabulary.from_symbols([f"GENE{i}" for i in range(20)])
    path = tmp_path_factory.mktemp("hub") / "weights"
    save(path, network, vocabulary, card="# Blood\n", provenance={"source": "test"})
    return path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub with one repository, an empty cache, no token, short waits."""
    playing = Hub()
    playing.publish("lab/blood", folder)
    for variable in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "CELLFM_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CELLFM_HUB", playing.url)
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", CHUNK
    )  # 10 MB, longer than the weights here
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
    clock = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    yield playing
    playing.close()


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / LARGE).read_bytes()).hexdigest()


def _usable(tmp_path: Path) -> list[Path]:
    """Every folder below the cache that could be taken for weights."""
    return [
        path.parent
        for path in (tmp_path / "cache").rglob("config.json")
        if ".partial" not in str(path)
    ]


# ---- the table: case, what happens, message ----


def _note(case: str, happened: str, message: str) -> None:
    """Add a line to the table that people read, where one is asked for."""
    if path := os.environ.get("CELLFM_HUB_TABLE"):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(
                f"| {' | '.join(' '.join(cell.split()) for cell in (case, happened, message))} |\n"
            )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_table(
    case: Case, server: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.retries and version("huggingface_hub").startswith("1."):
        pytest.skip("version 1 of the library leaves that to the next attempt")
    digest = _digest(folder)
    name = case.name.replace("{sha256}", digest)
    if case.trouble:
        file, trouble = case.trouble
        data = server.repositories["lab/blood"].files[file]
        bodies = {
            b"flipped": flipped(data),
            b"longer": data + b"more",
            b"huge": data + b" " * 3_000_000,
        }
        trouble = Trouble(**{**vars(trouble), "body": bodies.get(trouble.body)})
        server.trouble[file] = trouble
    case.prepare(server, monkeypatch)
    if case.loads:
        model = load(name)
        assert model.hash == digest
        assert model.name == model.provenance["hub"] == case.says[0]
        assert _usable(tmp_path) == [model.path]
        assert not list(tmp_path.rglob("*.incomplete"))
        _note(
            case.label,
            f"loads in {len(server.seen)} requests",
            f"name to write: {model.name[:30]}…",
        )
        return
    with pytest.raises(WeightsError) as caught:
        load(name)
    message = str(caught.value)
    for part in case.says:
        assert part.replace("{sha256}", digest) in message
    assert not _usable(tmp_path)
    if case.requests is not None:
        assert len(server.seen) == case.requests
    if case.kept is not None:
        kept = list(tmp_path.rglob(f"{LARGE}*"))
        assert sum(path.stat().st_size for path in kept) == case.kept
    _note(
        case.label,
        f"refused after {len(server.seen)} requests",
        message.replace(str(tmp_path), "…"),
    )


# ---- what the table cannot say -------------------------------------------------------------------------------------------


def test_a_killed_download_goes_on(server: Hub, folder: Path, tmp_path: Path) -> None:
    size = (folder / LARGE).stat().st_size

    class Killed(BaseException):
        pass

    def killer(done: int, total: int) -> None:
        if done > total - size - len(server.repositories["lab/blood"].files["README.md"]) + CUT:
            raise Killed

    with pytest.raises(Killed):
        hub.fetch(parse(NAME), progress=killer)
    (part,) = tmp_path.rglob(f"{LARGE}.incomplete")
    assert part.stat().st_size == CUT
    assert not _usable(tmp_path)
    server.sent.clear()
    server.seen.clear()
    told: list[tuple[int, int]] = []
    fetched = hub.fetch(parse(NAME), progress=lambda *now: told.append(now))
    assert server.ranges == [f"bytes={CUT}-"]
    assert server.sent[LARGE] == size - CUT
    assert (fetched.path / LARGE).read_bytes() == (folder / LARGE).read_bytes()
    assert not [path for path in server.paths("GET") if "genes.tsv" in path]  # came the first time
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1]
    assert len(set(totals)) == 1
    _note("killed, the same command again", f"asks for {server.ranges[-1]} of {size}", "loads")


def test_a_broken_connection_says_what_is_kept(server: Hub, tmp_path: Path) -> None:
    server.trouble[LARGE] = Trouble(cut=CUT, times=1, then_nothing=True)
    with pytest.raises(WeightsError, match=f"{CUT:,} bytes have come and are kept"):
        load(NAME)
    (part,) = tmp_path.rglob(f"{LARGE}.incomplete")
    assert part.stat().st_size == CUT
    server.trouble.clear()
    assert load(NAME).name == PINNED
    assert server.ranges[-1] == f"bytes={CUT}-"


def test_damage_in_a_part_is_found_and_not_kept(server: Hub, folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / "hub" / "lab--blood" / f".{COMMIT}.partial"
    partial.mkdir(parents=True)
    (partial / f"{LARGE}.incomplete").write_bytes(b"x" * CUT)
    with pytest.raises(WeightsError, match="It is not used"):
        load(NAME)
    assert not list(tmp_path.rglob(f"{LARGE}*"))
    assert load(NAME).hash == _digest(folder)


def test_a_part_that_is_too_long_begins_anew(server: Hub, folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / "hub" / "lab--blood" / f".{COMMIT}.partial"
    partial.mkdir(parents=True)
    (partial / f"{LARGE}.incomplete").write_bytes(b"x" * 10**6)
    assert load(NAME).hash == _digest(folder)
    assert server.sent[LARGE] == (folder / LARGE).stat().st_size


def test_only_files_of_ours_are_asked_for(server: Hub, folder: Path) -> None:
    files = server.repositories["lab/blood"].files
    listed = {"../../evil": WRONG, "evil.pkl": WRONG, "seen.safetensors": WRONG, "genes.tsv": hashlib.sha256(files["genes.tsv"]).hexdigest()}  # fmt: skip
    files["config.json"] = edited(files=listed)(files["config.json"])
    files["pytorch_model.bin"] = files["evil.pkl"] = b"pickle"
    with pytest.raises(WeightsError, match=r"has no file seen\.safetensors"):
        load(NAME)
    asked = {path.rsplit("/", 1)[1] for path in server.paths()}
    assert asked <= {"config.json", "genes.tsv", LARGE, "README.md", "seen.safetensors"}


def test_optional_files_come_only_when_listed(server: Hub) -> None:
    server.repositories["lab/blood"].files["whitening.safetensors"] = b"not ours"
    assert load(NAME).whitening is None
    assert not [path for path in server.paths() if "whitening" in path]


def test_a_commit_is_asked_for_once(server: Hub, caplog: pytest.LogCaptureFixture) -> None:
    first = load(NAME)
    assert f"today it is {PINNED}. Write that name" in caplog.text
    server.seen.clear()
    caplog.clear()
    assert load(PINNED).path == first.path
    assert server.seen == []
    assert caplog.text == ""
    assert load(NAME).path == first.path
    assert len(server.seen) == 1  # which commit main is now


def test_main_moves_on(server: Hub, folder: Path) -> None:
    old = load(NAME)
    server.repositories["lab/blood"].commit = OTHER
    new = load(NAME)
    assert new.name == f"{NAME}@{OTHER}"
    assert new.path != old.path
    assert [str(found.name) for found in hub_cache.all_cached()] == [PINNED, f"{NAME}@{OTHER}"]
    assert load(PINNED).path == old.path


def test_offline_with_a_copy(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load(f"{NAME}@v1.0").path
    load(NAME)
    monkeypatch.setenv("CELLFM_OFFLINE", "1")
    server.seen.clear()
    for name in (PINNED, NAME, f"{NAME}@v1.0", f"{PINNED}#sha256={_digest(here)}"):
        assert load(name).path == here
    assert server.seen == []
    with pytest.raises(WeightsError, match=f"SHA-256 is .*expected {WRONG}"):
        load(NAME, sha256=WRONG)
    with pytest.raises(WeightsError, match=f"Here is {PINNED}"):
        load(f"{NAME}@v2")
    _note("offline, a copy here", "loads in 0 requests", f"name to write: {PINNED[:30]}…")


def test_a_dead_hub_names_the_copies(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load(NAME)
    monkeypatch.setenv("CELLFM_HUB", "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as caught:
        load(NAME)
    assert caught.value.__notes__ == [f"Here is {PINNED}: that name works without the network."]
    assert load(PINNED).name == PINNED


def test_mirror(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Hub()
    mirror.publish("lab/blood", folder)
    try:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url + "/")
        assert load(NAME).provenance["hub_endpoint"] == server.url  # CELLFM_HUB wins
        assert mirror.seen == []
        monkeypatch.delenv("CELLFM_HUB")
        server.seen.clear()
        assert hub.fetch(parse(NAME), again=True).endpoint == mirror.url
        assert mirror.seen
        assert server.seen == []
    finally:
        mirror.close()
    _note("mirror (HF_ENDPOINT, CELLFM_HUB)", "loads from it", "recorded as hub_endpoint")


def test_the_token_goes_where_the_user_sends_it(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.repositories["lab/blood"].access = "gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(WeightsError, match=f"set HF_ENDPOINT={server.url}"):
        load(NAME)
    assert not any(token for *_, token in server.seen)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    model = load(NAME)
    with_token = {path.split("/")[1] for _, path, token in server.seen if token}
    assert with_token == {"lab"}  # not the other host, where the large files lie
    assert any(path.startswith("/large/") for path in server.paths())
    written = "".join(path.read_text(errors="replace") for path in model.path.iterdir())
    assert TOKEN not in written + "".join(capfd.readouterr())


def test_processes_wait_for_one_download(server: Hub, folder: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(find(NAME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert server.sent[LARGE] == (folder / LARGE).stat().st_size


def test_a_damaged_copy_is_found_when_loaded(server: Hub, caplog: pytest.LogCaptureFixture) -> None:
    here = load(NAME).path
    data = bytearray((here / LARGE).read_bytes())
    data[-1] ^= 1
    (here / LARGE).write_bytes(data)
    with pytest.raises(
        WeightsError, match=f"copy in the cache is damaged: 'cellfm weights get {PINNED}"
    ):
        load(PINNED)
    assert hub.fetch(parse(PINNED), again=True).path == here
    assert load(PINNED).path == here
    moved = here.parent.with_name("lab--other") / here.name
    shutil.copytree(here, moved)
    with pytest.raises(WeightsError, match="expected what its own name says"):
        load(f"hf://lab/other@{COMMIT}")
    assert [found.path for found in hub_cache.all_cached()] == [here]
    assert str(moved) in caplog.text
    (here / "hub.json").write_text("{}")
    with pytest.raises(WeightsError, match="Delete that folder"):
        load(PINNED)


def test_folders_have_hashes_too(folder: Path) -> None:
    assert load(folder, sha256=_digest(folder).upper()).hash == _digest(folder)
    with pytest.raises(WeightsError, match=f"expected {WRONG}. These are other weights"):
        load(folder, sha256=WRONG)
    with pytest.raises(WeightsError, match="expected the 64 hexadecimal digits"):
        load(folder, sha256="abc")
    with pytest.raises(WeightsError, match="two different hashes"):
        load(f"{NAME}#sha256={WRONG}", sha256="1" * 64)


def test_a_folder_cannot_claim_to_be_from_the_hub(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = copy / "config.json"
    config.write_bytes(edited(provenance={"hub": PINNED})(config.read_bytes()))
    model = load(copy)
    assert "hub" not in model.provenance
    assert model.name == str(copy)


def test_artifacts_find_their_weights_in_the_cache_and_nowhere_else(server: Hub) -> None:
    model = load(NAME)
    about = describe_weights(model)
    assert about["weights"] == PINNED
    server.seen.clear()
    assert weights_of(None, about, None).hash == model.hash
    shutil.rmtree(model.path)
    assert weights_of(None, about, None).path.name == "mini"  # which `check_weights` then refuses
    with pytest.raises(WeightsError, match=PINNED):
        check_weights(weights_of(None, about, None), about, who="it", kind="annotator")
    assert server.seen == []


def test_names_that_are_paths(server: Hub) -> None:
    with pytest.raises(WeightsError, match="is a text, not a Path"):
        load(Path(NAME))
    assert server.seen == []


def test_a_mirror_that_is_none(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("ftp://x", "huggingface.co", "https://user:secret@host", "file:///etc"):
        monkeypatch.setenv("CELLFM_HUB", address)
        with pytest.raises(cellfm.errors.ConfigError, match="CELLFM_HUB is no address") as caught:
            load(NAME)
        assert "secret" not in str(caught.value)


def test_without_the_library(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load(NAME).path
    monkeypatch.setattr("cellfm.optional.find_spec", lambda _: None)
    assert load(PINNED).path == here
    with pytest.raises(MissingDependencyError, match=r"cellfm\[hub\]"):
        load(NAME)
    _note(
        "huggingface_hub absent", "refused", "… needs the extra 'hub' … pip install 'cellfm[hub]'"
    )


def test_etags_that_are_no_hashes() -> None:
    assert hub_transfer._sha256_of("A" * 64) == "a" * 64
    assert hub_transfer._sha256_of("b" * 40) is None
    assert hub_transfer._sha256_of("z" * 64) is None
    assert hub_transfer._sha256_of(None) is None
