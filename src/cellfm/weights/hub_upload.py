"""Weights folders to the hub: one commit with the card, the description and the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm import settings
from cellfm.errors import ConfigError, WeightsError
from cellfm.optional import require
from cellfm.weights.hub_errors import explained
from cellfm.weights.hub_folder import README, check_folder, with_list
from cellfm.weights.hub_names import HubName
from cellfm.weights.hub_transfer import token
from cellfm.weights.layout import CARD, CONFIG, WEIGHTS, read_description
from cellfm.weights.official import refuse_to_publish

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TAGS = ("biology", "cellfm", "safetensors", "single-cell", "transcriptomics")
TASK = "feature-extraction"
"""What the hub calls embedding."""
NO_LICENCE = "unknown"
"""What the hub's header says where none was stated."""

_RULE = "---\n"
_USE = """
## Use

```python
import cellfm

model = cellfm.load("hf://{repo_id}")  # says the name with its commit: write that one
```
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What is on the hub now."""

    name: HubName
    """With its commit."""
    sha256: str
    """Of model.safetensors."""
    url: str
    """Its page."""
    licence: str
    """What its header says."""


def upload(
    folder: Path, name: HubName, *, private: bool = False, licence: str | None = None
) -> Uploaded:
    """Put a weights folder on the hub in one commit; the repository is made unless it exists.

    Parameters
    ----------
    folder
        Weights folder. Moments of an optimizer stay here.
    name
        Repository, without a revision.
    private
        Only you and your organisation may see it.
    licence
        Identifier of the terms that you give the weights, such as ``"cc-by-4.0"``; None keeps that of the card's header.

    Raises
    ------
    WeightsError
        The folder is damaged or may not be passed on, or the hub refuses it.
    """
    description = read_description(folder)
    refuse_to_publish(folder, description)
    _check_request(name, licence)
    hashes = check_folder(folder)
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {name.repo}\n"
    readme, stated = hub_card(text, name, licence=licence)
    commit = _commit(folder, name, hashes, readme, private=private)
    pinned = name.at(commit)
    return Uploaded(
        name=pinned,
        sha256=hashes[WEIGHTS],
        url=f"{settings.hub_endpoint()}/{name.repo_id}",
        licence=stated,
    )


def hub_card(text: str, name: HubName, *, licence: str | None = None) -> tuple[str, str]:
    """Return a card with the header that the hub reads, and the licence in it.

    Parameters
    ----------
    text
        The card, with or without such a header; what else the header says stays.
    name
        Repository.
    licence
        None keeps that of the header.
    """
    import yaml

    header, body = _split(text)
    stated = licence or str(header.get("license") or NO_LICENCE)
    tags = header.get("tags")
    own = [str(tag) for tag in tags] if isinstance(tags, list) else []
    header |= {
        "license": stated,
        "library_name": "cellfm",
        "pipeline_tag": header.get("pipeline_tag", TASK),
        "tags": sorted({*own, *TAGS}),
    }
    use = "" if 'cellfm.load("hf://' in body else _USE.format(repo_id=name.repo_id)
    head = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"{_RULE}{head}{_RULE}\n{body.strip()}\n{use}", stated


def _split(text: str) -> tuple[dict[str, object], str]:
    """Part a card from its header, if it has one."""
    import yaml

    text = text.replace("\r\n", "\n")
    if text.startswith(_RULE):
        head, rule, body = text.removeprefix(_RULE).partition("\n" + _RULE)
        try:
            header = yaml.safe_load(head)
        except yaml.YAMLError:
            header = None
        if rule and isinstance(header, dict):
            return header, body
    return {}, text


def _check_request(name: HubName, licence: str | None) -> None:
    if name.revision or name.sha256:
        msg = f"{name} names a state of a repository; an upload makes a new one. Give hf://{name.repo_id}."
        raise WeightsError(msg)
    if licence is not None and not all(
        part.isalnum() for part in licence.replace(".", "-").split("-")
    ):
        msg = f"The licence is {licence!r}; expected an identifier such as 'cc-by-4.0', 'apache-2.0' or 'bsd-3-clause'. Give one (--licence)."
        raise ConfigError(msg)
    if settings.offline():
        msg = f"{name} cannot be uploaded: the network is off (CELLFM_OFFLINE or HF_HUB_OFFLINE is set). Unset it."
        raise WeightsError(msg)
    require("huggingface_hub", extra="hub")
    from huggingface_hub import get_token

    if token() is False:
        msg = (
            f"{settings.hub_endpoint()} gets no token: it is only named by CELLFM_HUB, or has no https. To upload there, set HF_ENDPOINT to its "
            "https address."
        )
        raise WeightsError(msg)
    if get_token() is None:
        msg = "An upload needs a token that may write. Log in with 'hf auth login' (or set HF_TOKEN) and try again."
        raise WeightsError(msg)


def _commit(
    folder: Path, name: HubName, hashes: Mapping[str, str], readme: str, *, private: bool
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    from cellfm._version import __version__

    api = HfApi(
        endpoint=settings.hub_endpoint(), library_name="cellfm", library_version=__version__
    )
    content: dict[str, bytes | str] = {README: readme.encode(), CONFIG: with_list(folder, hashes)}
    content |= {file: str(folder / file) for file in hashes}
    operations = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=data)
        for file, data in content.items()
    ]
    with explained(name, upload=True):
        # None: what the organisation's settings say.
        api.create_repo(name.repo_id, private=private or None, exist_ok=True)
        _refuse_public(api, name, private=private)
        done = api.create_commit(
            name.repo_id,
            operations,
            commit_message=f"Upload weights of cellfm {__version__}",
        )
    return done.oid


def _refuse_public(api: "HfApi", name: HubName, *, private: bool) -> None:
    """Refuse to put what shall be private into a repository that was public before."""
    if private and not api.model_info(name.repo_id).private:
        msg = f"{name.repo_id} exists and is public, and --private does not change that. Nothing was uploaded. Make it private on its page, or give another name."
        raise WeightsError(msg)
