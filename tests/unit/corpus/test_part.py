import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import zarr
from scipy import sparse
from tests.stores import N_GENES, counts, curated, in_order, vocabulary

from cellfm.corpus import shards
from cellfm.corpus.part import LABELS, WHOLE_RANGE, Labels, Part, positions
from cellfm.corpus.part_writer import SortedCells, totals, write_part
from cellfm.corpus.record import PartRecord, file_digests
from cellfm.corpus.zarr_files import VectorWriter
from cellfm.errors import CorpusError
from cellfm.genes import Vocabulary


def part_of(path: Path, cells: SortedCells) -> Part:
    write_part(path, [cells], vocabulary=vocabulary())
    return Part.open(path)


def halves(cells: SortedCells, at: int) -> list[SortedCells]:
    """Cut cells into two blocks; the categories of their labels differ."""
    edge = cells.offsets[at]
    return [
        replace(
            cells,
            gene=cells.gene[values],
            count=cells.count[values],
            offsets=cells.offsets[rows.start : rows.stop + 1] - cells.offsets[rows.start],
            fingerprint=cells.fingerprint[rows],
            row=cells.row[rows],
            labels={
                name: Labels(codes=label.codes[rows] + 1, categories=("unused", *label.categories))
                for name, label in cells.labels.items()
            },
        )
        for rows, values in (
            (slice(0, at), slice(0, edge)),
            (slice(at, len(cells)), slice(edge, None)),
        )
    ]


def test_a_part_gives_back_what_was_written(tmp_path: Path) -> None:
    cells = in_order(counts(40))
    part = part_of(tmp_path / "p.zarr", cells)
    assert (part.n_cells, part.n_genes, part.n_values) == (40, N_GENES, len(cells.gene))
    for start, stop in ((0, 40), (3, 3), (39, 40), (7, 21)):
        rows = part.read(start, stop)
        entries = slice(cells.offsets[start], cells.offsets[stop])
        assert (rows.gene == cells.gene[entries]).all()
        assert (rows.count == cells.count[entries]).all()
        assert (rows.offsets == cells.offsets[start : stop + 1] - cells.offsets[start]).all()
        again = Part.open(part.path).read(start, stop, once=True)
        assert (again.gene == rows.gene).all()
        assert (again.offsets == rows.offsets).all()
    assert rows.gene.dtype == rows.count.dtype == np.uint16
    assert (part.fingerprints() == cells.fingerprint).all()
    assert (part.numbers("row") == cells.row).all()
    assert (part.numbers("n_genes", 2, 5) == np.diff(cells.offsets)[2:5]).all()
    assert (part.numbers("total_counts") == totals(cells.count, cells.offsets)).all()
    assert set(part.labels("dataset").strings()) == {"first"}
    assert part.labels("tissue").categories == ("",)


def test_anndata_and_zarr_read_a_part(tmp_path: Path) -> None:
    matrix = counts(25)
    cells = in_order(matrix)
    part = part_of(tmp_path / "p.zarr", cells)
    adata = ad.read_zarr(part.path)
    assert (matrix[cells.row] != adata.X).nnz == 0
    assert list(adata.var_names) == list(vocabulary().symbols)
    assert list(adata.obs_names[:2]) == [f"first:{cells.row[0]}", f"first:{cells.row[1]}"]
    assert list(adata.obs["row"]) == list(cells.row)
    assert adata.obs["cell_type"].dtype == "category"
    assert adata.obs["fingerprint_1"].dtype == np.uint64
    assert adata.uns["cellfm"] == {"format": 1, "vocabulary": vocabulary().hash}
    group = zarr.open_group(part.path, mode="r")
    x = [group[f"X/{name}"][:] for name in ("data", "indices", "indptr")]
    assert (sparse.csr_matrix(tuple(x), shape=matrix.shape) != matrix[cells.row]).nnz == 0
    assert sorted(group) == ["X", "layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp"]


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    cells = in_order(counts(40))
    one = write_part(tmp_path / "1.zarr", [cells], vocabulary=vocabulary())
    two = write_part(tmp_path / "2.zarr", halves(cells, 13), vocabulary=vocabulary())
    assert one is not None
    assert one == two == PartRecord.read(tmp_path / "1.zarr")
    assert one.sha256 == file_digests(tmp_path / "2.zarr")
    assert one.cells == {"first": 40}


