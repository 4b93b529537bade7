"""The commands of weights folders print what they did."""

from pathlib import Path

import pytest

from cellfm.cli.weights import export, import_, new, show
from cellfm.errors import OutputExistsError

PARITY = Path(__file__).resolve().parents[2] / "data" / "parity"


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    genes = tmp_path / "genes.csv"
    genes.write_text("HGNC_gene\n" + "".join(f"GENE{i}\n" for i in range(60)))
    import_(PARITY / "tiny_st.ckpt", tmp_path / "tiny", genes=genes, heads=2)
    return tmp_path / "tiny"


def test_import_shows_the_result(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = imported.parent / "again"
    import_(PARITY / "tiny_st.ckpt", again, genes=imported.parent / "genes.csv", heads=2)
    text = capsys.readouterr().out
    assert "tiny_st.ckpt" in text
    assert "60 genes" in text
    assert (again / "card.md").is_file()


def test_export(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(imported, tmp_path / "back.ckpt")
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "back.ckpt").read_bytes() == (PARITY / "tiny_st.ckpt").read_bytes()
    with pytest.raises(OutputExistsError):
        export(imported, tmp_path / "back.ckpt")


def test_show(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    show(imported)
    text = capsys.readouterr().out
    assert "GENE0, GENE1, GENE2, GENE3" in text
    assert "depth tokens" in text


def test_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new("debug", tmp_path / "random", seed=3)
    assert "random weights" in capsys.readouterr().out
    assert "seed 3: nothing was learned" in (tmp_path / "random" / "card.md").read_text()
