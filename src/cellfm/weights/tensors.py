"""Writes safetensors files tensor after tensor, so that memory holds one piece at a time."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cellfm.errors import WeightsError
from cellfm.weights.atomic import replacing
from cellfm.weights.protobuf import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor32:
    """A float32 tensor whose little-endian bytes are made when they are written."""

    name: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[bytes | memoryview]]

    @property
    def n_bytes(self) -> int:
        """Bytes that `pieces` must add up to."""
        return 4 * math.prod(self.shape)


def write_tensors(
    path: Path,
    tensors: Sequence[Tensor32],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write a safetensors file and return its SHA-256.

    Tensors stand in the order of their names: the same weights give the same file wherever they come from.

    Parameters
    ----------
    path
        Target; replaced only when the new file is complete.
    tensors
        What to write.
    metadata
        Text to keep in the header.
    progress
        Told the number of bytes just written.
    """
    digest = hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as stream:
        for piece in _stream(tensors, metadata):
            stream.write(piece)
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


def tensors_hash(tensors: Sequence[Tensor32]) -> str:
    """Return the SHA-256 of the file that `write_tensors` would write."""
    digest = hashlib.sha256()
    for piece in _stream(tensors, None):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def open_tensors(path: Path, *, framework: str, device: str = "cpu") -> Iterator[Any]:
    """Open a safetensors file whose tensors are all float32; a damaged one is a `WeightsError`."""
    try:
        # safe_open is typed as Any: the library has no complete stubs.
        with safe_open(path, framework=framework, device=device) as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            other = [(name, dtype) for name, dtype in types.items() if dtype != "F32"]
            if other:
                name, dtype = other[0]
                msg = f"{path} stores {len(other)} tensors in another type than float32 (F32), first {name} as {dtype}. Convert them to float32."
                raise WeightsError(msg)
            yield file
    except (SafetensorError, OSError) as error:
        msg = f"{path} cannot be read as a safetensors file ({error}). It is damaged or incomplete: make or get it again."
        raise WeightsError(msg) from error


def shapes_of(file: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 - an open safetensors file
    """Return the shape of every tensor of an open file without reading them."""
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def stored_tensors(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """List where the tensors of a safetensors file lie, and its metadata; their content is not read."""
    with open_tensors(path, framework="numpy"), path.open("rb") as stream:
        # The library has just held every offset against the size of the file.
        n_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(n_bytes))
    metadata: dict[str, str] = header.pop("__metadata__", {})
    entries = {}
    for name, tensor in header.items():
        start, stop = tensor["data_offsets"]
        chunk = (8 + n_bytes + start, stop - start)
        entries[name] = Entry(
            name=name, dtype="Float32", shape=tuple(tensor["shape"]), chunks=(chunk,)
        )
    return entries, metadata


def _stream(
    tensors: Sequence[Tensor32], metadata: Mapping[str, str] | None
) -> Iterator[bytes | memoryview]:
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in ordered:
        stop = start + tensor.n_bytes
        header[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # payloads start at a multiple of 8 bytes
    yield len(text).to_bytes(8, "little") + text
    for tensor in ordered:
        left = tensor.n_bytes
        for piece in tensor.pieces():
            left -= len(piece)
            yield piece
        if left:
            msg = f"The bytes of {tensor.name} do not add up to its shape {list(tensor.shape)}: {left} are missing. Get the file again."
            raise WeightsError(msg)
