import gzip
from pathlib import Path

import pytest

from cellfm.errors import DataError
from cellfm.genes.ontology import propagate, read_obo

OBO = """format-version: 1.2
ontology: go

[Term]
id: GO:0008150
name: biological_process
alt_id: GO:0000004

[Term]
id: GO:0000010
name: transport: a colon in a name {sic}
is_a: GO:0008150 ! biological_process

[Term]
id: GO:0000020
name: binding
is_a: GO:0008150 {source="GOC:x"} ! biological_process
alt_id: GO:0000021

[Term]
id: GO:0000030
name: leaf
is_a: GO:0000010 ! transport
relationship: part_of GO:0000020 ! binding
relationship: regulates GO:0000040 ! alone

[Term]
id: GO:0000040
name: alone

[Term]
id: GO:0000050
name: obsolete thing
is_obsolete: true
replaced_by: GO:0000010

[Typedef]
id: part_of
name: part of
is_a: overlaps
"""


@pytest.fixture
def obo(tmp_path: Path) -> Path:
    path = tmp_path / "go.obo"
    path.write_text(OBO)
    return path


def test_terms_are_read(obo: Path, tmp_path: Path) -> None:
    found = read_obo(obo)
    assert found.names["GO:0000010"] == "transport: a colon in a name {sic}"
    assert found.parents["GO:0000030"] == ("GO:0000010", "GO:0000020")
    assert found.ancestors("GO:0000030") == {"GO:0000010", "GO:0000020", "GO:0008150"}
    assert found.ancestors("GO:0000040") == set()
    assert found.obsolete == {"GO:0000050"}
    assert "part_of" not in found.names
    order = list(found.names)
    assert all(order.index(key) < order.index(up) for key in order for up in found.parents[key])
    assert found.term_of("x (GO:0000021)") == "GO:0000020"
    assert found.term_of("GO:0000030") == "GO:0000030"
    assert found.term_of("HALLMARK_APOPTOSIS") is None
    packed = tmp_path / "go.obo.gz"
    packed.write_bytes(gzip.compress(OBO.encode()))
    assert read_obo(packed).parents == found.parents


def test_genes_reach_all_ancestors(obo: Path) -> None:
    sets = {
        "leaf (GO:0000030)": ("A", "B"),
        "binding (GO:0000021)": ("C",),  # a secondary id
        "old (GO:0000050)": ("D",),
        "HALLMARK": ("E",),
        "none (GO:9999999)": ("F",),
    }
    found = propagate(sets, read_obo(obo))
    assert {name: set(genes) for name, genes in found.sets.items()} == {
        "leaf (GO:0000030)": {"A", "B"},
        "binding (GO:0000021)": {"A", "B", "C"},
        "old (GO:0000050)": {"D"},
        "HALLMARK": {"E"},
        "none (GO:9999999)": {"F"},
    }
    # "transport" would have the genes of "leaf", and the root those of "binding".
    assert (found.n_terms, found.n_new, found.n_same) == (2, 0, 2)
    assert found.obsolete == ("old (GO:0000050)",)
    assert found.unknown == ("HALLMARK", "none (GO:9999999)")
    assert "1 sets are obsolete and stay as they are (old (GO:0000050))" in str(found)
    assert "2 sets are not in the ontology" in str(found)


def test_ancestors_with_genes_of_several_terms_are_new_sets(obo: Path) -> None:
    found = propagate({"GO:0000030": ("A",), "GO:0000040": ("B",), "GO:0000020": ("C",)}, read_obo(obo))  # fmt: skip
    assert found.sets["GO:0000020"] == ("A", "C")
    assert "biological_process (GO:0008150)" not in found.sets  # just the genes of GO:0000020
    more = propagate({"GO:0000010": ("A",), "GO:0000020": ("C",)}, read_obo(obo))
    assert set(more.sets["biological_process (GO:0008150)"]) == {"A", "C"}
    assert more.n_new == 1


def test_sets_without_terms_are_refused(obo: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 labels is a term of the ontology"):
        propagate({"HALLMARK": ("A",)}, read_obo(obo))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Typedef]\nid: part_of\n", "holds no terms"),
        (OBO + "\n[Term]\nid: GO:0000040\nname: again\n", "has the term GO:0000040 twice"),
        (OBO.replace("is_a: GO:0008150", "is_a: GO:0000060"), "GO:0000060, which is no term"),
        (OBO.replace("name: biological_process", "is_a: GO:0000030"), "a term is its own ancestor"),
    ],
)
def test_broken_ontologies_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "go.obo"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_obo(path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .* expected an ontology in OBO form"):
        read_obo(tmp_path / "no.obo")
    (tmp_path / "b.obo").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_obo(tmp_path / "b.obo")
    (tmp_path / "c.obo").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_obo(tmp_path / "c.obo")
