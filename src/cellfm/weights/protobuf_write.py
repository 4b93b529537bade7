"""Writes MindSpore's checkpoint container as a stream: what `cellfm.weights.protobuf` reads."""

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellfm.errors import WeightsError
from cellfm.weights.atomic import replacing
from cellfm.weights.dtypes import NUMPY_OF, TEXT, name_of
from cellfm.weights.wire import CRC_TAG, PIECE

SLICE_BYTES = 512 << 20
"""MindSpore cuts larger tensors, because one protobuf field must stay below 2 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A tensor whose bytes come in pieces, so that it need not be in memory."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[bytes | memoryview]

    @property
    def n_bytes(self) -> int:
        """Bytes that `pieces` must add up to."""
        return math.prod(self.shape) * NUMPY_OF[self.dtype].itemsize


def write(
    path: Path,
    tensors: Iterable[tuple[str, NDArray[np.generic] | Raw | str]],
    *,
    slice_bytes: int = SLICE_BYTES,
    crc: bool = False,
) -> None:
    """Write a checkpoint; an existing file is replaced only when the new one is complete.

    Parameters
    ----------
    path
        Target file.
    tensors
        Names with arrays, raw tensors or texts, in the order of the file.
    slice_bytes
        Largest payload of one value.
    crc
        Append the CRC-32 of the file, as MindSpore does with ``crc_check=True``.
    """
    checksum = 0
    with replacing(path) as temporary, temporary.open("wb") as stream:
        for name, tensor in tensors:
            for piece in _values(name, tensor, slice_bytes):
                stream.write(piece)
                checksum = zlib.crc32(piece, checksum) if crc else 0
        if crc:
            stream.write(CRC_TAG + checksum.to_bytes(10, "big"))


def array_pieces(array: NDArray[np.generic]) -> Iterator[memoryview]:
    """Yield the little-endian bytes of an array in C order, at most 1 MiB at a time and without a copy."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    content = little.reshape(-1).view(np.uint8).data
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _values(
    name: str, tensor: NDArray[np.generic] | Raw | str, slice_bytes: int
) -> Iterator[bytes | memoryview]:
    if isinstance(tensor, str):
        content = tensor.encode("utf-32-le")
        yield _head(name, TEXT, (0,), len(content))
        yield content
        return
    if not isinstance(tensor, Raw):
        array = tensor
        tensor = Raw(dtype=name_of(array.dtype), shape=array.shape, pieces=array_pieces(array))
    if not tensor.n_bytes:
        msg = f"The tensor {name} of shape {list(tensor.shape)} is empty; MindSpore files cannot hold it. Remove it before the export."
        raise WeightsError(msg)
    pieces = (memoryview(piece) for piece in tensor.pieces)
    rest = memoryview(b"")
    for start in range(0, tensor.n_bytes, slice_bytes):
        left = min(slice_bytes, tensor.n_bytes - start)
        yield _head(name, tensor.dtype, tensor.shape, left)
        while left:
            rest = rest or next(pieces, memoryview(b""))
            if not rest:
                raise _miscounted(name, tensor)
            yield rest[:left]
            rest, left = rest[left:], max(0, left - len(rest))
    if rest or any(pieces):
        raise _miscounted(name, tensor)


def _miscounted(name: str, tensor: Raw) -> WeightsError:
    msg = f"The bytes of {name} do not add up to its shape {list(tensor.shape)} of {tensor.dtype} ({tensor.n_bytes}). Get the weights again."
    return WeightsError(msg)


def _head(name: str, dtype: str, shape: tuple[int, ...], n_bytes: int) -> bytes:
    """Return everything of one value that comes before its payload."""
    dims = b"".join(b"\x08" + _varint(dim) for dim in shape)
    before = dims + _field(2, dtype.encode()) + b"\x1a" + _varint(n_bytes)
    tensor = b"\x12" + _varint(len(before) + n_bytes) + before
    tag = _field(1, name.encode())
    return b"\x0a" + _varint(len(tag) + len(tensor) + n_bytes) + tag + tensor


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
