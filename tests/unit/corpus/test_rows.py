"""Row blocks of every kind of matrix."""

import gc
from itertools import pairwise

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse

from cellfm.corpus import columns, rows
from cellfm.corpus.rows import h5ad_matrices, h5ad_source, row_source, spread_blocks
from cellfm.errors import CountsError, DataError

DENSE = np.random.default_rng(1).poisson(0.5, (23, 11)).astype(np.float32)
BLOCKS = [(0, 23), (0, 5), (5, 12), (12, 12), (22, 23)]


def same(source, dense=DENSE):
    assert (source.n_rows, source.n_cols) == dense.shape
    for start, stop in BLOCKS:
        block = source.read(start, stop)
        assert block.format == "csr"
        assert block.dtype == dense.dtype
        if dense.dtype == np.float16:  # scipy has no dense form of it
            block.data = block.data.astype(np.float32)
        np.testing.assert_array_equal(block.toarray(), dense[start:stop])
    return True


@pytest.fixture
def small_buckets(monkeypatch):
    monkeypatch.setattr(columns, "BUCKET_VALUES", 20)
    monkeypatch.setattr(columns, "BLOCK_VALUES", 30)


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        sparse.csr_matrix,
        sparse.csr_array,
        sparse.csc_matrix,
        sparse.csc_array,
        sparse.coo_array,
        sparse.lil_matrix,
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, bool])
def test_matrices_in_memory(make, dtype):
    dense = DENSE.astype(dtype)
    assert same(row_source(make(dense)), dense)


def test_rows_of_a_csr_matrix_are_not_copied():
    matrix = sparse.csr_matrix(DENSE)
    block = row_source(matrix).read(3, 9)
    assert np.shares_memory(block.data, matrix.data)
    assert np.shares_memory(block.indices, matrix.indices)


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_backed(tmp_path, small_buckets, form, dtype):
    dense = DENSE.astype(dtype)
    matrix = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[form](dense)
    ad.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert same(row_source(adata.X, scratch=tmp_path), dense)
    adata.file.close()


def write_parts(path, matrix):
    """Write a compressed matrix part by part, as it is: duplicates and explicit zeros stay."""
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group.attrs.update(
            {
                "encoding-type": f"{matrix.format}_matrix",
                "encoding-version": "0.1.0",
                "shape": matrix.shape,
            }
        )


def test_backed_columns_keep_duplicates_and_stored_zeros(tmp_path, small_buckets):
    matrix = sparse.csc_matrix(
        (np.array([1, 2, 0], np.uint8), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2)
    )
    write_parts(tmp_path / "a.h5", matrix)
    with h5py.File(tmp_path / "a.h5") as file:
        block = row_source(ad.io.sparse_dataset(file["X"]), scratch=tmp_path).read(0, 2)
    assert block.data.tolist() == [0, 1, 2]
    assert block.indices.tolist() == [1, 0, 0]


def test_scratch_files_go_with_the_source(tmp_path, small_buckets):
    ad.AnnData(sparse.csc_matrix(DENSE)).write_h5ad(tmp_path / "a.h5ad")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done: list[int] = []
    with h5py.File(tmp_path / "a.h5ad") as file:
        dataset = ad.io.sparse_dataset(file["X"])
        source = row_source(dataset, scratch=scratch, progress=done.append)
        assert not list(scratch.iterdir())
        source.read(4, 5)
        folders = list(scratch.iterdir())
        assert len(folders) == 1
        assert len(list(folders[0].iterdir())) > 1
        assert len(done) > 1
        assert sum(done) == np.count_nonzero(DENSE)
    del source
    gc.collect()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("form", ["csr", "dense"])
def test_float16_stays_visible(tmp_path, form):
    half = DENSE.astype(np.float16)
    if form == "dense":
        assert same(row_source(half), half)
        return
    matrix = sparse.csr_matrix(DENSE)
    matrix.data = matrix.data.astype(np.float16)
    write_parts(tmp_path / "a.h5", matrix)
    with h5py.File(tmp_path / "a.h5") as file:
        assert row_source(ad.io.sparse_dataset(file["X"])).read(0, 4).dtype == np.float16


def test_float16_by_columns_is_refused_at_once(tmp_path):
    matrix = sparse.csc_matrix(DENSE)
    matrix.data = matrix.data.astype(np.float16)
    with pytest.raises(CountsError, match="float16"):
        row_source(matrix)
    write_parts(tmp_path / "a.h5", matrix)
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(CountsError, match="float16"):
        row_source(ad.io.sparse_dataset(file["X"]))


@pytest.mark.parametrize("matrix", [[[1, 2]], np.ones(3), None])
def test_no_matrix(matrix):
    with pytest.raises(DataError, match=r"expected cells × genes.*Pass adata\.X or a layer"):
        row_source(matrix)


def test_no_numbers():
    with pytest.raises(DataError, match="values of type <U1; expected counts"):
        row_source(np.array([["a"]]))


@pytest.fixture
def path(tmp_path):
    adata = ad.AnnData(sparse.csr_matrix(np.log1p(DENSE)))
    adata.obs["kind"] = "a"
    adata.layers["counts"] = sparse.csc_matrix(DENSE)
    adata.layers["dense"] = DENSE * 2
    adata.raw = ad.AnnData(sparse.csr_matrix(DENSE * 3))
    adata = adata[:, :7].copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def test_h5ad_x_and_tables(path):
    with h5ad_source(path) as (rows, obs, var):
        assert same(rows, np.log1p(DENSE)[:, :7])
        assert obs["kind"].tolist() == ["a"] * 23
        assert var.index.tolist() == [str(i) for i in range(7)]


