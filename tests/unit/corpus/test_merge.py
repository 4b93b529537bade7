import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from tests.stores import counts, in_order, vocabulary

from cellfm.corpus import merge as merging
from cellfm.corpus.merge import FAN_IN, Merged, MergeJob, grouped, merge
from cellfm.corpus.part import WHOLE_RANGE, Part
from cellfm.corpus.part_writer import write_part
from cellfm.corpus.record import PartRecord

NAMES = ("x", "y", "z")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three runs of 20 cells; the last two share five cells each with the first, and have copies of their own."""
    base = counts(60, seed=4)
    parts = [base[:20], base[list(range(15, 35))], base[[*range(30, 45), *range(5), 44, 44][:20]]]
    paths = []
    for name, rows in zip(NAMES, parts, strict=True):
        paths.append(tmp_path / f"{name}.zarr")
        write_part(paths[-1], [in_order(rows, dataset=name)], vocabulary=vocabulary())
    vocabulary().write(tmp_path / "genes.tsv")
    (tmp_path / "ranks.json").write_text(json.dumps({"y": 0, "z": 1, "x": 2}))
    return paths


def job(inputs: Sequence[Path], name: str = "out", **more) -> MergeJob:
    folder = inputs[0].parent
    return MergeJob(
        inputs=tuple(inputs),
        output=folder / f"{name}.zarr",
        done=folder / f"{name}.done.json",
        ranks=folder / "ranks.json",
        vocabulary=folder / "genes.tsv",
        **more,
    )


def test_every_cell_stays_once_and_the_lowest_rank_wins(runs: list[Path]) -> None:
    done = merge(job(runs))
    assert done.n_cells == 45
    # x loses 15-19 to y and 0-4 to z; z loses 30-34 to y
    assert done.across == {"x": 10, "z": 5}
    assert done.within == {}
    part = Part.open(runs[0].parent / "out.zarr")
    words = part.fingerprints()
    assert (words[1:, 0] > words[:-1, 0]).all()
    assert PartRecord.read(part.path).cells == {"x": 10, "y": 20, "z": 15}
    x = sparse.csr_matrix(
        (part.read(0, 45).count, part.read(0, 45).gene - 1, part.read(0, 45).offsets),
        shape=(45, len(vocabulary())),
    )
    expected = in_order(counts(60, seed=4)[:45])
    assert (expected.fingerprint == words).all()
    assert (x.indices == expected.gene - 1).all()
    assert (x.data == expected.count).all()


def test_copies_within_a_source_are_counted_and_the_first_row_stays(tmp_path: Path) -> None:
    base = counts(10)
    write_part(
        tmp_path / "x.zarr",
        [in_order(base[[3, 1, 3, 3, 2]], dataset="x")],
        vocabulary=vocabulary(),
    )
    vocabulary().write(tmp_path / "genes.tsv")
    (tmp_path / "ranks.json").write_text('{"x": 0}')
    done = merge(job([tmp_path / "x.zarr"]))
    assert done == Merged(n_cells=3, within={"x": 2}, across={})
    assert sorted(Part.open(tmp_path / "out.zarr").numbers("row")) == [0, 1, 4]


def test_blocks_ranges_and_rounds_do_not_change_the_cells(runs: list[Path], monkeypatch) -> None:
    merge(job(runs))
    whole = Part.open(runs[0].parent / "out.zarr")
    monkeypatch.setattr(merging, "BLOCK_VALUES", 300)
    merge(job(runs, "blocks"))
    assert PartRecord.read(whole.path) == PartRecord.read(runs[0].parent / "blocks.zarr")
    first = merge(job(runs[:2], "first"))
    both = merge(job([runs[0].parent / "first.zarr", runs[2]], "rounds"))
    assert PartRecord.read(whole.path) == PartRecord.read(runs[0].parent / "rounds.zarr")
    assert first.across["x"] + both.across["x"] == 10
    words = []
    for i in range(4):
        edges = {"low": i * (WHOLE_RANGE // 4), "high": (i + 1) * (WHOLE_RANGE // 4)}
        if merge(job(runs, f"part-{i}", **edges)).n_cells:
            words.append(Part.open(runs[0].parent / f"part-{i}.zarr").fingerprints())
    assert (np.concatenate(words) == whole.fingerprints()).all()


def test_cells_that_exist_are_left_out(runs: list[Path], monkeypatch) -> None:
    monkeypatch.setattr(merging, "BLOCK_VALUES", 300)
    done = merge(job(runs[1:], existing=(runs[0],)))
    assert done.n_cells == 25
    assert done.across == {"y": 5, "z": 10}
    nothing = merge(job(runs[:1], "nothing", existing=(runs[0],)))
    assert nothing == Merged(n_cells=0, within={}, across={"x": 20})
    assert not (runs[0].parent / "nothing.zarr").exists()


def test_a_merge_that_is_done_is_not_done_again(runs: list[Path]) -> None:
    first = merge(job(runs))
    before = (runs[0].parent / "out.json").stat().st_mtime_ns
    assert merge(job(runs)) == first
    assert (runs[0].parent / "out.json").stat().st_mtime_ns == before


def test_groups_are_bounded() -> None:
    many = [(Path(str(i)), 10) for i in range(300)]
    assert [len(group) for group in grouped(many)] == [FAN_IN, FAN_IN, 300 - 2 * FAN_IN]
    large = [(Path(str(i)), merging.GROUP_CELLS // 2 + 1) for i in range(3)]
    assert [len(group) for group in grouped(large)] == [1, 1, 1]
    assert grouped([]) == []
