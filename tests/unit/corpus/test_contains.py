from pathlib import Path

import pytest
from scipy import sparse
from tests.stores import RULES, counts, vocabulary, write_source

from cellfm.corpus.build import build
from cellfm.corpus.contains import contains, donors_in
from cellfm.corpus.store import Store
from cellfm.errors import CorpusError, SourceError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contains")
    base = counts(60, seed=2)
    sources = [
        write_source(folder / "a.h5ad", base[:25], donor="P1"),
        write_source(folder / "b.h5ad", base[25:40], donor="P2"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellfm.corpus.plan.PART_CELLS", 16)
        build(sources, folder / "s", rules=RULES, vocabulary=vocabulary(), n_workers=1)
    return folder / "s"


def test_the_file_itself_is_known(store: Path) -> None:
    source = write_source(store.parent / "again.h5ad", counts(60, seed=2)[:25], donor="P1")
    result = contains(store, source)
    assert result.known_as in ("", "a")  # h5ad files may carry times
    assert (result.n_cells_in, result.n_cells, result.n_found) == (25, 25, 25)
    assert result.fraction == 1.0
    assert result.by_dataset == {"a": 25}
    assert result.donors == {"P1": 25}
    assert not result.is_free
    itself = write_source(store.parent / "other.h5ad", counts(1))
    original = contains(store, type(itself)(name="x", path=store.parent / "a.h5ad"))
    assert original.known_as == "a"


def test_cells_are_found_whatever_file_they_are_in(store: Path) -> None:
    base = counts(60, seed=2)
    rows = sparse.vstack([base[50:60], base[20:30]]).tocsr()
    result = contains(Store.open(store), write_source(store.parent / "m.h5ad", rows, donor="P9"))
    assert (result.n_cells, result.n_found) == (20, 10)
    assert result.by_dataset == {"a": 5, "b": 5}
    assert result.fraction == 0.5
    assert result.known_as == ""
    assert result.donors == {}


def test_a_count_more_makes_another_cell(store: Path) -> None:
    rows = counts(60, seed=2)[:25].copy()
    rows.data[rows.indptr[:-1]] += 1
    source = write_source(store.parent / "n.h5ad", rows, donor="new")
    result = contains(store, source)
    assert result.n_found == 0
    assert result.fraction == 0.0
    assert result.is_free


def test_donors_are_found_by_exact_name(store: Path) -> None:
    source = write_source(store.parent / "d.h5ad", counts(5, seed=9), donor="P2")
    assert contains(store, source).donors == {"P2": 15}
    assert not contains(store, source).is_free
    assert contains(store, source, donors=["P1", "p2", ""]).donors == {"P1": 25, "P2": 15}
    assert donors_in(store, ["P1", "P10", ""]) == {"P1": 25}
    assert donors_in(Store.open(store), []) == {}


def test_the_rules_of_the_corpus_hold(store: Path) -> None:
    rows = counts(60, seed=2)[:25].tolil()
    rows[:5] = 0
    rows[:5, 0] = 1
    result = contains(store, write_source(store.parent / "r.h5ad", rows.tocsr()))
    assert (result.n_cells_in, result.n_cells, result.n_found) == (25, 20, 20)
    rows[5:] = rows[:1]
    few = contains(store, write_source(store.parent / "f.h5ad", rows.tocsr(), donor="x"))
    assert (few.n_cells, few.n_found, few.fraction) == (0, 0, 0.0)


def test_bad_input_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.h5ad").write_bytes(b"x")
    source = write_source(tmp_path / "good.h5ad", counts(3))
    with pytest.raises(SourceError):
        contains(store, type(source)(name="bad", path=tmp_path / "bad.h5ad"))
    with pytest.raises(CorpusError, match="holds no"):
        contains(tmp_path, source)
