import pytest

from cellfm.errors import GeneMatchError
from cellfm.genes import GeneTable
from cellfm.genes.species import check_human, has_mouse_style, is_other_species, strip_genome


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("GRCh38_ACTB", "ACTB"),
        ("GRCh38______ACTB", "ACTB"),
        ("hg19_ENSG00000075624", "ENSG00000075624"),
        ("GRCh38-2020-A_ACTB", "ACTB"),
        ("grch38_actb", "actb"),
        ("mm10_Actb", "mm10_Actb"),
        ("hg19_", "hg19_"),
        ("Y_RNA", "Y_RNA"),
        ("ACTB", "ACTB"),
    ],
)
def test_strip_genome(name: str, bare: str):
    assert strip_genome(name) == bare


@pytest.mark.parametrize(
    "name",
    [
        "Actb",
        "Cd3e",
        "Gm1234",
        "C1qa",
        "A1bg",
        "Hba-a1",
        "H2-Ab1",
        "H2-K1",
        "mt-Nd1",
        "1700001C19Rik",
    ],
)
def test_mouse_style(name: str):
    assert has_mouse_style(name)


@pytest.mark.parametrize(
    "name", ["ACTB", "actb", "C1orf21", "CXorf38", "hsa-mir-1", "mt-nd1", "MT-ND1", ""]
)
def test_no_mouse_style(name: str):
    assert not has_mouse_style(name)


def test_no_approved_symbol_has_mouse_style():
    assert [g.symbol for g in GeneTable.load().genes if has_mouse_style(g.symbol)] == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ENSMUSG00000029580", True),
        ("ensmusg00000029580.5", True),
        ("ENSRNOG00000000001", True),
        ("mm10___Actb", True),
        ("GRCm39_Actb", True),
        ("ENSG00000075624", False),
        ("ENSA", False),
    ],
)
def test_other_species(name: str, *, other: bool):
    assert is_other_species(name) is other


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["Actb", "Gapdh", "mt-Nd1", "TP53"],
            r"of mouse: 3 of 4 input names, such as Actb, Gapdh, mt-Nd1\. .* human genes only\. Map ",
        ),
        (["ENSMUSG00000029580", "ENSMUSG00000029581.2"], "those of mouse: 2 of 2"),
        (["ENSRNOG00000000001", "ENSRNOG00000000002"], "those of another species: 2 of 2"),
        (["mm10_Actb", "mm10_Cd3e", "GRCh38_ACTB"], "those of mouse: 2 of 3"),
    ],
)
def test_majority_of_other_species_is_refused(names: list[str], message: str):
    with pytest.raises(GeneMatchError, match=message):
        check_human(names)


@pytest.mark.parametrize(
    "names",
    [
        ["actb", "tp53"],
        ["C1orf21", "C2orf16", "CXorf38"],
        ["Actb", "TP53"],
        ["mm10_Actb", "GRCh38_ACTB"],
        ["ENSMUSG00000029580", "ENSG00000075624"],
    ],
)
def test_human_and_mixed_input_passes(names: list[str]):
    check_human(names)
