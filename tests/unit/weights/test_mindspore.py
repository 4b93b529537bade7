"""Import of MindSpore checkpoints and the way back."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from cellfm.config.model import ModelConfig
from cellfm.errors import (
    CellFMError,
    CheckpointError,
    OutputExistsError,
    VocabularyError,
    WeightsError,
)
from cellfm.weights.mindspore import export_checkpoint, import_checkpoint, import_size
from cellfm.weights.names import name_table
from cellfm.weights.protobuf import index, read
from cellfm.weights.protobuf_write import Raw, write

TINY = {"n_genes": 60, "dim": 32, "n_layers": 2, "n_heads": 2}
FIXTURES = {"tiny_cellfm": (100, 4), "tiny_st": (60, 2), "tiny_lora": (60, 2)}


def _with_training(path: Path, arrays: dict[str, np.ndarray], *, moments: bool = True) -> None:
    """Write weights as MindSpore does after training."""
    generator = np.random.default_rng(1)
    extra: dict[str, np.ndarray | str] = {}
    if moments:
        for which in ("moment1", "moment2"):
            extra |= {
                f"{which}.{name}": generator.random(array.shape).astype("f4")
                for name, array in arrays.items()
            }
    scalars = {
        "global_step": np.array([38071], "i4"),
        "learning_rate": np.array(1e-4, "f4"),
        "beta1_power": np.array(0.9**7, "f4"),
        "scale_sense": np.array(1024, "f4"),
        "epoch_num": np.array(3),
        "note": "hi",
    }
    write(path, [*arrays.items(), *extra.items(), *scalars.items()])


@pytest.mark.parametrize("name", FIXTURES)
def test_there_and_back_is_the_same_file(
    parity: Path, tmp_path: Path, gene_list, name: str
) -> None:
    n_genes, n_heads = FIXTURES[name]
    source, folder, back = parity / f"{name}.ckpt", tmp_path / "out", tmp_path / "back.ckpt"
    import_checkpoint(source, gene_list(n_genes), folder, n_heads=n_heads)
    assert sorted(file.name for file in folder.iterdir()) == [
        "card.md",
        "config.json",
        "genes.tsv",
        "model.safetensors",
    ]
    export_checkpoint(folder, back)
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "kind",
    [
        {"zero_heads": True},
        {"detection_head": True},
        {"n_clusters": 5, "decoders": False, "depth_tokens": False},
        {"n_clusters": 3, "lora_rank": 2},
    ],
    ids=["zero heads", "detection head", "annotation", "annotation with adapters"],
)
def test_every_layout(tmp_path: Path, gene_list, random_checkpoint, kind: dict[str, int]) -> None:
    config = ModelConfig(**TINY, **kind)
    source, arrays = random_checkpoint(config)
    import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name in name_table(config):
        assert found[name.ours].shape == name.shape
        np.testing.assert_array_equal(found[name.ours].ravel(), arrays[name.theirs].ravel())
    stored = json.loads((tmp_path / "out" / "config.json").read_text())["model"]
    assert stored["detection_head"] == config.detection_head
    export_checkpoint(tmp_path / "out", tmp_path / "back.ckpt")
    assert (tmp_path / "back.ckpt").read_bytes() == source.read_bytes()


def test_annotation_model_without_the_pretraining_embeddings(
    tmp_path: Path, gene_list, random_checkpoint
) -> None:
    config = ModelConfig(**TINY, n_clusters=5, decoders=False)
    without = ("extractor.zero_emb", "extractor.value_enc.mask_emb")
    source, _ = random_checkpoint(config, without=without)
    import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert not found["zero_embedding"].any()
    assert "no cluster" not in (tmp_path / "out" / "card.md").read_text()
    assert (
        "filled with zeros because the file has none: extractor.zero_emb"
        in (tmp_path / "out" / "card.md").read_text()
    )


@pytest.mark.parametrize("dtype", ["<f2", "<f8"])
def test_other_precisions(tmp_path: Path, gene_list, random_checkpoint, dtype: str) -> None:
    config = ModelConfig(**TINY)
    source, arrays = random_checkpoint(config, dtype=dtype)
    import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {array.dtype for array in found.values()} == {np.dtype("f4")}
    np.testing.assert_array_equal(found["gene_embedding.weight"], arrays["gene_emb"].astype("f4"))
    stored = {"<f2": "Float16", "<f8": "Float64"}[dtype]
    assert (
        f"- stored as: {stored} ({len(arrays)} tensors); kept here as float32"
        in (tmp_path / "out" / "card.md").read_text()
    )


def test_bfloat16(tmp_path: Path, gene_list) -> None:
    import torch

    config = ModelConfig(**TINY)
    arrays = {
        name: torch.randn(name.their_shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        for name in name_table(config)
    }
    raw = [
        (
            name.theirs,
            Raw(
                dtype="BFloat16",
                shape=name.their_shape,
                pieces=[array.view(torch.int16).numpy().tobytes()],
            ),
        )
        for name, array in arrays.items()
    ]
    write(tmp_path / "bf16.ckpt", raw)
    import_checkpoint(tmp_path / "bf16.ckpt", gene_list(60), tmp_path / "out", n_heads=2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name.ours].ravel(), array.float().numpy().ravel())


def test_training_state_is_dropped_and_said_so(
    tmp_path: Path, gene_list, random_checkpoint
) -> None:
    source, arrays = random_checkpoint(ModelConfig(**TINY))
    _with_training(source, arrays)
    import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["format"] == 1
    assert config["model"]["n_genes"] == config["vocabulary"]["n_genes"] == 60
    provenance = config["provenance"]
    dropped = f"{2 * len(arrays)} Adam moments, global_step, learning_rate, beta1_power, scale_sense, epoch_num, note"
    assert provenance["dropped"] == dropped
    assert provenance["source"] == "random.ckpt"
    assert provenance["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert provenance["sha256"] == hashlib.sha256(weights).hexdigest()
    card = (tmp_path / "out" / "card.md").read_text()
    for text in (
        "CC BY-NC-ND 4.0",
        "may be redistributed",
        "`random.ckpt`",
        provenance["source_sha256"],
        dropped,
    ):
        assert text in card


def test_training_state_is_kept_and_goes_back(tmp_path: Path, gene_list, random_checkpoint) -> None:
    source, arrays = random_checkpoint(ModelConfig(**TINY))
    _with_training(source, arrays)
    seen: list[int] = []
    import_checkpoint(
        source, gene_list(60), tmp_path / "out", n_heads=2, optimizer=True, progress=seen.append
    )
    assert abs(sum(seen) / import_size(source, optimizer=True) - 1) < 0.02
    original = {entry.name: read(source, entry) for entry in index(source) if entry.dtype != "str"}
    with safe_open(tmp_path / "out" / "optimizer.safetensors", "numpy") as file:
        assert len(file.keys()) == 2 * len(arrays)
        moment = file.get_tensor("exp_avg_sq.layers.1.norm2.bias")
        scalars = json.loads(file.metadata()["scalars"])
    np.testing.assert_array_equal(moment, original["moment2.encoder.1.post_norm2.beta"])
    assert scalars["global_step"] == {"dtype": "Int32", "shape": [1], "value": [38071]}
    export_checkpoint(tmp_path / "out", tmp_path / "back.ckpt", progress=seen.append)
    back = {
        entry.name: read(tmp_path / "back.ckpt", entry) for entry in index(tmp_path / "back.ckpt")
    }
    assert set(back) == set(original) - {"epoch_num"}
    for name, array in back.items():
        assert array.dtype == original[name].dtype
        np.testing.assert_array_equal(array, original[name], strict=True)


def test_moments_that_do_not_fit(tmp_path: Path, gene_list, random_checkpoint) -> None:
    source, arrays = random_checkpoint(ModelConfig(**TINY))
    _with_training(source, arrays, moments=False)
    with pytest.raises(WeightsError, match="holds no Adam moments"):
        import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2, optimizer=True)
    shape = arrays["ST_emb"].shape
    write(
        source, [*arrays.items(), ("moment1.ST_emb", np.ones(shape)), ("moment1.other", np.ones(1))]
    )
    with pytest.raises(
        WeightsError, match=r"Adam moments. do not fit[^$]*moment2.ST_emb[^$]*moment1.other"
    ):
        import_checkpoint(source, gene_list(60), tmp_path / "out", n_heads=2, optimizer=True)


def test_files_that_do_not_fit(tmp_path: Path, gene_list, random_checkpoint) -> None:
    config, out = ModelConfig(**TINY), tmp_path / "out"
    source, arrays = random_checkpoint(config, without=("ST_enc.a", "encoder.1.post_norm1.beta"))
    with pytest.raises(
        WeightsError,
        match=r"random.ckpt do not fit the network:\n  2 missing: ST_enc.a .1, 1., encoder.1.post",
    ):
        import_checkpoint(source, gene_list(60), out, n_heads=2)
    write(
        source,
        [
            *arrays.items(),
            ("ST_enc.a", np.ones((1, 2), "f4")),
            ("proj.weight", np.ones((2, 3), "f4")),
        ],
    )
    with pytest.raises(
        WeightsError,
        match=r"1 missing[^$]*1 not part of this model: proj.weight[^$]*1 of the wrong shape: ST_enc.a",
    ):
        import_checkpoint(source, gene_list(60), out, n_heads=2)
    with pytest.raises(VocabularyError, match="has 100 genes"):
        import_checkpoint(source, gene_list(100), out, n_heads=2)
    write(source, [("gene_emb", np.ones((64, 32), "i1"))])
    with pytest.raises(WeightsError, match="gene_emb holds int8"):
        import_checkpoint(source, gene_list(60), out, n_heads=2)
    with pytest.raises(CheckpointError, match=r"absent\.ckpt cannot be read: No such file"):
        import_checkpoint(tmp_path / "absent.ckpt", gene_list(60), out, n_heads=2)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_overwritten_unasked(parity: Path, tmp_path: Path, gene_list) -> None:
    source, out, back = parity / "tiny_st.ckpt", tmp_path / "out", tmp_path / "back.ckpt"
    import_checkpoint(source, gene_list(60), out, n_heads=2)
    with pytest.raises(
        OutputExistsError, match="out exists already; choose another name or pass overwrite"
    ):
        import_checkpoint(source, gene_list(60), out, n_heads=2)
    import_checkpoint(parity / "tiny_cellfm.ckpt", gene_list(100), out, n_heads=4, overwrite=True)
    assert json.loads((out / "config.json").read_text())["model"]["dim"] == 64
    back.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match=r"back\.ckpt exists already"):
        export_checkpoint(out, back)
    export_checkpoint(out, back, overwrite=True)
    assert len(index(back)) == 59


def test_damaged_files_give_our_errors(parity: Path, tmp_path: Path, gene_list) -> None:
    original, genes = (parity / "tiny_lora.ckpt").read_bytes(), gene_list(60)
    payload = {
        i
        for entry in index(parity / "tiny_lora.ckpt")
        for start, n in entry.chunks
        for i in range(start, start + n)
    }
    heads = [i for i in range(len(original)) if i not in payload]
    path, chance, refused = tmp_path / "damaged.ckpt", random.Random(0), 0
    for _ in range(100):
        content = bytearray(original)
        content[chance.choice(heads)] = chance.randrange(256)
        path.write_bytes(content)
        try:
            import_checkpoint(path, genes, tmp_path / "out", n_heads=2, overwrite=True)
        except CellFMError:
            refused += 1
    assert refused > 80


MEMORY = """
import sys
from pathlib import Path
from cellfm.genes.vocabulary import Vocabulary
from cellfm.weights.mindspore import export_checkpoint, import_checkpoint

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

