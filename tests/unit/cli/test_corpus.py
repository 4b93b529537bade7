"""Options of the corpus commands reach the functions behind them; exit codes say how it went."""

from pathlib import Path

import pytest

from cellfm import cli
from cellfm.cli.corpus_show import print_json
from cellfm.corpus.curate import Rules
from cellfm.corpus.manifest import Manifest, SetAside
from cellfm.corpus.report import DROP_RULES
from cellfm.corpus.summary import BuildResult, CorpusReport

REPORT = CorpusReport(
    n_sources=2,
    n_curated=1,
    n_set_aside=1,
    n_cells_in=10,
    dropped=dict.fromkeys(DROP_RULES, 0) | {"min_genes": 2},
    n_duplicates_within=1,
    n_duplicates_across=0,
    n_cells=7,
    n_values=700,
    n_genes_per_cell=100.0,
    coverage=0.98,
    n_bytes=1400,
    n_bytes_per_cell=200.0,
    seconds_curating=1.0,
    seconds=2.0,
    sources={
        "a": {"status": "curated", "n_cells_in": 10, "n_cells": 7, "coverage": 0.98},
        "b": {"status": "curated", "n_cells_in": 3, "n_cells": 0, "coverage": 0.98},
    },
)


def result(*aside: str) -> BuildResult:
    manifest = Manifest(
        cellfm="0",
        vocabulary="0" * 64,
        n_genes=3,
        content="0" * 32,
        rules={},
        datasets=(),
        set_aside=tuple(
            SetAside(name=name, path=f"{name}.h5ad", reason="It is [bad].") for name in aside
        ),
        parts=(),
    )
    return BuildResult(store=Path("store"), manifest=manifest, report=REPORT, skipped=(("b", "c"),))


class Recorded:
    """Stands for the build; keeps what it was called with."""

    def __init__(self, answer: BuildResult) -> None:
        self.answer, self.names, self.options = answer, [], {}

    def __call__(self, sources, store, **options) -> BuildResult:
        self.names, self.options = [entry.name for entry in sources], {"store": store, **options}
        options["progress"]("curate", 1, 2)
        return self.answer


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.h5ad", tmp_path / "b.csv"]
    for path in paths:
        path.write_text("x")
    return [str(path) for path in paths]


def test_options_of_build_become_rules(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = Recorded(result())
    monkeypatch.setattr("cellfm.corpus.build.build", recorded)
    words = ["--min-genes", "5", "--max-genes", "9", "--min-counts", "6", "--max-counts", "90"]
    words += ["--max-mito", "0.2", "--min-matched", "0.5", "--recover", "--workers", "3"]
    assert cli.run(["corpus", "build", *files, "store", *words, "--scheduler", "tcp://x:1"]) == 0
    assert recorded.names == ["a", "b"]
    assert recorded.options["store"] == Path("store")
    assert recorded.options["rules"] == Rules(
        min_genes=5,
        max_genes=9,
        min_counts=6,
        max_counts=90,
        max_mito=0.2,
        min_matched=0.5,
        recover=True,
    )
    assert recorded.options["n_workers"] == 3
    assert recorded.options["scheduler"] == "tcp://x:1"
    shown = capsys.readouterr()
    for text in (
        "1 of 2",
        "dropped: min_genes",
        "1,400 bytes, 200 a cell",
        "98.0%",
        "wrote store: hash",
    ):
        assert text in shown.out
    assert "dropped: max_mito" not in shown.out
    assert "passed over b: it is in the corpus as c" in shown.out
    assert "no cell of b is kept" in shown.out
    assert "no cell of a" not in shown.out
    assert "curate …" in shown.err


def test_defaults_of_build_are_those_of_the_rules(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(result())
    monkeypatch.setattr("cellfm.corpus.build.build", recorded)
    assert cli.run(["corpus", "build", *files, "store"]) == 0
    assert recorded.options["rules"] == Rules()
    assert recorded.options["n_workers"] is None


def test_exit_code_of_add_is_about_its_own_sources(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cellfm.corpus.build.add", Recorded(result("an_earlier_one")))
    assert cli.run(["corpus", "add", *files, "store"]) == 0
    assert "set aside" not in capsys.readouterr().out
    monkeypatch.setattr("cellfm.corpus.build.add", Recorded(result("an_earlier_one", "b")))
    assert cli.run(["corpus", "add", *files, "store"]) == cli.SET_ASIDE == 3
    assert "set aside b: It is [bad]." in capsys.readouterr().out


def test_store_alone_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["corpus", "build", "store"]) == cli.USER_ERROR
    assert "requires an argument" in " ".join(capsys.readouterr().err.split())


def test_json_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "[bold]:smile: " + "x" * 300})
    assert capsys.readouterr().out == '{\n "a": "[bold]:smile: ' + "x" * 300 + '"\n}\n'
