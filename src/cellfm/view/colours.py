"""Values that cells are coloured by, as the page reads them."""

import colorsys
import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.view.cells import Cells

MOST_GROUPS = 100
"""Groups that get a colour of their own; the smallest others are one."""
NONE = 0xFFFF
"""Code of a cell without a group."""
GREY = "#c3c9cf"
UNKNOWN = "unknown"
"""What `cellfm annotate` calls cells that fit no type."""
TEN = (
    "#1f77b4 #ff7f0e #2ca02c #d62728 #9467bd #8c564b #e377c2 #bcbd22 #17becf #4b5563".split()  # noqa: SIM905
)
_HEX = re.compile(r"#[0-9a-fA-F]{6}")

Kind = Literal["groups", "numbers"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coloured:
    """One value a cell, with what the legend says."""

    name: str
    kind: Kind
    values: "NDArray[np.uint16] | NDArray[np.float32]"
    """Number of the group, or the number itself; NaN for none."""
    groups: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    n_missing: int = 0
    note: str = ""

    def framed(self) -> bytes:
        """Return the legend as JSON and the values behind it: length, text filled up to four bytes, values."""
        legend = {
            "name": self.name,
            "kind": self.kind,
            "groups": self.groups,
            "colours": self.colours,
            "counts": self.counts,
            "missing": self.n_missing,
            "note": self.note,
        }
        return framed(legend, self.values)


def framed(text: dict[str, Any], values: "NDArray[Any]") -> bytes:
    """Return JSON and an array in one piece.

    Parameters
    ----------
    text
        What JSON can hold.
    values
        Sent as they are, little-endian.
    """
    head = json.dumps(text).encode()
    head += b" " * (-len(head) % 4)
    return (
        struct.pack("<I", len(head))
        + head
        + values.astype(values.dtype.newbyteorder("<")).tobytes()
    )


def column_kind(values: "pd.Series") -> Kind:
    """Whether a column of obs is shown as numbers or as groups.

    Parameters
    ----------
    values
        The column.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return "numbers" if is_numeric_dtype(values) and not is_bool_dtype(values) else "groups"


def column_of(cells: "Cells", name: str) -> "pd.Series":
    """Return a column of obs.

    Parameters
    ----------
    cells
        The file.
    name
        Of the column.

    Raises
    ------
    DataError
        There is none of that name.
    """
    if name not in cells.obs.columns:
        msg = f"There is no column {name!r} in obs; it has {', '.join(map(str, cells.obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    return cells.obs[name]


def colour_by_column(cells: "Cells", name: str) -> Coloured:
    """Return the values of a column of obs.

    Parameters
    ----------
    cells
        The file.
    name
        Of the column.
    """
    values = column_of(cells, name)
    if column_kind(values) == "groups":
        return _groups(name, values, cells.colours(name))
    numbers = values.to_numpy(np.float32, na_value=np.nan)
    n_missing = int((~np.isfinite(numbers)).sum())
    return Coloured(name=name, kind="numbers", values=numbers, n_missing=n_missing)


def colour_by_gene(cells: "Cells", name: str) -> Coloured:
    """Return the expression of a gene.

    Parameters
    ----------
    cells
        The file.
    name
        Symbol or index.
    """
    number = cells.names.find(name)
    found = cells.gene(number)
    share = float((found.value > 0).mean())
    return Coloured(
        name=cells.names.shown[number],
        kind="numbers",
        values=found.value,
        note=f"{found.scale}; found in {share:.1%} of the cells",
    )


def _groups(name: str, values: "pd.Series", stored: list[str]) -> Coloured:
    column = values.astype("category").cat
    code, labels = column.codes.to_numpy().astype(np.int64), list(map(str, column.categories))
    sizes = np.bincount(code[code >= 0], minlength=len(labels))
    colours = _colours(labels, stored)
    if len(labels) > MOST_GROUPS:
        code, labels, colours = _merged(code, labels, sizes)
        sizes = np.bincount(code[code >= 0], minlength=len(labels))
    return Coloured(
        name=name,
        kind="groups",
        values=np.where(code < 0, NONE, code).astype(np.uint16),
        groups=tuple(labels),
        colours=tuple(colours),
        counts=tuple(sizes.tolist()),
        n_missing=int((code < 0).sum()),
    )


def _merged(
    code: "NDArray[np.int64]", labels: list[str], sizes: "NDArray[np.int64]"
) -> "tuple[NDArray[np.int64], list[str], list[str]]":
    """Make one group of the smallest."""
    largest = np.sort(np.argsort(-sizes, kind="stable")[: MOST_GROUPS - 1])
    target = np.full(len(labels) + 1, len(largest))
    target[largest], target[-1] = np.arange(len(largest)), -1  # the last: cells without a group
    kept = [labels[i] for i in largest]
    colours = [*_colours(kept, []), GREY]
    return target[code], [*kept, f"{len(labels) - len(kept):,} smaller groups"], colours


def _colours(labels: list[str], stored: list[str]) -> list[str]:
    """Return a colour for each label: those in the file, or distinct ones; grey for what is unknown."""
    chosen = [colour[:7] for colour in stored]
    if len(chosen) != len(labels) or not all(map(_HEX.fullmatch, chosen)):
        chosen = list(TEN[: len(labels)]) if len(labels) <= len(TEN) else _wheel(len(labels))
    return [GREY if label == UNKNOWN else c for label, c in zip(labels, chosen, strict=True)]


def _wheel(n: int) -> list[str]:
    """Return hues a golden angle apart, in three lightnesses."""
    found = []
    for i in range(n):
        light = (0.42, 0.60, 0.30)[i % 3]
        rgb = colorsys.hls_to_rgb((0.58 + i * 0.381966) % 1.0, light, 0.65)
        found.append("#" + "".join(f"{round(255 * x):02x}" for x in rgb))
    return found
