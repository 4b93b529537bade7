"""Files of every format, whole and damaged."""

import gzip
from contextlib import contextmanager, suppress

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.sources import (
    IDS,
    N_GENES,
    SYMBOLS,
    VOCABULARY,
    WRITERS,
    anndata_of,
    h5ad,
    mtx,
    simulated,
    table,
    tenx_h5_v2,
    tenx_h5_v3,
    write_text,
)

from cellfm.corpus.curate import Rules, curate_file
from cellfm.corpus.readers import OpenedSource, find_reader, registry
from cellfm.corpus.rows import row_source
from cellfm.corpus.sources import SourceEntry
from cellfm.errors import ConfigError, SourceError

COUNTS = simulated()
RULES = Rules(min_genes=1)


def curated(path, *, rules=RULES, **options):
    """Dense counts of all vocabulary genes, and the report."""
    parts = []
    entry = SourceEntry(name="s", path=path, **options)
    report = curate_file(entry, vocabulary=VOCABULARY, rules=rules, sink=parts.append)
    blocks = [
        sparse.csr_matrix((part.count, part.gene - 1, part.offsets), (len(part), N_GENES))
        for part in parts
    ]
    blocks.append(sparse.csr_matrix((0, N_GENES)))
    return sparse.vstack(blocks).toarray(), report


def refused(path, match, **options):
    with pytest.raises(SourceError, match=match):
        curated(path, **options)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_counts_of_every_format(tmp_path, write):
    path = write(tmp_path, COUNTS)
    found, report = curated(path)
    assert (found == COUNTS).all()
    assert report.coverage == 1.0
    assert report.n_bytes > 0
    assert len(report.sha256) == 64
    assert find_reader(path).name == report.format


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_columns_of_one_gene_are_summed_and_reported(tmp_path, write):
    names = [*SYMBOLS, SYMBOLS[3]]
    counts = np.hstack([COUNTS, COUNTS[:, :1]])
    path = write(tmp_path, counts, names)
    found, report = curated(path)
    expected = COUNTS.copy()
    expected[:, 3] += COUNTS[:, 0]
    assert (found == expected).all()
    assert report.genes["n_summed"] == 2


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_mouse_genes_are_refused(tmp_path, write):
    names = [name.capitalize() for name in SYMBOLS]
    refused(write(tmp_path, COUNTS, names), "look like those of mouse")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_unknown_genes_are_refused(tmp_path, write):
    names = [f"thing{i}" for i in range(N_GENES)]
    refused(write(tmp_path, COUNTS, names), "0 of 62 input genes|Neither columns nor rows")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("value", [2**24, 2**31, 2**40])
def test_counts_that_are_too_large(tmp_path, write, value):
    counts = COUNTS.astype(np.int64)
    counts[5, 7] = value
    if write is tenx_h5_v2 or write is tenx_h5_v3:
        path = write(tmp_path, counts, dtype=np.int64)
    else:
        path = write(tmp_path, counts)
    refused(path, rf"largest value is {value}, in rows .*above 16,777,215 are refused")


