import gzip
import hashlib
from pathlib import Path

import pytest

from cellfm.errors import VocabularyError
from cellfm.genes import GeneTable, Vocabulary


def test_hash_is_the_digest_of_the_ordered_symbols(table: GeneTable):
    one = Vocabulary.from_symbols(["TP53", "ACTB"], table=table)
    assert one.hash == hashlib.sha256(b"TP53\nACTB").hexdigest()
    assert one.hash != Vocabulary.from_symbols(["ACTB", "TP53"], table=table).hash
    # The ids are facts about the genes, not the order of the tokens.
    bare = Vocabulary(symbols=one.symbols, hgnc_ids=("", ""), ensembl_ids=("", ""))
    assert one.hash == bare.hash


def test_default_vocabulary_never_changes_unnoticed():
    vocabulary = Vocabulary.from_hgnc()
    assert len(vocabulary) == 28_845
    assert vocabulary.hash == "941af455556c02304edf17c257dfcd8c6e98753bc924d10177859d2cdacb2bb3"
    assert vocabulary.symbols[:3] == ("A1BG", "A2M", "SERPINA3")


def test_from_symbols_keeps_order_and_fills_ids(table: GeneTable):
    vocabulary = Vocabulary.from_symbols(["MARCH1", "custom", "ACTB"], table=table)
    assert len(vocabulary) == 3
    assert vocabulary.symbols == ("MARCH1", "custom", "ACTB")
    assert vocabulary.hgnc_ids == ("HGNC:3", "", "HGNC:1")
    assert vocabulary.ensembl_ids == ("ENSG00000145416", "", "ENSG00000075624")


def test_from_hgnc_takes_groups_and_types(table: GeneTable):
    rna = Vocabulary.from_hgnc(("non-coding RNA",), locus_types=(), table=table)
    assert rna.symbols == ("TWIN1", "TWIN2")
    more = Vocabulary.from_hgnc(
        ("non-coding RNA",), locus_types=("immunoglobulin gene",), table=table
    )
    assert more.symbols == ("TWIN1", "TWIN2", "IGKC")


@pytest.mark.parametrize(
    ("groups", "types", "message"),
    [
        (("protein",), (), r"There is no locus group 'protein'; HGNC has non-coding RNA, other, "),
        ((), ("IG",), r"There is no locus type 'IG'; HGNC has RNA, long non-coding, "),
        ((), (), r"A vocabulary without genes was asked for; it needs at least one\."),
    ],
)
def test_from_hgnc_refuses(table: GeneTable, groups, types, message):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_hgnc(groups, locus_types=types, table=table)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([], "without genes"),
        (["ACTB", ""], r"Gene 2 of the vocabulary is named ''; a symbol must not be empty"),
        ([" ACTB"], r"Gene 1 of the vocabulary is named ' ACTB'"),
        (["AC\tTB"], r"nor hold tabs or line breaks"),
        (["TP53", "ACTB", "TP53"], r"'TP53' is gene 1 and gene 3 .* must be there once"),
    ],
)
def test_from_symbols_refuses(table: GeneTable, symbols: list[str], message: str):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_symbols(symbols, table=table)


def test_columns_of_different_length_are_refused():
    with pytest.raises(VocabularyError, match="1 symbols, 0 HGNC ids, 1 Ensembl ids"):
        Vocabulary(symbols=("A",), hgnc_ids=(), ensembl_ids=("",))


def test_write_and_read_round_trip(everything: Vocabulary, tmp_path: Path):
    path = tmp_path / "genes.tsv"
    everything.write(path)
    assert Vocabulary.read(path) == everything
    assert path.read_text().startswith(
        "token\tsymbol\thgnc_id\tensembl_id\n1\tACTB\tHGNC:1\tENSG00000075624\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["genes.tsv"]
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as some mail programs leave it
    assert Vocabulary.read(path) == everything


HEADER = "token\tsymbol\thgnc_id\tensembl_id\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gene\nACTB\n", r"starts with 'gene'; the tab-separated columns token, symbol.*foreign"),
        ("", r"starts with ''"),
        (HEADER, "without genes"),
        (HEADER + "1\tACTB\t\n", r"Line 2 of .* has 3 columns: '1\\tACTB\\t'; 4 .* damaged"),
        (HEADER + "1\tA\t\t\n\n", r"Line 3 of .* has 1 columns: ''"),
        (HEADER + "0\tACTB\t\t\n", r"Line 2 of .* has token '0'; 1 was expected\. Lines were lost"),
        (HEADER + "1\tA\t\t\n3\tB\t\t\n", r"Line 3 of .* has token '3'; 2 was expected"),
        (HEADER + "1\tA\t\t\n2\tA\t\t\n", r"'A' is gene 1 and gene 2"),
    ],
)
def test_read_is_strict(tmp_path: Path, content: str, message: str):
    path = tmp_path / "genes.tsv"
    path.write_text(content)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.read(path)
    assert str(path) in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))


def test_read_of_no_text_file(tmp_path: Path):
    with pytest.raises(VocabularyError, match=r"gene list .*none\.tsv cannot be read"):
        Vocabulary.read(tmp_path / "none.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError, match=r"binary\.tsv cannot be read.*must be a text file"):
        Vocabulary.read(tmp_path / "binary.tsv")


@pytest.mark.parametrize(
    "content",
    [
        "HGNC_gene,h5_sample_frequency,biotype\nTP53,3,x\nMARCH1,2,y\n",
        "\ufeffHGNC_gene,biotype\r\nTP53,x\r\nMARCH1,y\r\n",
        "number\tsymbol\n1\tTP53\n2\tMARCH1\n",
        ',HGNC_gene\n0,"TP53"\n1,MARCH1\n',
        "gene\nTP53\nMARCH1\n",
        "TP53\nMARCH1\n",
        "symbol,HGNC_gene\nX,TP53\nY,MARCH1\n",
    ],
)
def test_read_foreign_finds_the_symbols(table: GeneTable, tmp_path: Path, content: str):
    path = tmp_path / "list.csv"
    path.write_text(content, newline="")
    vocabulary = Vocabulary.read_foreign(path, table=table)
    assert vocabulary.symbols == ("TP53", "MARCH1")
    assert vocabulary.hgnc_ids == ("HGNC:2", "HGNC:3")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert Vocabulary.read_foreign(path, table=table) == vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"list\.csv is empty; one gene a line was expected"),
        ("HGNC_gene\n", "without genes"),
        (
            ",name\n0,TP53\n1,ACTB\n",
            r"holds numbers \(0, 1, …\), no symbols; its columns are , name",
        ),
        ("name,symbol\nx,TP53\ny\n", r"Gene 2 of the vocabulary is named ''"),
        ("symbol\nTP53\nTP53\n", r"'TP53' is gene 1 and gene 2"),
    ],
)
def test_read_foreign_refuses(table: GeneTable, tmp_path: Path, content: str, message: str):
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.read_foreign(path, table=table)
    assert str(path) in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08broken", b"\xff\xff", None])
def test_read_foreign_of_unreadable_files(table: GeneTable, tmp_path: Path, content: bytes | None):
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VocabularyError, match=r"list\.csv cannot be read: .*csv or tsv file"):
        Vocabulary.read_foreign(path, table=table)
