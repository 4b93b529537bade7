"""Genes found by what is typed, also when that is not quite their name."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from cellfm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

N_SHOWN = 12
"""Names offered."""
NEAR = 0.6
"""Similarity from which a name is near (difflib)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneNames:
    """Names of the genes of a file."""

    shown: tuple[str, ...]
    index: tuple[str, ...]
    number: dict[str, int]
    """Row in var by upper-case name, the first of equal ones."""

    @classmethod
    def of(cls, var: "pd.DataFrame", column: str | None) -> "GeneNames":
        """Read the names.

        Parameters
        ----------
        var
            Table of genes.
        column
            With names, beside the index.
        """
        index = tuple(map(str, var.index))
        shown = index if column is None else tuple(map(str, var[column]))
        number: dict[str, int] = {}
        for names in (shown, index):
            for i, name in enumerate(names):
                number.setdefault(name.upper(), i)
        return cls(shown=shown, index=index, number=number)

    def find(self, name: str) -> int:
        """Return the row of a gene.

        Parameters
        ----------
        name
            In any case; symbol or index.

        Raises
        ------
        DataError
            There is none of that name.
        """
        key = name.strip().upper()
        if key not in self.number:
            near = self.near(name)
            hint = f"Near names: {', '.join(near)}." if near else "No name is near it."
            msg = f"There is no gene {name.strip()!r} among the {len(self.shown):,} of the file. {hint}. Choose a gene of the file."
            raise DataError(msg)
        return self.number[key]

    def near(self, text: str) -> list[str]:
        """Return names to offer: those that begin so, then those that hold it, then similar ones.

        Parameters
        ----------
        text
            What was typed.
        """
        key = text.strip().upper()
        if not key:
            return []
        first = sorted((name for name in self.number if name.startswith(key)), key=_short)
        found = first[:N_SHOWN]
        if len(found) < N_SHOWN:
            inside = (name for name in self.number if key in name and not name.startswith(key))
            found += sorted(inside, key=_short)[: N_SHOWN - len(found)]
        if not found:
            found = get_close_matches(key, self.number, n=N_SHOWN, cutoff=NEAR)
        return self._as_shown(found)

    def _as_shown(self, keys: Sequence[str]) -> list[str]:
        names = [self.shown[self.number[key]] for key in keys]
        return list(dict.fromkeys(names))


def _short(name: str) -> tuple[int, str]:
    return len(name), name
