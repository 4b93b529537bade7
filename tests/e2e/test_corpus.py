"""Count files of every format become a corpus on the command line, and what is in it can be told."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import anndata
import pytest

from cellfm.cli import run
from tests.e2e.conftest import Cellfm

ROOT = Path(__file__).resolve().parents[2]
N_CELLS = 1500
BAD = ("cut_off", "logged_only", "mouse")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The tool that writes the demonstration."""
    spec = importlib.util.spec_from_file_location(
        "make_show_files", ROOT / "tools/make_show_files.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files in five formats and three bad ones."""
    folder = tmp_path_factory.mktemp("show") / "files"
    maker.make(folder, n_cells=N_CELLS, shared=folder / "absent", say=lambda text: None)
    return folder


@pytest.fixture(scope="module")
def store(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "store"
    words = [files / "SOURCES.tsv", path, "--metadata", files / "metadata.yaml", "--workers", 1]
    assert run(["corpus", "build", *map(str, words)]) == 3
    return path


def test_files_are_as_many_as_told(maker: ModuleType, files: Path) -> None:
    assert sum(file.share for file in maker.FILES) == pytest.approx(1.0)
    lines = (files / "SOURCES.tsv").read_text().splitlines()
    assert len(lines) == 1 + 12 + len(BAD)
    n_cells = sum(
        anndata.read_h5ad(path, backed="r").n_obs
        for path in files.glob("*.h5ad")
        if path.stem not in BAD
    )
    shares = sum(file.share for file in maker.FILES if file.suffix == ".h5ad")
    assert abs(n_cells - shares * N_CELLS) < 30


def test_build_says_what_it_did(cellfm: Cellfm, files: Path, store: Path) -> None:
    again = cellfm("corpus", "build", files / "SOURCES.tsv", store, "--metadata", files / "metadata.yaml")  # fmt: skip
    assert again.code == 3, again.err
    assert "sources in the corpus        │ 12 of 15" in again.out
    for name in BAD:
        assert f"set aside {name}: " in again.out
    assert "look like those of mouse" in again.out
    assert f"wrote {store}: hash " in again.out
    report = json.loads((store / "report.json").read_text())
    assert report["n_curated"] == 12
    assert report["n_set_aside"] == 3
    told = sum(report["dropped"].values()) + report["n_cells"]
    told += report["n_duplicates_within"] + report["n_duplicates_across"]
    assert told == report["n_cells_in"]
    assert abs(report["n_cells_in"] - N_CELLS) < 60
    assert report["n_duplicates_within"] > 0
    assert report["n_duplicates_across"] > 0
    assert {path.stem for path in (store / "reports").glob("*.json")} >= {"blood_a", *BAD}


def test_every_format_is_in_it_with_its_metadata(cellfm: Cellfm, store: Path) -> None:
    outcome = cellfm("corpus", "describe", store, "--json")
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert {dataset["format"] for dataset in said["datasets"]} == {
        "h5ad",
        "10x_h5",
        "10x_mtx",
        "csv",
    }
    assert len(said["groups"]["dataset"]) == 12
    tissues = {group["label"] for group in said["groups"]["tissue"]}
    assert tissues == {"blood", "lung", "gut", "brain", "skin", "cell line"}  # as the map says
    donors = {group["label"] for group in said["groups"]["donor"]}
    assert {"gut_b_donor1", "lung_b_pool"} <= donors
    assert "" not in donors


def test_describe_prints_and_draws(cellfm: Cellfm, store: Path, tmp_path: Path) -> None:
    outcome = cellfm("corpus", "describe", store, "--out", tmp_path / "pictures")
    assert outcome.code == 0, outcome.err
    assert "genes" in outcome.out
    assert "with a count" in outcome.out
    assert "blood_a" in outcome.out
    assert "simulated" in outcome.out  # the licence
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {f"{name}.png" for name in ("n_genes", "dataset", "cell_type", "tissue", "disease", "donor", "assay", "batch")}  # fmt: skip
    quick = cellfm("corpus", "describe", store, "--quick")
    assert "with a count" not in quick.out


def test_check_finds_damage(cellfm: Cellfm, store: Path) -> None:
    good = cellfm("corpus", "check", store)
    assert (good.code, good.err) == (0, "")
    assert "is whole" in good.out
    assert json.loads(cellfm("corpus", "check", store, "--quick", "--json").out)["is_good"] is True
    victim = max(
        (store / "cells").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    content = victim.read_bytes()
    try:
        victim.write_bytes(content[:-5] + bytes(5))
        bad = cellfm("corpus", "check", store)
        assert bad.code == 1
        assert victim.name in bad.out
        assert "has 1 problem:" in bad.out
        said = json.loads(cellfm("corpus", "check", store, "--json").out)
        assert said["is_good"] is False
        assert len(said["problems"]) == 1
    finally:
        victim.write_bytes(content)


def test_contains_finds_files_cells_and_donors(
    cellfm: Cellfm, files: Path, store: Path, tmp_path: Path
) -> None:
    same = json.loads(cellfm("corpus", "contains", store, files / "blood_b.h5ad", "--json").out)[0]
    assert same["known_as"] == "blood_b"
    assert same["n_found"] == same["n_cells"] > 0
    assert same["by_dataset"] == {"blood_b": same["n_cells"]}
    assert "blood_b_donor1" in same["donors"]
    # Some cells in another order in another file, and with others that are not in the corpus.
    known = anndata.read_h5ad(files / "blood_b.h5ad")[:40]
    new = anndata.read_h5ad(files / "blood_b.h5ad")[40:60].copy()
    new.X = new.X.tocsr() * 2
    mixed = anndata.concat([new, known[::-1]], index_unique="-")
    mixed.obs["donor"] = "someone"
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    words = ["corpus", "contains", store, tmp_path / "mixed.h5ad"]
    outcome = cellfm(*words, "--donor", "gut_b_donor1", "--donor", "nobody")
    assert outcome.code == 0
    assert "none" in outcome.out
    assert "mixed: the donor gut_b_donor1 has" in outcome.out
    assert "nobody" not in outcome.out
    found = json.loads(cellfm(*words, "--json").out)[0]
    n_known = json.loads(cellfm("corpus", "contains", store, files / "blood_b.h5ad", "--json").out)
    assert found["known_as"] == ""
    assert 0 < found["n_found"] <= 40 <= n_known[0]["n_found"]
    assert found["is_free"] is False
    new.obs["donor"] = "someone"
    new.write_h5ad(tmp_path / "new.h5ad")
    assert (
        "nothing of it was found" in cellfm("corpus", "contains", store, tmp_path / "new.h5ad").out
    )
    some = cellfm("corpus", "contains", store, files / "SOURCES.tsv")
    assert some.code == 3
    assert "mouse cannot be used: " in some.out


def test_add_brings_only_what_is_new(cellfm: Cellfm, files: Path, tmp_path: Path) -> None:
    first, second = files / "gut_b.h5ad", files / "skin_b.tsv"
    store = tmp_path / "store"
    assert cellfm("corpus", "build", first, store, "--workers", 1).code == 0
    before = json.loads(cellfm("corpus", "describe", store, "--json").out)
    outcome = cellfm("corpus", "add", second, first, files / "mouse.h5ad", store, "--workers", 1)
    assert outcome.code == 3, outcome.err
    assert "set aside mouse: " in outcome.out
    assert "passed over gut_b: it is in the corpus as gut_b" in outcome.out
    after = json.loads(cellfm("corpus", "describe", store, "--json").out)
    assert [group["label"] for group in after["groups"]["dataset"]] == ["gut_b", "skin_b"]
    assert after["n_cells"] > before["n_cells"]
    assert cellfm("corpus", "check", store).code == 0


def test_dry_run_reads_nothing(cellfm: Cellfm, files: Path, tmp_path: Path) -> None:
    outcome = cellfm("corpus", "build", files, tmp_path / "store", "--dry-run")
    assert outcome.code == 0, outcome.err
    for text in (
        "brain_a",
        "10x_mtx",
        "skin_b",
        "csv",
        "15 sources",
        "nothing was read or written",
    ):
        assert text in outcome.out
    assert not list(tmp_path.iterdir())
    (tmp_path / "SOURCES.tsv").write_text("path\nabsent.h5ad\n")
    outcome = cellfm("corpus", "add", tmp_path / "SOURCES.tsv", tmp_path / "store", "--dry-run")
    assert outcome.code == 3
    assert "absent would be set aside: " in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus", "build", "{tmp}/absent", "{tmp}/store"], "There is no {tmp}/absent"),
        (["corpus", "build", "{files}/mouse.h5ad", "{tmp}/store"], "No cell is left of 1 sources"),
        (["corpus", "build", "{files}", "{tmp}/store", "--max-mito", "2"], "--max-mito is 2"),
        (["corpus", "build", "{files}", "{files}"], "is no corpus, so it is not replaced"),
        (["corpus", "add", "{files}", "{tmp}"], "holds no corpus.json"),
        (["corpus", "check", "{tmp}"], "holds no corpus.json"),
        (["corpus", "describe", "{tmp}"], "holds no corpus.json"),
        (["corpus", "contains", "{tmp}", "{files}"], "holds no corpus.json"),
        (["simulate", "{tmp}/a.h5ad", "--types", "1"], "n_types is 1"),
        (["simulate", "{tmp}/a.h5ad", "--reference", "{files}/skin_b.tsv"], "cannot be opened as HDF5"),
        (["simulate", "{files}/mouse.h5ad"], "exists already"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained(
    cellfm: Cellfm, files: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    outcome = cellfm(*(word.format(tmp=tmp_path, files=files) for word in words))
    assert outcome.code == 2
    assert message.format(tmp=tmp_path) in outcome.err
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_simulate_writes_a_file_and_another_like_it(cellfm: Cellfm, tmp_path: Path) -> None:
    words = [
        "--cells",
        300,
        "--genes",
        400,
        "--perturbations",
        3,
        "--doubles",
        1,
        "--doublets",
        0.1,
    ]
    outcome = cellfm("simulate", tmp_path / "a.h5ad", *words, "--seed", 5)
    assert outcome.code == 0, outcome.err
    assert "300 × 400" in outcome.out
    assert "perturbations" in outcome.out
    made = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert made.varm["perturbation_effect"].shape == (400, 5)
    words = ["--cells", 200, "--reference", tmp_path / "a.h5ad", "--cell-type-key", "cell_type"]
    assert cellfm("simulate", tmp_path / "b.h5ad", *words).code == 0
    like = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert list(like.var_names) == list(made.var_names)
    assert set(like.obs["cell_type"]) <= set(made.obs["cell_type"])


@pytest.mark.parametrize("command", ["build", "add", "check", "describe", "contains"])
def test_help_explains(cellfm: Cellfm, command: str) -> None:
    outcome = cellfm("corpus", command, "--help")
    assert outcome.code == 0
    assert "STORE" in outcome.out
    assert f"cellfm corpus {command} " in outcome.out.partition("Examples:")[2]
    assert "set aside" in " ".join(cellfm("--help").out.split())
