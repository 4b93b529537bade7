"""10,000 damaged checkpoints: each is read or refused, and none is believed about its sizes."""

import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.errors import CheckpointError
from cellfm.weights.protobuf import index, read, read_text, scan
from cellfm.weights.protobuf_write import write

FORMAT = Path(__file__).resolve().parents[1] / "data" / "parity" / "format"
N_EXAMPLES = 1250  # eight files each


class Guarded(BytesIO):
    """Refuses to be asked for more than it has, as a file of lying lengths would provoke."""

    def read(self, n_bytes: int | None = -1) -> bytes:
        assert n_bytes is not None
        assert 0 <= n_bytes <= len(self.getbuffer())
        return super().read(n_bytes)


def _bit_flips(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _truncated(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(len(content))]


def _inserted(content: bytearray, chance: random.Random) -> bytearray:
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.randint(1, 20)) + content[place:]


def _deleted(content: bytearray, chance: random.Random) -> bytearray:
    place = chance.randrange(len(content))
    return content[:place] + content[place + chance.randint(1, 20) :]


def _oversized(content: bytearray, chance: random.Random) -> bytearray:
    """Put a large number where a length or anything else stands."""
    place = chance.randrange(len(content))
    number = chance.getrandbits(chance.randint(8, 70))
    varint = bytearray()
    while number > 0x7F:
        varint.append(number & 0x7F | 0x80)
        number >>= 7
    return content[:place] + varint + bytes([number]) + content[place + 1 :]


def _overwritten(content: bytearray, chance: random.Random) -> bytearray:
    place = chance.randrange(len(content))
    n_bytes = chance.randint(1, 30)
    content[place : place + n_bytes] = chance.randbytes(n_bytes)
    return content


def _spliced(content: bytearray, chance: random.Random) -> bytearray:
    one, other = sorted((chance.randrange(len(content)), chance.randrange(len(content))))
    return content[:other] + content[one:]


def _random(content: bytearray, chance: random.Random) -> bytearray:
    start = bytearray(b"\x0a") if chance.random() < 0.7 else bytearray()
    return start + chance.randbytes(chance.randint(0, len(content)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    _bit_flips,
    _truncated,
    _inserted,
    _deleted,
    _oversized,
    _overwritten,
    _spliced,
    _random,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    sliced = tmp_path_factory.mktemp("fuzz") / "sliced.ckpt"
    write(
        sliced, [("w", np.arange(40, dtype="f4").reshape(8, 5)), ("v", np.ones(3))], slice_bytes=64
    )
    fixtures = ("plain", "crc", "append", "train", "enc_gcm")
    return [(FORMAT / f"{name}.ckpt").read_bytes() for name in fixtures] + [sliced.read_bytes()]


def _read_or_refuse(content: bytes) -> bool:
    try:
        entries = scan(Guarded(content), name="fuzz.ckpt")
    except CheckpointError:
        return False
    assert entries
    for entry in entries:
        for offset, n_bytes in entry.chunks:
            assert 0 <= offset <= offset + n_bytes <= len(content)
    assert sum(entry.n_bytes for entry in entries) <= len(content)
    return True


@settings(derandomize=True, deadline=None, max_examples=N_EXAMPLES, database=None)
@given(which=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_damaged_files_are_read_or_refused(originals: list[bytes], which: int, seed: int) -> None:
    chance = random.Random(seed)
    for mutate in MUTATIONS:
        _read_or_refuse(bytes(mutate(bytearray(originals[which]), chance)))


@settings(derandomize=True, deadline=None, max_examples=300, database=None)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(content: bytes) -> None:
    _read_or_refuse(b"\x0a" + content)


@settings(derandomize=True, deadline=None, max_examples=50, database=None)
@given(which=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_what_is_listed_can_be_read(
    originals: list[bytes], tmp_path_factory: pytest.TempPathFactory, which: int, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "listed.ckpt"
    for mutate in MUTATIONS:
        path.write_bytes(mutate(bytearray(originals[which]), random.Random(seed)))
        with suppress(CheckpointError):
            for entry in index(path):
                if entry.dtype == "str":
                    read_text(path, entry)
                else:
                    assert read(path, entry).shape == entry.shape


def test_mutations_reach_both_ends(originals: list[bytes]) -> None:
    chance = random.Random(0)
    flipped = [
        _read_or_refuse(bytes(_bit_flips(bytearray(originals[0]), chance))) for _ in range(200)
    ]
    assert 20 < sum(flipped) < 180


def test_memory_follows_the_size_of_the_file(originals: list[bytes]) -> None:
    chance = random.Random(1)
    mutate = (_oversized, _bit_flips, _random)
    files = [bytes(mutate[i % 3](bytearray(originals[i % 6]), chance)) for i in range(600)]
    tracemalloc.start()
    try:
        for content in files:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            _read_or_refuse(content)
            _, peak = tracemalloc.get_traced_memory()
            # Python objects of entries and of one exception; the lengths written in the files reach 2^70.
            assert peak - before < 64_000 + 40 * len(content)
    finally:
        tracemalloc.stop()
