import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.stores import RULES, counts, in_order, vocabulary, write_source

from cellfm.corpus.build import add, build
from cellfm.corpus.check import check
from cellfm.corpus.manifest import Dataset, Manifest, PartEntry
from cellfm.corpus.part import Labels
from cellfm.corpus.part_writer import SortedCells, write_part
from cellfm.corpus.record import file_digest, record_path
from cellfm.errors import CorpusError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    sources = [write_source(folder / "a.h5ad", counts(30))]
    build(sources, folder / "s", rules=RULES, vocabulary=vocabulary(), n_workers=1)
    add([write_source(folder / "b.h5ad", counts(9, seed=5))], folder / "s", n_workers=1)
    return folder / "s"


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "s"))


def test_a_good_store_passes(built: Path) -> None:
    told = []
    result = check(built, progress=lambda done, total: told.append((done, total)))
    assert result.is_good
    assert (result.n_parts, result.n_cells) == (2, 39)
    assert result.n_files > 100
    assert told == [(0, 2), (1, 2)]
    assert check(built, content=False).n_cells == 0


def test_without_a_corpus_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no"):
        check(tmp_path)


def cut_chunk(store: Path) -> None:
    path = store / "cells/part-00000.zarr/X/data/c/0"
    path.write_bytes(path.read_bytes()[:-40])


def flip_bit(store: Path) -> None:
    path = store / "cells/part-00001.zarr/X/indices/c/0"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)


def delete_file(store: Path) -> None:
    (store / "cells/part-00000.zarr/obs/donor/codes/c/0").unlink()


def delete_part(store: Path) -> None:
    shutil.rmtree(store / "cells/part-00001.zarr")


def delete_record(store: Path) -> None:
    (store / "cells/part-00001.json").unlink()


def edit_record(store: Path) -> None:
    path = store / "cells/part-00001.json"
    path.write_text(path.read_text().replace('"n_cells": 9', '"n_cells": 8'))


def add_file(store: Path) -> None:
    (store / "cells/part-00000.zarr/notes.txt").write_text("mine")


def edit_manifest(store: Path) -> None:
    path = store / "corpus.json"
    path.write_text(path.read_text().replace('"licence": ""', '"licence": "CC0"'))


def edit_genes(store: Path) -> None:
    vocabulary(30).write(store / "genes.tsv")


@pytest.mark.parametrize(
    ("damage", "where", "message"),
    [
        (cut_chunk, "cells/part-00000.zarr", "X/data/c/0 is not what was written"),
        (flip_bit, "cells/part-00001.zarr", "X/indices/c/0 is not what was written"),
        (delete_file, "cells/part-00000.zarr", "obs/donor/codes/c/0 is missing"),
        (delete_part, "cells/part-00001.zarr", "zarr.json is missing"),
        (delete_record, "cells/part-00001.zarr", "cannot be read"),
        (edit_record, "cells/part-00001.zarr", "its record part-00001.json was changed"),
        (add_file, "cells/part-00000.zarr", "notes.txt does not belong there"),
        (edit_manifest, "corpus.json", "does not agree with its own hash"),
        (edit_genes, "genes.tsv", "another gene list"),
    ],
)
def test_damage_is_found(store: Path, damage, where: str, message: str) -> None:
    damage(store)
    problems = check(store).problems
    assert problems
    assert {problem.where for problem in problems} == {where}
    assert any(message in str(problem) for problem in problems)
    if damage is not edit_manifest:
        assert check(store, content=False).problems == problems


def faulty(store: Path, cells: SortedCells) -> list[str]:
    """Make a store whose digests are right of cells that are not, and return what is found."""
    path = store / "cells/part-00000.zarr"
    record = write_part(path, [cells], vocabulary=vocabulary())
    assert record is not None
    vocabulary().write(store / "genes.tsv")
    words = "".join(f"{word:016x}" for word in record.content)
    entry = PartEntry(
        path="cells/part-00000.zarr",
        segment=0,
        n_cells=record.n_cells,
        n_values=record.n_values,
        sha256=file_digest(record_path(path)),
    )
    dataset = Dataset(
        name="first", path="", sha256="", n_bytes=0, format="", licence="", url="", n_cells=20
    )
    Manifest(
        cellfm="0",
        vocabulary=vocabulary().hash,
        n_genes=len(vocabulary()),
        content=words,
        rules={},
        datasets=(dataset,),
        set_aside=(),
        parts=(entry,),
    ).write(store)
    return [problem.what for problem in check(store).problems]


@pytest.mark.parametrize(
    ("field", "position", "value", "message"),
    [
        ("gene", 0, 0, "genes outside"),
        ("gene", -1, 60_000, "genes outside"),
        ("gene", 3, 1, "genes that do not ascend"),
        ("count", 5, 0, "counts outside 1"),
        ("count", 5, 2**24, "counts outside 1"),
        ("count", 5, 999, "fingerprints that are not those of the counts"),
        ("fingerprint", 7, (0, 0), "cell 7 does not come after the one before it"),
    ],
)
def test_cells_that_are_wrong_are_found(
    tmp_path: Path, field: str, position: int, value, message: str
) -> None:
    cells = in_order(counts(20))
    values = getattr(cells, field).copy()
    values[position] = value
    (problem, *_) = faulty(tmp_path, replace(cells, **{field: values}))
    assert message in problem
    assert "build the corpus again" in problem


def test_cells_that_are_right_pass(tmp_path: Path) -> None:
    assert faulty(tmp_path, in_order(counts(20))) == []


def test_a_dataset_that_is_not_known_is_found(tmp_path: Path) -> None:
    cells = in_order(counts(20))
    strange = Labels(codes=cells.labels["dataset"].codes, categories=("other",))
    (problem,) = faulty(tmp_path, replace(cells, labels={**cells.labels, "dataset": strange}))
    assert "dataset 'other' is not in the manifest" in problem


def test_copies_in_an_addition_are_found(tmp_path: Path) -> None:
    assert faulty(tmp_path, in_order(counts(20))) == []
    manifest = Manifest.read(tmp_path)
    shutil.copytree(tmp_path / "cells/part-00000.zarr", tmp_path / "cells/part-00001.zarr")
    shutil.copyfile(tmp_path / "cells/part-00000.json", tmp_path / "cells/part-00001.json")
    second = replace(manifest.parts[0], path="cells/part-00001.zarr", segment=1)
    words = [2 * int(manifest.content[i : i + 16], 16) % 2**64 for i in (0, 16)]
    content = "".join(f"{word:016x}" for word in words)
    replace(manifest, parts=(*manifest.parts, second), content=content).write(tmp_path)
    (problem,) = check(tmp_path).problems
    assert "20 of its cells are in cells/part-00000.zarr, too" in problem.what
    same = replace(second, segment=0)
    replace(manifest, parts=(*manifest.parts, same), content=content).write(tmp_path)
    (problem,) = check(tmp_path).problems
    assert "first cell does not come after the last one" in problem.what


def test_a_content_hash_that_is_not_the_cells_is_found(tmp_path: Path) -> None:
    faulty(tmp_path, in_order(counts(20)))
    replace(Manifest.read(tmp_path), content="0" * 32).write(tmp_path)
    (problem,) = check(tmp_path).problems
    assert "the hash of its cells is not that of the cells" in str(problem)
    assert json.loads((tmp_path / "corpus.json").read_text())["content"] == "0" * 32