def test_negative_and_fractional_values_in_text(tmp_path):
    refused(table(tmp_path, -COUNTS), "negative values are no counts")
    refused(table(tmp_path, COUNTS / 3), "no integer")
    refused(mtx(tmp_path, np.log1p(COUNTS), dtype=np.float64), "no integer")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_truncated_files_are_refused(tmp_path, write):
    path = write(tmp_path, COUNTS)
    files = list(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        content = file.read_bytes()
        for size in (0, 1, len(content) // 3, 2 * len(content) // 3, len(content) - 1):
            file.write_bytes(content[:size])
            if size == len(content) - 1 and file.suffix in (".csv", ".tsv", ".mtx"):
                continue  # but for the last line end nothing is lost
            with pytest.raises(SourceError):
                curated(path)
        file.write_bytes(content)
    assert (curated(path)[0] == COUNTS).all()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_damaged_bytes_are_refused_or_harmless(tmp_path, write):
    """Whatever a library makes of them: a `SourceError`, or counts."""
    path = write(tmp_path, COUNTS)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    rng = np.random.default_rng(0)
    for file in files:
        content = file.read_bytes()
        for _ in range(10):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 8):
                damaged[place] = rng.integers(256)
            file.write_bytes(damaged)
            with suppress(SourceError):
                curated(path)
        file.write_bytes(content)


def test_names_that_are_not_utf8(tmp_path):
    for write in (mtx, table):
        path = write(tmp_path, COUNTS)
        file = path / "features.tsv.gz" if path.is_dir() else path
        text = gzip.decompress(file.read_bytes()) if path.is_dir() else file.read_bytes()
        text = text.replace(SYMBOLS[5].encode(), b"M\xe4rz")
        file.write_bytes(gzip.compress(text) if path.is_dir() else text)
        refused(path, "text that is not UTF-8")
    path = tenx_h5_v3(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        file["matrix/barcodes"][0] = b"\xff"
    refused(path, "text that is not UTF-8")


def test_layers_are_of_h5ad_only(tmp_path):
    for write in (mtx, table, tenx_h5_v3):
        path = write(tmp_path, COUNTS)
        refused(path, "layer='counts' is given for .* holds one matrix", layer="counts")
        refused(path, "use_raw is given for .* holds one matrix", use_raw=True)


def test_unknown_formats(tmp_path):
    (tmp_path / "a.loom").write_text("x")
    refused(tmp_path / "a.loom", "no known format; expected one of h5ad, 10x_h5, 10x_mtx, csv")
    refused(tmp_path, "no known format")
    with pytest.raises(ConfigError, match=r"no format '10x_h5ad'. Did you mean"):
        curated(tmp_path / "a.loom", format="10x_h5ad")


# --- h5ad


def test_h5ad_by_content(tmp_path):
    path = h5ad(tmp_path, COUNTS).rename(tmp_path / "cells.h5")
    assert curated(path)[1].format == "h5ad"


def test_h5ad_without_a_matrix(tmp_path):
    adata = anndata_of(COUNTS)
    adata.layers["logged"] = np.log1p(COUNTS)
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    refused(tmp_path / "a.h5ad", r"none of the matrices .*; it has layers/logged")
    refused(tmp_path / "a.h5ad", "no layer 'x'; it has logged", layer="x")
    refused(tmp_path / "a.h5ad", "has no raw/var", use_raw=True)
    refused(tmp_path / "a.h5ad", "choose one of the two", use_raw=True, layer="logged")


def test_no_h5ad(tmp_path):
    (tmp_path / "a.h5ad").write_text("gene,count")
    refused(tmp_path / "a.h5ad", "cannot be read|cannot be opened as HDF5")


@pytest.mark.parametrize("place", ["indices", "indptr"])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("value", [-7, 10**6])
def test_h5ad_with_wrong_places(tmp_path, place, form, value):
    """Numbers that scipy would use unchecked to read outside the memory."""
    path = h5ad(tmp_path, COUNTS, matrix=form)
    with h5py.File(path, "a") as file:
        file[f"X/{place}"][5] = value
    refused(path, "damaged")


# --- 10x h5


def test_10x_features_that_are_no_genes_are_left_out(tmp_path):
    names, counts = [*SYMBOLS, "CD3_ab"], np.hstack([COUNTS, np.full((len(COUNTS), 1), 900)])
    kinds = ["Gene Expression"] * N_GENES + ["Antibody Capture"]
    found, report = curated(tenx_h5_v3(tmp_path, counts, names, kinds=kinds))
    assert (found == COUNTS).all()
    assert report.coverage == 1.0
    assert report.genes["n_input"] == N_GENES
    assert report.notes == (
        "1 features that are no Gene Expression were left out (Antibody Capture).",
    )


def test_10x_without_genes(tmp_path):
    path = tenx_h5_v3(tmp_path, COUNTS, kinds=["Antibody Capture"] * N_GENES)
    refused(path, "no feature of the type Gene Expression; found Antibody Capture")


def test_10x_of_two_species(tmp_path):
    names = [*(f"GRCh38_{name}" for name in SYMBOLS), *(f"mm10_{name}" for name in SYMBOLS)]
    counts = np.hstack([COUNTS, COUNTS])
    genomes = ["GRCh38"] * N_GENES + ["mm10"] * N_GENES
    found, report = curated(tenx_h5_v3(tmp_path, counts, names, genomes=genomes))
    assert (found == COUNTS).all()
    assert report.notes == ("Of the genomes GRCh38, mm10 only GRCh38 was taken.",)
    other = tenx_h5_v3(tmp_path, counts, names, genomes=["x"] * N_GENES + ["mm10"] * N_GENES)
    refused(other, "genomes mm10, x; none is known to be human")


def test_old_10x_of_two_species(tmp_path):
    found, report = curated(tenx_h5_v2(tmp_path, COUNTS, genomes=("hg19", "mm10")))
    assert (found == COUNTS).all()
    assert report.notes == ("Of the genomes hg19, mm10 only hg19 was taken.",)
    refused(tenx_h5_v2(tmp_path, COUNTS, genomes=("ce11", "mm10")), "none is known to be human")
    refused(tenx_h5_v2(tmp_path, COUNTS, genomes=("hg19", "GRCh38")), "several human genomes")


@pytest.mark.parametrize("write", [tenx_h5_v3, mtx])
def test_10x_symbols_first_then_ids(tmp_path, write):
    names = ["AC000000.1", *SYMBOLS[1:]]
    path = write(tmp_path, COUNTS, names)
    if path.is_dir():
        lines = [f"{i}\t{n}\tGene Expression\n" for i, n in zip(IDS, names, strict=True)]
        write_text(path / "features.tsv.gz", "".join(lines))
    else:
        path = tenx_h5_v3(tmp_path, COUNTS, names, ids=IDS)
    found, report = curated(path)
    assert (found == COUNTS).all()
    assert report.genes_from == "symbols; 1 not known by theirs by gene_ids"
    assert report.genes["by_rule"] == {"symbol": N_GENES - 1, "ensembl": 1}
    assert curated(path, gene_names="gene_ids")[1].genes_from == "var column 'gene_ids'"


def test_10x_of_wrong_shapes(tmp_path):
    path = tenx_h5_v3(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        file["matrix/shape"][:] = (N_GENES, 5)
    refused(path, "62 features, 12 barcodes and 12 columns for a matrix of 62 × 5")


@pytest.mark.parametrize("lost", ["matrix/data", "matrix/features/name", "matrix/features/id"])
def test_10x_with_something_missing(tmp_path, lost):
    path = tenx_h5_v3(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        del file[lost]
    refused(path, "has no")


@pytest.mark.parametrize("place", ["matrix/data", "matrix/shape", "matrix/features/genome"])
def test_10x_with_a_type_in_the_place_of_values(tmp_path, place):
    """One flipped byte of a header does it."""
    path = tenx_h5_v3(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        del file[place]
        file[place] = np.dtype(np.int32)
    refused(path, f"has no /{place}; expected a Cell Ranger file")


# --- 10x mtx


def test_mtx_by_its_file_and_with_a_prefix(tmp_path):
    folder = mtx(tmp_path, COUNTS, prefix="GSM1_")
    assert (curated(folder / "GSM1_matrix.mtx.gz")[0] == COUNTS).all()
    mtx(tmp_path, COUNTS, prefix="GSM2_")
    assert (curated(folder / "GSM2_matrix.mtx.gz")[0] == COUNTS).all()
    with pytest.raises(SourceError, match="has 2 matrix files"):
        curated(folder, format="10x_mtx")


@pytest.mark.parametrize("lost", ["features.tsv.gz", "barcodes.tsv.gz"])
def test_mtx_with_a_file_missing(tmp_path, lost):
    folder = mtx(tmp_path, COUNTS)
    (folder / lost).unlink()
    refused(folder, rf"matrix.mtx.gz has no .*{lost}.* beside it")


def test_mtx_with_names_only(tmp_path):
    folder = mtx(tmp_path, COUNTS, old=True, end="")
    (folder / "genes.tsv").write_text("".join(f"{name}\n" for name in SYMBOLS))
    found, report = curated(folder)
    assert (found == COUNTS).all()
    assert report.genes_from == "var index"


def test_mtx_of_wrong_shapes(tmp_path):
    folder = mtx(tmp_path, COUNTS, end="")
    text = (folder / "barcodes.tsv").read_text()
    (folder / "barcodes.tsv").write_text("barcode\n" + text)
    refused(folder, "is 62 × 12, but 62 features and 13 barcodes are named")
    (folder / "barcodes.tsv").write_text("".join(f"c{i}\n" for i in range(N_GENES)))
    (folder / "features.tsv").write_text("".join(f"{name}\n" for name in SYMBOLS[:12]))
    refused(folder, "turned round")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%%MatrixMarket matrix coordinate pattern general\n62 12 1\n1 1\n", "kind 'pattern'"),
        (
            "%%MatrixMarket matrix coordinate integer general\n62 12 2\n1 1 3\n1 1 4\n",
            "1 entries twice",
        ),
        ("%%MatrixMarket matrix coordinate integer general\n62 12 1\n63 1 3\n", "cannot be read"),
        ("%%MatrixMarket matrix coordinate integer general\n62 12 1\n1 1 x\n", "cannot be read"),
        (
            "%%MatrixMarket matrix coordinate integer general\n62 12 1\n1 1 99999999999999999999\n",
            "cannot be read",
        ),
        ("%%MatrixMarket matrix coordinate integer general\n62 12 0\n", "is empty: no cell has"),
    ],
)
def test_mtx_with_a_wrong_matrix(tmp_path, text, said):
    folder = mtx(tmp_path, COUNTS, end="")
    (folder / "matrix.mtx").write_text(text)
    refused(folder, said)


# --- csv and tsv


def test_the_side_of_the_genes_is_reported(tmp_path):
    note = "Read as {}: 62 of 62 names of {} are known."
    assert curated(table(tmp_path, COUNTS))[1].notes == (note.format("cells × genes", "columns"),)
    turned = table(tmp_path, COUNTS, turned=True)
    assert curated(turned)[1].notes == (note.format("genes × cells", "rows"),)


def test_genes_on_both_sides(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame(simulated(N_GENES), SYMBOLS, SYMBOLS).to_csv(path)
    refused(path, "Both columns and rows of .* are named by human genes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b,c\n", "is empty"),
        (f",{','.join(SYMBOLS[:2])}\nc1,1,T cell\n", "text among the counts .*'T cell'"),
        (f",{','.join(SYMBOLS[:2])}\nc1,1,NA\n", "text among the counts .*'NA'"),
        (f",{','.join(SYMBOLS[:2])}\nc1,1,2\nc2,1\n", "not a number"),
        (f",{','.join(SYMBOLS[:2])}\nc1,1,2\nc2,1,2,3\n", "cannot be read"),
        (f",{','.join(SYMBOLS[:2])}\nc1,1,\n", "not a number"),
        ("a,b,c,d\nc1,1\n", "has 4 fields and the second 2"),
        ("words without numbers\nmore words\n", "has 3 fields and the second 2"),
    ],
)
def test_tables_that_are_none(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    refused(tmp_path / "a.csv", said)


@pytest.mark.parametrize("separator", [",", "\t", ";", " "])
def test_the_content_says_what_separates(tmp_path, separator):
    frame = pd.DataFrame(COUNTS, [f"c{i}" for i in range(12)], SYMBOLS)
    frame.to_csv(tmp_path / "a.txt", sep=separator, quoting=1)
    assert (curated(tmp_path / "a.txt")[0] == COUNTS).all()


def test_a_table_has_no_other_names(tmp_path):
    refused(table(tmp_path, COUNTS), "no column 'symbol' in var", gene_names="symbol")


# --- the registry


class SameReader:
    """Every file holds the same counts."""

    name = "same"

    def accepts(self, path):
        return path.suffix == ".same"

    def files(self, path):
        return (path,)

    def matrices(self, entry):
        return ("all",)

    @contextmanager
    def open(self, entry, matrix, find_genes):
        adata = anndata_of(COUNTS)
        yield OpenedSource(rows=row_source(adata.X), obs=adata.obs, var=adata.var)


@pytest.fixture
def no_readers(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_a_registered_reader(tmp_path, no_readers):
    registry.register(SameReader())
    (tmp_path / "a.same").write_text("x")
    found, report = curated(tmp_path / "a.same")
    assert (found == COUNTS).all()
    assert report.format == "same"


def test_names_of_readers_are_taken_once(no_readers):
    reader = SameReader()
    registry.register(reader)
    registry.register(reader)
    with pytest.raises(ConfigError, match="a reader named 'same' already"):
        registry.register(SameReader())
    reader.name = "h5ad"
    with pytest.raises(ConfigError, match="a reader named 'h5ad' already"):
        registry.register(reader)


def test_a_reader_of_another_package(tmp_path, monkeypatch):
    class Point:
        def load(self):
            return SameReader

    monkeypatch.setattr(
        registry, "entry_points", lambda group: [Point()] if group == "cellfm.readers" else []
    )
    (tmp_path / "a.same").write_text("x")
    assert curated(tmp_path / "a.same")[1].format == "same"
