"""The writer of MindSpore's container: what it writes, the reader reads."""

from pathlib import Path

import numpy as np
import pytest

from cellfm.errors import WeightsError
from cellfm.weights.protobuf import index, read, read_text
from cellfm.weights.protobuf_write import Raw, write

ARRAYS = {
    "f32": np.arange(12, dtype="f4").reshape(3, 4),
    "transposed": np.arange(12, dtype="f4").reshape(3, 4).T,
    "big-endian": np.arange(3, dtype=">f8"),
    "f16": np.arange(5, dtype="f2"),
    "i64": np.array(7),
    "b": np.array([True, False]),
    "u16": np.array([1, 65535], "u2"),
}


@pytest.mark.parametrize("crc", [False, True])
@pytest.mark.parametrize("slice_bytes", [3, 16, 1 << 29])
def test_round_trip(tmp_path: Path, *, crc: bool, slice_bytes: int) -> None:
    path = tmp_path / "model.ckpt"
    write(path, [*ARRAYS.items(), ("note", "héllo")], slice_bytes=slice_bytes, crc=crc)
    *entries, note = index(path)
    assert [entry.name for entry in entries] == list(ARRAYS)
    for entry in entries:
        found, expected = read(path, entry), ARRAYS[entry.name]
        assert found.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, expected)
        assert len(entry.chunks) == -(-expected.nbytes // slice_bytes)
    assert read_text(path, note) == "héllo"


@pytest.mark.parametrize(
    "name", ["tiny_cellfm", "tiny_lora", "format/plain", "format/crc", "format/append"]
)
def test_bytes_are_those_of_mindspore(parity: Path, tmp_path: Path, name: str) -> None:
    source, target = parity / f"{name}.ckpt", tmp_path / "again.ckpt"

    def tensors():
        for entry in index(source):
            content = b"".join(source.read_bytes()[start : start + n] for start, n in entry.chunks)
            if entry.dtype == "str":
                yield entry.name, read_text(source, entry)
            else:
                yield entry.name, Raw(dtype=entry.dtype, shape=entry.shape, pieces=[content])

    write(target, tensors(), crc=name.endswith("crc"))
    assert target.read_bytes() == source.read_bytes()


def test_pieces_of_any_size(tmp_path: Path) -> None:
    content = np.arange(100, dtype="<f4").tobytes()
    path = tmp_path / "model.ckpt"
    pieces = [content[:1], content[1:250], content[250:]]
    write(path, [("w", Raw(dtype="Float32", shape=(100,), pieces=pieces))], slice_bytes=90)
    (entry,) = index(path)
    assert [n for _, n in entry.chunks] == [90, 90, 90, 90, 40]
    assert read(path, entry).tobytes() == content


@pytest.mark.parametrize("n_bytes", [4, 12])
def test_wrong_number_of_bytes(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"old")
    raw = Raw(dtype="Float32", shape=(2,), pieces=[bytes(n_bytes)])
    with pytest.raises(
        WeightsError, match=r"bytes of w do not add up to its shape \[2\] of Float32 .8."
    ):
        write(path, [("w", raw)])
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]
    assert path.read_bytes() == b"old"


def test_refused_tensors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="A tensor of type complex64 cannot be written"):
        write(tmp_path / "a.ckpt", [("w", np.zeros(1, "c8"))])
    with pytest.raises(WeightsError, match=r"The tensor w of shape \[0, 3\] is empty"):
        write(tmp_path / "a.ckpt", [("w", np.zeros((0, 3), "f4"))])