def test_no_cells_give_no_part(tmp_path: Path) -> None:
    none = halves(in_order(counts(3)), 0)[0]
    assert write_part(tmp_path / "p.zarr", [none], vocabulary=vocabulary()) is None
    assert not list(tmp_path.iterdir())


def test_what_was_left_half_written_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.zarr").mkdir()
    (tmp_path / "p.zarr/zarr.json").write_text("{")
    assert part_of(tmp_path / "p.zarr", in_order(counts(3))).n_cells == 3

    def interrupted():
        yield in_order(counts(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path / "q.zarr", interrupted(), vocabulary=vocabulary())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.zarr"]


@pytest.mark.parametrize("first_at", [0, 35])
def test_large_counts_widen_the_part(tmp_path: Path, monkeypatch, first_at: int) -> None:
    monkeypatch.setattr("cellfm.corpus.part_writer.CHUNK_VALUES", 64)
    monkeypatch.setattr("cellfm.corpus.part_writer.SHARD_VALUES", 256)
    cells = in_order(counts(40))
    count = cells.count.copy()
    count[cells.offsets[first_at]] = 65_536
    cells = replace(cells, count=count)
    write_part(tmp_path / "p.zarr", halves(cells, 20), vocabulary=vocabulary())
    rows = Part.open(tmp_path / "p.zarr").read(0, 40)
    assert rows.count.dtype == np.uint32
    assert (rows.count == count).all()
    assert (ad.read_zarr(tmp_path / "p.zarr").X.data == count).all()
    assert not list(tmp_path.rglob("*.narrow"))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 255, 256, 257, 1000])
