"""The rules from a file to cells of a corpus."""

import json
from dataclasses import asdict
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse
from tests.sources import (
    IDS,
    N_GENES,
    SYMBOLS,
    VOCABULARY,
    anndata_of,
    h5ad,
    mtx,
    simulated,
    table,
)

from cellfm.corpus import choose, curate
from cellfm.corpus.curate import MAX_COUNT, CuratedCells, Rules, curate_file
from cellfm.corpus.fingerprint import fingerprint
from cellfm.corpus.metadata import MetadataMap
from cellfm.corpus.report import DROP_RULES, FileReport
from cellfm.corpus.sources import SourceEntry
from cellfm.errors import ConfigError, CorpusError, SourceError

COUNTS = simulated()
RULES = Rules(min_genes=1)


def curated(path, *, rules=RULES, block_rows=5, **options):
    parts: list[CuratedCells] = []
    entry = SourceEntry(name="s", path=path, **options)
    report = curate_file(
        entry, vocabulary=VOCABULARY, rules=rules, sink=parts.append, block_rows=block_rows
    )
    assert all(len(part) for part in parts)
    return parts, report


def dense(parts):
    blocks = [
        sparse.csr_matrix((part.count, part.gene - 1, part.offsets), (len(part), N_GENES))
        for part in parts
    ]
    return sparse.vstack([*blocks, sparse.csr_matrix((0, N_GENES))]).toarray()


def refused(path, match, **options):
    with pytest.raises(SourceError, match=match):
        curated(path, **options)


def written(tmp_path, adata) -> Path:
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def test_cells_are_what_the_contract_says(tmp_path):
    parts, report = curated(h5ad(tmp_path, COUNTS))
    assert [len(part) for part in parts] == [5, 5, 2]
    assert (dense(parts) == COUNTS).all()
    for part in parts:
        types = [part.gene.dtype, part.count.dtype, part.offsets.dtype, part.row.dtype]
        assert types == [np.int32, np.uint32, np.int64, np.int64]
        assert part.offsets[0] == 0
        assert part.offsets[-1] == len(part.gene) == len(part.count)
        for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True):
            assert (np.diff(part.gene[a:b]) > 0).all()
        words = fingerprint(part.gene, part.count, part.offsets)
        assert (part.fingerprint == words).all()
    assert report.n_cells_in == report.n_cells_curated == 12
    assert report.n_values == np.count_nonzero(COUNTS)
    assert report.status == "curated"


def test_a_report_survives_json(tmp_path):
    _, report = curated(h5ad(tmp_path, COUNTS), licence="CC0", url="x")
    assert FileReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    with pytest.raises(CorpusError, match=r"other fields .*\(seconds\)"):
        FileReport.from_dict({k: v for k, v in report.to_dict().items() if k != "seconds"})


def test_report_of_a_source_set_aside():
    entry = SourceEntry(name="s", path=Path("a.h5ad"), licence="MIT")
    report = FileReport.of_set_aside(entry, "it is bad", seconds=2.0)
    assert (report.status, report.reason, report.licence) == ("set aside", "it is bad", "MIT")
    assert report.dropped == dict.fromkeys(DROP_RULES, 0)


# --- which matrix


def every_place(x, raw=None, **layers):
    adata = anndata_of(COUNTS)
    if raw is not None:
        adata.raw = ad.AnnData(sparse.csr_matrix(raw.astype(np.float32)), var=adata.var)
    adata.X = x.astype(np.float32)
    for name, values in layers.items():
        adata.layers[name] = sparse.csr_matrix(values)
    return adata


def test_the_stated_order(tmp_path):
    path = written(tmp_path, every_place(COUNTS * 3, COUNTS * 2, counts=COUNTS, spliced=COUNTS * 4))
    parts, report = curated(path)
    assert (dense(parts) == COUNTS).all()
    assert [(trial.matrix, trial.taken) for trial in report.trials] == [("layers/counts", True)]
    assert (dense(curated(path, use_raw=True)[0]) == COUNTS * 2).all()
    parts, report = curated(path, layer="spliced")
    assert (dense(parts) == COUNTS * 4).all()
    assert report.matrix == "layers/spliced"


def test_the_first_that_holds_counts(tmp_path):
    logged = np.log1p(COUNTS)
    path = written(tmp_path, every_place(COUNTS, logged, counts=logged))
    parts, report = curated(path)
    assert (dense(parts) == COUNTS).all()
    places = [(trial.matrix, trial.taken) for trial in report.trials]
    assert places == [("layers/counts", False), ("raw/X", False), ("X", True)]
    assert "no integer" in report.trials[0].reason
    assert report.trials[2].reason == "12 sampled rows hold counts"


def test_none_holds_counts(tmp_path):
    path = written(tmp_path, every_place(-COUNTS, np.log1p(COUNTS)))
    refused(path, r"No matrix of .* holds counts. raw/X: .*no integer.* X: .*negative values")
    refused(path, "no integer", use_raw=True)


