"""The official checkpoints: where they are, and whether a file is the one that was said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, VocabularyError, WeightsError
from cellfm.weights import official
from cellfm.weights.folder import load
from cellfm.weights.official import RELEASES, import_official, instructions, release

SMALL = ModelConfig(n_genes=20, dim=32, n_layers=2, n_heads=1, value_bins=8, depth_tokens=True)


def test_instructions_say_files_places_and_licence() -> None:
    for size, checkpoint, genes in (
        ("80m", "CellFM_80M_weight.ckpt", "expand_gene_info.csv"),
        ("800M", "base_weight.ckpt", "gene_info.csv"),
    ):
        text = instructions(release(size))
        for part in (checkpoint, f"csv/{genes}", "CC BY-NC-ND 4.0", "no commercial use", "huggingface.co/ShangguanNingyuan/CellFM", "github.com/biomed-AI/CellFM"):  # fmt: skip
            assert part in text
        assert f"--checkpoint {checkpoint} --genes {genes}" in text
    with pytest.raises(ConfigError, match="the authors published 80m and 800m"):
        release("3b")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> official.Release:
    """Releases of a shape that a test can make; the width tells the heads."""
    monkeypatch.setattr("cellfm.weights.names.HEAD_WIDTH", 32)
    monkeypatch.setattr(
        official,
        "read_config",
        lambda checkpoint, genes: _read(checkpoint, genes, n_heads=1),
    )
    monkeypatch.setattr(
        official,
        "import_checkpoint",
        lambda *words, **named: _import(*words, **named, n_heads=1),
    )
    one, two = (
        replace(known, n_genes=20, dim=32, n_layers=n)
        for known, n in zip(RELEASES, (2, 3), strict=True)
    )
    monkeypatch.setattr(official, "RELEASES", (one, two))
    return one


_read, _import = official.read_config, official.import_checkpoint


def test_import_writes_what_it_is(
    small: official.Release, random_checkpoint, gene_list, tmp_path: Path
) -> None:
    checkpoint, _ = random_checkpoint(SMALL)
    import_official(small, checkpoint, gene_list(20), tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.provenance["official"] == "80m"
    assert model.provenance["licence"] == "CC BY-NC-ND 4.0"
    assert model.provenance["source"] == checkpoint.name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["n_layers"] == 2


def test_import_refuses_another_shape(
    small: official.Release, random_checkpoint, gene_list, tmp_path: Path
) -> None:
    other, _ = random_checkpoint(replace(SMALL, n_layers=3))
    with pytest.raises(
        WeightsError, match=r"is not the official 80m checkpoint.* It is that of 800m"
    ):
        import_official(small, other, gene_list(20), tmp_path / "out")
    own, _ = random_checkpoint(replace(SMALL, n_layers=1))
    with pytest.raises(
        WeightsError, match=r"1 layers.*Expected 20 genes, width 32, 2 layers.*weights import"
    ):
        import_official(small, own, gene_list(20), tmp_path / "out")
    with pytest.raises(VocabularyError, match="The gene list has 40 genes"):
        import_official(small, own, gene_list(40), tmp_path / "out")
    assert not (tmp_path / "out").exists()
