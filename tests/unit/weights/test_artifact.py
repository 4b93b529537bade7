"""Artifacts come back as they were, or not at all."""

import json

import pytest
import torch

from cellfm.errors import OutputExistsError, WeightsError
from cellfm.weights.artifact import DESCRIPTION, TENSORS, load_artifact, save_artifact

ABOUT = {"classes": ["B", "T (αβ)"], "rank": 8, "shape": {"dim": 2.5}}


@pytest.fixture
def tensors():
    base = torch.arange(12.0).reshape(3, 4)
    # a view, a transposed view of the same storage, and integers
    return {"a": base[1:], "b": base.T, "code": torch.tensor([1, -1, 2**40])}


@pytest.fixture
def folder(tmp_path, tensors):
    save_artifact(tmp_path / "thing", ABOUT, tensors, kind="thing")
    return tmp_path / "thing"


def test_it_comes_back_as_it_was(folder, tensors):
    artifact = load_artifact(folder, kind="thing")
    assert artifact.description == ABOUT
    assert set(artifact.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert artifact.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(artifact.tensors[name], tensor, rtol=0, atol=0)
    assert sorted(file.name for file in folder.iterdir()) == [DESCRIPTION, TENSORS]
    assert sorted(file.name for file in folder.parent.iterdir()) == ["thing"]


def test_the_same_content_gives_the_same_hash(tmp_path, tensors):
    digests = {
        save_artifact(tmp_path / name, ABOUT, tensors, kind="thing") for name in ("one", "two")
    }
    assert len(digests) == 1


def test_another_kind_is_refused(folder):
    with pytest.raises(WeightsError, match="of kind 'thing', not 'other'"):
        load_artifact(folder, kind="other")


def test_a_changed_byte_is_found(folder):
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_artifact(folder, kind="thing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "lacks format, kind, tensors_sha256"),
        ('{"format": 1, "kind": "thing"}', "lacks tensors_sha256"),
        ('{"format": 2, "kind": "thing", "tensors_sha256": ""}', "reads format 1"),
    ],
)
def test_a_damaged_description_is_refused(folder, text, message):
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_artifact(folder, kind="thing")


def test_missing_files_are_named(folder, tmp_path):
    (folder / TENSORS).unlink()
    with pytest.raises(WeightsError, match=f"no {TENSORS}"):
        load_artifact(folder, kind="thing")
    with pytest.raises(WeightsError, match="no artifact at"):
        load_artifact(tmp_path / "nowhere", kind="thing")


def test_a_file_that_only_claims_to_be_safetensors(folder):
    import hashlib

    (folder / TENSORS).write_bytes(b"nothing of the kind")
    about = json.loads((folder / DESCRIPTION).read_text())
    about["tensors_sha256"] = hashlib.sha256(b"nothing of the kind").hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(about))
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file"):
        load_artifact(folder, kind="thing")


def test_nothing_is_replaced_unasked(folder, tensors, tmp_path):
    with pytest.raises(OutputExistsError, match="exists already"):
        save_artifact(folder, {}, tensors, kind="thing")
    assert load_artifact(folder, kind="thing").description == ABOUT
    save_artifact(folder, {"new": True}, tensors, kind="thing", overwrite=True)
    assert load_artifact(folder, kind="thing").description == {"new": True}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="is not replaced"):
        save_artifact(tmp_path / "mine", {}, tensors, kind="thing", overwrite=True)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"kind": "x"}, "keys kind"),
        ({"x": float("nan")}, "is no JSON"),
        ({"x": {1, 2}}, "is no JSON"),
    ],
)
def test_what_cannot_be_described_is_refused_before_anything_is_written(
    tmp_path, tensors, about, message
):
    with pytest.raises(WeightsError, match=message):
        save_artifact(tmp_path / "thing", about, tensors, kind="thing")
    assert not list(tmp_path.iterdir())
