import gzip
from pathlib import Path

import pytest

from cellfm.errors import DataError
from cellfm.genes.sets import read_gene_sets


def test_gmt(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text("one\tabout\tA\tB\tA\n\ntwo\t\tB,1.0\tC,0.5\n", encoding="utf-8")
    assert read_gene_sets(path) == {"one": ("A", "B"), "two": ("B", "C")}
    packed = tmp_path / "sets.gmt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_gene_sets(packed) == read_gene_sets(path)


def test_pairs_are_memberships_or_interactions(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("# gene\tset\nA\tX\nB\tX\nA\tB\tActivation\n", encoding="utf-8")
    assert read_gene_sets(path) == {"X": ("A", "B", "X"), "B": ("A", "B")}


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.gmt", "one\tabout\n", "Line 1 of .* has 2 columns"),
        ("a.tsv", "A\n", "expected a gene and a set"),
        ("a.tsv", "\n", "holds no gene sets"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, what: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        read_gene_sets(path)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_gene_sets(tmp_path / "none.gmt")
    path = tmp_path / "x.gmt"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_gene_sets(path)
