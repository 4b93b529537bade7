"""The container of MindSpore checkpoints, read as a stream and without MindSpore.

A file is one protobuf message; every tensor, or slice of a large one, is one ``Value``::

    Checkpoint   { repeated Value value = 1; }
    Value        { string tag = 1;  TensorProto tensor = 2;  MapTensorProto maptensor = 3; }
    TensorProto  { repeated int64 dims = 1;  string tensor_type = 2;  bytes tensor_content = 3; }

A tensor above 512 MiB is cut into consecutive values with one tag, each repeating the full dims. The file may end with
17 bytes: ``crc_num`` and the CRC-32 of everything before as a 10-byte big-endian number.

Reading never trusts a length: each is held against the message around it and the size of the file before a byte is read,
and payloads are skipped by seeking, so memory and time depend on the number of tensors, not on their size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellfm.errors import CheckpointError
from cellfm.weights.dtypes import NUMPY_OF, TEXT, widen_bfloat16
from cellfm.weights.wire import BYTES, PIECE, VARINT, Source

_MAX_DIMS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a checkpoint: what it is and where its bytes lie."""

    name: str
    dtype: str
    """MindSpore's name of the element type, such as Float32, or `str`."""
    shape: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]
    """File offset and number of bytes of each slice, in order."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all slices together."""
        return sum(n_bytes for _, n_bytes in self.chunks)


def index(path: Path) -> tuple[Entry, ...]:
    """List the tensors of a checkpoint in file order without reading their content.

    Raises
    ------
    CheckpointError
        The file is damaged, encrypted or no MindSpore checkpoint.
    """
    with path.open("rb") as stream:
        return scan(stream, name=path.name)


def scan(stream: BinaryIO, *, name: str) -> tuple[Entry, ...]:
    """List the tensors of an open checkpoint; `name` is used in messages."""
    source = Source(stream, name=name)
    source.refuse_other_formats()
    end = source.verified_end()
    values: dict[str, list[_Value]] = {}
    last = ""
    source.go(0)
    while source.position < end:
        number, wire = source.key(end)
        if (number, wire) != (1, BYTES):
            source.skip_field(wire, end)
            continue
        value = _read_value(source, source.length(end, what="value"))
        if value.name in values and value.name != last:
            msg = f"the tensor {value.name!r} occurs twice, with others between"
            raise source.damaged(msg)
        values.setdefault(value.name, []).append(value)
        last = value.name
    return tuple(_join(source, parts) for parts in values.values())


def read(path: Path, entry: Entry) -> NDArray[np.generic]:
    """Read one tensor; bfloat16 comes as the float32 of the same value."""
    if entry.dtype == TEXT:
        msg = f"The entry {entry.name} of {path.name} is text, not a tensor; use read_text."
        raise CheckpointError(msg)
    array: NDArray[np.generic] = np.empty(entry.shape, NUMPY_OF[entry.dtype])
    target = array.reshape(-1).view(np.uint8).data
    filled = 0
    for piece in payload(path, entry):
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    if entry.dtype == "Bool":
        return np.asarray(array.view(np.uint8) != 0)
    return widen_bfloat16(array.astype("<u2", copy=False)) if entry.dtype == "BFloat16" else array


def read_text(path: Path, entry: Entry) -> str:
    """Read one `str` entry, such as a note from ``append_dict``."""
    try:
        return b"".join(payload(path, entry)).decode("utf-32-le")
    except UnicodeDecodeError as error:
        msg = f"{path.name} is damaged: the text {entry.name!r} is not valid UTF-32 ({error.reason}). Get the file again."
        raise CheckpointError(msg) from error


def payload(path: Path, entry: Entry) -> Iterator[bytes]:
    """Yield the stored bytes of one tensor in order, at most 1 MiB at a time."""
    with path.open("rb", buffering=0) as stream:
        for offset, n_bytes in entry.chunks:
            stream.seek(offset)
            left = n_bytes
            while left:
                piece = stream.read(min(left, PIECE))
                if not piece:
                    msg = f"{path.name} ends inside the tensor {entry.name!r}; it was changed while being read. Wait until it is written, or get it again."
                    raise CheckpointError(msg)
                left -= len(piece)
                yield piece


