"""``corpus.json``: what a corpus holds and where it came from; a store exists once it is written."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellfm.errors import CorpusError

FORMAT = 1
MANIFEST = "corpus.json"
GENES = "genes.tsv"
REPORT = "report.json"
REPORTS = "reports"
CELLS = "cells"

RuleValue = bool | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A source that is in the corpus.

    Attributes
    ----------
    name
        Its name, which is the dataset of its cells.
    path
        Where it was read.
    sha256, n_bytes
        Of the file, or of a folder's files.
    format
        Name of the reader.
    licence, url
        What the user says of it; empty if nothing.
    n_cells
        Its cells in the corpus, duplicates left out.
    """

    name: str
    path: str
    sha256: str
    n_bytes: int
    format: str
    licence: str
    url: str
    n_cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A source that is not in the corpus, and why."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEntry:
    """A part of the corpus.

    Attributes
    ----------
    path
        Folder of the part in the store.
    segment
        0 for what was built, then one for each addition; the cells of a segment ascend from part to part.
    n_cells, n_values
        Its cells and stored counts.
    sha256
        Of the part's list of checksums.
    """

    path: str
    segment: int
    n_cells: int
    n_values: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that ``corpus.json`` says.

    Attributes
    ----------
    cellfm
        Version of the package that wrote it.
    vocabulary, n_genes
        Hash and size of the gene list.
    content
        Hash of the set of cells, whatever their order and the parts they are in.
    rules
        Rules of curation, by name.
    datasets, set_aside
        Sources in the corpus and sources that are not, by name.
    parts
        Where the cells are.
    """

    cellfm: str
    vocabulary: str
    n_genes: int
    content: str
    rules: Mapping[str, RuleValue]
    datasets: tuple[Dataset, ...]
    set_aside: tuple[SetAside, ...]
    parts: tuple[PartEntry, ...]

    @property
    def n_cells(self) -> int:
        """Cells in the corpus."""
        return sum(part.n_cells for part in self.parts)

    @property
    def n_values(self) -> int:
        """Stored counts."""
        return sum(part.n_values for part in self.parts)

    @property
    def hash(self) -> str:
        """SHA-256 of all that makes the corpus what it is; no path, time or version is in it."""
        said = {
            "vocabulary": self.vocabulary,
            "rules": dict(self.rules),
            "datasets": [[d.name, d.sha256, d.licence, d.n_cells] for d in self.datasets],
            "content": self.content,
            "parts": [[part.path, part.sha256] for part in self.parts],
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, object]:
        """Return what is written."""
        return {
            "format": FORMAT,
            "cellfm": self.cellfm,
            "hash": self.hash,
            "content": self.content,
            "vocabulary": self.vocabulary,
            "n_genes": self.n_genes,
            "n_cells": self.n_cells,
            "n_values": self.n_values,
            "rules": dict(self.rules),
            "datasets": [asdict(dataset) for dataset in self.datasets],
            "set_aside": [asdict(source) for source in self.set_aside],
            "parts": [asdict(part) for part in self.parts],
        }

    def write(self, store: Path) -> None:
        """Write it into a store, in one step."""
        write_json(store / MANIFEST, self.to_dict())

    @classmethod
    def read(cls, store: Path) -> "Manifest":
        """Read it from a store.

        Raises
        ------
        CorpusError
            There is none, or it is damaged, changed or of another format.
        """
        path = store / MANIFEST
        if not path.is_file():
            hint = (
                "a build that was not finished; run it again"
                if partial_of(store).exists()
                else "no corpus"
            )
            msg = f"{store} holds no {MANIFEST}, so it is {hint}. Give the folder that `cellfm corpus build` made."
            raise CorpusError(msg)
        said = read_json(path)
        if said.get("format") != FORMAT:
            msg = f"{path} is of format {said.get('format')!r}; this version reads format {FORMAT}. Install the version of cellfm that wrote it ({said.get('cellfm')})."
            raise CorpusError(msg)
        try:
            manifest = cls(
                cellfm=said["cellfm"],
                vocabulary=said["vocabulary"],
                n_genes=said["n_genes"],
                content=said["content"],
                rules=dict(said["rules"]),
                datasets=tuple(Dataset(**dataset) for dataset in said["datasets"]),
                set_aside=tuple(SetAside(**source) for source in said["set_aside"]),
                parts=tuple(PartEntry(**part) for part in said["parts"]),
            )
            same = (said["hash"], said["n_cells"]) == (manifest.hash, manifest.n_cells)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{path} lacks or misnames something ({error}); it was changed. Restore it from a copy or build the corpus again."
            raise CorpusError(msg) from error
        if not same:
            msg = f"{path} does not agree with its own hash; it was changed by hand. Restore it from a copy or build the corpus again."
            raise CorpusError(msg)
        return manifest


def partial_of(store: Path) -> Path:
    """Folder in which a store is built before it is put in its place."""
    return store.with_name(f"{store.name}.partial")


def write_json(path: Path, said: object) -> None:
    """Write JSON in one step; it is on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            json.dump(said, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a corpus.

    Raises
    ------
    CorpusError
        It is missing, damaged or no object.
    """
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}). Restore it from a copy or build the corpus again."
        raise CorpusError(msg) from error
    if not isinstance(said, dict):
        msg = f"{path} holds a {type(said).__name__}; expected named values. Restore it from a copy or build the corpus again."
        raise CorpusError(msg)
    return said
