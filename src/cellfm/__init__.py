"""CellFM: a single-cell foundation model, independently implemented.

``cellfm.load`` reads weights, ``cellfm.tl`` works on AnnData, ``cellfm.pp`` checks input, ``cellfm.pl`` draws.
Importing this package loads neither torch nor anndata; its parts are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cellfm._version import __version__

if TYPE_CHECKING:
    from cellfm import pl, pp, tl
    from cellfm.weights.folder import Pretrained, load

__all__ = ["Pretrained", "__version__", "load", "pl", "pp", "tl"]

_ROOMS = ("pl", "pp", "tl")
_NAMES = {"load": "cellfm.weights.folder", "Pretrained": "cellfm.weights.folder"}


def __getattr__(name: str) -> object:
    """Load a room or a name on first use (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"cellfm.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    msg = f"module 'cellfm' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