def test_h5ad_layers(path, small_buckets):
    with h5ad_source(path, layer="counts") as source:
        assert same(source.rows, DENSE[:, :7])
    with h5ad_source(path, layer="dense") as source:
        assert same(source.rows, DENSE[:, :7] * 2)


def test_h5ad_raw_has_its_own_genes(path):
    with h5ad_source(path, use_raw=True) as source:
        assert same(source.rows, DENSE * 3)
        assert len(source.var) == 11


def stopped_while_reading(path, scratch):
    with h5ad_source(path, layer="counts", scratch=scratch) as source:
        source.rows.read(0, 3)
        assert list(scratch.iterdir())
        msg = "stop"
        raise KeyError(msg)


def test_h5ad_scratch_is_removed_on_error(path, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(KeyError, match="stop"):
        stopped_while_reading(path, scratch)
    assert not list(scratch.iterdir())


def test_h5ad_with_column_numbers_out_of_range(path):
    with h5py.File(path, "a") as file:
        file["X/indices"][0] = 7
    with h5ad_source(path) as source:
        source.rows.read(5, 9)
        with pytest.raises(DataError, match=r"Rows 0:5 of .* cannot be read .*damaged"):
            source.rows.read(0, 5)


def refused(match, *arguments, **options):
    with pytest.raises(DataError, match=match), h5ad_source(*arguments, **options):
        pass


def test_h5ad_wrong_layer_lists_layers(path):
    refused("no layer 'count'; it has counts, dense", path, layer="count")


def test_h5ad_without_raw_or_x(tmp_path):
    adata = ad.AnnData(None, shape=(3, 2))
    adata.layers["n"] = np.ones((3, 2))
    adata.write_h5ad(tmp_path / "b.h5ad")
    refused(r"no raw/var; found .*use_raw=True needs \.raw", tmp_path / "b.h5ad", use_raw=True)
    refused("no matrix X; it has the layers n", tmp_path / "b.h5ad")


def test_h5ad_layer_and_raw(path):
    refused("Both layer='counts' and use_raw", path, layer="counts", use_raw=True)


def test_h5ad_missing_or_something_else(tmp_path):
    refused("There is no file", tmp_path / "no.h5ad")
    (tmp_path / "text.h5ad").write_text("gene,count")
    refused("cannot be opened as HDF5", tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = 1
    refused("has no obs; found matrix, expected an h5ad file", tmp_path / "other.h5ad")


def test_h5ad_of_before_2019(tmp_path):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["obs"] = np.array([(b"a", 1.0)], dtype=[("index", "S1"), ("n", float)])
    refused("obs of .* no longer reads", tmp_path / "old.h5ad")


def test_h5ad_with_a_damaged_table(path):
    with h5py.File(path, "a") as file:
        file["obs/kind"].attrs["encoding-type"] = "categorica"
    refused(r"obs of .* cannot be read \(IORegistryError: No read method", path)


def test_h5ad_matrices(path):
    assert h5ad_matrices(path) == ("X", "layers/counts", "layers/dense", "raw/X")


@pytest.mark.parametrize("key", ["X", "layers/counts", "layers/dense"])
def test_h5ad_sample_is_small_and_spread(path, small_buckets, key):
    layer = key.removeprefix("layers/") if key != "X" else None
    with h5ad_source(path, layer=layer) as source:
        sample = list(source.rows.sample(3, 2))
        whole = source.rows.read(0, 23).toarray()
    if key == "layers/counts":  # by columns: all rows of the first ones
        ((first, block),) = sample
        assert (first, block.shape[0]) == (0, 23)
        assert 0 < block.shape[1] < 7
        assert (block.toarray() == whole[:, : block.shape[1]]).all()
        return
    assert [first for first, _ in sample] == [0, 10, 21]
    for first, block in sample:
        assert (block.toarray() == whole[first : first + 2]).all()


def test_spread_blocks():
    assert spread_blocks(0, 3, 2) == []
    assert spread_blocks(6, 3, 2) == [(0, 6)]
    assert spread_blocks(7, 3, 2) == [(0, 2), (2, 4), (5, 7)]
    blocks = spread_blocks(1000, 16, 60)
    assert all(a[1] <= b[0] for a, b in pairwise(blocks))


@pytest.mark.parametrize(
    ("part", "value"), [("indices", 23), ("indices", -1), ("indptr", 9999), ("indptr", -1)]
)
def test_h5ad_columns_with_places_outside(path, part, value):
    """Scipy would write outside the memory."""
    with h5py.File(path, "a") as file:
        file[f"layers/counts/{part}"][3] = value
    with (
        pytest.raises(DataError, match="damaged"),
        h5ad_source(path, layer="counts") as source,
    ):
        source.rows.read(0, 23)


def test_dense_rows_in_pieces(monkeypatch):
    monkeypatch.setattr(rows, "PIECE_VALUES", 30)
    assert same(row_source(DENSE))
    monkeypatch.setattr(rows, "PIECE_VALUES", 1)
    assert same(row_source(DENSE.astype(np.float16)), DENSE.astype(np.float16))


def test_h5ad_whose_tables_do_not_fit(path):
    with h5py.File(path, "a") as file:
        del file["X"]
        file["X"] = np.ones((22, 7))
    refused("is 22 × 7, but its tables name 23 cells and 7 genes", path)


def test_h5ad_with_a_damaged_chunk(tmp_path):
    dense = np.random.default_rng(0).poisson(3, (200, 50)).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(dense))
    adata.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with h5py.File(tmp_path / "a.h5ad") as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    with (tmp_path / "a.h5ad").open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    with (
        h5ad_source(tmp_path / "a.h5ad") as source,
        pytest.raises(DataError, match=r"Rows 0:9 of .* cannot be read .*damaged"),
    ):
        source.rows.read(0, 9)
