"""The reader of MindSpore's container: files of MindSpore itself, then every kind of damage."""

from pathlib import Path

import numpy as np
import pytest

from cellfm.errors import CheckpointError
from cellfm.weights.protobuf import Entry, index, payload, read, read_text


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(dims: bytes, content: bytes, dtype: bytes = b"Float32") -> bytes:
    return dims + _field(2, dtype) + _field(3, content)


def _value(tag: bytes, tensor: bytes) -> bytes:
    return _field(1, _field(1, tag) + _field(2, tensor))


def _dims(*dims: int) -> bytes:
    return b"".join(b"\x08" + _varint(dim) for dim in dims)


GOOD = _value(b"w", _tensor(_dims(2), bytes(8)))


@pytest.fixture
def saved(tmp_path: Path):
    def save(content: bytes) -> Path:
        path = tmp_path / "model.ckpt"
        path.write_bytes(content)
        return path

    return save


def _by_name(path: Path) -> dict[str, Entry]:
    return {entry.name: entry for entry in index(path)}


@pytest.mark.parametrize("name", ["plain", "crc", "append"])
def test_values_written_by_mindspore(parity: Path, name: str) -> None:
    path = parity / "format" / f"{name}.ckpt"
    found = {
        key: read(path, entry) for key, entry in _by_name(path).items() if entry.dtype != "str"
    }
    # RandomState, because the file was made with it.
    legacy = np.random.RandomState(0)
    np.testing.assert_array_equal(found["f32"], legacy.randn(3, 4).astype("f4"), strict=True)
    np.testing.assert_array_equal(found["f16"], legacy.randn(5).astype("f2"), strict=True)
    np.testing.assert_array_equal(found["f64"], legacy.randn(2, 2), strict=True)
    np.testing.assert_array_equal(found["i32"], np.arange(4, dtype="i4"))
    assert found["i64s"].shape == ()
    assert found["i64s"] == 7
    assert found["f32s"] == np.float32(2.5)
    assert found["b"].dtype == np.bool_
    assert found["b"].tolist() == [True, False]
    assert found["u8"].tolist() == [0, 1, 2]
    assert found["bf16"].dtype == np.float32
    assert found["bf16"].tolist() == [1.5, -2.25, 3.0]


def test_appended_scalars_and_text(parity: Path) -> None:
    path = parity / "format" / "append.ckpt"
    entries = _by_name(path)
    assert read(path, entries["epoch_num"]) == 3
    assert read(path, entries["lr"]) == 0.5
    assert read(path, entries["flag"]) == np.True_
    assert read_text(path, entries["note"]) == "héllo"
    with pytest.raises(
        CheckpointError, match=r"note of append\.ckpt is text, not a tensor; use read_text"
    ):
        read(path, entries["note"])


def test_training_checkpoint(parity: Path) -> None:
    entries = _by_name(parity / "format" / "train.ckpt")
    assert {name for name in entries if name.startswith("moment")} == {
        f"moment{i}.{name}" for i in (1, 2) for name in ("weight", "bias")
    }
    assert entries["global_step"].shape == (1,)


def test_payload_is_the_stored_bytes(parity: Path) -> None:
    path = parity / "tiny_st.ckpt"
    entry = _by_name(path)["ST_enc.w3.weight"]
    assert b"".join(payload(path, entry)) == read(path, entry).tobytes()
    assert entry.n_bytes == 256 * 256 * 4


def test_reading_never_loads_payloads(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(_value(b"w", _tensor(_dims(1 << 20), bytes(4 << 20))) + GOOD.replace(b"w", b"v"))
    monkeypatch.setattr("zlib.crc32", None)  # no pass over the file without a checksum in it
    assert [entry.shape for entry in index(path)] == [(1 << 20,), (2,)]


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (_dims(1, 2), (1, 2)),
        (_field(1, b"\x01\x02"), (1, 2)),
        (_dims(1) + _field(1, b"\x02\x01"), (1, 2, 1)),
    ],
    ids=["unpacked", "packed", "both"],
)
def test_dims_in_every_form(saved, dims: bytes, shape: tuple[int, ...]) -> None:
    assert index(saved(_value(b"w", _tensor(dims, bytes(8)))))[0].shape == shape


