"""A diagnosis: what is in a file, what works on it, and what is wrong with bad ones."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellfm.errors import CountsError, DataError, OutputExistsError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.tl import _states
from cellfm.tl._convert import convert_file
from cellfm.tl._doctor import cost, file, machine, machine_findings, self_test
from cellfm.tl._doctor.columns import grouping_columns
from cellfm.tl._doctor.file import Examination, Question, examine_file
from cellfm.tl._doctor.finding import Finding, duration_text, size_text
from cellfm.tl._doctor.matrix import look_at
from cellfm.weights.folder import MINI, PACKAGED, new, save
from tests import sources

N_CELLS = 60
COUNTS = sources.simulated(N_CELLS)
WITHOUT_ESTIMATE = Question(n_sample=1)


@pytest.fixture(autouse=True, scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A random model that knows the genes of the tests in the place of the packaged one, which takes a second to read."""
    shelf = tmp_path_factory.mktemp("packaged")
    made = new("debug", sources.VOCABULARY)
    save(shelf / MINI, made.network, made.vocabulary, card="Random.", provenance={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "PACKAGED", shelf)
        patch.setattr(_states, "PACKAGED", shelf)
        yield


def adata(**changes: object) -> ad.AnnData:
    made = sources.anndata_of(COUNTS)
    made.obs["cell_type"] = pd.Categorical(["T cell", "B cell", "NK"] * (N_CELLS // 3))
    made.obs["donor"] = ["a", "b"] * (N_CELLS // 2)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def logged(counts: np.ndarray = COUNTS) -> sparse.csr_matrix:
    scaled = counts * (1e4 / counts.sum(axis=1, keepdims=True))
    return sparse.csr_matrix(np.log1p(scaled).astype(np.float32))


def written(made: ad.AnnData, folder: Path, name: str = "cells.h5ad") -> Path:
    path = folder / name
    with warnings.catch_warnings(action="ignore"):  # of names that are there twice
        made.write_h5ad(path)
    return path


def problems(found: Examination) -> list[Finding]:
    return [each for each in found.findings if each.level == "problem"]


def said(found: Examination, topic: str) -> str:
    return " ".join(f"{each.text} {each.todo}" for each in found.findings if each.topic == topic)


def lines(found: Examination) -> dict[str, str]:
    return {each.command: each.line for each in found.commands if each.works}


def refusals(found: Examination) -> dict[str, str]:
    return {each.command: each.why for each in found.commands if not each.works}


def test_good_file(tmp_path: Path) -> None:
    path = written(adata(), tmp_path)
    found = examine_file(path, Question(n_sample=20))
    assert not problems(found)
    assert (found.format, found.n_cells, found.n_genes) == ("h5ad", N_CELLS, sources.N_GENES)
    assert (found.counts, found.scale, found.gene_names) == ("X", "counts", None)
    assert found.genes is not None
    assert found.genes.n_input == sources.N_GENES
    assert found.genes.coverage is not None
    assert f"{found.genes.n_matched} of {sources.N_GENES}" in said(found, "genes")
    assert "matched by symbol" in said(found, "genes")
    assert (found.n_empty, found.n_looked_at) == (0, N_CELLS)
    assert [(each.name, each.roles) for each in found.columns] == [
        ("cell_type", ("label",)),
        ("donor", ("donor",)),
    ]
    assert found.cost is not None
    assert found.cost.n_sample == 20
    assert found.cost.seconds > N_CELLS / found.cost.cells_per_second
    assert found.cost.disk > path.stat().st_size
    works = lines(found)
    assert works["integrate"].endswith(f"{tmp_path}/cells.integrated.h5ad --batch-key donor")
    assert works["annotate train"].endswith("--label cell_type --donor-key donor")
    assert found.next == works["embed"] == f"cellfm embed {path} {tmp_path}/cells.cellfm.h5ad"
    assert "no column of obs names perturbed genes" in refusals(found)["perturb train"]
    assert sorted(tmp_path.iterdir()) == [path]  # nothing is written


def test_counts_in_a_layer_and_in_raw(tmp_path: Path) -> None:
    made = adata(X=logged())
    made.layers["umi"] = sparse.csr_matrix(COUNTS.astype(np.float32))
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert found.counts == "layers/umi"
    assert [each.kind for each in found.matrices] == ["log1p", "counts"]
    assert "say --layer umi" in said(found, "counts")
    assert lines(found)["embed"].endswith("--layer umi")
    # The usual places are searched by a corpus; of another one its list of sources tells.
    assert "columns path and layer" in refusals(found)["corpus build"]
    made = adata(raw=adata()[:, :50].copy(), X=logged())
    made.raw = adata()
    made.X = logged()
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert found.counts == "raw/X"
    assert lines(found)["denoise"].endswith("--use-raw")
    assert not problems(found)


def test_genes_in_a_column(tmp_path: Path) -> None:
    made = adata()
    made.var["symbol"] = list(made.var_names)
    made.var_names = [str(number) for number in range(made.n_vars)]
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert found.gene_names == "symbol"
    assert "say --gene-names symbol" in said(found, "genes")
    assert lines(found)["embed"].endswith("--gene-names symbol")
    assert not problems(found)


def test_ensembl_ids_and_duplicates(tmp_path: Path) -> None:
    made = adata()
    made.var_names = [*sources.IDS[:-1], sources.IDS[0]]
    made.obs_names = [*made.obs_names[:-1], made.obs_names[0]]
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert "matched by ensembl" in said(found, "genes")
    assert (found.n_duplicate_genes, found.n_duplicate_cells) == (1, 1)
    assert "1 names of genes repeat another" in said(found, "names")
    assert not problems(found)


def test_cells_without_genes_are_counted(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[3:5] = 0
    found = examine_file(written(adata(X=sparse.csr_matrix(counts.astype(np.float32))), tmp_path), WITHOUT_ESTIMATE)  # fmt: skip
    assert found.n_empty == 2
    assert lines(found)["embed"].endswith("--empty nan")
    assert "filter them out" in refusals(found)["integrate"]


@pytest.mark.parametrize("stored", [sparse.csc_matrix, np.asarray])
def test_other_storage_says_the_same(tmp_path: Path, stored: object) -> None:
    made = sources.anndata_of(COUNTS, matrix=stored)
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    (facts,) = found.matrices
    assert (facts.kind, facts.largest, facts.n_seen) == ("counts", COUNTS.max(), N_CELLS)
    assert facts.zeros == pytest.approx((COUNTS == 0).mean())
    assert facts.median_total == np.median(COUNTS.sum(axis=1))
    assert found.genes is not None
    assert found.genes.coverage is not None


def test_a_large_matrix_by_columns_is_not_written_to_scratch_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MOST_BYTES_BY_COLUMNS", 1)
    found = examine_file(written(sources.anndata_of(COUNTS, matrix=sparse.csc_matrix), tmp_path), WITHOUT_ESTIMATE)  # fmt: skip
    assert found.cost is None
    assert "stored by columns" in said(found, "time")
    assert "embed" in lines(found)


@pytest.mark.parametrize("write", [sources.tenx_h5_v3, sources.mtx, sources.table])
def test_other_formats_are_converted_first(tmp_path: Path, write: object) -> None:
    path = write(tmp_path, COUNTS)
    found = examine_file(path, WITHOUT_ESTIMATE)
    assert not problems(found)
    assert found.counts == "matrix"
    assert found.next is not None
    assert found.next.startswith("cellfm convert ")
    assert "convert it first" in refusals(found)["embed"]
    target = tmp_path / "made.h5ad"
    done = convert_file(path, target)
    assert (done.n_cells, done.n_genes) == COUNTS.shape
    made = ad.read_h5ad(target)
    assert (made.X.toarray() == COUNTS).all()
    assert list(made.var_names) == sources.SYMBOLS
    again = examine_file(target, WITHOUT_ESTIMATE)
    assert again.genes == found.genes
    with pytest.raises(OutputExistsError):
        convert_file(path, target)


def test_convert_takes_the_matrix_with_counts(tmp_path: Path) -> None:
    made = adata(X=logged())
    path, target = written(made, tmp_path), tmp_path / "out.h5ad"
    with pytest.raises(CountsError, match=r"No matrix of .* holds raw counts.*log1p-normalised"):
        convert_file(path, target)
    assert not target.exists()
    made.layers["counts"] = sparse.csr_matrix(COUNTS.astype(np.float32))
    assert convert_file(written(made, tmp_path), target).matrix == "layers/counts"
    assert (ad.read_h5ad(target).X.toarray() == COUNTS).all()
    assert list(ad.read_h5ad(target).obs.columns) == ["cell_type", "donor"]


def test_only_logarithms(tmp_path: Path) -> None:
    found = examine_file(written(adata(X=logged()), tmp_path), WITHOUT_ESTIMATE)
    (problem,) = problems(found)
    assert problem.text == "no raw counts: X is log1p of counts scaled to one total a cell (looked at X)"  # fmt: skip
    assert "--recover" in problem.todo
    assert (found.counts, found.scale) == (None, "log1p")
    assert found.matrices[0].scaled_to == pytest.approx(1e4, rel=1e-4)
    assert lines(found)["embed"].endswith("--scale log1p")
    assert refusals(found)["perturb train"] == "needs raw counts"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x - x.mean(axis=0), "scaled"),
        (lambda x: x / x.sum(axis=1, keepdims=True) * 1e4, "normalised"),
        (np.sqrt, "logged"),
        (np.zeros_like, "empty"),
        (lambda x: np.where(x == x.max(), np.nan, x), "broken"),
        (lambda x: np.where(x == x.max(), 2.0**30, x), "broken"),
        (lambda x: x, "counts"),
    ],
)
def test_scale_is_told_with_evidence(change, kind: str) -> None:
    from cellfm.corpus.rows import row_source

    values = change(COUNTS.astype(np.float64))
    facts = look_at(row_source(sparse.csr_matrix(values)), "X")
    assert facts.kind == kind
    finite = values[np.isfinite(values)]
    assert facts.smallest == finite.min()
    assert facts.largest == finite.max()
    assert "values whole" in facts.evidence
    assert f"{N_CELLS} rows" in facts.evidence


def test_scaled_values_leave_no_command(tmp_path: Path) -> None:
    values = (COUNTS - COUNTS.mean(axis=0)).astype(np.float32)
    found = examine_file(written(adata(X=values), tmp_path), WITHOUT_ESTIMATE)
    assert "file from before this step" in problems(found)[0].todo
    assert not lines(found)
    assert found.next is None
    assert found.cost is None


def test_mouse_genes(tmp_path: Path) -> None:
    made = adata()
    made.var_names = [f"Gm{number}" for number in range(made.n_vars)]
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    (problem,) = problems(found)
    assert "look like those of mouse" in problem.text
    assert "orthologues" in problem.text
    assert refusals(found)["embed"] == "too few of its genes are the model's"
    assert found.genes is None


def test_truncated_file(tmp_path: Path) -> None:
    path = written(adata(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (problem,) = examine_file(path, WITHOUT_ESTIMATE).findings
    assert problem.level == "problem"
    assert "truncated file" in problem.text
    assert "copy it again" in problem.todo


def test_file_with_a_damaged_matrix(tmp_path: Path) -> None:
    import h5py

    path = written(adata(), tmp_path)
    with h5py.File(path, "r+") as inside:
        inside["X/indices"][:] = 10**6
    found = examine_file(path, WITHOUT_ESTIMATE)
    assert problems(found)
    assert "damaged" in said(found, "file")


def test_text_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "letter.csv"
    path.write_text("Dear all,\nthese are words, not counts.\n")
    (problem,) = problems(examine_file(path, WITHOUT_ESTIMATE))
    assert "holds text among the counts" in problem.text
    assert "open it in an editor" in problem.todo


def test_missing_file_and_near_names(tmp_path: Path) -> None:
    written(adata(), tmp_path)
    (problem,) = problems(examine_file(tmp_path / "cels.h5ad", WITHOUT_ESTIMATE))
    assert "Near names there: cells.h5ad" in problem.text
    (problem,) = problems(examine_file(tmp_path / "no" / "cells.h5ad", WITHOUT_ESTIMATE))
    assert f"not even the folder {tmp_path / 'no'}" in problem.text


def test_files_without_cells(tmp_path: Path) -> None:
    found = examine_file(written(adata()[:0].copy(), tmp_path), WITHOUT_ESTIMATE)
    assert "X is empty: 0 cells" in problems(found)[0].text
    path = written(ad.AnnData(obs=adata().obs, var=adata().var), tmp_path)
    assert "neither X nor layers" in problems(examine_file(path, WITHOUT_ESTIMATE))[0].text


@pytest.mark.parametrize(
    ("name", "way"),
    [("a.rds", "DropletUtils"), ("a.loom", "read_loom"), ("a.zip", "Unpack it"), ("a.pdf", "known format")],
)  # fmt: skip
def test_foreign_files_get_a_way_out(tmp_path: Path, name: str, way: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something")
    (problem,) = problems(examine_file(path, WITHOUT_ESTIMATE))
    assert way in problem.text


def test_folders_that_are_no_counts(tmp_path: Path) -> None:
    (problem,) = problems(examine_file(PACKAGED / MINI, WITHOUT_ESTIMATE))
    assert "is a weights folder" in problem.text
    (tmp_path / "corpus.json").write_text("{}")
    (problem,) = problems(examine_file(tmp_path, WITHOUT_ESTIMATE))
    assert "is a corpus" in problem.text
    with pytest.raises(WeightsError, match="There are no weights"):
        examine_file(tmp_path, Question(model="nothing"))


def test_columns_are_told_by_name_number_and_content() -> None:
    n = 400
    rng = np.random.default_rng(0)
    genes = ["ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ"]
    obs = pd.DataFrame(
        {
            "barcode": [f"c{i}" for i in range(n)],
            "n_counts": rng.poisson(9, n),
            "percent_mito": rng.random(n),
            "louvain": pd.Categorical(rng.choice(list("abc"), n)),
            "Patient_ID": rng.integers(4, size=n),
            "orig.ident": "one",
            "gene": rng.choice([*genes, "non-targeting"], n),
            "target": rng.choice([f"{g}+ctrl" for g in genes] + [*genes, "MYC+ACTB"], n),
            "kind": rng.choice(["NK", "B", "T"], n),
        }
    )
    found = {each.name: each for each in grouping_columns(obs, Vocabulary.from_hgnc())}
    assert {name: each.roles for name, each in found.items()} == {
        "louvain": ("label",),
        "Patient_ID": ("donor",),
        "orig.ident": ("batch",),
        "gene": ("perturbation",),
        "target": ("perturbation without controls",),
        "kind": (),
    }
    assert found["orig.ident"].n_values == 1
    assert found["louvain"].smallest == obs["louvain"].value_counts().min()


def test_perturbations_and_batches_of_one_value(tmp_path: Path) -> None:
    made = adata()
    made.obs["gene"] = pd.Categorical([*sources.SYMBOLS[:2], "ctrl"] * (N_CELLS // 3))
    made.obs["donor"], made.obs["batch"] = "a", "one"
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert "--perturbation gene" in lines(found)["perturb train"]
    assert "one value only" in refusals(found)["integrate"]
    made.obs["batch"] = ["x", "y"] * (N_CELLS // 2)
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert lines(found)["perturb train"].endswith("--perturbation gene --batch-key batch")
    assert lines(found)["integrate"].endswith("--batch-key batch")
    made.obs["gene"] = pd.Categorical([*sources.SYMBOLS[:3], "luciferase", "ctrl"] * (N_CELLS // 5))
    found = examine_file(written(made, tmp_path), WITHOUT_ESTIMATE)
    assert lines(found)["perturb train"].endswith("--batch-key batch --drop-unknown")


def test_too_little_room_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellfm.tl._doctor import file_findings

    monkeypatch.setattr(file_findings, "machine_memory", lambda: (2**30, 2**20))
    monkeypatch.setattr(cost, "memory_bytes", lambda device: 2**29)
    found = examine_file(written(adata(), tmp_path), WITHOUT_ESTIMATE)
    (problem,) = problems(found)
    assert problem.text == "512.0 MiB of memory are needed, 1.0 MiB are free"


def test_the_estimate_goes_with_the_genes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in the middle with few genes must not promise speed for a file of rich cells."""
    clock = iter(np.arange(0.0, 1000.0, 10.0).tolist())
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    rich = np.ones((N_CELLS, sources.N_GENES))
    rich[25:35, 10:] = 0  # only these are measured; all genes but some are the model's
    path = written(adata(X=sparse.csr_matrix(rich.astype(np.float32))), tmp_path)
    found = examine_file(path, Question(n_sample=10))
    assert found.cost is not None
    genes_per_cell = (10 * 10 + 50 * sources.N_GENES) / N_CELLS
    expected = 10.0 / (10 * 10) * genes_per_cell  # seconds a cell: the clock goes 10 s a look
    assert 1 / found.cost.cells_per_second == pytest.approx(expected, rel=0.1)
    assert found.cost.seconds == pytest.approx(10.0 + N_CELLS * expected, rel=0.1)


def test_machine() -> None:
    seconds, tested = self_test.self_test("cpu")
    assert tested.level == "ok"
    assert seconds is not None
    facts = machine.facts_of(seconds)
    assert facts.packages["torch"]
    assert facts.devices[0].name == "cpu"
    assert "mini" in [each.name for each in facts.weights if each.packaged]
    found = list(machine_findings.machine_findings(facts))
    assert {"packages", "extras", "device", "memory", "cache", "weights"} <= {
        each.topic for each in found
    }
    assert all(each.todo for each in found if each.level == "problem")


def test_a_machine_with_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    extra = machine.Extra(name="report", missing=("plotly",), install="")
    facts = replace(
        machine.facts_of(None),
        missing=("zarr",),
        extras=(extra,),
        installed=None,
        memory_free=2**20,
        disk_free=2**20,
        weights=(),
        n_threads=64,
        n_cores=2,
    )
    monkeypatch.setattr(machine_findings.os, "access", lambda *_: False)
    found = {each.text: each for each in machine_findings.machine_findings(facts)}
    told = " ".join(f"{each.text} {each.todo}" for each in found.values())
    for expected in (
        "pip install zarr",
        "pip install 'cellfm[report]'",
        "runs from a folder",
        "which is little",
        "set CELLFM_CACHE",
        "export OMP_NUM_THREADS=2",
        "install cellfm again",
    ):
        assert expected in told
    assert sum(each.level == "problem" for each in found.values()) == 3


def test_self_test_tells_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.ones((self_test.N_CELLS, 4), np.float32)
    wrong = np.arange(right.size, dtype=np.float32).reshape(right.shape)
    results = iter([(right, 1.0), (wrong, 1.0)])
    monkeypatch.setattr(self_test, "_embed_made_up", lambda *_, **__: next(results))
    seconds, tested = self_test.self_test("cpu")
    assert seconds is None
    assert "not what they must be" in tested.text
    _, tested = self_test.self_test("no-such-device")
    assert tested.level == "problem"
    assert "--device cpu" in tested.todo


def test_requirements_of_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        "torch>=2.6",
        "nowhere-1>=1",
        'nowhere-2>=1; extra == "chem"',
        "cellfm[chem]; extra == 'bench'",
        'nowhere-3; extra == "dev"',
    ]
    monkeypatch.setattr(machine.metadata, "requires", lambda name: listed)
    extras = {each.name: each.missing for each in machine._extras()}
    assert extras == {"bench": ("nowhere-2",), "chem": ("nowhere-2",)}
    assert machine.facts_of(None).missing == ("nowhere-1",)


def test_units() -> None:
    assert [size_text(n) for n in (10, 2**11, 3 * 2**30)] == ["10 bytes", "2.0 KiB", "3.0 GiB"]
    assert [duration_text(s) for s in (3.21, 20, 600, 7200, 259_200)] == ["3.2 s", "20 s", "10 min", "2.0 h", "3.0 days"]  # fmt: skip


def test_a_reader_that_finds_nothing_is_an_error(tmp_path: Path) -> None:
    from cellfm.tl._count_file import format_of

    with pytest.raises(DataError, match="There is no"):
        format_of(tmp_path / "none.h5ad")
