"""What is found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    Attributes
    ----------
    topic
        What it is about, in a word or two.
    level
        A note is worth knowing; with a problem something will not work.
    text
        What was found, with its evidence.
    todo
        What to do; problems always say.
    """

    topic: str
    level: Level = "ok"
    text: str
    todo: str = ""


def size_text(n_bytes: float) -> str:
    """Return a number of bytes for people.

    Parameters
    ----------
    n_bytes
        At least 0.
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def duration_text(seconds: float) -> str:
    """Return a time for people.

    Parameters
    ----------
    seconds
        At least 0.
    """
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
