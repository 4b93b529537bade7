"""Text files that may be gzipped."""

import gzip
import zlib
from pathlib import Path

from cellfm.errors import DataError


def read_text(path: Path, what: str) -> str:
    """Read a file, plain or gzipped.

    Parameters
    ----------
    path
        Of the file.
    what
        What was expected, for messages, such as ``"an ontology in OBO form"``.

    Raises
    ------
    DataError
        There is no such file, or it is no text.
    """
    if not path.is_file():
        msg = f"There is no file {path}; expected {what}. Check the path."
        raise DataError(msg)
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as text ({error}). Give {what}, plain or gzipped."
        raise DataError(msg) from error
