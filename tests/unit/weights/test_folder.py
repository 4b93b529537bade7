"""The weights folder: what is saved is loaded, and nothing else is."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cellfm.config.model import ModelConfig
from cellfm.errors import OutputExistsError, VocabularyError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.weights.folder import Pretrained, find, load, new, save
from cellfm.weights.mindspore import import_checkpoint

CONFIG = ModelConfig(n_genes=20, dim=16, n_layers=1, n_heads=2, value_bins=8)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.from_symbols([f"GENE{i}" for i in range(20)])


@pytest.fixture
def network() -> CellFM:
    return initialise(CellFM(CONFIG), torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, network: CellFM, vocabulary: Vocabulary) -> Path:
    path = tmp_path / "weights"
    save(path, network, vocabulary, card="# Test\n", provenance={"source": "test"})
    return path


def _edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        merge = isinstance(value, dict) and key in content
        content[key] = content[key] | value if merge else value
    (folder / "config.json").write_text(json.dumps(content))


def test_round_trip(folder: Path, network: CellFM, vocabulary: Vocabulary) -> None:
    loaded = load(folder)
    assert isinstance(loaded, Pretrained)
    assert not loaded.network.training
    assert loaded.network.config == CONFIG
    assert loaded.vocabulary == vocabulary
    assert loaded.provenance["source"] == "test"
    assert loaded.path == folder
    assert loaded.hash == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    state = network.state_dict()
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.device.type == "cpu"
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    assert (folder / "card.md").read_text() == "# Test\n"
    assert not list(folder.parent.glob(".*"))


def test_round_trip_with_a_detection_head(tmp_path: Path, vocabulary: Vocabulary) -> None:
    config = replace(CONFIG, detection_head=True)
    made = initialise(CellFM(config), torch.Generator().manual_seed(0))
    save(tmp_path / "w", made, vocabulary, card="", provenance={})
    loaded = load(tmp_path / "w").network
    assert loaded.config == config
    assert loaded.cell_zero_decoder.weight.any()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])


def test_folders_from_before_there_was_a_detection_head(folder: Path, network: CellFM) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["model"]["detection_head"]
    (folder / "config.json").write_text(json.dumps(content))
    assert load(folder).network.config == network.config


def test_the_library_reads_our_file(folder: Path, network: CellFM) -> None:
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == set(network.state_dict())
    assert torch.equal(stored["layers.0.glu.left.weight"], network.layers[0].glu.left.weight)


def test_half_precision_is_stored_as_float32(
    tmp_path: Path, network: CellFM, vocabulary: Vocabulary
) -> None:
    save(tmp_path / "half", network.bfloat16(), vocabulary, card="", provenance={})
    assert {
        tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()
    } == {torch.float32}


def test_same_weights_same_hash(parity: Path, tmp_path: Path, gene_list) -> None:
    import_checkpoint(parity / "tiny_lora.ckpt", gene_list(60), tmp_path / "one", n_heads=2)
    one = load(tmp_path / "one")
    digest = save(tmp_path / "two", one.network, one.vocabulary, card="", provenance={})
    assert digest == one.hash == load(tmp_path / "two").hash


def test_training_loaded_weights_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    loaded = load(folder)
    with torch.no_grad():
        for parameter in loaded.network.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_new_is_reproducible(vocabulary: Vocabulary) -> None:
    one, same, other = (new("debug", vocabulary, seed) for seed in (0, 0, 1))
    assert one.hash == same.hash != other.hash
    assert one.network.config.n_genes == 20
    assert one.path is None
    assert one.provenance == {"source": "random weights", "preset": "debug", "seed": "0"}
    assert all(bool(parameter.isfinite().all()) for parameter in one.network.parameters())


def test_hash_of_new_is_that_of_its_file(tmp_path: Path, vocabulary: Vocabulary) -> None:
    made = new("debug", vocabulary, 0)
    assert save(tmp_path / "w", made.network, vocabulary, card="", provenance={}) == made.hash


def test_names_in_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "weights")
    with pytest.raises(
        WeightsError,
        match=r"no weights at 'mine': .* holds no weights yet.*hf://ORG/REPO.*cellfm weights official 80m.*cellfm weights new",
    ):
        find("mine")
    (tmp_path / "cache" / "models").mkdir(parents=True)
    folder.rename(tmp_path / "cache" / "models" / "mine")
    assert load("mine").path == tmp_path / "cache" / "models" / "mine"
    with pytest.raises(WeightsError, match=r"holds mine\. .mini. comes with the package"):
        find("other")
    with pytest.raises(WeightsError, match="no weights at"):
        find("../models/mine/x")


def test_overwriting(folder: Path, network: CellFM, vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="weights exists already"):
        save(folder, network, vocabulary, card="", provenance={})
    save(folder, network, vocabulary, card="second", provenance={}, overwrite=True)
    assert (folder / "card.md").read_text() == "second"
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("precious")
    with pytest.raises(
        OutputExistsError,
        match=r"thesis exists and holds no config.json, so it is no weights folder",
    ):
        save(foreign, network, vocabulary, card="", provenance={}, overwrite=True)
    assert (foreign / "chapter.txt").read_text() == "precious"


def test_a_failed_save_leaves_the_old_folder(
    folder: Path, network: CellFM, vocabulary: Vocabulary
) -> None:
    short = Vocabulary.from_symbols(vocabulary.symbols[:5])
    with pytest.raises(VocabularyError, match="The vocabulary has 5 genes, the network 20"):
        save(folder, network, short, card="", provenance={}, overwrite=True)
    assert load(folder).vocabulary == vocabulary
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_a_network_that_is_not_its_config(tmp_path: Path, vocabulary: Vocabulary) -> None:
    network = initialise(CellFM(replace(CONFIG, lora_rank=2)), torch.Generator())
    del network.cell_decoder
    with pytest.raises(
        WeightsError, match=r"the network in memory do not fit[^$]*1 missing: cell_dec"
    ):
        save(tmp_path / "w", network, vocabulary, card="", provenance={})


def test_missing_extra_and_misshapen_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["cls"]
    tensors["other"] = torch.zeros(2)
    tensors["mask_embedding"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        load(folder)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  1 missing: cls [16]",
        "  1 not part of this model: other [2]",
        "  1 of the wrong shape: mask_embedding [3] instead of [16]",
    ]


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-8], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read as a safetensors file"):
            load(folder)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file"):
        load(folder)


def test_other_types_in_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(
        WeightsError,
        match=r"stores \d+ tensors in another type than float32 .F32., first .* as F16",
    ):
        load(folder)


def test_gene_list_of_another_model(folder: Path, vocabulary: Vocabulary) -> None:
    Vocabulary.from_symbols(vocabulary.symbols[::-1]).write(folder / "genes.tsv")
    with pytest.raises(
        VocabularyError,
        match=r"genes.tsv is not the gene list of these weights: 20 genes with hash",
    ):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 2},
            "was made by a newer cellfm: its format is 2, and this version .* knows 1. Update cellfm",
        ),
        ({"format": "1"}, "'format' is '1', expected 1"),
        ({"format": 0}, "'format' is 0, expected 1"),
        ({"format": True}, "'format' is True"),
        ({"vocabulary": []}, "its section 'vocabulary' is missing"),
        ({"vocabulary": {"n_genes": 7}}, "does not fit the 20 genes of its model"),
        ({"vocabulary": {"sha256": 7}}, "does not fit the 20 genes of its model"),
        ({"model": {"colour": 1}}, r"unknown fields \['colour'\] and lacks \[\]"),
        ({"model": {"dim": "16"}}, "model.dim is '16', expected a value of type int"),
        ({"model": {"decoders": 1}}, "model.decoders is 1, expected a value of type bool"),
        ({"model": {"dim": 15}}, "not a multiple of n_heads"),
        ({"provenance": None}, "its section 'provenance' is missing"),
    ],
)
def test_descriptions_that_are_refused(folder: Path, changes, message: str) -> None:
    _edit(folder, **changes)
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_description_without_a_needed_field(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["model"]["dim"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"unknown fields \[\] and lacks \['dim'\]"):
        load(folder)


def test_whole_numbers_stand_for_floats(folder: Path) -> None:
    _edit(folder, model={"dropout": 0})
    assert load(folder).network.config.dropout == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_description_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match="not a valid description of weights"):
        load(folder)


def test_folder_without_description(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"is no weights folder: it has no config\.json\. Expected config\.json, model",
    ):
        load(tmp_path)


def test_bytes_that_do_not_add_up(tmp_path: Path) -> None:
    from cellfm.weights.tensors import Tensor32, write_tensors

    tensor = Tensor32(name="w", shape=(2,), pieces=lambda: [bytes(4)])
    with pytest.raises(
        WeightsError, match=r"The bytes of w do not add up to its shape \[2\]: 4 are missing"
    ):
        write_tensors(tmp_path / "x.safetensors", [tensor])
    assert not list(tmp_path.iterdir())


def test_metadata_is_kept(tmp_path: Path) -> None:
    from safetensors import safe_open

    from cellfm.weights.tensors import Tensor32, stored_tensors, write_tensors

    path = tmp_path / "x.safetensors"
    tensor = Tensor32(name="w", shape=(2,), pieces=lambda: [np.array([1, 2], "f4").tobytes()])
    write_tensors(path, [tensor], metadata={"note": "é"})
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"note": "é"}
    assert stored_tensors(path)[1] == {"note": "é"}
