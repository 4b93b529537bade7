"""Cells of a store as a source: the same as in memory, chosen by name, refused when damaged."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from cellfm import __version__
from cellfm.corpus import window as window_module
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.fingerprint import content_hash, content_hex, fingerprint
from cellfm.corpus.manifest import GENES, Manifest, PartEntry
from cellfm.corpus.part import LABELS, Labels
from cellfm.corpus.part_writer import SortedCells, write_part
from cellfm.corpus.ragged import boundaries
from cellfm.corpus.sample import EpochSampler, evaluation_batches
from cellfm.corpus.source import select, visit_weights
from cellfm.corpus.store import Store
from cellfm.corpus.stored import StoredCells
from cellfm.corpus.window import Window
from cellfm.errors import ConfigError, CorpusError
from cellfm.genes import Vocabulary

VOCABULARY = Vocabulary.from_symbols([f"GENE{i}" for i in range(300)])
PARTS = (0, 70, 150, 200)
NAMES = {"dataset": ("lung", "pbmc"), "donor": ("", "D1", "D2"), "tissue": ("", "blood", "lung")}


def counted(n_cells=200):
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 60, n_cells)
    gene = [np.sort(rng.choice(300, n, replace=False)) + 1 for n in lengths]
    count = rng.geometric(0.3, lengths.sum())
    count[17] = 70_000  # the part that has it is stored in 4 bytes
    offsets = boundaries(lengths)
    prints = fingerprint(np.concatenate(gene), count, offsets)
    cells = InMemoryCells(
        gene=np.concatenate(gene).astype(np.int32),
        count=count.astype(np.float32),
        offsets=offsets,
        cell=prints[:, 1].copy().view(np.int64),
    )
    order = np.argsort(prints[:, 0])
    return cells.select(order), prints[order]


def labels_of(rows):
    codes = {name: rows * 7 % len(NAMES.get(name, ("",))) for name in LABELS}
    return {
        name: Labels(codes=codes[name].astype(np.int32), categories=NAMES.get(name, ("",)))
        for name in LABELS
    }


def write(path, cells, prints, start, stop):
    block = cells.read(start, stop)
    labelled = SortedCells(
        gene=block.gene.astype(np.uint16),
        count=block.count.astype(np.uint32),
        offsets=block.offsets,
        fingerprint=prints[start:stop],
        row=np.arange(start, stop),
        labels=labels_of(np.arange(start, stop)),
    )
    record = write_part(path, [labelled], vocabulary=VOCABULARY)
    return PartEntry(
        path=f"cells/{path.name}",
        segment=0,
        n_cells=record.n_cells,
        n_values=record.n_values,
        sha256="",
    )


def write_store(folder):
    cells, prints = counted()
    entries = [
        write(folder / f"cells/part-{i:05d}.zarr", cells, prints, *PARTS[i : i + 2])
        for i in range(len(PARTS) - 1)
    ]
    VOCABULARY.write(folder / GENES)
    Manifest(
        cellfm=__version__,
        vocabulary=VOCABULARY.hash,
        n_genes=300,
        content=content_hex(content_hash(prints)),
        rules={},
        datasets=(),
        set_aside=(),
        parts=tuple(entries),
    ).write(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(write_store(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def truth():
    return counted()[0]


def same(one, other):
    for name in ("gene", "value", "offsets", "depth", "hidden", "scored", "target"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("start", "stop"), [(0, 200), (0, 70), (10, 10), (69, 71), (60, 190)])
def test_read_is_what_was_written(store, truth, start, stop):
    cells, expected = StoredCells(store).read(start, stop), truth.read(start, stop)
    for name in ("gene", "count", "offsets", "cell"):
        np.testing.assert_array_equal(getattr(cells, name), getattr(expected, name))
    assert cells.count.dtype.kind == "u"


def test_lengths_are_small_and_numbers_are_those_of_the_cells(store, truth):
    cells = StoredCells(store)
    assert len(cells) == 200
    assert cells.lengths.dtype == np.uint16
    np.testing.assert_array_equal(cells.lengths, truth.lengths)
    np.testing.assert_array_equal(cells.number, truth.number)


@pytest.mark.parametrize("thin", [False, True])
def test_batches_of_a_store_are_those_of_its_cells_in_memory(store, truth, thin):
    options = {
        "token_budget": 300, "seed": 1, "thin": thin, "lanes": 2, "window_rows": 40, "block_rows": 8,
        "length_buckets": 2, "rows": np.arange(3, 190, 2), "weight": np.arange(94) % 3 / 2 + 0.25,
    }  # fmt: skip
    stored, memory = (EpochSampler(cells, **options) for cells in (StoredCells(store), truth))
    for step in range(12):
        for one, other in zip(stored.batches(step), memory.batches(step), strict=True):
            same(one, other)


def test_planning_reads_no_cells(store):
    class Unreadable(StoredCells):
        def read(self, start, stop):
            raise AssertionError

        @property
        def number(self):
            raise AssertionError

    sampler = EpochSampler(Unreadable(store), token_budget=200, seed=0, lanes=2, window_rows=32)
    assert sampler.locate(10_000, lane=1)[0] > 100
    assert len(sampler.rows(10_000))
    assert sampler.n_batches(3) > 0
    with pytest.raises(AssertionError):
        sampler.batches(0)


def test_a_window_reads_runs_and_leaves_out_what_is_not_wanted(store, truth, monkeypatch):
    monkeypatch.setattr(window_module, "GAP_ROWS", 4)
    monkeypatch.setattr(window_module, "READ_ROWS", 16)
    asked = []

    class Watched(StoredCells):
        def read(self, start, stop):
            asked.append((start, stop))
            return super().read(start, stop)

    rows = np.array([100, 3, 4, 7, 40, 36, 32, 28, 24, 20, 199])
    found = Window(Watched(store), rows).take(rows)
    assert asked == [(3, 8), (20, 33), (36, 41), (100, 101), (199, 200)]
    expected = truth.select(rows)
    for name in ("gene", "count", "offsets", "cell"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert len(Window(Watched(store), rows[:0]).take(rows[:0])) == 0


def test_evaluation_of_some_rows(store, truth):
    rows = np.arange(0, 200, 3)
    options = {"token_budget": 150, "seed": 5, "rows": rows, "max_cells": 20}
    stored = list(evaluation_batches(StoredCells(store), **options))
    for one, other in zip(stored, evaluation_batches(truth, **options), strict=True):
        same(one, other)
    assert sum(batch.n_cells for batch in stored) == 20
    more = list(evaluation_batches(truth, **(options | {"max_cells": 21})))
    fewer = {batch.value[: batch.lengths[0]].numpy().tobytes() for batch in stored}
    assert fewer & {batch.value[: batch.lengths[0]].numpy().tobytes() for batch in more}
    with pytest.raises(ConfigError, match="max_cells is 0; it must be at least 1"):
        next(evaluation_batches(truth, token_budget=9, seed=0, max_cells=0))


@pytest.fixture
def damaged(tmp_path):
    return write_store(tmp_path / "corpus")


def test_a_truncated_chunk_names_the_part_and_the_check(damaged):
    cells = StoredCells(Store.open(damaged))
    file = damaged / "cells/part-00001.zarr/X/data/c/0"
    file.write_bytes(file.read_bytes()[:-40])
    sampler = EpochSampler(cells, token_budget=10**6, seed=0)
    with pytest.raises(CorpusError, match=r"part-00001\.zarr.*(?s:.)*cellfm corpus check"):
        sampler.batch(0)


def test_a_part_that_is_another_one_is_noticed(damaged):
    cells = StoredCells(Store.open(damaged))
    cells._lengths[75] += 1
    with pytest.raises(CorpusError, match=r"part-00001\.zarr from row 0 on hold other genes"):
        cells.read(70, 80)
    cells._lengths[75] -= 1
    cells._n_genes = 20
    with pytest.raises(CorpusError, match="cellfm corpus check"):
        cells.read(0, 10)


def held(store, name):
    rows = np.arange(200)
    return np.array(NAMES[name])[rows * 7 % len(NAMES[name])]


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("tissue=blood", lambda t, _: t == "blood"),
        ("tissue=blood|lung", lambda t, _: t != ""),
        ("tissue = blood | lung", lambda t, _: t != ""),
        ("tissue!=lung", lambda t, _: t != "lung"),
        ("tissue=", lambda t, _: t == ""),
        ("dataset!=pbmc", lambda _, d: d == "lung"),
    ],
)
def test_conditions(store, where, keeps):
    expected = np.flatnonzero(keeps(held(store, "tissue"), held(store, "dataset")))
    found = select(store, where=[where])
    assert found.train.tolist() == expected.tolist()
    assert not found.held_out


def test_conditions_all_hold_for_held_out_sets_too(store):
    donor, tissue, dataset = (held(store, name) for name in ("donor", "tissue", "dataset"))
    found = select(
        store, where=["tissue!=", "donor=D1|D2"], held_out_datasets=["pbmc"], held_out_donors=["D2"]
    )
    kept = (tissue != "") & (donor != "")
    assert (
        found.held_out["dataset=pbmc"].tolist()
        == np.flatnonzero(kept & (dataset == "pbmc")).tolist()
    )
    assert found.held_out["donor=D2"].tolist() == np.flatnonzero(kept & (donor == "D2")).tolist()
    expected = kept & (dataset != "pbmc") & (donor != "D2")
    assert found.train.tolist() == np.flatnonzero(expected).tolist()


def test_a_fraction_is_the_one_of_the_same_cells_in_memory(store, truth):
    found = select(store, held_out_fraction=0.1, seed=4)
    assert len(found.held_out["cells"]) == 20
    assert sorted([*found.train, *found.held_out["cells"]]) == list(range(200))
    in_memory = truth.split(0.1, seed=4)[1]
    assert in_memory.cell.tolist() == truth.cell[found.held_out["cells"]].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ["tisue=blood"]}, "no column 'tisue' in the corpus. Did you mean 'tissue'? It has 'assay'"),
        ({"where": ["tissue=blod"]}, "no tissue 'blod' in the corpus. Did you mean 'blood'? It has '', 'blood', 'lung'"),
        ({"where": ["blood"]}, "where='blood' is no condition; expected COLUMN=VALUE"),
        ({"where": ["=blood"]}, "is no condition"),
        ({"held_out_datasets": ["pmbc"]}, "no dataset 'pmbc' in the corpus. Did you mean 'pbmc'?"),
        ({"held_out_donors": ["D9"]}, "no donor 'D9'"),
        ({"held_out_datasets": ["pbmc", "lung"]}, "0 cells for training, once the held-out"),
        ({"where": ["dataset=lung"], "held_out_datasets": ["pbmc"]}, "0 cells for the held-out dataset 'pbmc' with where=dataset=lung"),
        ({"where": ["tissue=blood", "tissue=lung"]}, "0 cells for where=tissue=blood, tissue=lung"),
        ({"held_out_fraction": 1.0}, "0 cells for training with held_out_fraction=1.0"),
        ({"held_out_fraction": -0.5}, "held_out_fraction is -0.5"),
    ],
)  # fmt: skip
def test_refused_selections(store, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        select(store, **options)


def test_long_lists_of_known_names_are_cut_short():
    many = Labels(codes=np.zeros(3, np.int32), categories=tuple(f"D{i:03d}" for i in range(50)))
    store = SimpleNamespace(n_cells=3, column=lambda _: many, numbers=lambda: np.arange(3))
    with pytest.raises(ConfigError, match=r"Did you mean .*'D019' and 30 more; `cellfm corpus"):
        select(store, held_out_donors=["D0999"])


def test_weights_by_dataset(store):
    rows = np.arange(0, 200, 2)
    assert visit_weights(store, rows, {}) is None
    weights = visit_weights(store, np.arange(5), {"pbmc": 2.5})
    assert weights.tolist() == [1.0, 2.5, 1.0, 2.5, 1.0]
    with pytest.raises(ConfigError, match="Did you mean 'pbmc'"):
        visit_weights(store, rows, {"pbmcs": 1})
    with pytest.raises(ConfigError, match="weight of the dataset 'pbmc' is nan"):
        visit_weights(store, rows, {"pbmc": float("nan")})


def test_lengths_that_need_more_get_more(store):
    wide = SimpleNamespace(
        lengths=lambda: store.lengths() + 70_000, parts=store.parts, vocabulary=VOCABULARY
    )
    assert StoredCells(wide).lengths.dtype == np.int32
