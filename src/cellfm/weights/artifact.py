"""Fitted things on disk: a description in JSON beside tensors in safetensors, and a hash that ties them together."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellfm.errors import WeightsError
from cellfm.weights.atomic import refuse_existing, replacing_folder

DESCRIPTION, TENSORS = "artifact.json", "tensors.safetensors"
FORMAT = 1
RESERVED = ("format", "kind", "tensors_sha256")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Artifact:
    """What a folder holds."""

    description: Mapping[str, object]
    """The JSON that was given, without format, kind and hash."""
    tensors: Mapping[str, Tensor]
    """On the CPU, in the types they were stored in."""


def save_artifact(
    folder: str | Path,
    description: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    overwrite: bool = False,
) -> str:
    """Write an artifact folder, complete or not at all, and return the SHA-256 of its tensors.

    Parameters
    ----------
    folder
        Folder to make.
    description
        What JSON can hold, and enough to know what the tensors are. NaN and infinity are not JSON.
    tensors
        Of any type and device; they are stored as they are.
    kind
        What sort of thing this is, such as ``"annotator"``; `load_artifact` asks for the same.
    overwrite
        Replace an existing artifact folder; any other folder is never replaced.

    Raises
    ------
    OutputExistsError
        The folder exists, and `overwrite` is false or it is no artifact.
    WeightsError
        The description is no JSON, or has one of the keys format, kind, tensors_sha256.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite=overwrite)
    taken = sorted(set(RESERVED) & set(description))
    if taken:
        msg = f"The description of the artifact {folder} has the keys {', '.join(taken)}, which the format itself uses; rename them."
        raise WeightsError(msg)
    _encoded(description, folder)  # refused before anything is written
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing_folder(folder, marker=DESCRIPTION) as new:
        save_file(stored, new / TENSORS)
        digest = _digest(new / TENSORS)
        head = {"format": FORMAT, "kind": kind, "tensors_sha256": digest}
        text = _encoded({**head, **description}, folder)
        (new / DESCRIPTION).write_text(text, encoding="utf-8")
        # safetensors lets nobody but the owner read what it writes; the two files belong together.
        (new / TENSORS).chmod((new / DESCRIPTION).stat().st_mode)
    return digest


def load_artifact(folder: str | Path, *, kind: str) -> Artifact:
    """Read an artifact folder.

    Parameters
    ----------
    folder
        Folder of `save_artifact`.
    kind
        What it must be.

    Raises
    ------
    WeightsError
        It is no artifact folder, of another kind or format, or its files are damaged or do not belong together.
    """
    folder = Path(folder)
    description = _read_description(folder)
    found = description["kind"]
    if found != kind:
        msg = f"{folder} holds an artifact of kind {found!r}, not {kind!r}. Give the folder of a {kind}, or use the function that made this one."
        raise WeightsError(msg)
    path = folder / TENSORS
    if not path.is_file():
        msg = f"{folder} has no {TENSORS}; an artifact is {DESCRIPTION} and {TENSORS} together. Copy the whole folder again."
        raise WeightsError(msg)
    digest = _digest(path)
    if digest != description["tensors_sha256"]:
        msg = (
            f"{path} has the SHA-256 {digest}, but {DESCRIPTION} says {description['tensors_sha256']}. It is damaged or "
            "belongs to another artifact: make or copy the folder again."
        )
        raise WeightsError(msg)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        msg = (
            f"{path} cannot be read as a safetensors file ({error}). Make or copy the folder again."
        )
        raise WeightsError(msg) from error
    own = {name: value for name, value in description.items() if name not in RESERVED}
    return Artifact(description=own, tensors=tensors)


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names.

    Parameters
    ----------
    tensors
        By name.
    prefix
        Begin of a name.

    Raises
    ------
    WeightsError
        There is none.
    """
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if not found:
        msg = f"The artifact has no tensor {prefix}…; it is damaged or was written by another version. Make it again."
        raise WeightsError(msg)
    return found


def _read_description(folder: Path) -> dict[str, object]:
    """Read the JSON; it has every reserved key and a format that is known."""
    path = folder / DESCRIPTION
    if not path.is_file():
        msg = f"There is no artifact at {str(folder)!r}: {path} does not exist. Give a folder that holds {DESCRIPTION} and {TENSORS}."
        raise WeightsError(msg)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is no JSON ({error}). It is damaged: make or copy the folder again."
        raise WeightsError(msg) from error
    missing = (
        [name for name in RESERVED if name not in description]
        if isinstance(description, dict)
        else RESERVED
    )
    if missing:
        msg = f"{path} lacks {', '.join(missing)}; it was not written by cellfm or is damaged. Make or copy the folder again."
        raise WeightsError(msg)
    if description["format"] != FORMAT:
        msg = f"{path} has format {description['format']!r}; this version of cellfm reads format {FORMAT}. Use the version that wrote it, or make it again."
        raise WeightsError(msg)
    return description


def _encoded(description: Mapping[str, object], folder: Path) -> str:
    try:
        return json.dumps(dict(description), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        msg = f"The description of the artifact {folder} is no JSON ({error}). Give plain text, finite numbers, lists and mappings of these."
        raise WeightsError(msg) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