def test_raw_has_its_own_genes(tmp_path):
    adata = anndata_of(COUNTS)
    adata.raw = adata.copy()
    adata = adata[:, :7].copy()
    adata.X = np.log1p(adata.X)
    parts, report = curated(written(tmp_path, adata))
    assert (dense(parts) == COUNTS).all()
    assert report.matrix == "raw/X"
    assert report.genes["n_input"] == N_GENES


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_what_the_sample_did_not_see(tmp_path, form):
    counts = np.tile(COUNTS, (250, 1)).astype(np.float32)
    counts[70, 3] = 0.5
    path = h5ad(tmp_path, counts, matrix=form)
    refused(path, r"Row 70, column 3 holds 0.5, which is no integer", block_rows=1000)


# --- which cells


def test_each_cell_counts_under_the_first_rule_it_breaks(tmp_path):
    counts = np.zeros((9, N_GENES), dtype=int)
    counts[1, :2] = 50  # too few genes
    counts[2, :10] = 1  # too few counts
    counts[3, :60] = 2  # too many genes
    counts[4, :10] = 90  # too many counts
    counts[5, :10], counts[5, -2:] = 3, 8  # 16 of 46 mitochondrial
    counts[6, :10] = 2  # on the lower limits
    counts[7, :40] = 5  # on the upper limits
    counts[8, :8], counts[8, -1] = 2, 4  # on the limit of mitochondria
    rules = Rules(min_genes=9, max_genes=40, min_counts=20, max_counts=200, max_mito=0.2)
    parts, report = curated(h5ad(tmp_path, counts), rules=rules)
    assert np.concatenate([part.row for part in parts]).tolist() == [6, 7, 8]
    assert (dense(parts) == counts[6:]).all()
    assert report.dropped == dict.fromkeys(DROP_RULES, 1)
    assert report.n_cells_in == sum(report.dropped.values()) + report.n_cells_curated


def test_only_vocabulary_genes_count(tmp_path):
    symbols = [*SYMBOLS[:10], *(f"unknown{i}" for i in range(10))]
    counts = np.ones((3, 20), dtype=int)
    counts[0, :10] = 0
    _, report = curated(h5ad(tmp_path, counts, symbols), rules=Rules(min_genes=10))
    assert report.dropped["empty"] == 1
    assert report.n_cells_curated == 2
    assert report.coverage == pytest.approx(0.4)
    _, report = curated(h5ad(tmp_path, counts, symbols), rules=Rules(min_genes=11))
    assert report.n_cells_curated == 0
    assert report.dropped["min_genes"] == 2


def test_no_mitochondrial_genes_are_noted(tmp_path):
    rules = Rules(min_genes=1, max_mito=0.1)
    path = h5ad(tmp_path, COUNTS[:, :9], SYMBOLS[:9])
    assert curated(path, rules=rules)[1].notes == (
        "No mitochondrial gene is in the file: max_mito had nothing to go by.",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_genes": -1}, "min_genes is -1; it must be at least 0"),
        ({"max_mito": 5}, "max_mito is 5; it is a fraction"),
        ({"min_matched": -0.1}, "min_matched is -0.1; it is a fraction"),
        ({"min_genes": 10, "max_genes": 9}, "no cell can pass both"),
        ({"min_counts": 10, "max_counts": 9}, "no cell can pass both"),
    ],
)
def test_rules_that_make_no_sense(options, said):
    with pytest.raises(ConfigError, match=said):
        Rules(**options)


def test_rules_are_plain():
    assert json.loads(json.dumps(asdict(Rules()))) == {
        "min_genes": 200,
        "max_genes": None,
        "min_counts": None,
        "max_counts": None,
        "max_mito": None,
        "recover": False,
        "min_matched": 0.3,
    }


def test_files_without_cells_or_counts(tmp_path):
    refused(h5ad(tmp_path, COUNTS[:0]), "is empty: 0 cells and 62 genes")
    refused(h5ad(tmp_path, COUNTS[:, :0], []), "is empty: 12 cells and 0 genes")
    refused(h5ad(tmp_path, COUNTS * 0), "is empty: no cell has a count on any gene")


def test_the_largest_count(tmp_path):
    counts = COUNTS.astype(np.int64)
    counts[3, 3] = MAX_COUNT
    parts, _ = curated(h5ad(tmp_path, counts))
    assert dense(parts)[3, 3] == MAX_COUNT
    twice = np.hstack([counts, counts[:, 3:4]])
    refused(h5ad(tmp_path, twice, [*SYMBOLS, SYMBOLS[3]]), r"add up to 3\d+ in rows from 0")


# --- which genes


def test_a_column_of_gene_names(tmp_path):
    adata = anndata_of(COUNTS, [str(i) for i in range(N_GENES)])
    adata.var["feature_id"], adata.var["n"] = IDS, 1.5
    path = written(tmp_path, adata)
    refused(path, r"0 of 62 .*Its column 'feature_id' would do: give gene_names=feature_id")
    parts, report = curated(path, gene_names="feature_id")
    assert (dense(parts) == COUNTS).all()
    assert report.genes_from == "var column 'feature_id'"
    refused(path, "no column 'x' in var; it has feature_id, n", gene_names="x")