def test_a_vector_is_cut_into_chunks_and_files(tmp_path: Path, n: int) -> None:
    values = np.random.default_rng(n).integers(0, 60_000, n).astype(np.uint16)
    values[128:192] = 0  # a chunk of the fill value
    writer = VectorWriter(tmp_path / "v", values.dtype, chunk=64, shard=256)
    for start in range(0, n, 100):
        writer.append(values[start : start + 100])
    writer.close()
    vector = shards.ShardedVector(tmp_path / "v")
    assert len(vector) == n
    assert (zarr.open_array(tmp_path / "v", mode="r")[:] == values).all()
    for start, stop in ((0, n), (n // 3, n // 2), (max(n - 1, 0), n)):
        assert (vector.read(start, stop) == values[start:stop]).all()
    assert len(list((tmp_path / "v/c").iterdir())) == -(-n // 256)


def test_a_vector_of_zarr_without_its_empty_chunks_is_read(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "v",
        shape=(300,),
        dtype="uint16",
        chunks=(64,),
        shards=(256,),
        compressors=zarr.codecs.BloscCodec(cname="zstd"),
    )
    array[:] = np.r_[np.ones(70), np.zeros(130), np.ones(100)]
    assert (shards.ShardedVector(tmp_path / "v").read(10, 290) == array[10:290]).all()
    assert (shards.ShardedVector(tmp_path / "v").read(130, 180) == 0).all()


def test_a_place_is_found_where_hashes_are_spread_evenly_or_not(tmp_path: Path) -> None:
    for words in (
        np.sort(np.random.default_rng(0).integers(0, WHOLE_RANGE, 5000, dtype=np.uint64)),
        np.arange(5000, dtype=np.uint64) ** np.uint64(2),
    ):
        shutil.rmtree(tmp_path / "v", ignore_errors=True)
        cells = in_order(counts(1))
        part = part_of(tmp_path / "p.zarr", cells)
        shutil.rmtree(part.path / "obs/fingerprint_0")
        writer = VectorWriter(
            part.path / "obs/fingerprint_0", words.dtype, chunk=1024, shard=1 << 20
        )
        writer.append(words)
        writer.close()
        part.n_cells = len(words)
        for edge in (0, 1, int(words[0]), int(words[17]), int(words[17]) + 1, int(words[-1]),
                     int(words[-1]) + 1, WHOLE_RANGE // 2, WHOLE_RANGE):  # fmt: skip
            assert part.place(edge) == sum(int(word) < edge for word in words)


def test_positions_tell_words_that_agree_by_half() -> None:
    ordered = np.array([[1, 5], [2, 1], [2, 2], [2, 9], [7, 0]], dtype=np.uint64)
    wanted = np.array([[2, 9], [2, 3], [1, 5], [7, 1], [9, 9], [2, 1], [0, 0]], dtype=np.uint64)
    assert list(positions(wanted, ordered)) == [3, -1, 0, -1, -1, 1, -1]
    assert len(positions(wanted[:0], ordered)) == 0
    assert list(positions(wanted[:1], ordered[:0])) == [-1]


def damage(path: Path, what: str) -> None:
    file = path / {
        "cut": "X/data/c/0", "chunk": "X/indices/c/0", "gone": "X/indices/c/0",
        "facts": "X/data/zarr.json", "codes": "obs/donor/codes/c/0",
        "shape": "X/zarr.json", "text": "obs/donor/categories/c/0",
        "format": "uns/cellfm/zarr.json", "boundaries": "X/indptr/c/0",
    }[what]  # fmt: skip
    content = file.read_bytes()
    if what in ("cut", "codes", "text", "boundaries"):
        file.write_bytes(content[: len(content) // 2])
    elif what == "chunk":
        file.write_bytes(b"\0" * 16 + content[16:])
    elif what == "gone":
        file.unlink()
    elif what == "facts":
        file.write_text(content.decode().replace("lz4", "").replace('"blosc"', '"gzip"'))
    elif what == "format":
        file.write_text(content.decode().replace('"format": 1', '"format": 2'))
    else:
        file.write_text("{}")


def read_all(path: Path) -> None:
    part = Part.open(path)
    part.read(0, part.n_cells)
    part.labels("donor")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", r"X/data/c/0 cannot be read \(the checksum of its index is wrong"),
        ("chunk", r"X/indices/c/0 cannot be read \(the header of a chunk"),
        ("gone", "cannot be read"),
        ("facts", r"codecs bytes, gzip; expected bytes and blosc"),
        ("codes", "cannot be read"),
        ("text", "categories/c/0 cannot be read"),
        ("shape", "is no part of a corpus, or damaged"),
        ("format", "is of format 2; this version reads format 1"),
        ("boundaries", "cannot be read"),
    ],
)
def test_damage_is_said_in_words(tmp_path: Path, what: str, message: str) -> None:
    part = part_of(tmp_path / "p.zarr", in_order(counts(20)))
    damage(part.path, what)
    with pytest.raises(CorpusError, match=message) as caught:
        read_all(part.path)
    assert "corpus check" in str(caught.value) or what == "format"


def test_boundaries_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    part = part_of(tmp_path / "p.zarr", in_order(counts(20)))
    for values in (np.arange(21), np.r_[0, 5, 3, np.full(18, part.n_values)], np.arange(5)):
        shutil.rmtree(part.path / "X/indptr")
        writer = VectorWriter(part.path / "X/indptr", np.dtype(np.int64), chunk=64, shard=64)
        writer.append(values.astype(np.int64))
        writer.close()
        with pytest.raises(CorpusError, match="damaged"):
            Part.open(part.path).read(0, 20)


def test_a_disk_that_must_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"cannot be written .*run the same command again"):
        write_part(tmp_path / "file/p.zarr", [in_order(counts(3))], vocabulary=vocabulary())


def test_labels_are_one_code_per_cell() -> None:
    assert curated(counts(4)).obs["donor"][0] == "d1"
    label = Labels(codes=np.array([1, 0, 1], dtype=np.int32), categories=("a", "b"))
    assert list(label.strings()) == ["b", "a", "b"]
    assert list(label.taken(np.array([2, 1])).strings()) == ["b", "a"]
    assert set(LABELS) >= {"dataset", "donor"}


@pytest.mark.parametrize(("n_genes", "stored"), [(32_767, "int16"), (32_768, "int32")])
def test_a_long_gene_list_has_wide_indices(tmp_path: Path, n_genes: int, stored: str) -> None:
    many = Vocabulary(
        symbols=tuple(f"G{i}" for i in range(n_genes)),
        hgnc_ids=("",) * n_genes,
        ensembl_ids=("",) * n_genes,
    )
    cells = in_order(counts(3))
    gene = cells.gene.copy()
    gene[-1] = n_genes
    write_part(tmp_path / "p.zarr", [replace(cells, gene=gene)], vocabulary=many)
    assert zarr.open_array(tmp_path / "p.zarr/X/indices", mode="r").dtype == stored
    rows = Part.open(tmp_path / "p.zarr").read(0, 3)
    assert rows.gene.dtype.kind == "u"
    assert (rows.gene == gene).all()
