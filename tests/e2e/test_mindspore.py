"""MindSpore itself reads what we write and writes what we read; needs a Python that has it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cellfm.config.model import ModelConfig
from cellfm.weights.mindspore import export_checkpoint, import_checkpoint
from cellfm.weights.names import name_table
from cellfm.weights.protobuf import index, read, read_text
from cellfm.weights.protobuf_write import write

PYTHON = os.environ.get("CELLFM_MINDSPORE_PYTHON")

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="CELLFM_MINDSPORE_PYTHON names no Python with MindSpore"),
    pytest.mark.slow,
]

LOAD = """
import sys
import mindspore as ms
import numpy as np

found = ms.load_checkpoint(sys.argv[1])
tensors = {
    name: (value.float().asnumpy() if value.dtype == ms.bfloat16 else value.asnumpy())
    for name, value in found.items() if hasattr(value, "asnumpy")
}
np.savez(sys.argv[2], **tensors)
print(list(found))
print({name: value for name, value in found.items() if name not in tensors})
"""

SAVE = """
import sys
import mindspore as ms
import numpy as np

arrays = np.load(sys.argv[1])
half = sys.argv[3] == "half"
types = {"half": ms.float16, "bf16": ms.bfloat16}
content = []
for name in arrays.files:
    tensor = ms.Tensor(arrays[name])
    content.append({"name": name, "data": tensor.astype(types[sys.argv[3]]) if sys.argv[3] in types else tensor})
extra = {"epoch_num": 3, "lr": 0.5, "flag": True, "note": "h\\u00e9llo"}
ms.save_checkpoint(content, sys.argv[2], append_dict=extra, crc_check=sys.argv[3] == "crc")
"""

SAVE_LARGE = """
import sys
import mindspore as ms
import numpy as np

large = np.arange(150 * 2**20, dtype=np.float32).reshape(150, 2**20)
ms.save_checkpoint([{"name": "large", "data": ms.Tensor(large)}, {"name": "small", "data": ms.Tensor(large[:1, :5])}], sys.argv[1])
"""


def _mindspore(script: str, *arguments: Path | str) -> str:
    assert PYTHON is not None
    command = [PYTHON, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    config = ModelConfig(n_genes=60, dim=32, n_layers=2, n_heads=2, zero_heads=True, lora_rank=3)
    return {
        name.theirs: generator.standard_normal(name.their_shape).astype("f4")
        for name in name_table(config)
    }


@pytest.fixture
def genes(tmp_path: Path) -> Path:
    path = tmp_path / "genes.csv"
    path.write_text("HGNC_gene\n" + "".join(f"GENE{i}\n" for i in range(60)))
    return path


def test_mindspore_loads_what_we_export(
    tmp_path: Path, genes: Path, arrays: dict[str, np.ndarray]
) -> None:
    source, back = tmp_path / "source.ckpt", tmp_path / "back.ckpt"
    moments = {
        f"{which}.{name}": array**2
        for which in ("moment1", "moment2")
        for name, array in arrays.items()
    }
    scalars = {"global_step": np.array([7], "i4"), "beta1_power": np.array(0.9, "f4")}
    write(source, [*arrays.items(), *scalars.items(), *moments.items()])
    import_checkpoint(source, genes, tmp_path / "folder", n_heads=2, optimizer=True)
    export_checkpoint(tmp_path / "folder", back)
    _mindspore(LOAD, back, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    expected = arrays | scalars | moments
    assert set(found.files) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_mindspore_loads_slices_checksum_and_types(tmp_path: Path) -> None:
    tensors = {
        "sliced": np.arange(1000, dtype="f4").reshape(10, 100),
        "f16": np.arange(5, dtype="f2"),
        "f64": np.arange(5, dtype="f8"),
        "i64": np.array(7),
        "flags": np.array([True, False]),
    }
    write(tmp_path / "ours.ckpt", [*tensors.items(), ("note", "héllo")], slice_bytes=999, crc=True)
    printed = _mindspore(LOAD, tmp_path / "ours.ckpt", tmp_path / "found.npz")
    assert "{'note': 'héllo'}" in printed
    found = np.load(tmp_path / "found.npz")
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("kind", ["plain", "crc", "half", "bf16"])
def test_we_read_what_mindspore_saves(
    tmp_path: Path, genes: Path, arrays: dict[str, np.ndarray], kind: str
) -> None:
    np.savez(tmp_path / "arrays.npz", **arrays)
    path = tmp_path / "theirs.ckpt"
    _mindspore(SAVE, tmp_path / "arrays.npz", path, kind)
    entries = {entry.name: entry for entry in index(path)}
    assert entries["gene_emb"].dtype == {"half": "Float16", "bf16": "BFloat16"}.get(kind, "Float32")
    assert read(path, entries["epoch_num"]) == 3
    assert read(path, entries["lr"]) == 0.5
    assert read(path, entries["flag"]) == np.True_
    assert read_text(path, entries["note"]) == "héllo"
    for name, array in arrays.items():
        found = read(path, entries[name])
        if kind == "bf16":
            np.testing.assert_allclose(found, array, rtol=2**-8)
        else:
            np.testing.assert_array_equal(found, array.astype(found.dtype), strict=True)
    import_checkpoint(path, genes, tmp_path / "folder", n_heads=2)
    provenance = json.loads((tmp_path / "folder" / "config.json").read_text())["provenance"]
    assert provenance["dropped"] == "epoch_num, lr, flag, note"


def test_we_read_slices_of_mindspore(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    _mindspore(SAVE_LARGE, path)
    large, small = index(path)
    assert large.shape == (150, 2**20)
    assert len(large.chunks) == 2
    np.testing.assert_array_equal(
        read(path, large), np.arange(150 * 2**20, dtype="f4").reshape(150, 2**20)
    )
    np.testing.assert_array_equal(read(path, small), [[0, 1, 2, 3, 4]])
    path.unlink()