def test_no_column_would_do(tmp_path):
    with pytest.raises(SourceError, match="0 of 62 input genes") as caught:
        curated(h5ad(tmp_path, COUNTS, [f"thing{i}" for i in range(N_GENES)]))
    assert "would do" not in str(caught.value)


# --- metadata


def test_metadata_follow_their_cells(tmp_path):
    counts = COUNTS.copy()
    counts[4] = 0
    adata = anndata_of(counts)
    adata.obs["kind"] = [f"k{i}" for i in range(12)]
    adata.obs["tissue"] = "PBMC"
    mapping = MetadataMap(values={"tissue": {"PBMC": "blood"}})
    parts, report = curated(
        written(tmp_path, adata), metadata={"cell_type": "@kind", "donor": "D"}, mapping=mapping
    )
    kinds = np.concatenate([part.obs["cell_type"] for part in parts]).tolist()
    assert kinds == [f"k{i}" for i in range(12) if i != 4]
    assert {value for part in parts for value in part.obs["tissue"]} == {"blood"}
    assert {value for part in parts for value in part.obs["donor"]} == {"D"}
    assert report.metadata["cell_type"] == "obs column 'kind'"
    refused(tmp_path / "a.h5ad", "no column 'type'", metadata={"cell_type": "@type"})


# --- recovering


def normalised(counts):
    total = counts.sum(axis=1, keepdims=True).astype(np.float32)
    return np.log1p(counts.astype(np.float32) / (total / np.float32(1e4)))


RECOVER = Rules(min_genes=1, recover=True)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_recovered_only_when_asked(tmp_path, form):
    path = h5ad(tmp_path, normalised(COUNTS), matrix=form)
    refused(path, r"no integer.*look log1p-normalised|no integer.*log-normalised")
    parts, report = curated(path, rules=RECOVER)
    assert (dense(parts) == COUNTS).all()
    assert "no column of totals" in report.recovered
    assert [(trial.matrix, trial.taken) for trial in report.trials] == [("X", False), ("X", True)]


def test_counts_are_taken_before_any_is_recovered(tmp_path):
    path = written(tmp_path, every_place(COUNTS * 2, normalised(COUNTS)))
    parts, report = curated(path, rules=RECOVER)
    assert (dense(parts) == COUNTS * 2).all()
    assert report.recovered == ""


def test_totals_must_agree(tmp_path):
    adata = anndata_of(normalised(COUNTS))
    adata.obs["n_counts"] = COUNTS.sum(axis=1)
    parts, report = curated(written(tmp_path, adata), rules=RECOVER)
    assert (dense(parts) == COUNTS).all()
    assert report.recovered.endswith("their sums are obs column 'n_counts'")
    adata.obs["n_counts"] += 1
    refused(written(tmp_path, adata), "add up to .* but obs column 'n_counts'", rules=RECOVER)


def test_what_cannot_be_recovered(tmp_path):
    path = h5ad(tmp_path, np.sqrt(COUNTS))
    refused(path, r"X: .*no integer.* X: Counts cannot be recovered", rules=RECOVER)


# --- what goes wrong


def test_unreachable_sources(tmp_path):
    refused(tmp_path / "a.h5ad", r"no file .*a.h5ad \(unreachable source\)")
    refused(tmp_path / "mtx", "unreachable source")
    refused(Path("https://example.org/a.h5ad"), "Download it")


@pytest.mark.parametrize("write", [h5ad, mtx, table])
def test_no_permission(tmp_path, monkeypatch, write):
    path = write(tmp_path, COUNTS)

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    refused(path, "no permission")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    folder = mtx(tmp_path, COUNTS)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    refused(folder, "no permission")
    refused(folder, "no permission", format="10x_mtx")


def test_an_encoding_that_anndata_does_not_know(tmp_path):
    path = h5ad(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        file["obs"].attrs["encoding-type"] = "table"
    refused(path, "obs of .* cannot be read .*newer anndata")


def test_tables_that_do_not_fit(tmp_path):
    path = h5ad(tmp_path, COUNTS)
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = (12, 61)
    refused(path, "is 12 × 61, but its tables name 12 cells and 62 genes")


def test_errors_of_the_sink_are_not_the_sources(tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    entry = SourceEntry(name="s", path=h5ad(tmp_path, COUNTS))
    with pytest.raises(OSError, match="No space left"):
        curate_file(entry, vocabulary=VOCABULARY, rules=RULES, sink=full)


@pytest.mark.parametrize("error", [TypeError, ValueError, IndexError])
@pytest.mark.parametrize(
    ("module", "name"), [(curate, "vocabulary_counts"), (choose, "check_counts")]
)
def test_errors_of_ours_are_not_the_sources(tmp_path, monkeypatch, module, name, error):
    def broken(*_, **__):
        msg = "a bug"
        raise error(msg)

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(error, match="a bug") as caught:
        curated(h5ad(tmp_path, COUNTS))
    assert not isinstance(caught.value, SourceError)
