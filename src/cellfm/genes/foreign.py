"""Gene lists of other programs: which column holds the symbols."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

from cellfm.errors import VocabularyError

GZIP_MAGIC = b"\x1f\x8b"
NAMES = ("hgnc_gene", "symbol")


def read_symbols(path: Path, *, is_gene: Callable[[str], bool]) -> list[str]:
    """Read the symbols of a comma- or tab-separated file in the order of its rows.

    Parameters
    ----------
    path
        The file, maybe gzipped.
    is_gene
        Tells whether a name is a gene's; a first row whose first field is one is no header.
    """
    text = _read_text(path)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    if not rows:
        msg = f"The gene list {path} is empty; one gene a line was expected. Check the path."
        raise VocabularyError(msg)
    header = [name.strip().casefold() for name in rows[0]]
    column = next((header.index(name) for name in NAMES if name in header), 0)
    has_header = header[column] in NAMES or not is_gene(rows[0][0].strip())
    body = rows[1:] if has_header else rows
    symbols = [row[column].strip() if column < len(row) else "" for row in body]
    if symbols and all(symbol.isdigit() for symbol in symbols):
        msg = (
            f"The first column of {path} holds numbers ({', '.join(symbols[:3])}, …), no symbols; "
            f"its columns are {', '.join(rows[0])}. Name the column of symbols HGNC_gene."
        )
        raise VocabularyError(msg)
    return symbols


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        msg = f"The gene list {path} cannot be read: {error}. A csv or tsv file was expected. Check the file, or get it again."
        raise VocabularyError(msg) from error
