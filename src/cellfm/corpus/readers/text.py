"""Text files, gzipped or not."""

import gzip
from pathlib import Path
from typing import IO

GZIP_MAGIC = b"\x1f\x8b"


def is_gzipped(path: Path) -> bool:
    """Whether the content, not the name, says gzip."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def open_text(path: Path) -> IO[str]:
    """Open as UTF-8, with or without byte-order mark."""
    if is_gzipped(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def plain_name(path: Path) -> str:
    """Name of the file in lower case, without ``.gz``."""
    return path.name.lower().removesuffix(".gz")