@pytest.mark.parametrize("dims", [b"", _dims(0)], ids=["none", "[0] of old writers"])
def test_scalars(saved, dims: bytes) -> None:
    path = saved(_value(b"s", _tensor(dims, np.float32(2.5).tobytes())))
    entry = index(path)[0]
    assert entry.shape == ()
    assert read(path, entry) == 2.5


def test_empty_tensor(saved) -> None:
    path = saved(_value(b"s", _tensor(_dims(0), b"")))
    assert read(path, index(path)[0]).shape == (0,)


def test_unknown_fields_are_skipped(saved) -> None:
    unknown = b"\x78\x96\x01" + _field(9, b"what") + b"\x51" + bytes(8) + b"\x55" + bytes(4)
    tensor = unknown + _tensor(_dims(2), bytes(8)) + unknown
    value = _field(1, unknown + _field(1, b"w") + _field(2, tensor) + unknown)
    assert index(saved(value + unknown))[0].shape == (2,)


def test_slices_are_joined(saved) -> None:
    numbers = np.arange(6, dtype="<f4").reshape(3, 2)
    content = numbers.tobytes()
    slices = [content[:9], content[9:10], content[10:]]  # newer writers cut anywhere
    path = saved(b"".join(_value(b"w", _tensor(_dims(3, 2), part)) for part in slices))
    (entry,) = index(path)
    assert len(entry.chunks) == 3
    np.testing.assert_array_equal(read(path, entry), numbers)


