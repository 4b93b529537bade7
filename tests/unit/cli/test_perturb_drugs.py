from pathlib import Path

import anndata
import pytest
from tests.unit.tl.conftest import SYMBOLS
from tests.unit.tl.test_drug_data import treated

from cellfm.cli.perturb_drugs import predict_drugs, train_drugs
from cellfm.errors import OutputExistsError
from cellfm.genes import Vocabulary
from cellfm.weights.folder import new, save


def test_train_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights"
    model = new("debug", Vocabulary.from_symbols(SYMBOLS))
    save(weights, model.network, model.vocabulary, card="test", provenance={})
    cells = treated(24, ("DMSO", "a", "b", "c", "d"))
    cells.write_h5ad(tmp_path / "data.h5ad")
    cells[(cells.obs.drug == "DMSO").to_numpy()].write_h5ad(tmp_path / "controls.h5ad")
    out = tmp_path / "drugs"
    train_drugs(tmp_path / "data.h5ad", out, model=str(weights), context="line", hold_out="drug")
    shown = capsys.readouterr().out
    for name in ("cellfm ", "cellfm-shuffled-drugs", "drug-mean", "fingerprint-ridge", "replicate-ceiling"):  # fmt: skip
        assert name in shown
    with pytest.raises(OutputExistsError):
        train_drugs(tmp_path / "data.h5ad", out, model=str(weights), context="line")
    predict_drugs(out, tmp_path / "controls.h5ad", tmp_path / "new.h5ad", drug="a", dose=10.0, model=str(weights), context="line")  # fmt: skip
    made = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert made.X[:, 2].sum() > 2 * cells[(cells.obs.drug == "DMSO").to_numpy()].X[:, 2].sum()
    assert "96 cells × 12 genes under a at 10" in capsys.readouterr().out
