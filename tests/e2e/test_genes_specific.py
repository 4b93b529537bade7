"""Genes that class queries attend to, and genes that listen to a marked gene, on the command line."""

from pathlib import Path

import pandas as pd
import pytest
from anndata import read_h5ad

from tests.e2e.conftest import Cellfm

pytest.importorskip("sklearn")
pytest.importorskip("scanpy")


@pytest.fixture(scope="module")
def annotator(simulated: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cellfm.cli import run

    folder = tmp_path_factory.mktemp("annotators") / "queries"
    words = ["annotate", "train", simulated, folder, "--model", model, "--strength", "lora"]
    assert run([*map(str, words), "--head", "clusters", "--epochs", "1"]) == 0
    return folder


def test_specific_genes_become_a_table_and_a_picture(
    cellfm: Cellfm, simulated: Path, annotator: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    table, picture = tmp_path / "specific.tsv", tmp_path / "enrichment.png"
    words = ("genes", "specific", simulated, annotator, "--groupby", "cell_type")
    limits = ("--n-genes", 10, "--n-cells", 40, "--n-permutations", 5, "--n-listed", 20)
    files = ("--target", table, "--picture", picture)
    done = cellfm(*words, *limits, *files, "--biotype", "protein-coding gene")
    assert done.code == 0, done.err
    assert f"wrote {table}: 20 rows" in done.out
    assert "Verdict:" in done.out
    assert "the same, of protein-coding gene alone" in done.out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    found = pd.read_csv(table, sep="\t")
    assert list(found["rank"]) == [*range(1, 11)] * 2
    assert set(found["gene"]) <= set(read_h5ad(simulated).var_names)
    assert set(found["locus_group"]) == {"protein-coding gene"}
    assert (found["n_cells"] >= 10).all()
    again = cellfm(*words, *limits, *files)
    assert again.code == 2
    assert "exists already" in again.err


def test_specific_refusals(
    cellfm: Cellfm, simulated: Path, model: Path, annotator: Path, tmp_path: Path
) -> None:
    words = ("genes", "specific", simulated)
    refused = cellfm(*words, annotator, "--picture", tmp_path / "p.gif")
    assert refused.code == 2
    assert "ends in '.gif'" in refused.err
    refused = cellfm(*words, annotator, "--groupby", "cell_type", "--biotype", "lncRNA")
    assert refused.code == 2
    assert "No gene of the locus group 'lncRNA'" in refused.err
    linear = tmp_path / "linear"
    trained = cellfm("annotate", "train", simulated, linear, "--model", model)
    assert trained.code == 0, trained.err
    refused = cellfm(*words, linear, "--groupby", "cell_type")
    assert refused.code == 2
    assert "cellfm annotate train REFERENCE OUT --strength lora --head clusters" in refused.err


def test_influenced_genes_become_a_table(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    cells = read_h5ad(simulated)
    detected = pd.Series((cells.X > 0).mean(axis=0).A1, index=cells.var_names)
    names = [name for name in detected.sort_values().index[::-1] if "STRANGE" not in name]
    known, table = tmp_path / "known.tsv", tmp_path / "listening.tsv"
    known.write_text("".join(f"{names[0]}\t{name}\n" for name in names[3:20]), encoding="utf-8")
    words = ("genes", "influence", simulated, model, names[0])
    limits = ("--n-cells", 20, "--min-cells", 5, "--n-others", 2)
    done = cellfm(*words, *limits, "--known", known, "--target", table)
    assert done.code == 0, done.err
    assert "known targets among the first genes" in done.out
    assert "random weights" in done.out
    assert "Verdict:" in done.out
    found = pd.read_csv(table, sep="\t")
    assert f"wrote {table}: {len(found):,} rows" in done.out
    assert found["known"].sum() == 17
    assert names[0] not in set(found["gene"])
    plain = cellfm(*words, *limits, "--mark", "none", "--groupby", "cell_type", "--group", "type0")
    assert plain.code == 0, plain.err
    assert "No known targets were given" in plain.out


def test_influence_refusals(cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path) -> None:
    refused = cellfm("genes", "influence", simulated, model, "A1BGG")
    assert refused.code == 2
    assert "near names: A1BG" in refused.err
    refused = cellfm("genes", "influence", simulated, model, "SPI1", "--target", tmp_path / "t.tsv")
    assert refused.code == 2
    assert "at least 10 are needed (--min-cells)" in refused.err
    assert not list(tmp_path.iterdir())
