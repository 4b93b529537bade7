"""Programs of genes are found, named and compared, on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

from cellfm import tl
from cellfm.genes import Vocabulary
from cellfm.tl._genes.program_study import under_symbols
from cellfm.weights.folder import load
from tests.e2e.conftest import Cellfm

pytest.importorskip("igraph")
pytest.importorskip("scanpy")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 genes of the packaged model in two groups that are expressed by turns."""
    symbols = load("mini").vocabulary.symbols[:120]
    rng = np.random.default_rng(0)
    on = np.where(np.arange(120) < 60, 1, -1) * rng.choice([-1, 1], (90, 1))
    counts = rng.poisson(np.where(on > 0, 4.0, 0.8)).astype(np.float32)
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    obs = pd.DataFrame(
        {
            "condition": np.where(on[:, 0] > 0, "on", "off"),
            "donor": [f"d{i % 3}" for i in range(90)],
        },
        index=[f"cell{i}" for i in range(90)],
    )
    var = pd.DataFrame(index=list(symbols))
    AnnData(sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(path)
    return path


def sets_of(cells: Path, folder: Path) -> Path:
    names = list(read_h5ad(cells).var_names)
    path = folder / "sets.gmt"
    lines = ["\t".join(("first", "", *names[:40])), "\t".join(("second", "", *names[60:100]))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_tables_are_written_with_their_controls(
    cellfm: Cellfm, cells: Path, tmp_path: Path
) -> None:
    sets, out = sets_of(cells, tmp_path), tmp_path / "out"
    made = cellfm("genes", "programs", cells, sets, out, "--seeds", 1)
    assert made.code == 0, made.err
    comparison = pd.read_csv(out / "comparison.tsv", sep="\t", index_col=0)
    assert list(comparison.index) == ["cellfm", "coexpression", "random weights", "random"]
    # The two groups are made of co-expression: it alone can find them.
    assert comparison.loc["coexpression", "sets"] == 2
    assert comparison.loc["random", "sets"] < 0.2  # at q ≤ 0.05 some draw finds one
    assert "in one of co-expression in these cells" in made.out
    programs = pd.read_csv(out / "programs.tsv", sep="\t")
    assert set(programs["gene"]) <= set(read_h5ad(cells).var_names)
    refused = cellfm("genes", "programs", cells, sets, out)
    assert refused.code == 2
    assert "exists already" in refused.err


def test_conditions_are_compared_scored_and_drawn(
    cellfm: Cellfm, cells: Path, tmp_path: Path
) -> None:
    sets, out = sets_of(cells, tmp_path), tmp_path / "out"
    scored, picture = tmp_path / "scored.h5ad", tmp_path / "programs.png"
    words = ("genes", "programs", cells, sets, out, "--seeds", 1, "--min-cells", 5)
    words = (*words, "--scores", scored, "--plot", picture)
    outcome = cellfm(*words)
    assert outcome.code == 2
    assert "Give --groupby" in outcome.err
    words = (*words, "--groupby", "condition", "--group", "on", "--group", "off")
    for more, said in (
        (("--sample", "patient"), "no column 'patient'"),
        (("--group", "third"), "expected one entry"),
    ):
        outcome = cellfm(*words, *more)
        assert outcome.code == 2
        assert said in outcome.err
    assert not out.exists()
    outcome = cellfm(*words, "--sample", "donor")
    assert outcome.code == 0, outcome.err
    changes = pd.read_csv(out / "changes.tsv", sep="\t")
    assert set(changes["group"]) == {"on"}
    assert set(changes["design"]) == {"paired"}
    assert set(changes["n"]) == {3}
    assert changes["coherence_q"].notna().any()
    adata = read_h5ad(scored)
    assert adata.obsm["X_programs"].shape == (90, len(changes))
    assert (
        adata.uns["cellfm"]["X_programs"]["names"].tolist() == changes["name"].astype(str).tolist()
    )
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "changes of score have q" in outcome.out
    cell_wise = cellfm(*words, "--overwrite", "--no-coherence")
    assert "Cells are no replicates" in cell_wise.out
    assert cellfm(*words).code == 2  # the outputs exist


def test_few_genes_are_refused(cellfm: Cellfm, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = cellfm("genes", "programs", cells, sets_of(cells, tmp_path), out, "--min-cells", 91)
    assert refused.code == 2
    assert "0 genes of the model are expressed in at least 91 cells" in refused.err
    assert not out.exists()


def test_contextual_vectors_serve_too(cells: Path) -> None:
    adata = read_h5ad(cells)
    before = adata.copy()
    names = list(adata.var_names)
    sets = {"first": tuple(names[:40]), "second": tuple(names[60:100])}
    found = tl.gene_programs(adata, gene_sets=sets, kind="contextual", n_seeds=1)
    assert set(found.comparison.index) == {"cellfm", "coexpression", "random weights", "random"}
    assert found.n_cells == 90
    adata.X = adata.X.log1p()
    assert found.scores(adata).shape == (90, found.programs.n)
    adata.X = before.X.copy()
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs) == list(before.obs)


def test_sets_come_under_symbols() -> None:
    vocabulary = Vocabulary.from_symbols(["CD3E", "LYZ"])
    sets = {"some": ("ENSG00000198851", "lyz", "NOGENE")}
    assert under_symbols(sets, vocabulary) == {"some": ("CD3E", "LYZ")}
