"""One-dimensional zarr arrays, read block by block without the cost of zarr's own reader.

zarr's reader costs about half a millisecond for every chunk it touches; decompressing one takes a tenth of that. The
files are plain zarr v3 (sharding, Blosc) and any zarr reads them; here the bytes of a block are fetched by one call per
shard and decompressed where they belong.
"""

import json
import os
from pathlib import Path
from sys import getrefcount
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_VALUES, SHARD_VALUES = 1 << 17, 1 << 24
"""Counts in a chunk and in a file: a block of 512 cells is about five chunks."""
CHUNK_CELLS, SHARD_CELLS = 1 << 14, 1 << 20
"""Cells in a chunk and in a file of a column."""

_TYPES = ("uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_NOT_STORED = (1 << 64) - 1  # a chunk of nothing but the fill value
_INDEX_ENTRY = 16
_INDEX_CHECKSUM = 4
_UNUSED = 2  # references to a buffer that nobody holds: its list's, and the argument of the count
_BLOSC_HEADER = 16  # version and flags, then the sizes: raw, of a block, compressed


class Buffers:
    """Memory for decoded values that is used again once nobody holds it.

    The pages of new memory cost nearly as much as decompressing into them.
    """

    def __init__(self) -> None:
        self._all: list[NDArray[np.uint8]] = []
        self._lock = Lock()

    def empty(self, size: int, dtype: "np.dtype[np.integer]") -> "NDArray[np.integer]":
        """Return an array with arbitrary content; its memory is taken back when it and all views of it are gone."""
        n_bytes = size * dtype.itemsize
        with self._lock:
            free = [i for i in range(len(self._all)) if getrefcount(self._all[i]) <= _UNUSED]
            for i in free:
                if len(self._all[i]) >= n_bytes:
                    return self._all[i][:n_bytes].view(dtype)
            for i in reversed(free):  # too small: let go
                del self._all[i]
            self._all.append(np.empty(n_bytes, dtype=np.uint8))
            return self._all[-1].view(dtype)


class ShardedVector:
    """A stored array of one dimension.

    Parameters
    ----------
    path
        Folder of the array.

    Raises
    ------
    CorpusError
        There is no such array, or not one that :func:`cellfm.corpus.part.write_part` writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        facts = _facts(path)
        try:
            (self._size,) = facts["shape"]
            (self._shard,) = facts["chunk_grid"]["configuration"]["chunk_shape"]
            (sharding,) = facts["codecs"]
            (self._chunk,) = sharding["configuration"]["chunk_shape"]
            names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
            self.dtype = np.dtype(_TYPES[_TYPES.index(facts["data_type"])]).newbyteorder("<")
            usual = names == ["bytes", "blosc"] and sharding["name"] == "sharding_indexed"
        except (KeyError, ValueError, TypeError) as error:
            msg = f"{path}/zarr.json is not what a corpus has there ({error!r}). The part is damaged; {_REPAIR}"
            raise CorpusError(msg) from error
        if not usual:
            msg = f"{path} is stored with the codecs {', '.join(names)}; expected bytes and blosc in shards. It was written by another program; {_REPAIR}"
            raise CorpusError(msg)
        self._index: dict[int, NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        """Return the number of values."""
        return self._size

    def read(
        self, start: int, stop: int, *, buffers: "Buffers | None" = None
    ) -> "NDArray[np.integer]":
        """Return the values ``start:stop`` in an array of their own.

        Parameters
        ----------
        start, stop
            Range.
        buffers
            Where the memory comes from; None for new memory.

        Raises
        ------
        CorpusError
            The files are damaged or gone.
        """
        if buffers is None:
            out = np.empty(stop - start, dtype=self.dtype)
        else:
            out = buffers.empty(stop - start, self.dtype)
        if start >= stop:
            return out
        for number in range(start // self._shard, (stop - 1) // self._shard + 1):
            first = number * self._shard
            self._read_shard(number, out, start - first)
        return out

    def _read_shard(self, number: int, out: "NDArray[np.integer]", start: int) -> None:
        """Fill in what a shard has of the values that begin at `start`, counted from the beginning of the shard."""
        file = self.path / "c" / str(number)
        stop = min(start + len(out), self._shard)
        low, high = max(start, 0) // self._chunk, (stop - 1) // self._chunk + 1
        try:
            place, data = self._fetch(file, number, low, high)
            for chunk in range(low, high):
                at = chunk * self._chunk
                into = out[max(at - start, 0) : min(at + self._chunk, stop) - start]
                offset, length = place[chunk - low]
                self._decode(data[offset : offset + length], into, max(start - at, 0))
        except (OSError, RuntimeError, ValueError) as error:
            msg = f"{file} cannot be read ({error}). The corpus is damaged; {_REPAIR}"
            raise CorpusError(msg) from error

    def _fetch(
        self, file: Path, number: int, low: int, high: int
    ) -> tuple[list[tuple[int, int]], memoryview]:
        """Read the bytes of some chunks; a chunk that is not stored has length 0."""
        handle = os.open(file, os.O_RDONLY)
        try:
            if number not in self._index:
                self._index[number] = self._read_index(handle)
            index = self._index[number][low:high]
            stored = index[index[:, 0] != _NOT_STORED]
            if not len(stored):
                return [(0, 0)] * (high - low), memoryview(b"")
            begin, end = int(stored[:, 0].min()), int(stored.sum(axis=1).max())
            data = memoryview(os.pread(handle, end - begin, begin))
        finally:
            os.close(handle)
        if len(data) != end - begin:
            msg = f"it ends {end - begin - len(data):,} bytes too early"
            raise ValueError(msg)
        places = [
            (0, 0) if at == _NOT_STORED else (at - begin, length) for at, length in index.tolist()
        ]
        return places, data

    def _read_index(self, handle: int) -> "NDArray[np.uint64]":
        """Offset and length of each chunk of a shard, which stand at its end."""
        from google_crc32c import value as crc32c

        length = self._shard // self._chunk * _INDEX_ENTRY
        size = os.fstat(handle).st_size
        tail = os.pread(handle, length + _INDEX_CHECKSUM, max(size - length - _INDEX_CHECKSUM, 0))
        if crc32c(tail[:length]) != int.from_bytes(tail[length:], "little"):
            msg = "the checksum of its index is wrong, it was cut short or changed"
            raise ValueError(msg)
        return np.frombuffer(tail[:length], dtype="<u8").reshape(-1, 2)

    def _decode(self, data: memoryview, into: "NDArray[np.integer]", skipped: int) -> None:
        """Decompress a chunk, or the part of it that is wanted."""
        from numcodecs.blosc import decompress

        if not len(data):
            into[:] = 0
            return
        # the decompressor trusts its header: check it against what is there
        sizes = np.frombuffer(data[:_BLOSC_HEADER], dtype="<u4")
        if len(sizes) != 4 or sizes[3] != len(data) or sizes[1] != self._chunk * into.itemsize:
            msg = "the header of a chunk is wrong"
            raise ValueError(msg)
        if len(into) == self._chunk:
            decompress(data, into)
        else:
            whole = np.frombuffer(decompress(data), dtype=self.dtype)
            into[:] = whole[skipped : skipped + len(into)]


_REPAIR = (
    "run `cellfm corpus check` to see what else is, and build it again or restore it from a copy."
)


def _facts(path: Path) -> dict[str, Any]:
    """Read the metadata of an array."""
    try:
        facts = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path}/zarr.json cannot be read ({error}). The corpus is damaged; {_REPAIR}"
        raise CorpusError(msg) from error
    if not isinstance(facts, dict):
        msg = f"{path}/zarr.json holds a {type(facts).__name__}; expected the facts of an array. The corpus is damaged; {_REPAIR}"
        raise CorpusError(msg)
    return facts
