"""A count file becomes denoised expression on the command line."""

from pathlib import Path

import anndata
import numpy as np

from tests.e2e.conftest import Cellfm
from tests.e2e.simulate import N_CELLS


def test_denoise_writes_chosen_genes(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    before, target = simulated.read_bytes(), tmp_path / "out.h5ad"
    known = [name for name in anndata.read_h5ad(simulated).var_names if "STRANGE" not in name][:3]
    listed = tmp_path / "genes.txt"
    listed.write_text("\n".join(known) + "\n")
    outcome = cellfm("denoise", simulated, target, "--model", model, "--genes", listed)
    assert outcome.code == 0, outcome.err
    assert f'wrote {target}: obsm["cellfm_denoised"]' in outcome.out
    result = anndata.read_h5ad(target)
    values = result.obsm["cellfm_denoised"]
    assert values.shape == (N_CELLS, 3)
    assert np.isfinite(values).all()
    assert result.uns["cellfm"]["cellfm_denoised"]["gene_names"].tolist() == known
    assert simulated.read_bytes() == before
    again = cellfm("denoise", simulated, target, "--model", model, "--genes", ",".join(known))
    assert again.code == 2
    assert "overwrite" in again.err


def test_unknown_gene_is_named_and_nothing_written(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.h5ad"
    outcome = cellfm("denoise", simulated, target, "--model", model, "--genes", "NOSUCHGENE")
    assert outcome.code == 2
    assert "NOSUCHGENE" in outcome.err
    assert not list(tmp_path.iterdir())
