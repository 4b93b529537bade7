"""What stands beside a part once it is complete: its size, and the digest of every file."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cellfm.corpus.manifest import read_json, write_json
from cellfm.corpus.part import FORMAT
from cellfm.errors import CellFMError, CorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """What stands beside a part once it is complete.

    Attributes
    ----------
    n_cells, n_values
        Its cells and stored counts.
    content
        Both words of the hash of its set of cells.
    cells
        Cells of each dataset.
    sha256
        Digest of each file.
    """

    n_cells: int
    n_values: int
    content: tuple[int, int]
    cells: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, part: Path) -> "PartRecord":
        """Read the record of a part.

        Raises
        ------
        CorpusError
            It is missing or damaged.
        """
        said = read_json(record_path(part))
        try:
            first, second = said["content"]
            return cls(
                n_cells=said["n_cells"],
                n_values=said["n_values"],
                content=(int(first, 16), int(second, 16)),
                cells=dict(said["cells"]),
                sha256=dict(said["sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{record_path(part)} is damaged ({error!r}). Restore it from a copy or build the corpus again."
            raise CorpusError(msg) from error

    def write(self, part: Path) -> None:
        """Write it beside the part."""
        said = {
            "format": FORMAT,
            "n_cells": self.n_cells,
            "n_values": self.n_values,
            "content": [f"{word:016x}" for word in self.content],
            "cells": dict(sorted(self.cells.items())),
            "sha256": dict(sorted(self.sha256.items())),
        }
        write_json(record_path(part), said)


def record_path(part: Path) -> Path:
    """File of a part's record; it is beside the folder, as zarr warns of files that it does not know."""
    return part.with_suffix(".json")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in words that something cannot be written.

    Raises
    ------
    CorpusError
        The disk is full or must not be written.
    """
    try:
        yield
    except CellFMError:
        raise
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error}). Make room or correct the permission, then run the same command again: what is finished is kept."
        raise CorpusError(msg) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
