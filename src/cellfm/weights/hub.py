"""Weights from the hub: looked up, downloaded and checked, unless they are in the cache folder."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cellfm import settings
from cellfm.errors import CellFMError, WeightsError
from cellfm.optional import require
from cellfm.weights.hub_cache import (
    Fetched,
    all_cached,
    cached,
    read,
    remember,
    revisions,
    shelf,
    write_receipt,
)
from cellfm.weights.hub_folder import OPTIONAL, README, REQUIRED, check_folder, file_sha256, listed
from cellfm.weights.hub_names import HubName
from cellfm.weights.hub_transfer import RemoteFile, download, look_up
from cellfm.weights.layout import CARD, CONFIG, WEIGHTS, read_description

MOST_BYTES = {CONFIG: 2**20, README: 2**22, "genes.tsv": 2**26}
"""Files of text are never longer than this."""
MOST_TENSORS = 2**40
"""Nor the others than this: a terabyte."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes there are in all."""

_log = logging.getLogger(__name__)


def fetch(name: HubName, *, progress: Progress | None = None, again: bool = False) -> Fetched:
    """Return the folder of weights on the hub, downloaded unless it is here.

    Parameters
    ----------
    name
        From `cellfm.weights.hub_names.parse`.
    progress
        Called while files come.
    again
        Replace a copy that is here.

    Raises
    ------
    WeightsError
        It cannot be had, or is not what was asked for; nothing of it is left in the cache as usable.
    MissingDependencyError
        huggingface_hub is not installed, and it is not here.
    """
    if settings.offline():
        return _checked(_offline(name), name)
    if name.commit and not again and (here := cached(name)) is not None:
        return _checked(here, name)
    require("huggingface_hub", extra="hub")
    with _pointing_to_copies(name):
        config = look_up(name, CONFIG)
    pinned = name.at(config.commit)
    if not again and (here := cached(pinned)) is not None:
        found = _checked(here, name)
    else:
        found = _download(pinned, config, sha256=name.sha256, progress=progress, again=again)
    if name.commit is None:
        remember(name, config.commit)
        _log.warning(
            "%s can mean other weights tomorrow; today it is %s. Write that name to get the same again.",
            name,
            pinned,
        )
    return found


def _checked(here: Fetched, name: HubName) -> Fetched:
    if name.sha256 and here.sha256 != name.sha256:
        raise _wrong_hash(here.name, WEIGHTS, found=here.sha256, expected=name.sha256, by="you")
    return here


def _offline(name: HubName) -> Fetched:
    """Return what is here, without asking anybody."""
    commit = name.commit or revisions(name).get(name.revision or "main")
    here = cached(name.at(commit)) if commit else None
    if here is not None:
        return here
    others = ", ".join(_copies(name))
    msg = (
        f"{name} is not in the cache {settings.cache_dir()}, and the network is off (CELLFM_OFFLINE or HF_HUB_OFFLINE is set). "
        f"{f'Here is {others}. ' if others else ''}Where there is a network, run 'cellfm weights get {name}' and give the path of a copy of the folder "
        "that it prints, or unset the variable."
    )
    raise WeightsError(msg)


@contextmanager
def _pointing_to_copies(name: HubName) -> Iterator[None]:
    """Name the copies that are here when the hub fails: never taken unasked, for they may be older than what was meant."""
    try:
        yield
    except WeightsError as error:
        if copies := _copies(name):
            error.add_note(f"Here is {', '.join(copies)}: that name works without the network.")
        raise


def _copies(name: HubName) -> list[str]:
    return [str(found.name) for found in all_cached() if found.name.repo_id == name.repo_id]


