"""The small model that comes with the package."""

import json
import re

import numpy as np
import pytest
import torch

import cellfm
from cellfm.batch import CellBatch
from cellfm.errors import WeightsError
from cellfm.nn.loss import predict_scored
from cellfm.weights.folder import MINI, PACKAGED, load

MOST_BYTES = 15_000_000  # the wheel is to stay below 20 MB


def test_it_loads_by_name_wherever_one_is(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "empty"))
    model = cellfm.load(MINI)
    assert model.path == PACKAGED / MINI
    assert len(model.vocabulary) == model.network.config.n_genes
    assert not model.network.training


def test_what_the_user_has_goes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path))
    own = tmp_path / "models" / MINI
    own.mkdir(parents=True)
    with pytest.raises(WeightsError, match="no weights folder"):
        load(MINI)


def test_it_is_small_and_has_a_card() -> None:
    folder = PACKAGED / MINI
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    card = (folder / "card.md").read_text(encoding="utf-8")
    for part in ("## Data and licences", "## Recipe", "## Metrics", "## Limits", "## Licence"):
        assert part in card
    assert "not a substitute for a model trained on millions of cells" in card
    assert "python tools/make_mini.py" in card
    provenance = json.loads((folder / "config.json").read_text())["provenance"]
    assert provenance["left_out"] == "pbmc3k"


def test_it_has_learned_something() -> None:
    """A housekeeping gene of a deep cell is expected higher than in a shallow one, and above a rare gene."""
    model = load(MINI)
    names = ["MALAT1", "B2M", "ACTB", "RPL3", "RPS3", "TMSB4X", "FTL", "GAPDH"]
    token = {symbol: i for i, symbol in enumerate(model.vocabulary.symbols, start=1)}
    gene = torch.tensor([token[name] for name in names])
    value = torch.tensor([5.0, 4.3, 4.0, 3.9, 3.8, 4.2, 3.7, 0.0])
    batch = CellBatch(
        gene=gene,
        value=value,
        offsets=torch.tensor([0, len(names)]),
        depth=torch.full((1, 2), float(np.log1p(2.0))),
        hidden=torch.tensor([False] * 7 + [True]),
        scored=torch.tensor([False] * 7 + [True]),
        target=value,
    )
    with torch.no_grad():
        predicted = predict_scored(model.network, batch)
    assert 1.0 < float(predicted.gene) < 4.5
    assert 1.0 < float(predicted.cell) < 4.5


def test_its_card_states_what_it_must_beat() -> None:
    card = (PACKAGED / MINI / "card.md").read_text(encoding="utf-8")
    errors = dict(re.findall(r"^\| ([a-z_ -]+) \| ([0-9.]+) \|$", card, re.MULTILINE))
    assert float(errors["gene-wise"]) < 0.8 * float(errors["gene_mean"])
    assert {"ridge", "pca", "random network"} < errors.keys()
