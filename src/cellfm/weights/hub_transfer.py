"""Single files from the hub: what it says of them, and their bytes, going on where an interrupted download stopped."""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cellfm import settings
from cellfm._version import __version__
from cellfm.errors import WeightsError
from cellfm.weights.hub_errors import explained
from cellfm.weights.hub_names import HubName, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

Progress = Callable[[int], None]
"""Told the number of bytes that have just come; negative when some have to come again."""

INCOMPLETE = ".incomplete"

_BUSY = (408, 429, 500, 502, 503, 504)  # worth asking again
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository as the hub describes it."""

    name: str
    commit: str
    n_bytes: int | None
    """None where the hub does not say."""
    sha256: str | None
    """None where the hub does not say; it does for large files."""


def look_up(name: HubName, file: str) -> RemoteFile:
    """Ask the hub about a file.

    Parameters
    ----------
    name
        Repository and revision.
    file
        Its name there.

    Raises
    ------
    WeightsError
        There is no such repository, revision or file, it may not be read, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_url

    endpoint = settings.hub_endpoint()
    revision = name.revision or "main"
    with explained(name, file):
        url = hf_hub_url(name.repo_id, file, revision=revision, endpoint=endpoint)
        said = _metadata(url, endpoint)
    if said.commit_hash is None or not is_commit(said.commit_hash):
        msg = (
            f"{endpoint} does not answer as a hub does: for {file} of {name} it gave the commit {said.commit_hash!r}, expected 40 hexadecimal digits. "
            "Check CELLFM_HUB and HF_ENDPOINT, or the proxy in between."
        )
        raise WeightsError(msg)
    if name.commit and said.commit_hash != name.commit:
        msg = f"{endpoint} gave {file} of commit {said.commit_hash}, expected that of {name}. Use another mirror, or none."
        raise WeightsError(msg)
    return RemoteFile(
        name=file,
        commit=said.commit_hash,
        n_bytes=said.size,
        sha256=_sha256_of(said.etag),
    )


def download(
    name: HubName,
    remote: RemoteFile,
    path: Path,
    progress: Progress,
    *,
    most: int,
    own_bar: bool = False,
) -> None:
    """Fetch a file; what an earlier attempt left beside `path` is not fetched again.

    Parameters
    ----------
    name
        Repository, at the commit of `remote`.
    remote
        The file.
    path
        Where to put it, complete or not at all.
    progress
        Told what has come.
    most
        Take no more bytes, whatever the hub says or sends.
    own_bar
        Let the library draw its bar instead.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    endpoint = settings.hub_endpoint()
    part = path.with_name(path.name + INCOMPLETE)
    part.touch()
    n_there = part.stat().st_size
    if remote.n_bytes is None or n_there > remote.n_bytes:
        n_there = 0
        part.write_bytes(b"")
    _need_space(part, (remote.n_bytes or 0) - n_there)
    progress(n_there)
    limit = min(most, most if remote.n_bytes is None else remote.n_bytes)
    # `hf_hub_download` of huggingface_hub 2 begins anew after a process was ended; this function of the same library goes on.
    with explained(name, remote.name, part), _Bounded(part, limit) as stream:
        stream.seek(n_there)
        http_get(
            hf_hub_url(name.repo_id, remote.name, revision=remote.commit, endpoint=endpoint),
            stream,
            resume_size=n_there,
            headers=_headers() | {"Accept-Encoding": "identity"},
            expected_size=remote.n_bytes,
            displayed_filename=remote.name,
            tqdm_class=None if own_bar else _reporting(progress),
        )
    part.replace(path)


def token() -> bool | None:
    """Return what the library takes for "the user's own token" (None) or "no token" (False)."""
    return None if settings.hub_takes_token() else False


def _metadata(url: str, endpoint: str) -> "HfFileMetadata":
    from huggingface_hub import constants, errors, get_hf_file_metadata

    def ask(*, again: bool) -> "HfFileMetadata":
        return get_hf_file_metadata(
            url,
            token=token(),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            library_name="cellfm",
            library_version=__version__,
            endpoint=endpoint,
            retry_on_errors=again,
        )

    try:
        return ask(again=False)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in _BUSY:
            raise
    return ask(again=True)


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, but not in its __all__

    return build_hf_headers(token=token(), library_name="cellfm", library_version=__version__)


def _sha256_of(etag: str | None) -> str | None:
    """Return the hash that the hub takes as the tag of a large file; those of small files are others."""
    tag = (etag or "").lower()
    is_hash = len(tag) == _SHA256_DIGITS and not set(tag) - set("0123456789abcdef")
    return tag if is_hash else None


def _need_space(part: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if n_bytes > free:
        msg = (
            f"The download needs {n_bytes:,} bytes more, but the disk of {part.parent} has {free:,} free. Make room, or set CELLFM_CACHE to a folder on "
            "another disk."
        )
        raise WeightsError(msg)


class _Bounded(io.BufferedRandom):
    """A file that takes no more bytes than were announced."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path, "r+"))
        self._file, self._limit = path.name.removesuffix(INCOMPLETE), limit

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.tell() + len(data) > self._limit:
            msg = f"The hub sends more than the {self._limit:,} bytes that {self._file} may have. Nothing of it is used; try again, or another mirror."
            self.seek(0)
            self.truncate()
            raise WeightsError(msg)
        return super().write(data)


def _reporting(progress: Progress) -> type:
    """Return a class that the library takes for a tqdm bar."""

    class Bar:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            progress(int(n or 0))

        def close(self) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            pass

    return Bar