ckpt, genes, out, back = map(Path, sys.argv[1:])
Vocabulary.read_foreign(genes)  # the gene table is loaded once, whatever the checkpoint
assert "torch" not in sys.modules
before = peak()
import_checkpoint(ckpt, genes, out)
imported = peak()
export_checkpoint(out, back)
print(before, imported - before, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_is_bounded_by_the_largest_tensor(
    tmp_path: Path, gene_list, random_checkpoint
) -> None:
    # 206 MB in 6 layers of 4 MiB tensors; half precision would be converted, so the file is float32 as the released ones.
    config = ModelConfig(n_genes=1000, dim=1024, n_layers=6, n_heads=32, depth_tokens=False)
    path = tmp_path / "large.ckpt"
    write(
        path, ((name.theirs, np.full(name.their_shape, 0.5, "f4")) for name in name_table(config))
    )
    assert path.stat().st_size > 200_000_000
    files = [str(path), str(gene_list(1000)), str(tmp_path / "out"), str(tmp_path / "back.ckpt")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *files], check=True, capture_output=True, text=True
    )
    before, imported, both = map(int, done.stdout.split())
    assert imported < 30, f"import needed {imported} MiB over {before}"
    assert both < 30, f"export needed {both} MiB over {before}"
    assert (tmp_path / "back.ckpt").read_bytes() == path.read_bytes()
