"""Protobuf's fields in a file, read without trusting any length."""

import os
import zlib
from typing import BinaryIO

from cellfm.errors import CheckpointError

PIECE = 1 << 20
"""Bytes copied at a time."""
CRC_TAG = b"crc_num"
CRC_BYTES = len(CRC_TAG) + 10
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types; the group types 3 and 4 are obsolete and never written."""

_ENCRYPTED = {0x7F3A5ED8: "AES-GCM", 0x7F3A5ED9: "AES-CBC", 0x7F3A5EDA: "SM4-CBC"}
_MAX_TEXT = 4096  # MindSpore's names have tens of characters; anything longer is damage


class Source:
    """Reads small fields of a file, and never past the end of the message they belong to."""

    def __init__(self, stream: BinaryIO, *, name: str) -> None:
        self.stream = stream
        self.name = name
        self.size = stream.seek(0, os.SEEK_END)
        self.position = self.size

    def go(self, position: int) -> None:
        """Move to a byte of the file."""
        self.position = self.stream.seek(position)

    def damaged(self, what: str) -> CheckpointError:
        """Return the error of a file whose content contradicts itself."""
        return CheckpointError(
            f"{self.name} is damaged or no MindSpore checkpoint: {what} (near byte {self.position} of {self.size}). "
            "Compare its size and checksum with the source and download it again."
        )

    def truncated(self, what: str) -> CheckpointError:
        """Return the error of a file that ends too early."""
        return CheckpointError(
            f"{self.name} is truncated: the file ends after {self.size} bytes, but {what}. Download it again."
        )

    def refuse_other_formats(self) -> None:
        """Recognise empty, encrypted and foreign files by their first bytes."""
        self.go(0)
        head = self.stream.read(min(8, self.size))
        if not head:
            msg = f"{self.name} is empty; expected a MindSpore checkpoint (.ckpt). Get the file again."
            raise CheckpointError(msg)
        cipher = _ENCRYPTED.get(int.from_bytes(head[:4], "little"))
        if cipher is not None:
            msg = (
                f"{self.name} is encrypted ({cipher}). CellFM reads plain checkpoints only: load it in MindSpore with "
                "its key and save it again without enc_key."
            )
            raise CheckpointError(msg)
        if head[0] != (1 << 3 | BYTES):
            kind = (
                "a PyTorch (zip) file" if head[:2] == b"PK" else f"a file that starts with {head!r}"
            )
            msg = f"{self.name} is not a MindSpore checkpoint: found {kind}. Give the .ckpt file of the official weights."
            raise CheckpointError(msg)

    def verified_end(self) -> int:
        """Return where the messages end; the checksum behind them, where there is one, must hold."""
        end = self.size - CRC_BYTES
        if end < 0:
            return self.size
        self.go(end)
        tail = self.stream.read(CRC_BYTES)
        if not tail.startswith(CRC_TAG):
            return self.size
        self.go(0)
        found = 0
        for start in range(0, end, PIECE):
            found = zlib.crc32(self.stream.read(min(PIECE, end - start)), found)
        written = int.from_bytes(tail[len(CRC_TAG) :], "big")
        if found != written:
            msg = (
                f"{self.name} is damaged: its checksum (CRC-32) is {found:#010x}, but {written:#010x} was written at its "
                "end. Download it again."
            )
            raise CheckpointError(msg)
        return end

    def varint(self, end: int) -> int:
        """Read a number of variable length, seven bits a byte."""
        number = 0
        for shift in range(0, 70, 7):
            byte = self.take(1, end, what="a number")[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number & 0xFFFF_FFFF_FFFF_FFFF
        msg = "a number has more than ten bytes"
        raise self.damaged(msg)

    def key(self, end: int) -> tuple[int, int]:
        """Read number and wire type of the next field."""
        key = self.varint(end)
        if key >> 3 == 0:
            msg = "a field has the number 0"
            raise self.damaged(msg)
        return key >> 3, key & 7

    def take(self, n_bytes: int, end: int, *, what: str) -> bytes:
        """Read bytes of the message that ends at `end`."""
        self.require(n_bytes, end, what=what)
        content = self.stream.read(n_bytes)
        if len(content) < n_bytes:
            msg = f"{what} needs {n_bytes - len(content)} more"
            raise self.truncated(msg)
        self.position += n_bytes
        return content

    def require(self, n_bytes: int, end: int, *, what: str) -> None:
        """Refuse a field that is longer than what is left of its message."""
        left = end - self.position
        if n_bytes <= left:
            return
        if self.position + n_bytes > self.size:
            msg = f"{what} at byte {self.position} says it has {n_bytes} bytes"
            raise self.truncated(msg)
        msg = f"{what} says it has {n_bytes} bytes, but only {left} are left in its message"
        raise self.damaged(msg)

    def length(self, end: int, *, what: str) -> int:
        """Read the length of a field and return where the field ends."""
        n_bytes = self.varint(end)
        self.require(n_bytes, end, what=f"the {what}")
        return self.position + n_bytes

    def text(self, end: int, *, what: str) -> str:
        """Read a short UTF-8 text field."""
        stop = self.length(end, what=what)
        if stop - self.position > _MAX_TEXT:
            msg = f"the {what} has {stop - self.position} bytes"
            raise self.damaged(msg)
        content = self.take(stop - self.position, stop, what=what)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            msg = f"the {what} {content[:40]!r} is not valid UTF-8"
            raise self.damaged(msg) from error

    def skip_field(self, wire: int, end: int) -> None:
        """Pass over a field this version of the format does not know."""
        if wire == VARINT:
            self.varint(end)
        elif wire == BYTES:
            self.go(self.length(end, what="unknown field"))
        elif wire in (FIXED64, FIXED32):
            n_bytes = 8 if wire == FIXED64 else 4
            self.require(n_bytes, end, what="an unknown field")
            self.go(self.position + n_bytes)
        else:
            msg = f"a field has the wire type {wire}"
            raise self.damaged(msg)
