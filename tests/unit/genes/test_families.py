import gzip
from pathlib import Path

import pytest

from cellfm.errors import DataError
from cellfm.genes.families import family, read_gene_groups


def test_family_of_a_symbol() -> None:
    expected = {
        "HOXA1": "HOXA",
        "HOXA13": "HOXA",
        "ZNF12": "ZNF",
        "KRT6A": "KRT",
        "SLC25A4": "SLC25A",
        "HLA-DRB1": "HLA-DRB",
        "ACTB": "ACTB",
        "C1orf112": "C1orf112",
        "LINC00115": "LINC00115",
        "A1CF": "A1CF",
    }
    assert {name: family(name) for name in expected} == expected


def test_smallest_group_of_a_gene_counts(tmp_path: Path) -> None:
    rows = [
        "hgnc_id\tsymbol\tgene_group",
        'HGNC:1\tACTB\t"Actins|BAF complex subunits"',
        "HGNC:2\tACTG1\tActins",
        "HGNC:3\tSMARCA4\tBAF complex subunits",
        "HGNC:4\tSMARCB1\tBAF complex subunits",
        "HGNC:5\tGAPDH\t",
    ]
    path = tmp_path / "hgnc.txt.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    groups = read_gene_groups(path)
    assert groups["ACTB"] == groups["HGNC:1"] == groups["ACTG1"] == "Actins"
    assert groups["SMARCA4"] == "BAF complex subunits"
    assert "GAPDH" not in groups
    assert "HGNC:5" not in groups


def test_numbers_of_groups_and_commas_serve_too(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("symbol,gene_group_id\nA,7|9\nB,7\nC,9\nD,9\n")
    assert read_gene_groups(path) == {"A": "7", "B": "7", "C": "9", "D": "9"}


def test_unusable_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "groups.tsv"
    with pytest.raises(DataError, match="There is no file"):
        read_gene_groups(path)
    path.write_text("gene\tset\nA\tx\n")
    with pytest.raises(DataError, match="has the columns gene, set; expected symbol and gene_group"):  # fmt: skip
        read_gene_groups(path)
    path.write_text("symbol\tgene_group\nA\t\n")
    with pytest.raises(DataError, match="puts no gene into a group"):
        read_gene_groups(path)
    path.write_text("")
    with pytest.raises(DataError, match="has the columns none"):
        read_gene_groups(path)


def test_complete_set_of_hgnc_is_read(shared_data: Path) -> None:
    groups = read_gene_groups(shared_data / "hgnc" / "hgnc_complete_set_2024-10.txt.gz")
    assert groups["HOXA1"] == groups["HOXB1"] == groups["HGNC:5099"]
    assert groups["ACTB"] == "Actins"
    assert "GAPDH" not in groups
