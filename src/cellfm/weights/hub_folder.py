"""What a weights folder must be before it may leave this machine or be taken from another."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from cellfm.errors import WeightsError
from cellfm.weights.layout import (
    CONFIG,
    GENES,
    WEIGHTS,
    Description,
    read_description,
    read_vocabulary,
)
from cellfm.weights.names import check_tensors, name_table
from cellfm.weights.seen import SEEN, load_seen
from cellfm.weights.tensors import stored_tensors
from cellfm.weights.whitening import WHITENING, read_whitening

REQUIRED = (GENES, WEIGHTS)
OPTIONAL = (WHITENING, SEEN)
"""Taken from the hub only when ``config.json`` lists them."""
README = "README.md"
"""What the hub calls the card."""
LIST = "files"
"""Section of ``config.json`` on the hub: the SHA-256 of each other file."""


def check_folder(folder: Path) -> dict[str, str]:
    """Read every file of a weights folder as strictly as `cellfm.load` does, without building the network.

    Parameters
    ----------
    folder
        Weights folder.

    Returns
    -------
    The SHA-256 of each file but ``config.json`` and the card.

    Raises
    ------
    WeightsError
        A file is missing or damaged, or they do not belong together.
    """
    description = read_description(folder)
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        msg = f"{folder} is no weights folder: it lacks {' and '.join(missing)}. Expected {CONFIG}, {WEIGHTS} and {GENES}. Check the path."
        raise WeightsError(msg)
    read_vocabulary(folder, description)
    check_stored(folder / WEIGHTS, description)
    there = [name for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()]
    hashes = {name: file_sha256(folder / name) for name in there}
    read_whitening(folder, weights_hash=hashes[WEIGHTS], dim=description.model.dim)
    load_seen(folder)
    return hashes


def check_stored(path: Path, description: Description) -> None:
    """Refuse weights whose tensors are not exactly those of the network described."""
    entries, _ = stored_tensors(path)
    expected = {name.ours: name.shape for name in name_table(description.model)}
    found = {name: entry.shape for name, entry in entries.items()}
    check_tensors(found, expected, source=str(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """Return the files of ours that ``config.json`` lists, with their SHA-256; it has been read before."""
    section = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(LIST, {})
    if not isinstance(section, dict):
        msg = f"{folder / CONFIG} is not a valid description of weights: its section {LIST!r} is no table. Get it from elsewhere."
        raise WeightsError(msg)
    # Names that are not ours are not even looked at: nothing that a stranger lists is ever requested or written.
    return {name: str(section[name]).lower() for name in (*REQUIRED, *OPTIONAL) if name in section}


def with_list(folder: Path, hashes: Mapping[str, str]) -> bytes:
    """Return the ``config.json`` of a folder with the SHA-256 of its files in it."""
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    text = json.dumps(content | {LIST: dict(hashes)}, indent=2, ensure_ascii=False)
    return (text + "\n").encode()
