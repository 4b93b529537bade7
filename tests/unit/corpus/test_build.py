import builtins
import errno
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.stores import RULES, counts, files_of, four_sources, vocabulary, write_source

from cellfm.corpus import plan, runs
from cellfm.corpus.build import add, build
from cellfm.corpus.commit import ADDITION
from cellfm.corpus.curate import Rules
from cellfm.corpus.executors import InProcessExecutor, executor, n_cores, run_all
from cellfm.corpus.sources import SourceEntry
from cellfm.corpus.store import Store
from cellfm.corpus.summary import BuildResult
from cellfm.errors import (
    ConfigError,
    CorpusError,
    MissingDependencyError,
    OutputExistsError,
    ResumeError,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SourceEntry]:
    return four_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def built(sources: list[SourceEntry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("built") / "s"
    made(sources, store)
    return store


def made(sources: list[SourceEntry], store: Path, **more) -> BuildResult:
    options = {"rules": RULES, "vocabulary": vocabulary(), "n_workers": 1, **more}
    return build(sources, store, **options)


def report_of(store: Path, name: str) -> dict:
    return json.loads((store / f"reports/{name}.json").read_text())


def test_a_build_tells_what_it_did(built: Path, sources: list[SourceEntry]) -> None:
    result = BuildResult.of(built)
    assert Store.open(built).n_cells == 25
    kept = {dataset.name: dataset.n_cells for dataset in result.manifest.datasets}
    assert list(kept) == ["a", "b", "c"]
    assert sum(kept.values()) == 25  # which copy stays depends on the files' digests
    (aside,) = result.set_aside
    assert (aside.name, aside.path) == ("bad", str(sources[-1].path))
    assert "cannot be" in aside.reason
    report = result.report
    assert (report.n_sources, report.n_curated, report.n_set_aside) == (4, 3, 1)
    assert report.n_cells_in == 30
    dropped = sum(report.dropped.values())
    duplicates = report.n_duplicates_within + report.n_duplicates_across
    assert report.n_cells_in == dropped + duplicates + report.n_cells
    assert report.n_duplicates_within == 2
    assert report.n_bytes == sum(
        p.stat().st_size for p in built.glob("cells/*.zarr/**/*") if p.is_file()
    )
    assert report.sources["a"] == {
        "status": "curated", "n_cells_in": 12, "n_cells": kept["a"], "coverage": 1.0
    }  # fmt: skip
    for dataset in result.manifest.datasets:
        own = report_of(built, dataset.name)
        copies = own["n_duplicates_within"] + own["n_duplicates_across"]
        assert own["n_cells_curated"] - copies == dataset.n_cells
        assert own["sha256"] == dataset.sha256
    assert report_of(built, "bad")["status"] == "set aside"
    names = {path.name for path in built.iterdir()}
    assert names == {"cells", "corpus.json", "genes.tsv", "job.json", "report.json", "reports"}
    assert not built.with_name("s.partial").exists()


def test_a_second_build_does_nothing(built: Path, sources: list[SourceEntry], monkeypatch) -> None:
    before = files_of(built, without=())
    monkeypatch.setattr("cellfm.corpus.build.executor", None)
    assert made(sources[::-1], built) == BuildResult.of(built)
    assert files_of(built, without=()) == before


def test_a_source_that_was_touched_is_the_same(tmp_path: Path) -> None:
    entry = write_source(tmp_path / "a.h5ad", counts(5))
    first = made([entry], tmp_path / "s")
    os.utime(entry.path, ns=(0, 0))
    assert made([entry], tmp_path / "s") == first


def test_another_build_does_not_replace_a_store(
    built: Path, sources: list[SourceEntry], tmp_path: Path
) -> None:
    with pytest.raises(OutputExistsError, match=r"other sources \(4 of them\).*corpus add"):
        made(sources[:2], built)
    with pytest.raises(OutputExistsError, match="other rules"):
        made(sources, built, rules=Rules(min_genes=6))
    with pytest.raises(OutputExistsError, match="another gene list"):
        made(sources, built, vocabulary=vocabulary(100))
    with pytest.raises(OutputExistsError, match="other sources"):
        made([*sources[1:], replace(sources[0], licence="CC0")], built)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/mine.txt").write_text("")
    with pytest.raises(OutputExistsError, match="is no corpus, so it is not replaced"):
        made(sources, tmp_path / "s")


def test_a_source_that_changed_is_another(tmp_path: Path) -> None:
    entry = write_source(tmp_path / "a.h5ad", counts(5))
    made([entry], tmp_path / "s")
    write_source(tmp_path / "a.h5ad", counts(6, seed=1))
    with pytest.raises(OutputExistsError, match="another version of the source a"):
        made([entry], tmp_path / "s")


def test_an_empty_folder_is_taken(sources: list[SourceEntry], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert made(sources[:1], tmp_path / "s").manifest.n_cells == 12


def test_the_partial_store_of_another_build_is_refused(
    sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(plan, "merge", stop)
    with pytest.raises(KeyboardInterrupt):
        made(sources, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    with pytest.raises(ResumeError, match=r"s\.partial holds an unfinished build of other rules"):
        made(sources, tmp_path / "s", rules=Rules(min_genes=6))
    with pytest.raises(ResumeError, match="other sources"):
        made(sources[:1], tmp_path / "s")


def stop(_job: object) -> None:
    raise KeyboardInterrupt


def test_what_is_finished_is_not_done_again(
    built: Path, sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plan, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            made(sources, tmp_path / "s")
    monkeypatch.setattr(runs, "curate_file", stop)
    made(sources, tmp_path / "s")
    assert files_of(tmp_path / "s") == files_of(built)


def test_a_source_that_changes_after_an_interruption_is_read_again(
    tmp_path: Path, monkeypatch
) -> None:
    base = counts(12, seed=8)
    entries = [write_source(tmp_path / f"{i}.h5ad", base[3 * i : 3 * i + 3]) for i in range(4)]
    monkeypatch.setattr(plan, "FAN_IN", 2)
    monkeypatch.setattr("cellfm.corpus.merge.FAN_IN", 2)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "_part_jobs", lambda *_: stop(None))  # the runs are grouped, and gone
        with pytest.raises(KeyboardInterrupt):
            made(entries, tmp_path / "s")
    assert not list((tmp_path / "s.partial/runs").rglob("*.zarr"))
    write_source(tmp_path / "0.h5ad", counts(4, seed=20))
    assert made(entries, tmp_path / "s").manifest.n_cells == 13
    assert (
        made(entries, tmp_path / "t").manifest.hash == BuildResult.of(tmp_path / "s").manifest.hash
    )


def test_many_runs_are_merged_in_rounds(
    built: Path, sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(runs, "RUN_VALUES", 100)
    monkeypatch.setattr(plan, "FAN_IN", 3)
    monkeypatch.setattr("cellfm.corpus.merge.FAN_IN", 3)
    told = []
    blocks = runs.curate_file
    monkeypatch.setattr(runs, "curate_file", lambda *a, **k: blocks(*a, block_rows=2, **k))
    result = made(sources, tmp_path / "s", progress=lambda *said: told.append(said))
    assert {stage for stage, _, _ in told} == {"curate", "group", "merge"}
    assert told[:2] == [("curate", 0, 4), ("curate", 1, 4)]
    assert told[-1] == ("merge", 1, 1)
    assert files_of(tmp_path / "s") == files_of(built)
    assert result.manifest == BuildResult.of(built).manifest
    assert replace(result.report, seconds=0, seconds_curating=0) == replace(
        BuildResult.of(built).report, seconds=0, seconds_curating=0
    )


def test_parts_have_bounded_sizes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "PART_CELLS", 16)
    made([write_source(tmp_path / "a.h5ad", counts(100))], tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert [part.n_cells for part in store.parts] == [len(p.fingerprints()) for p in store.parts]
    assert len(store.parts) == 8
    words = store.numbers_of("fingerprint_0")
    assert (words[1:] > words[:-1]).all()


def test_a_file_that_is_there_twice_is_set_aside(tmp_path: Path) -> None:
    entry = write_source(tmp_path / "b.h5ad", counts(5))
    shutil.copyfile(entry.path, tmp_path / "a.h5ad")
    copy = replace(entry, name="a", path=tmp_path / "a.h5ad")
    result = made([entry, copy], tmp_path / "s")
    assert [dataset.name for dataset in result.manifest.datasets] == ["a"]
    (aside,) = result.set_aside
    assert aside.name == "b"
    assert "Its content is that of a, byte for byte" in aside.reason


def test_an_error_that_was_not_foreseen_sets_aside_and_keeps_its_traceback(
    sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    curate = runs.curate_file

    def faulty(entry: SourceEntry, **more):
        if entry.name == "b":
            msg = "of all things"
            raise ZeroDivisionError(msg)
        return curate(entry, **more)

    monkeypatch.setattr(runs, "curate_file", faulty)
    result = made(sources, tmp_path / "s")
    assert [source.name for source in result.set_aside] == ["b", "bad"]
    assert "not foreseen (ZeroDivisionError: of all things)" in result.set_aside[0].reason
    assert "Traceback" in report_of(tmp_path / "s", "b")["notes"][0]


def test_nothing_left_writes_nothing(sources: list[SourceEntry], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"No cell is left of 1 sources.*bad: "):
        made(sources[-1:], tmp_path / "s")
    with pytest.raises(CorpusError, match="a: no cell passes the rules"):
        made(sources[:1], tmp_path / "s", rules=Rules(min_genes=119))
    assert not list(tmp_path.iterdir())


def test_names_and_numbers_are_checked(sources: list[SourceEntry], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="several named 'a'"):
        made([*sources, sources[0]], tmp_path / "s")
    with pytest.raises(ConfigError, match="0 sources were given"):
        made([], tmp_path / "s")
    with pytest.raises(ConfigError, match="n_workers is 0"):
        made(sources, tmp_path / "s", n_workers=0)
    with pytest.raises(ConfigError, match="Both n_workers and scheduler"):
        made(sources, tmp_path / "s", scheduler="tcp://x:1")
    assert n_cores() >= 1


def test_a_full_disk_is_said_and_the_build_goes_on_later(
    built: Path, sources: list[SourceEntry], tmp_path: Path, monkeypatch
) -> None:
    write = runs.write_json

    def full(path: Path, *rest, **more):
        if "/b/" in path.as_posix():
            no_space()
        return write(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr("cellfm.corpus.part_writer._Writer.append", no_space)
        with pytest.raises(CorpusError, match=r"cannot be written \(No space left on device\)"):
            made(sources, tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_json", full)
        with pytest.raises(CorpusError, match="cannot be written"):
            made(sources, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    made(sources, tmp_path / "s")
    assert files_of(tmp_path / "s") == files_of(built)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_must_not_be_written_is_said(
    sources: list[SourceEntry], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot be written"):
        made(sources, tmp_path / "file/s")


def test_a_worker_that_dies_is_said() -> None:
    with (
        pytest.raises(CorpusError, match=r"A worker process ended unexpectedly.*fewer workers"),
        executor(n_workers=2) as pool,
    ):
        run_all(pool, os._exit, [1, 1, 1])


def test_the_first_error_stops_all() -> None:
    done = []
    with pytest.raises(ZeroDivisionError):
        run_all(InProcessExecutor(), lambda n: done.append(1 // n), [1, 0, 1])
    assert done == [1]


def test_dask_that_is_not_there_is_said(monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name.partition(".")[0] == "distributed":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    with (
        pytest.raises(MissingDependencyError, match=r'pip install "cellfm\[cluster\]"'),
        executor(scheduler="tcp://127.0.0.1:1"),
    ):
        pass


def test_adding_gives_the_cells_of_a_build_of_all(
    built: Path, sources: list[SourceEntry], tmp_path: Path
) -> None:
    made(sources[1:2], tmp_path / "s")
    first = Store.open(tmp_path / "s")
    result = add([sources[0], *sources[2:]], tmp_path / "s", n_workers=1)
    assert result.manifest.content == BuildResult.of(built).manifest.content
    assert [part.segment for part in result.manifest.parts] == [0, 1]
    assert result.manifest.parts[0] == first.manifest.parts[0]
    assert sum(dataset.n_cells for dataset in result.manifest.datasets) == 25
    assert result.manifest.datasets[1].n_cells == 9
    assert [source.name for source in result.set_aside] == ["bad"]
    assert result.report.n_cells == 25
    assert result.report.n_duplicates_across == 3
    assert result.report.n_sources == 4
    assert np.unique(Store.open(tmp_path / "s").numbers()).size == 25
    assert not (tmp_path / "s" / ADDITION).exists()
    assert made(sources, tmp_path / "s").manifest == result.manifest  # a build of all finds it made


def test_adding_what_is_in_it_changes_nothing(
    built: Path, sources: list[SourceEntry], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(built, tmp_path / "s"))
    before = files_of(store, without=())
    renamed = replace(sources[0], name="z")
    result = add([renamed, sources[1], sources[-1]], store, n_workers=1)
    assert result.skipped == (("b", "b"), ("z", "a"))
    assert replace(result, skipped=()) == replace(BuildResult.of(built), store=store)
    assert files_of(store, without=()) == before


def test_an_addition_of_copies_is_remembered(tmp_path: Path) -> None:
    made([write_source(tmp_path / "a.h5ad", counts(6))], tmp_path / "s")
    copies = write_source(tmp_path / "b.h5ad", counts(6)[:4])
    result = add([copies], tmp_path / "s", n_workers=1)
    assert {d.name: d.n_cells for d in result.manifest.datasets} == {"a": 6, "b": 0}
    assert len(result.manifest.parts) == 1
    assert result.report.n_duplicates_across == 4
    assert add([copies], tmp_path / "s", n_workers=1).skipped == (("b", "b"),)


def test_an_addition_is_refused_by_name_and_by_lack_of_cells(
    built: Path, sources: list[SourceEntry], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(built, tmp_path / "s"))
    before = files_of(store, without=())
    other = write_source(tmp_path / "a.h5ad", counts(3, seed=33))
    with pytest.raises(ConfigError, match="named 'a' is in the corpus already, with other content"):
        add([other], store, n_workers=1)
    with pytest.raises(ResumeError, match="unfinished build of other sources"):
        add([replace(other, name="n")], store, n_workers=1)
    shutil.rmtree(store / ADDITION)
    with pytest.raises(CorpusError, match="No cell is left of 1 sources"):
        add([replace(sources[-1], name="worse")], store, n_workers=1)
    assert files_of(store, without=()) == before
    with pytest.raises(CorpusError, match=r"holds no corpus\.json"):
        add([other], tmp_path / "none")


def test_a_source_that_was_set_aside_can_be_added_when_it_is_mended(tmp_path: Path) -> None:
    entries = four_sources(tmp_path)
    made(entries, tmp_path / "s")
    mended = write_source(tmp_path / "bad.h5ad", counts(3, seed=77))
    result = add([mended], tmp_path / "s", n_workers=1)
    assert result.set_aside == ()
    assert result.report.n_set_aside == 0
    assert result.manifest.n_cells == 28


def test_rules_of_a_later_version_are_refused(
    built: Path, sources: list[SourceEntry], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(built, tmp_path / "s"))
    manifest = Store.open(store).manifest
    replace(manifest, rules={**manifest.rules, "max_ambient": 1}).write(store)
    with pytest.raises(CorpusError, match="rules that this version of cellfm does not know"):
        add(sources[:1], store)
