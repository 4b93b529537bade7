"""Gene embeddings and gene reports on the command line."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from matplotlib.image import imread

from cellfm.weights.folder import load
from tests.e2e.conftest import Cellfm
from tests.e2e.simulate import N_CELLS, N_GENES, N_STRANGE


def test_embed_writes_the_gene_table(cellfm: Cellfm, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "genes.h5ad"
    outcome = cellfm("genes", "embed", model, target)
    assert outcome.code == 0, outcome.err
    result, pretrained = anndata.read_h5ad(target), load(model)
    assert f"wrote {target}: {len(pretrained.vocabulary):,} genes × 32" in outcome.out
    assert tuple(result.obs["symbol"]) == pretrained.vocabulary.symbols
    table = pretrained.network.gene_embedding.weight.detach().numpy()
    np.testing.assert_array_equal(result.X, table[1 : len(pretrained.vocabulary) + 1])
    assert cellfm("genes", "embed", model, target).code == 2
    assert cellfm("genes", "embed", model, target, "--overwrite").code == 0


def test_embed_writes_the_states_of_genes_in_groups_of_cells(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "genes.h5ad"
    words = ("genes", "embed", model, target, "--source", simulated, "--n-cells", 20)
    outcome = cellfm(*words, "--groupby", "cell_type", "--group", "type0", "--group", "type1")
    assert outcome.code == 0, outcome.err
    genes = anndata.read_h5ad(target)
    assert genes.obs["group"].unique().tolist() == ["type0", "type1"]
    assert genes.obs["n_cells"].max() <= 20
    assert f"wrote {target}: {genes.n_obs:,} genes × 32" in outcome.out
    outcome = cellfm(*words, "--overwrite", "--groupby", "cell_type", "--group", "type2")
    assert outcome.code == 2
    assert "no entry 'type2'; it has type0, type1" in outcome.err
    assert cellfm(*words, "--overwrite", "--kind", "static").code == 2
    assert anndata.read_h5ad(target).n_obs == genes.n_obs  # a refusal leaves it


def test_similar_prints_and_writes_near_genes(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    genes, table = tmp_path / "genes.h5ad", tmp_path / "near.tsv"
    assert cellfm("genes", "embed", model, genes, "--kind", "query").code == 0
    words = ("genes", "similar", "CD3E", "--n", 5, "--target", table)
    outcome = cellfm(*words, "--embeddings", genes)
    assert outcome.code == 0, outcome.err
    assert "nearest to CD3E among" in outcome.out
    near = pd.read_csv(table, sep="\t")
    assert near["rank"].tolist() == [1, 2, 3, 4, 5]
    assert near["cosine"].is_monotonic_decreasing
    assert near["gene"].iloc[0] in outcome.out
    assert cellfm(*words, "--embeddings", genes).code == 2  # the table exists
    outcome = cellfm(*words, "--overwrite", "--embeddings", genes, "--source", simulated)
    assert "Leave one of the two out" in outcome.err
    outcome = cellfm("genes", "similar", "CD3EE", "--model", model)
    assert outcome.code == 2
    assert "near names: CD3E" in outcome.err
    cells = ("--source", simulated, "--n-cells", 20, "--groupby", "cell_type", "--group", "type1")
    known = anndata.read_h5ad(simulated).var_names[0]
    outcome = cellfm("genes", "similar", known, "--model", model, *cells)
    assert "(contextual in type1)" in outcome.out, outcome.err
    logged = ("--layer", "logged", "--scale", "log1p", "--device", "cpu")
    outcome = cellfm("genes", "similar", known, "--model", model, *cells, *logged)
    assert outcome.code == 0, outcome.err


def test_plot_draws_a_map_of_genes(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    names = anndata.read_h5ad(simulated).var_names
    sets, out = tmp_path / "sets.gmt", tmp_path / "genes.png"
    lines = [f"SET{i}\tof tests\t{names[i]}\t{names[i + 1]}" for i in range(20)]
    sets.write_text("\n".join(lines), encoding="utf-8")
    words = ("genes", "plot", out, "--model", model, "--source", simulated, "--n-cells", 30)
    outcome = cellfm(*words, "--gene-sets", sets)
    assert outcome.code == 2
    assert "Name some by --highlight" in outcome.err
    outcome = cellfm(*words, "--gene-sets", sets, "--highlight", "SET99")
    assert "no set 'SET99' among its 20; near names: SET9" in outcome.err
    outcome = cellfm(*words, "--highlight", "SET1")
    assert "Give a GMT file by --gene-sets" in outcome.err
    assert not out.exists()
    outcome = cellfm("genes", "plot", tmp_path / "genes.jpeg2", "--model", model)
    assert "a picture ends in .png, .pdf, .svg" in outcome.err
    outcome = cellfm(*words, "--gene-sets", sets, "--highlight", "SET1")
    assert outcome.code == 0, outcome.err
    assert imread(out).shape[0] > 100
    assert cellfm(*words).code == 2
    words = (*words, "--overwrite")
    outcome = cellfm(*words, "--color", "family", "--gene-sets", sets)
    assert "not both" in outcome.err
    outcome = cellfm(*words, "--gene-groups", sets)
    assert "Say --color family" in outcome.err
    outcome = cellfm(*words, "--color", "family", "--highlight", "NOFAMILY")
    assert "is of a family 'NOFAMILY'" in outcome.err
    outcome = cellfm(*words, "--color", "family", "--device", "cpu", "--min-matched", 0.1)
    assert outcome.code == 0, outcome.err


def test_check_reports_genes_and_counts(cellfm: Cellfm, simulated: Path, model: Path) -> None:
    outcome = cellfm("genes", "check", simulated, "--model", model)
    assert outcome.code == 0, outcome.err
    assert f"{N_GENES - N_STRANGE} of {N_GENES} input genes matched" in outcome.out
    assert "of the counts" in outcome.out
    assert f"{N_CELLS} cells × {N_GENES} genes are on the scale 'counts'" in outcome.out
    assert cellfm("genes", "check", simulated).out == outcome.out  # the same default vocabulary


def test_check_reports_genes_even_if_the_values_are_wrong(cellfm: Cellfm, simulated: Path) -> None:
    outcome = cellfm("genes", "check", simulated, "--layer", "logged")
    assert outcome.code == 2
    assert "input genes matched" in outcome.out
    assert "log1p-normalised" in outcome.err
    assert cellfm("genes", "check", simulated, "--layer", "logged", "--scale", "log1p").code == 0
