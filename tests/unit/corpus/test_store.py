import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.stores import RULES, counts, vocabulary, write_source

from cellfm.corpus.build import add, build
from cellfm.corpus.manifest import Manifest
from cellfm.corpus.part import LABELS
from cellfm.corpus.store import Store
from cellfm.errors import CorpusError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellfm.corpus.plan.PART_CELLS", 16)
        sources = [write_source(folder / "a.h5ad", counts(40), donor="d")]
        build(sources, folder / "s", rules=RULES, vocabulary=vocabulary(), n_workers=1)
        add([write_source(folder / "b.h5ad", counts(9, seed=5))], folder / "s", n_workers=1)
    return folder / "s"


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "s"))


def test_a_store_is_one_list_of_cells(built: Path) -> None:
    store = Store.open(built)
    assert len(store) == store.n_cells == 49
    assert len(store.parts) == 5
    assert store.vocabulary == vocabulary()
    assert [dataset.n_cells for dataset in store.datasets] == [40, 9]
    whole = store.read(0, 49)
    assert (np.diff(whole.offsets) == store.lengths()).all()
    for start, stop in ((0, 0), (5, 33), (48, 49), (49, 49), (40, 99), (12, 13)):
        rows = store.read(start, stop)
        entries = slice(whole.offsets[start], whole.offsets[min(stop, 49)])
        assert (rows.gene == whole.gene[entries]).all()
        assert (rows.count == whole.count[entries]).all()
        assert rows.offsets[0] == 0
        assert (np.diff(rows.offsets) == np.diff(whole.offsets)[start:stop]).all()
    assert store.lengths().dtype == np.int32
    assert store.numbers().dtype == np.int64
    assert len(set(store.numbers())) == 49
    assert (store.numbers().view(np.uint64) == store.numbers_of("fingerprint_1")).all()


def test_columns_are_joined(built: Path) -> None:
    store = Store.open(built)
    column = store.column("dataset")
    assert column.categories == ("a", "b")
    assert list(np.bincount(column.codes)) == [40, 9]
    assert set(store.column("donor").strings()[:40]) == {"d"}
    assert all(len(store.column(name).codes) == 49 for name in LABELS)


def change(store: Path, **values) -> None:
    path = store / "corpus.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 9}, "is of format 9; this version reads format 1"),
        ({"n_cells": 3}, "does not agree with its own hash"),
        ({"vocabulary": "0"}, "does not agree with its own hash"),
        ({"parts": []}, "does not agree with its own hash"),
        ({"datasets": [{"name": "a"}]}, "lacks or misnames something"),
        ({"rules": 5}, "lacks or misnames something"),
    ],
)
def test_a_changed_manifest_is_refused(store: Path, values: dict, message: str) -> None:
    change(store, **values)
    with pytest.raises(CorpusError, match=message):
        Store.open(store)


def test_what_is_no_corpus_is_refused(tmp_path: Path, store: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no corpus.json, so it is no corpus"):
        Store.open(tmp_path / "none")
    (tmp_path / "none.partial").mkdir()
    with pytest.raises(CorpusError, match="a build that was not finished"):
        Store.open(tmp_path / "none")
    (store / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match="cannot be read"):
        Store.open(store)
    (store / "corpus.json").write_text("[]")
    with pytest.raises(CorpusError, match="holds a list"):
        Store.open(store)


def test_another_gene_list_is_refused(store: Path) -> None:
    vocabulary(50).write(store / "genes.tsv")
    with pytest.raises(CorpusError, match="another gene list"):
        _ = Store.open(store).vocabulary
    (store / "genes.tsv").write_text("token\n")
    with pytest.raises(CorpusError, match=r"gene list of the corpus .* is damaged"):
        _ = Store.open(store).vocabulary


def test_parts_that_were_exchanged_are_refused(store: Path) -> None:
    paths = [store / part.path for part in Manifest.read(store).parts[:2]]
    paths[0].rename(store / "x")
    paths[1].rename(paths[0])
    (store / "x").rename(paths[1])
    with pytest.raises(CorpusError, match="not what the corpus says"):
        _ = Store.open(store).parts
