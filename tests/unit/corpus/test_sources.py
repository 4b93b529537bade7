"""Lists of sources."""

from pathlib import Path

import pytest
from tests.sources import h5ad, mtx, simulated, table

from cellfm.corpus import sources
from cellfm.corpus.metadata import MetadataMap
from cellfm.corpus.sources import SourceEntry, digest, read_sources
from cellfm.errors import ConfigError, SourceError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names_of(*paths: Path) -> dict[str, str]:
    return {entry.name: entry.path.name for entry in read_sources(paths)}


def test_every_column_of_a_list(tmp_path):
    path = tmp_path / "SOURCES.tsv"
    path.write_text(
        "path\tname\tformat\tlayer\tuse_raw\tgene_names\tlicence\turl\tcell_type\tdonor\n"
        "# a comment\n"
        "data/b.h5ad\tbeta\th5ad\tcounts\tno\tsymbol\tCC BY 4.0\thttps://x.org/b\t@louvain\tD1\n"
        "\n"
        "/data/a.h5ad\t\t\t\tTRUE\n"
    )
    beta, alpha = sorted(read_sources([path]), key=lambda entry: entry.name, reverse=True)
    assert beta == SourceEntry(
        name="beta",
        path=tmp_path / "data" / "b.h5ad",
        format="h5ad",
        layer="counts",
        gene_names="symbol",
        licence="CC BY 4.0",
        url="https://x.org/b",
        metadata={"cell_type": "@louvain", "donor": "D1"},
    )
    assert alpha == SourceEntry(name="a", path=Path("/data/a.h5ad"), use_raw=True)


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_bytes("path\tname\r\na.h5ad\tx\r\n".encode("utf-8-sig"))
    assert [entry.name for entry in read_sources([path])] == ["x"]


def test_the_map_goes_to_every_source(tmp_path):
    (tmp_path / "map.yaml").write_text("columns: {donor: [patient]}")
    touch(tmp_path / "a.h5ad")
    (entry,) = read_sources([tmp_path / "a.h5ad"], metadata=tmp_path / "map.yaml")
    assert entry.mapping == MetadataMap(columns={"donor": ("patient",)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\tlicense\na\tMIT\n", r"no column 'license'. Did you mean 'licence'\?"),
        ("path\tcelltype\na\tx\n", r"Did you mean 'cell_type'\?"),
        ("path\tpath\na\ta\n", "a column is there twice"),
        ("path\tname\n\tx\n", "Line 2 of .* has no path"),
        ("name\tlicence\nx\tMIT\n", "Line 2 of .* has no path"),
        ("path\na\tb\n", "2 fields, but the header 1"),
        ("path\tuse_raw\na\tmaybe\n", "use_raw is 'maybe'; expected true or false"),
        ("path\tname\na\tb c\n", "'b c' is not fit for a file name.*such as 'b_c'"),
        ("path\tname\na\t../b\n", "is not fit for a file name"),
        ("path\tformat\na\th5da\n", r"no format 'h5da'. Did you mean 'h5ad'\?"),
        ("path\tname\na\tx\nb\tX\n", "Several sources are named 'x': .*a, .*b"),
        ("path\nd/a.h5ad\nd/a.h5ad\n", "Several sources are named"),
        ("path\n", "No source was found"),
    ],
)
def test_mistakes_in_a_list(tmp_path, text, said):
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_sources([tmp_path / "list.tsv"])


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "list.tsv").write_bytes(b"path\tname\na\t\xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sources([tmp_path / "list.tsv"])


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no .*nowhere"):
        read_sources([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="No source was found in nothing"):
        read_sources([])


def test_a_folder_is_searched(tmp_path):
    counts = simulated(2)
    for name in ("a", "deep/b", "deep/er/c"):
        (tmp_path / name).mkdir(parents=True)
        h5ad(tmp_path / name, counts).rename(tmp_path / f"{name}.h5ad")
    mtx(tmp_path / "deep", counts).rename(tmp_path / "sample")
    table(tmp_path, counts, name="t.tsv.gz")
    touch(tmp_path / "README.txt", tmp_path / ".hidden.h5ad", tmp_path / "notes.md")
    (tmp_path / "list.tsv").write_text("path\nelsewhere.h5ad\n")
    found = names_of(tmp_path)
    assert sorted(found) == ["a", "b", "c", "sample", "t"]
    assert found == names_of(tmp_path / "sample", tmp_path, tmp_path / "a.h5ad")


def test_matrices_with_prefixes_are_sources_of_their_own(tmp_path):
    for prefix in ("GSM1_", "GSM2_"):
        mtx(tmp_path, simulated(2), prefix=prefix)
    assert names_of(tmp_path) == {"GSM1": "GSM1_matrix.mtx.gz", "GSM2": "GSM2_matrix.mtx.gz"}


def test_names_of_files(tmp_path):
    files = {
        "cells.csv.gz": "cells",
        "my data (1).h5ad": "my_data_1_",
        "-x.h5": "x",
        "v1.2.tsv": "v1.2",
        "ärzte.h5ad": "rzte",
    }
    for file, name in files.items():
        touch(tmp_path / file)
        assert names_of(tmp_path / file) == {name: file}


def test_equal_names_get_the_folder_above(tmp_path):
    paths = [tmp_path / "a" / "x.h5ad", tmp_path / "b" / "X.h5ad", tmp_path / "y.h5ad"]
    touch(*paths)
    assert list(names_of(*paths)) == ["a_x", "b_X", "y"]
    assert names_of(*paths) == names_of(*reversed(paths))


def test_as_many_folders_as_it_takes(tmp_path):
    paths = [tmp_path / name / "outs" / "filtered.h5" for name in ("s1", "s2")]
    touch(*paths)
    assert list(names_of(*paths)) == ["s1_outs_filtered", "s2_outs_filtered"]


def test_a_given_name_stays(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("path\tname\nu/b.h5ad\ta\nv/a.h5ad\t\n")
    assert [entry.name for entry in read_sources([path])] == ["a", "v_a"]


def test_addresses_stay_what_they_are(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("path\nhttps://example.org/a.h5ad\n")
    (entry,) = read_sources([path])
    assert sources.is_url(entry.path)
    assert not sources.is_url(Path("/data/a:b.h5ad"))


def test_digest_of_a_file_and_of_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    first, n_bytes = digest([tmp_path / "a"], tmp_path / "a")
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert n_bytes == 3
    whole = digest([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert whole == digest([tmp_path / "b", tmp_path / "a"], tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert whole != digest([tmp_path / "a", tmp_path / "c"], tmp_path)


def test_digest_of_what_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="unreachable source"):
        digest([tmp_path / "a"], tmp_path / "a")


def test_a_folder_that_cannot_be_searched(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match="cannot be searched"):
        read_sources([tmp_path])
