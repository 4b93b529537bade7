import importlib.util
import json
import lzma
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cellfm.genes
from cellfm.errors import DataError
from cellfm.genes import Gene, GeneTable

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(cellfm.genes.__file__).parent / "data"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("builder", ROOT / "tools/build_gene_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packaged_table_holds_facts_of_hgnc():
    table = GeneTable.load()
    facts = json.loads((DATA / "hgnc.json").read_text())
    assert table.source_date == facts["source_date"]
    assert len(table.genes) == facts["n_genes"] > 40_000
    assert facts["licence"] == "CC0-1.0"
    assert table.approved["TP53"] == Gene(
        symbol="TP53",
        hgnc_id="HGNC:11998",
        ensembl_id="ENSG00000141510",
        locus_group="protein-coding gene",
        locus_type="gene with protein product",
    )
    assert [gene.symbol for gene in table.previous["MARCH1"]] == ["MARCHF1"]
    assert "MS4A1" in {gene.symbol for gene in table.candidates("CD20")}
    numbers = [int(gene.hgnc_id.removeprefix("HGNC:")) for gene in table.genes]
    assert numbers == sorted(set(numbers))


def test_table_is_small_and_read_once():
    assert (DATA / "hgnc.tsv.xz").stat().st_size < 3_000_000
    assert GeneTable.load() is GeneTable.load()


def test_import_reads_no_data_and_needs_numpy_alone():
    code = (
        "import sys, cellfm.genes, cellfm.genes.table as table;"
        "print(table._load.cache_info().currsize, {'torch', 'pandas', 'scipy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 set()\n"


def test_parse_fills_identifiers(table: GeneTable):
    assert table.approved["ACTB"].hgnc_id == "HGNC:1"
    assert table.approved["ACTB"].ensembl_id == "ENSG00000075624"
    assert [gene.symbol for gene in table.ensembl["ENSG00000000009"]] == ["TWIN1", "TWIN2"]


def test_alias_and_previous_of_one_gene_are_one_candidate(table: GeneTable):
    assert [gene.symbol for gene in table.candidates("CD20")] == ["MS4A1"]
    assert [gene.symbol for gene in table.candidates("SHARED")] == ["NOISE1", "NOISE2"]
    assert table.candidates("NOTHING") == ()


@pytest.mark.parametrize(
    ("symbol", "approved"),
    [
        ("TP53", "TP53"),
        ("c1ORF21", "C1orf21"),
        ("MARCH1", "MARCHF1"),
        ("SEPT2", "SEPTIN2"),  # earlier symbol of one gene, alias of another: it was approved
        ("OLD1", None),  # earlier symbol of two genes
        ("SHARED", None),
        ("B1", None),  # an alias was never approved
    ],
)
def test_identify_takes_approved_and_unambiguous_previous_symbols(
    table: GeneTable, symbol: str, approved: str | None
):
    gene = table.identify(symbol)
    assert (gene and gene.symbol) == approved


def test_foreign_table_is_refused():
    with pytest.raises(DataError, match=r"starts with 'a\\tb'; the columns hgnc_id, .* expected"):
        GeneTable.parse("a\tb\n", source_date="")


def test_damaged_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellfm.genes.table.files", lambda _: tmp_path)
    from cellfm.genes.table import _load

    with pytest.raises(DataError, match=r"cannot be read .*Install cellfm again"):
        _load.__wrapped__()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/hgnc.json").write_text('{"source_date": "x"}')
    (tmp_path / "data/hgnc.tsv.xz").write_bytes(b"no xz")
    with pytest.raises(DataError, match=r"cannot be read .*Install cellfm again"):
        _load.__wrapped__()


def test_rebuild_gives_the_packaged_bytes(
    builder: ModuleType, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = shared_data / "hgnc" / "hgnc_complete_set_2024-10.txt.gz"
    builder.main([str(source), str(tmp_path)])
    assert capsys.readouterr().out.startswith("43,882 genes of 2024-10-18 written to ")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["hgnc.json", "hgnc.tsv.xz"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_builder_keeps_approved_genes_in_order_and_packs_either_form(
    builder: ModuleType, tmp_path: Path
):
    import gzip

    columns = [*builder.COLUMNS.values(), "status", "date_modified"]
    rows = [
        ["HGNC:10", "B", "ENSG00000000007", '"X|B|X| "', "", "g", "t", "Approved", "2024-01-02"],
        ["HGNC:9", "A", "", "", "Y", "g", "t", "Approved", "2024-01-01"],
        ["HGNC:8", "C", "", "", "", "g", "t", "Entry Withdrawn", "2025-01-01"],
    ]
    text = "\n".join("\t".join(row) for row in [columns, *rows]) + "\n"
    (tmp_path / "plain.txt").write_text(text)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(text.encode()))
    told = builder.build(tmp_path / "plain.txt", tmp_path / "one")
    assert told == builder.build(tmp_path / "packed.txt.gz", tmp_path / "two")
    assert (told["source_date"], told["n_genes"]) == ("2024-01-02", 2)
    packed = (tmp_path / "one/hgnc.tsv.xz").read_bytes()
    assert packed == (tmp_path / "two/hgnc.tsv.xz").read_bytes()
    table = lzma.decompress(packed).decode()
    assert table.split("\n")[1:] == ["9\tA\t\t\tY\tg\tt", "10\tB\t7\tX\t\tg\tt", ""]
    assert GeneTable.parse(table, source_date="").approved["B"].ensembl_id == "ENSG00000000007"


def test_builder_refuses_other_files(builder: ModuleType, tmp_path: Path):
    (tmp_path / "other.txt").write_text("a\tb\n")
    with pytest.raises(SystemExit, match=r"not HGNC's complete set: the columns alias_symbol, "):
        builder.main([str(tmp_path / "other.txt")])
    with pytest.raises(SystemExit, match="usage: "):
        builder.main([])