def _download(
    name: HubName,
    config: RemoteFile,
    *,
    sha256: str | None,
    progress: Progress | None,
    again: bool,
) -> Fetched:
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # public, but not in its __all__

    folder = shelf(name) / config.commit
    partial = folder.with_name(f".{config.commit}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes of one job, one downloads and the others wait.
    with WeakFileLock(folder.with_name(f".{config.commit}.lock")):
        if not again and (here := cached(name)) is not None:
            return _checked(here, replace(name, sha256=sha256))
        partial.mkdir(exist_ok=True)
        expected = _fetch_files(name, config, partial, sha256=sha256, progress=progress)
        write_receipt(partial, name, _hashes(name, partial, expected))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return read(folder)


def _fetch_files(
    name: HubName,
    config: RemoteFile,
    partial: Path,
    *,
    sha256: str | None,
    progress: Progress | None,
) -> dict[str, tuple[str, str]]:
    """Fetch the files of the fixed list, and return the hashes that they must have, each with who says so."""
    _get(name, config, partial / CONFIG, _Meter([config], None))
    with _whole_or_gone(name, partial):
        read_description(partial)
        said = listed(partial)
    wanted = [*REQUIRED, *(file for file in OPTIONAL if file in said)]
    remotes = [look_up(name, file) for file in wanted]
    readme = _card(name)
    expected = _expected(name, said, remotes, sha256)
    meter = _Meter([config, *remotes, *readme], progress)
    meter(config.n_bytes or 0)
    for remote in remotes:
        _get(name, remote, partial / remote.name, meter)
    for remote in readme:
        _get(name, remote, partial / CARD, meter)
    return expected


def _get(name: HubName, remote: RemoteFile, path: Path, meter: "_Meter") -> None:
    most = MOST_BYTES.get(remote.name, MOST_TENSORS)
    if remote.n_bytes is not None and remote.n_bytes > most:
        msg = f"{remote.name} of {name} is {remote.n_bytes:,} bytes long; expected at most {most:,}. These are no weights of this package: nothing is downloaded. Check the name."
        raise WeightsError(msg)
    if path.is_file() and path.stat().st_size == remote.n_bytes:
        meter(
            path.stat().st_size
        )  # of an earlier attempt; its hash is checked like that of the others
        return
    download(name, remote, path, meter, most=most, own_bar=meter.unwatched)


def _card(name: HubName) -> list[RemoteFile]:
    """Return the card, which weights can do without."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return [look_up(name, README)]
    except WeightsError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return []
        raise


def _expected(
    name: HubName, said: Mapping[str, str], remotes: list[RemoteFile], sha256: str | None
) -> dict[str, tuple[str, str]]:
    """Return what the user, config.json or the hub say a file's hash is; before anything large is fetched they must agree."""
    expected: dict[str, tuple[str, str]] = {}
    claims = [(WEIGHTS, sha256, "you")]
    claims += [(file, value, CONFIG) for file, value in said.items()]
    claims += [(remote.name, remote.sha256, "the hub") for remote in remotes]
    for file, value, by in claims:
        if value is None:
            continue
        first, who = expected.setdefault(file, (value, by))
        if first != value:
            raise _wrong_hash(name, file, found=f"{value} (says {by})", expected=first, by=who)
    return expected


def _hashes(
    name: HubName, partial: Path, expected: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Check what has come, and return the hash of each file; what is wrong is deleted."""
    for file, (value, by) in expected.items():
        found = file_sha256(partial / file)
        if found != value:
            (partial / file).unlink()
            raise _wrong_hash(name, file, found=found, expected=value, by=by)
    with _whole_or_gone(name, partial):
        return check_folder(partial)


def _wrong_hash(name: HubName, file: str, *, found: str, expected: str, by: str) -> WeightsError:
    return WeightsError(
        f"{file} of {name} is not what it should be: its SHA-256 is {found}, expected {expected} (says {by}). It is not used. "
        "Try again; if it stays so, the hash or the commit in the name is wrong, or the repository or mirror is not to be trusted."
    )


@contextmanager
def _whole_or_gone(name: HubName, partial: Path) -> Iterator[None]:
    """Delete a download whose files came as they are on the hub but are no weights: going on with it would never help."""
    try:
        yield
    except CellFMError as error:
        shutil.rmtree(partial, ignore_errors=True)
        what = str(error).replace(str(partial), str(name))
        msg = f"{name} holds no usable weights. {what} What came was deleted; tell the owners of the repository, or use another commit."
        raise WeightsError(msg) from error


class _Meter:
    """Adds up what has come of some files."""

    def __init__(self, files: list[RemoteFile], progress: Progress | None) -> None:
        self._done, self._total = 0, sum(file.n_bytes or 0 for file in files)
        self._progress = progress
        # A call from Python or another command: the download must not look like a program that hangs.
        self.unwatched = progress is None and settings.progress_bars.get() and sys.stderr.isatty()

    def __call__(self, n_bytes: int) -> None:
        self._done = min(self._done + n_bytes, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)
