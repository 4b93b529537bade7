"""The same corpus, byte for byte, whatever the order of its sources, the interruptions and the workers."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellfm.corpus import commit, executors, part_writer
from cellfm.corpus.build import add, build
from cellfm.corpus.check import check
from cellfm.corpus.manifest import Manifest
from cellfm.corpus.sources import SourceEntry
from tests.stores import RULES, files_of, four_sources, vocabulary

ROOT = Path(__file__).resolve().parents[2]
FEW = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Files(dict[str, bytes]):
    """Bytes of files; hypothesis shows it in a word."""

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SourceEntry]:
    return four_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def expected(sources: list[SourceEntry], tmp_path_factory: pytest.TempPathFactory) -> Files:
    store = tmp_path_factory.mktemp("expected") / "s"
    made(sources, store)
    assert check(store).is_good
    return Files(files_of(store))


def made(sources: Sequence[SourceEntry], store: Path, **more) -> Manifest:
    options = {"rules": RULES, "vocabulary": vocabulary(), "n_workers": 1, **more}
    return build(sources, store, **options).manifest


class Power(BaseException):
    """The power went off."""


def cut_at(patch: pytest.MonkeyPatch, call: int) -> None:
    """Stop at some call of what changes the disk; a negative one never."""
    left = [call]
    places = [
        (part_writer._Writer, "append"),
        (part_writer, "_put"),
        (part_writer.PartRecord, "write"),
        (commit.Manifest, "write"),
        (commit, "write_json"),
        (commit.shutil, "rmtree"),
        (executors.InProcessExecutor, "submit"),
    ]
    for owner, name in places:
        patch.setattr(owner, name, guarded(getattr(owner, name), left))


def guarded(function, left: list[int]):
    def call(*args, **more):
        left[0] -= 1
        if left[0] == 0:
            raise Power
        return function(*args, **more)

    return call


@FEW
@given(order=st.permutations(range(4)), cuts=st.lists(st.integers(1, 60), max_size=3))
def test_order_and_interruptions_change_nothing(
    sources: list[SourceEntry], expected: Files, order: list[int], cuts: list[int]
) -> None:
    shuffled = [sources[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s"
        for cut in cuts:
            with pytest.MonkeyPatch.context() as patch:
                cut_at(patch, cut)
                try:
                    made(shuffled, store)
                except Power:
                    assert not store.exists()
        made(shuffled, store)
        assert files_of(store) == expected


@FEW
@given(first=st.integers(1, 2), cuts=st.lists(st.integers(1, 60), max_size=2))
def test_additions_give_the_same_cells(
    sources: list[SourceEntry], expected: Files, first: int, cuts: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "s"
        old = made(sources[:first], store)
        for cut in cuts:
            with pytest.MonkeyPatch.context() as patch:
                cut_at(patch, cut)
                try:
                    add(sources[first:], store, n_workers=1)
                except Power:
                    assert Manifest.read(store).parts[: len(old.parts)] == old.parts
                    assert check(store, content=False).is_good
        result = add(sources[first:], store, n_workers=1)
        assert f'"content": "{result.manifest.content}"'.encode() in expected["corpus.json"]
        assert result.report.n_cells == 25
        assert result.report.n_duplicates_within + result.report.n_duplicates_across == 5
        assert check(store).is_good


WORKER = """
import sys
from pathlib import Path
from cellfm.corpus import plan, runs
from cellfm.corpus.build import build
from cellfm.corpus.sources import SourceEntry
from tests.stores import RULES, vocabulary

if __name__ == "__main__":
    folder, store, n_workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    names = ("a", "b", "bad", "c")
    sources = [SourceEntry(name=name, path=folder / f"{name}.h5ad") for name in names]
    build(sources, store, rules=RULES, vocabulary=vocabulary(), n_workers=n_workers)
"""


def started(script: Path, sources: list[SourceEntry], store: Path, n: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(script), str(sources[0].path.parent), str(store), str(n)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        cwd=ROOT,
    )


def wait_for(process: subprocess.Popen, partial: Path, pattern: str) -> None:
    """Wait until a file is there or the process is over."""
    while process.poll() is None and not list(partial.glob(pattern)):
        time.sleep(0.005)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_build_that_was_killed_goes_on(
    sources: list[SourceEntry], expected: Files, tmp_path: Path
) -> None:
    script, store = tmp_path / "worker.py", tmp_path / "s"
    script.write_text(WORKER)
    for n_workers, pattern in ((2, "runs/*/done.json"), (1, "merge-*/*")):
        process = started(script, sources, store, n_workers)
        wait_for(process, tmp_path / "s.partial", pattern)
        process.send_signal(signal.SIGKILL)
        process.wait()
    made(sources, store)
    assert files_of(store) == expected


def test_dask_workers_build_the_same(
    sources: list[SourceEntry], expected: Files, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        scheduler_port=0,
        protocol="tcp",
        host="127.0.0.1",
    ) as cluster:
        made(sources, tmp_path / "s", n_workers=None, scheduler=cluster.scheduler_address)
    assert files_of(tmp_path / "s") == expected


def test_a_scheduler_that_is_not_there_is_said(
    sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    distributed = pytest.importorskip("distributed")
    from cellfm.errors import ConfigError

    def refused(*_: object, **__: object) -> None:
        msg = "Timed out"
        raise OSError(msg)

    monkeypatch.setattr(distributed, "Client", refused)
    with pytest.raises(ConfigError, match="tcp://nowhere:1 does not answer"):
        made(sources, tmp_path / "s", n_workers=None, scheduler="tcp://nowhere:1")
