"""Count files of any format, opened to the same thing."""

from cellfm.corpus.readers.reader import GeneFinder, OpenedSource, Reader
from cellfm.corpus.readers.registry import find_reader, readers, register

__all__ = ["GeneFinder", "OpenedSource", "Reader", "find_reader", "readers", "register"]