@dataclass(slots=True, kw_only=True)
class _Value:
    """One value as stored: a tensor or a slice of one."""

    name: str = ""
    dtype: str = ""
    dims: list[int] = field(default_factory=list)
    chunk: tuple[int, int] | None = None


def _read_value(source: Source, end: int) -> _Value:
    value = _Value()
    tensor_end = None
    while source.position < end:
        number, wire = source.key(end)
        if number in (1, 2, 3) and wire != BYTES:
            msg = f"field {number} of a value has the wire type {wire}"
            raise source.damaged(msg)
        if number == 1:
            _once(source, value.name or None, what="name")
            value.name = source.text(end, what="tensor name")
        elif number == 2:
            _once(source, tensor_end, what="tensor")
            tensor_end = source.length(end, what="tensor")
            _read_tensor(source, value, tensor_end)
        elif number == 3:
            msg = f"{value.name!r} is a hash table (MapTensor), which no CellFM model has"
            raise source.damaged(msg)
        else:
            source.skip_field(wire, end)
    for what, found in (("name", value.name), ("type", value.dtype), ("content", value.chunk)):
        if not found:
            msg = f"the value {value.name!r} has no {what}"
            raise source.damaged(msg)
    return value


def _read_tensor(source: Source, value: _Value, end: int) -> None:
    while source.position < end:
        number, wire = source.key(end)
        if number == 1 and wire in (VARINT, BYTES):
            _read_dims(source, value, end, packed=wire == BYTES)
        elif number in (1, 2, 3) and wire != BYTES:
            msg = f"field {number} of a tensor has the wire type {wire}"
            raise source.damaged(msg)
        elif number == 2:
            _once(source, value.dtype or None, what="type")
            value.dtype = source.text(end, what="element type")
        elif number == 3:
            _once(source, value.chunk, what="content")
            stop = source.length(end, what="tensor content")
            value.chunk = (source.position, stop - source.position)
            source.go(stop)
        else:
            source.skip_field(wire, end)


def _read_dims(source: Source, value: _Value, end: int, *, packed: bool) -> None:
    """Read one dimension, or all of them where the writer packed them into one field."""
    stop = source.length(end, what="shape") if packed else None
    while stop is None or source.position < stop:
        dim = source.varint(end if stop is None else stop)
        if dim >> 62 or len(value.dims) == _MAX_DIMS:
            msg = f"the shape {[*value.dims, dim]} is impossible"
            raise source.damaged(msg)
        value.dims.append(dim)
        if stop is None:
            return


def _once(source: Source, found: object, *, what: str) -> None:
    if found is not None:
        msg = f"a value has two {what} fields"
        raise source.damaged(msg)


def _join(source: Source, parts: list[_Value]) -> Entry:
    """Make one tensor of its slices and hold its shape against its bytes."""
    name, dtype, dims = parts[0].name, parts[0].dtype, parts[0].dims
    if any((part.dtype, part.dims) != (dtype, dims) for part in parts):
        msg = f"the slices of {name!r} differ in type or shape"
        raise source.damaged(msg)
    chunks = tuple(part.chunk for part in parts if part.chunk is not None)
    n_bytes = sum(count for _, count in chunks)
    if dtype == TEXT:
        if n_bytes % 4:
            msg = f"the text {name!r} has {n_bytes} bytes, no multiple of 4"
            raise source.damaged(msg)
        return Entry(name=name, dtype=dtype, shape=(), chunks=chunks)
    if dtype not in NUMPY_OF:
        msg = (
            f"{source.name}: the tensor {name!r} has the element type {dtype!r}; known are {', '.join(NUMPY_OF)}. "
            "Quantised files cannot be read: export the checkpoint in floating point."
        )
        raise CheckpointError(msg)
    itemsize = NUMPY_OF[dtype].itemsize
    # Old writers give a scalar the shape [0]; MindSpore's own loader maps it back.
    shape = () if dims == [0] and n_bytes == itemsize else tuple(dims)
    if math.prod(shape) * itemsize != n_bytes or (0 in shape and shape != (0,)):
        needed = math.prod(shape) * itemsize
        what = f"the tensor {name!r} of shape {list(shape)} needs {needed} bytes of {dtype}, found {n_bytes}"
        raise source.damaged(what)
    return Entry(name=name, dtype=dtype, shape=shape, chunks=chunks)
