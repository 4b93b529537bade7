"""Gene embeddings and gene reports on the command line."""

from pathlib import Path

import anndata
import numpy as np

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
