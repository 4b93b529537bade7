"""Copies of weights from the hub in the cache folder.

A repository is ``hub/ORG--REPO/`` below the cache folder, and each commit of it a folder that is there complete and checked or not at all::

    hub/ORG--REPO/<commit>/         config.json, genes.tsv, model.safetensors, card.md, …, hub.json (what came, and its hashes)
                  .<commit>.partial/  an interrupted download, which the same command goes on with
                  revisions.json    which commit a branch or tag was when it was last looked up, for use offline
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellfm import settings
from cellfm.errors import WeightsError
from cellfm.weights.atomic import replacing
from cellfm.weights.hub_names import HubName, is_commit, parse
from cellfm.weights.layout import WEIGHTS

RECEIPT = "hub.json"
FORMAT = 1

_REVISIONS = "revisions.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A weights folder that came from the hub."""

    path: Path
    name: HubName
    """With its commit: means the same files for ever."""
    sha256: str
    """Of model.safetensors."""
    endpoint: str
    """Where it came from."""


def cached(name: HubName) -> Fetched | None:
    """Return the folder of a name with a commit, if it is here.

    Parameters
    ----------
    name
        With a commit.
    """
    folder = shelf(name) / str(name.commit)
    return read(folder) if folder.is_dir() else None


def all_cached() -> list[Fetched]:
    """Return what is here from the hub, by name; a damaged copy is left out and logged."""
    found = []
    for receipt in (settings.cache_dir() / "hub").glob(f"*--*/*/{RECEIPT}"):
        if not is_commit(receipt.parent.name):
            continue  # a download that is not complete
        try:
            found.append(read(receipt.parent))
        except WeightsError as error:
            _log.warning("%s", error)
    return sorted(found, key=lambda fetched: str(fetched.name))


def write_receipt(folder: Path, name: HubName, hashes: Mapping[str, str]) -> None:
    """Write beside the files what they are.

    Parameters
    ----------
    folder
        Where they are.
    name
        With a commit.
    hashes
        SHA-256 of the files.
    """
    receipt = {
        "format": FORMAT,
        "name": str(name),
        "endpoint": settings.hub_endpoint(),
        "sha256": dict(hashes),
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def shelf(name: HubName) -> Path:
    """Return the folder of a repository."""
    # No name has "--" in it, so two repositories never share a folder.
    return settings.cache_dir() / "hub" / f"{name.org}--{name.repo}"


def read(folder: Path) -> Fetched:
    """Read the receipt of a folder."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        name = parse(receipt["name"])
        fetched = Fetched(
            path=folder,
            name=name,
            sha256=str(receipt["sha256"][WEIGHTS]),
            endpoint=str(receipt["endpoint"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"The copy of weights from the hub in {folder} is damaged ({type(error).__name__} in {RECEIPT}). Delete that folder and get the weights again."
        raise WeightsError(msg) from error
    if (shelf(name) / str(name.commit)) != folder or receipt.get("format") != FORMAT:
        msg = f"{folder} holds {name} in format {receipt.get('format')!r}, expected what its own name says in format {FORMAT}. Delete that folder and get the weights again."
        raise WeightsError(msg)
    return fetched


def revisions(name: HubName) -> dict[str, str]:
    """Return the commits that branches and tags were when they were last looked up."""
    try:
        content = json.loads((shelf(name) / _REVISIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(key): commit for key, commit in content.items() if is_commit(str(commit))}


def remember(name: HubName, commit: str) -> None:
    """Keep which commit a branch or tag is now."""
    known = revisions(name) | {name.revision or "main": commit}
    with replacing(shelf(name) / _REVISIONS) as temporary:
        temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
