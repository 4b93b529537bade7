"""What was found, for machines."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from cellfm.genes import GeneReport


def fit_for_json(found: object) -> object:
    """Return dataclasses as objects, paths as text, and numbers that are none as null.

    Parameters
    ----------
    found
        A dataclass of this room, or a part of one.
    """
    if isinstance(found, GeneReport):
        found = found.to_dict()
    elif is_dataclass(found):
        found = {each.name: getattr(found, each.name) for each in fields(found)}
    if isinstance(found, Mapping):
        return {str(key): fit_for_json(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [fit_for_json(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return str(found) if isinstance(found, Path) else found
