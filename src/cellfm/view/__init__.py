"""A page to look at cells: a server on this machine only, and what it shows."""

from cellfm.view.options import ViewOptions
from cellfm.view.server import serve

__all__ = ["ViewOptions", "serve"]
