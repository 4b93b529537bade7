"""Where files are kept on this machine: nothing here changes a result."""

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for weights and other files that can be fetched or made again.

    The environment variable ``CELLFM_CACHE`` wins over the platform's default.
    """
    chosen = os.environ.get("CELLFM_CACHE")  # noqa: TID251 - settings is the one place that asks
    return Path(chosen).expanduser() if chosen else _platform_cache() / "cellfm"


def _platform_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    value = os.environ.get(variable)  # noqa: TID251 - settings is the one place that asks
    return Path(value) if value else Path.home() / ".cache"
