"""Which reader reads a source."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.metadata import check_known
from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.h5ad import H5adReader
from cellfm.corpus.readers.table import TableReader
from cellfm.corpus.readers.tenx_h5 import TenxH5Reader
from cellfm.corpus.readers.tenx_mtx import TenxMtxReader
from cellfm.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from cellfm.corpus.readers.reader import Reader

ENTRY_POINTS = "cellfm.readers"
"""Group of entry points under which other packages offer readers: each is a class, made without arguments."""

_OURS: "tuple[Reader, ...]" = (H5adReader(), TenxH5Reader(), TenxMtxReader(), TableReader())
_registered: "dict[str, Reader]" = {}


def register(reader: "Reader") -> None:
    """Add a reader to this process; it is asked before ours.

    Builds with several processes find readers only by an entry point of the group ``cellfm.readers``.

    Raises
    ------
    ConfigError
        There is another reader of that name.
    """
    if reader.name in {ours.name for ours in _OURS} or (
        _registered.get(reader.name, reader) is not reader
    ):
        msg = f"There is a reader named {reader.name!r} already; give this one another name."
        raise ConfigError(msg)
    _registered[reader.name] = reader


def readers() -> "tuple[Reader, ...]":
    """All readers in the order in which they are asked: registered, of other packages, ours."""
    offered = [point.load()() for point in sorted(entry_points(group=ENTRY_POINTS))]
    return (*_registered.values(), *offered, *_OURS)


def check_format(name: str, where: str) -> None:
    """Refuse a format that no reader has.

    Raises
    ------
    ConfigError
        There is no such format.
    """
    check_known([name], [reader.name for reader in readers()], f"{where}: there is no format")


def find_reader(path: Path, format_name: str | None = None) -> "Reader":
    """Return the reader of a source.

    Raises
    ------
    SourceError
        No reader knows it, or there is nothing.
    ConfigError
        There is no such format.
    """
    if format_name is not None:
        check_format(format_name, str(path))
        return next(reader for reader in readers() if reader.name == format_name)
    with reading(path):
        reader = accepting_reader(path)
    if reader is None:
        names = ", ".join(reader.name for reader in readers())
        msg = f"{path} is of no known format; expected one of {names}. Name the format in the list of sources, or register a reader."
        raise SourceError(msg)
    return reader


def accepting_reader(path: Path) -> "Reader | None":
    """Return the first reader that accepts a path, if any does."""
    return next((reader for reader in readers() if reader.accepts(path)), None)