DAMAGE = {
    "empty file": (b"", "model.ckpt is empty; expected a MindSpore checkpoint"),
    "zip": (b"PK\x03\x04" + bytes(30), "is not a MindSpore checkpoint: found a PyTorch .zip. file"),
    "text": (
        b"gene,name\n",
        "is not a MindSpore checkpoint: found a file that starts with b'gene,nam'",
    ),
    "cut in a length": (
        GOOD + b"\x0a",
        "is truncated: the file ends after .* bytes, but a number at byte",
    ),
    "cut in a value": (
        GOOD[:-1],
        "is truncated: the file ends after .* bytes, but the value at byte",
    ),
    "length beyond file": (b"\x0a" + _varint(1 << 40) + GOOD, "is truncated"),
    "length beyond message": (
        _field(1, _field(1, b"w") + b"\x12\x7f") + GOOD * 20,
        "the tensor says it has 127 bytes, but only 0 are left in its message",
    ),
    "long number": (b"\x0a" + b"\xff" * 11, "a number has more than ten bytes"),
    "field 0": (GOOD + b"\x02\x00", "a field has the number 0"),
    "group": (GOOD + b"\x63", "a field has the wire type 3"),
    "cut unknown field": (GOOD + b"\x51\x00", "is truncated"),
    "bad utf-8": (
        _value(b"\xff\xfe", _tensor(_dims(2), bytes(8))),
        "tensor name .* is not valid UTF-8",
    ),
    "long name": (
        _value(b"w" * 5000, _tensor(_dims(2), bytes(8))),
        "the tensor name has 5000 bytes",
    ),
    "unknown type": (
        _value(b"w", _tensor(_dims(2), bytes(1), b"Int4")),
        "the tensor 'w' has the element type 'Int4'; known are .*Float32.* Quantised",
    ),
    "too few bytes": (
        _value(b"w", _tensor(_dims(3), bytes(8))),
        r"the tensor 'w' of shape \[3\] needs 12 bytes of Float32, found 8",
    ),
    "zero dimension": (
        _value(b"w", _tensor(_dims(0, 3), b"")),
        "needs 0 bytes of Float32, found 0",
    ),
    "negative dimension": (
        _value(b"w", _tensor(b"\x08" + b"\xff" * 9 + b"\x01", bytes(8))),
        r"the shape \[18446744073709551615\] is impossible",
    ),
    "many dimensions": (
        _value(b"w", _tensor(_dims(*[1] * 33), bytes(4))),
        "the shape .* is impossible",
    ),
    "no name": (_field(1, _field(2, _tensor(_dims(2), bytes(8)))), "has no name"),
    "no type": (_value(b"w", _dims(2) + _field(3, bytes(8))), "'w' has no type"),
    "no content": (_value(b"w", _dims(2) + _field(2, b"Float32")), "'w' has no content"),
    "two names": (_field(1, _field(1, b"w") * 2 + _field(2, b"")), "a value has two name fields"),
    "two tensors": (
        _field(1, _field(1, b"w") + _field(2, b"") * 2),
        "a value has two tensor fields",
    ),
    "two types": (_value(b"w", _field(2, b"Int8") * 2), "a value has two type fields"),
    "two contents": (_value(b"w", _field(3, b"") * 2), "a value has two content fields"),
    "wrong wire type in value": (_field(1, b"\x08\x01"), "field 1 of a value has the wire type 0"),
    "wrong wire type in tensor": (
        _value(b"w", b"\x10\x01"),
        "field 2 of a tensor has the wire type 0",
    ),
    "twice": (
        GOOD + GOOD.replace(b"w", b"v") + GOOD,
        "the tensor 'w' occurs twice, with others between",
    ),
    "slices differ": (
        _value(b"w", _tensor(_dims(4), bytes(8)))
        + _value(b"w", _tensor(_dims(4), bytes(8), b"Int32")),
        "the slices of 'w' differ in type or shape",
    ),
    "hash table": (_field(1, _field(1, b"w") + _field(3, b"")), "'w' is a hash table .MapTensor."),
    "odd text": (
        _value(b"w", _tensor(b"", bytes(3), b"str")),
        "the text 'w' has 3 bytes, no multiple of 4",
    ),
    "empty value": (b"\x0a" + b"\x00", "has no name"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage(saved, kind: str) -> None:
    content, message = DAMAGE[kind]
    with pytest.raises(CheckpointError, match=message):
        index(saved(content))


def test_file_of_nothing_but_a_checksum(saved) -> None:
    with pytest.raises(
        CheckpointError,
        match="is not a MindSpore checkpoint: found a file that starts with b'crc_num",
    ):
        index(saved(b"crc_num" + bytes(10)))


def test_checksum(parity: Path, saved) -> None:
    content = bytearray((parity / "format" / "crc.ckpt").read_bytes())
    content[60] ^= 1
    with pytest.raises(
        CheckpointError,
        match=r"its checksum .CRC-32. is 0x.*, but 0x16defc26 was written at its end",
    ):
        index(saved(bytes(content)))


def test_encrypted(parity: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"is encrypted .AES-GCM.*save it again without enc_key"
    ):
        index(parity / "format" / "enc_gcm.ckpt")


def test_bad_text(saved) -> None:
    path = saved(_value(b"note", _tensor(b"", b"\xff\xff\xff\xff", b"str")))
    with pytest.raises(CheckpointError, match="the text 'note' is not valid UTF-32"):
        read_text(path, index(path)[0])


def test_file_that_shrinks_while_read(saved) -> None:
    path = saved(GOOD)
    (entry,) = index(path)
    path.write_bytes(GOOD[:-4])
    with pytest.raises(
        CheckpointError, match="ends inside the tensor 'w'; it was changed while being read"
    ):
        read(path, entry)


def test_shrinking_stream_in_a_name() -> None:
    from io import BytesIO

    from cellfm.weights.wire import Source

    source = Source(BytesIO(b"abc"), name="x")
    source.go(0)
    source.stream = BytesIO(b"a")
    with pytest.raises(CheckpointError, match="a name needs 2 more"):
        source.take(3, 3, what="a name")
