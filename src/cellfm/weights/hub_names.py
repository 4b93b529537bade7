"""Names of weights on the hub: ``hf://org/repo@revision#sha256=…``."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from cellfm.errors import WeightsError

PREFIX = "hf://"

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"hf://(?P<org>{_WORD})/(?P<repo>{_WORD})(?:@(?P<revision>refs/pr/[0-9]{{1,9}}|{_WORD}))?(?:#sha256=(?P<sha256>[0-9a-fA-F]{{64}}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A repository of the hub, and perhaps which state of it and which weights it must hold."""

    org: str
    repo: str
    revision: str | None = None
    """Commit, tag or branch; None is the newest."""
    sha256: str | None = None
    """Of model.safetensors."""

    @property
    def repo_id(self) -> str:
        """What the hub calls the repository."""
        return f"{self.org}/{self.repo}"

    @property
    def commit(self) -> str | None:
        """The revision, when it is a commit and so can never change."""
        return self.revision if self.revision and is_commit(self.revision) else None

    def at(self, commit: str) -> "HubName":
        """Return the name of one commit, whose files are the same for ever."""
        return replace(self, revision=commit, sha256=None)

    def __str__(self) -> str:
        """Write it as the user does."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo_id}{revision}{f'#sha256={self.sha256}' if self.sha256 else ''}"


def is_hub_name(name: str | Path) -> bool:
    """Whether a name means the hub, well written or not."""
    return str(name).lower().startswith("hf:")


def is_commit(text: str) -> bool:
    """Whether a text is the full hash of a commit."""
    return _COMMIT.fullmatch(text) is not None


def parse(name: str | Path, *, sha256: str | None = None) -> HubName:
    """Read a name; what could mean anything else than a repository is refused before anything is requested.

    Parameters
    ----------
    name
        Such as ``"hf://org/repo@revision"``.
    sha256
        Of model.safetensors, as after ``#sha256=``.

    Raises
    ------
    WeightsError
        It is no such name, or two different hashes are given.
    """
    found = _NAME.fullmatch(str(name))
    if found is None or ".." in str(name) or "--" in found["org"] + "/" + found["repo"]:
        raise _refused(name)
    said, asked = found["sha256"], None if sha256 is None else checked_sha256(sha256)
    if said and asked and said.lower() != asked:
        msg = f"{str(name)!r} and sha256 say two different hashes, {said.lower()} and {asked}. Give one of them."
        raise WeightsError(msg)
    return HubName(
        org=found["org"],
        repo=found["repo"],
        revision=found["revision"],
        sha256=said.lower() if said else asked,
    )


def checked_sha256(text: str) -> str:
    """Return a hash in lower case; anything but 64 hexadecimal digits is an error."""
    if _SHA256.fullmatch(text) is None:
        msg = f"sha256 is {text!r}; expected the 64 hexadecimal digits of the SHA-256 of model.safetensors, as 'cellfm weights get' prints it."
        raise WeightsError(msg)
    return text.lower()


def _refused(name: str | Path) -> WeightsError:
    written = " A name on the hub is a text, not a Path." if isinstance(name, Path) else ""
    return WeightsError(
        f"{str(name)!r} is no name of weights on the hub: expected hf://ORG/REPO, hf://ORG/REPO@REVISION (a commit, tag or branch without slashes) or "
        f"either followed by #sha256=…; ORG, REPO and REVISION are letters, digits, '-', '_' and single '.'.{written} Nothing was requested. Correct the name."
    )
