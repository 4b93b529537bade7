"""Where files are kept on this machine and where they come from: nothing here changes a result."""

import os
import sys
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from cellfm.errors import ConfigError

HUB = "https://huggingface.co"
"""Where names that begin with hf:// are looked up."""

progress_bars: ContextVar[bool] = ContextVar("progress_bars", default=True)
"""Whether a download that nobody else watches may draw a bar on the terminal."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def cache_dir() -> Path:
    """Return the folder for weights and other files that can be fetched or made again.

    The environment variable ``CELLFM_CACHE`` wins over the platform's default.
    """
    chosen = _variable("CELLFM_CACHE")
    return Path(chosen).expanduser() if chosen else _platform_cache() / "cellfm"


def hub_endpoint() -> str:
    """Return the address of the hub, without a slash at its end.

    ``CELLFM_HUB`` names a mirror for CellFM alone, ``HF_ENDPOINT`` one for all programs that use the hub's library.

    Raises
    ------
    ConfigError
        It is no address of a server.
    """
    name = "CELLFM_HUB" if _variable("CELLFM_HUB") else "HF_ENDPOINT"
    address = (_variable(name) or HUB).rstrip("/")
    parts = urlsplit(address)
    # A user name or password in it would end up in messages and in what is recorded of the weights.
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc:
        msg = (
            f"The environment variable {name} is no address of a hub: expected https://HOST without a user name or password. "
            f"Correct it, or remove it to use {HUB}."
        )
        raise ConfigError(msg)
    return address


def hub_takes_token() -> bool:
    """Whether the user's token may go to the hub: the hub itself, or a mirror that ``HF_ENDPOINT`` names, and never unencrypted.

    A mirror that only ``CELLFM_HUB`` names gets none.
    """
    address = hub_endpoint()
    known = address in (HUB, (_variable("HF_ENDPOINT") or HUB).rstrip("/"))
    parts = urlsplit(address)
    return known and (parts.scheme == "https" or parts.hostname in _LOOPBACK)


def offline() -> bool:
    """Whether nothing may be requested from the network: ``CELLFM_OFFLINE`` or ``HF_HUB_OFFLINE`` is 1, true, yes or on."""
    said = (_variable(name).lower() for name in ("CELLFM_OFFLINE", "HF_HUB_OFFLINE"))
    return any(word in ("1", "true", "yes", "on") for word in said)


def _platform_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    value = _variable("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(value) if value else Path.home() / ".cache"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()  # noqa: TID251 - settings is the one place that asks
