"""Uploads to a server that plays the hub: what is there afterwards loads by name, and what may not be passed on is refused."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants
from tests.hub import COMMIT, LARGE, TOKEN, Hub

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.weights.folder import load, new, save
from cellfm.weights.hub_names import parse
from cellfm.weights.hub_upload import hub_card, upload
from cellfm.weights.layout import read_description
from cellfm.weights.mindspore import import_checkpoint
from cellfm.weights.official import refuse_to_publish

NAME = parse("hf://lab/mine")

# The library sends large files in a way that its own library for HTTP will drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    playing = Hub()
    monkeypatch.delenv("CELLFM_HUB", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", playing.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield playing
    playing.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = new("debug", Vocabulary.from_symbols([f"GENE{i}" for i in range(20)]), 1)
    save(tmp_path / "w", made.network, made.vocabulary, card="# Mine\n\nText.\n", provenance={})
    (tmp_path / "w" / "optimizer.safetensors").write_bytes(b"moments")
    (tmp_path / "w" / "notes.txt").write_text("private")
    return tmp_path / "w"


def test_what_is_uploaded_loads_by_name(
    server: Hub, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = upload(folder, NAME, licence="cc-by-4.0")
    assert str(done.name) == f"hf://lab/mine@{COMMIT}"
    assert len(server.commits) == 1
    files = server.repositories["lab/mine"].files
    assert set(files) == {"README.md", "config.json", "genes.tsv", LARGE}
    listed = json.loads(files["config.json"])["files"]
    assert listed == {
        name: hashlib.sha256(files[name]).hexdigest() for name in ("genes.tsv", LARGE)
    }
    assert done.sha256 == listed[LARGE]
    model = load(str(done.name), sha256=done.sha256)
    assert model.hash == load(folder).hash
    assert (model.path / "card.md").read_bytes() == files["README.md"]
    assert TOKEN not in "".join(capfd.readouterr())


def test_the_whitening_and_the_list_of_cells_go_along(server: Hub, tmp_path: Path) -> None:
    upload(Path("src/cellfm/weights/packaged/mini"), NAME)
    model = load("hf://lab/mine")
    assert model.whitening is not None
    assert {path.name for path in model.path.iterdir()} == {
        "card.md",
        "config.json",
        "genes.tsv",
        "hub.json",
        LARGE,
        "seen.safetensors",
        "whitening.safetensors",
    }
    again = upload(
        model.path, parse("hf://lab/copy"), private=True
    )  # a copy from the hub is a folder as any other
    assert again.sha256 == model.hash
    assert server.repositories["lab/copy"].private
    assert server.repositories["lab/copy"].files["README.md"].count(b"cellfm.load") == 1


def test_private_is_never_public(server: Hub, folder: Path) -> None:
    upload(folder, NAME)
    with pytest.raises(WeightsError, match="exists and is public"):
        upload(folder, NAME, private=True)
    assert len(server.commits) == 1


def test_official_weights_are_refused(server: Hub, folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["provenance"] |= {"official": "80m", "source": "CellFM_80M_weight.ckpt"}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError) as caught:
        upload(folder, NAME)
    for part in (
        "CellFM_80M_weight.ckpt",
        "CC BY-NC-ND 4.0",
        "Nothing was uploaded",
        "official 80m",
    ):
        assert part in str(caught.value)
    assert server.seen == []


def test_imports_of_an_official_shape_are_refused_and_others_not(
    tmp_path: Path, random_checkpoint, gene_list
) -> None:
    for dim, genes, refused in ((1536, 24_078, True), (1536, 20, False), (32, 24_078, False)):
        config = ModelConfig(n_genes=20, dim=32, n_layers=1, n_heads=1, value_bins=8)
        checkpoint, _ = random_checkpoint(config)
        out = tmp_path / f"{dim}-{genes}"
        import_checkpoint(checkpoint, gene_list(20), out, n_heads=1)
        content = json.loads((out / "config.json").read_text())
        content["model"] |= {"dim": dim, "n_genes": genes, "n_heads": dim // 32}
        content["vocabulary"]["n_genes"] = genes
        (out / "config.json").write_text(json.dumps(content))
        if refused:
            with pytest.raises(WeightsError, match="comes from an official CellFM checkpoint"):
                refuse_to_publish(out, read_description(out))
        else:
            refuse_to_publish(out, read_description(out))


def test_damaged_folders_are_refused(server: Hub, folder: Path) -> None:
    (folder / LARGE).write_bytes(b"no")
    with pytest.raises(WeightsError, match="safetensors"):
        upload(folder, NAME)
    (folder / LARGE).unlink()
    with pytest.raises(WeightsError, match=f"lacks {LARGE}"):
        upload(folder, NAME)
    assert server.seen == []


def test_a_token_is_needed_and_goes_only_where_it_should(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLFM_HUB", "http://localhost:9")
    with pytest.raises(WeightsError, match="http://localhost:9 gets no token"):
        upload(folder, NAME)
    monkeypatch.delenv("CELLFM_HUB")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsError, match="hf auth login"):
        upload(folder, NAME)
    monkeypatch.setenv("CELLFM_OFFLINE", "on")
    with pytest.raises(WeightsError, match="the network is off"):
        upload(folder, NAME)
    assert server.seen == []


def test_a_failed_upload_says_so(server: Hub, folder: Path) -> None:
    server.refuses_uploads = True
    with pytest.raises(
        WeightsError, match=f"could not be uploaded to {server.url}.*Check the network"
    ):
        upload(folder, NAME)
    assert server.commits == []


def test_bad_requests(server: Hub, folder: Path) -> None:
    with pytest.raises(WeightsError, match="an upload makes a new one"):
        upload(folder, parse("hf://lab/mine@main"))
    with pytest.raises(ConfigError, match="expected an identifier such as"):
        upload(folder, NAME, licence="CC BY\n4.0")
    assert server.seen == []


def test_card() -> None:
    text, licence = hub_card("# Title\n\nText.\n", NAME)
    assert licence == "unknown"
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "unknown",
        "library_name": "cellfm",
        "pipeline_tag": "feature-extraction",
        "tags": ["biology", "cellfm", "safetensors", "single-cell", "transcriptomics"],
    }
    assert body.startswith("\n# Title\n\nText.\n")
    assert 'cellfm.load("hf://lab/mine")' in body
    own = "---\nlicense: mit\ntags: [blood]\nlanguage: en\n---\n# Title\n"
    text, licence = hub_card(own, NAME)
    header = yaml.safe_load(text.split("---\n", 2)[1])
    assert licence == header["license"] == "mit"
    assert header["language"] == "en"
    assert {"blood", "cellfm"} <= set(header["tags"])
    assert hub_card(text, NAME) == (text, "mit")
    assert hub_card(own, NAME, licence="apache-2.0")[1] == "apache-2.0"
    for odd in ("---\n: [\n---\n# T\n", "---\nno end", "---\n- a\n---\n# T\n"):
        assert hub_card(odd, NAME)[1] == "unknown"
