"""Labels of reference cells as numbers, and the coarser labels above them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

UNKNOWN = "unknown"
"""The label of cells that got none; in a reference it is no label either."""
N_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """One label column.

    Attributes
    ----------
    name
        Of the column.
    classes
        Labels in alphabetical order; a class's code is its place.
    code
        Class of each cell, shape (cell,), −1 for none; or with a separator whether the cell has each label, shape
        (cell, class), 0 or 1, all −1 for cells without an entry.
    separator
        What stands between the labels of one entry; None when an entry is one label.
    n_missing
        Cells without a label.
    """

    name: str
    classes: tuple[str, ...]
    code: "NDArray[np.int64]"
    separator: str | None
    n_missing: int

    @property
    def known(self) -> "NDArray[np.bool_]":
        """Which cells have a label, shape (cell,)."""
        return self.code >= 0 if self.separator is None else self.code[:, 0] >= 0

    @property
    def counts(self) -> "NDArray[np.int64]":
        """Cells of each class."""
        if self.separator is None:
            return np.bincount(self.code[self.known], minlength=len(self.classes))
        return np.asarray(self.code[self.known].sum(axis=0), np.int64)

    @property
    def strata(self) -> "NDArray[np.str_]":
        """What to keep together in a split: the label, or the combination of labels; empty for none."""
        if self.separator is None:
            names = np.array([*self.classes, ""])
            return names[self.code]
        joined = [self.joined(row) if row[0] >= 0 else "" for row in self.code]
        return np.array(joined, dtype=str)

    def joined(self, row: "NDArray[np.integer]") -> str:
        """Return the labels of a row of flags as one entry; "" when there are none."""
        return (self.separator or "").join(
            name for name, has in zip(self.classes, row, strict=True) if has
        )


def read_labels(
    obs: "pd.DataFrame", column: str, *, separator: str | None = None, what: str = "reference"
) -> Labels:
    """Read a label column; missing entries, empty ones and "unknown" are no labels.

    Parameters
    ----------
    obs
        Table of the cells.
    column
        With the labels.
    separator
        What stands between the labels of one entry, such as ``";"``.
    what
        Whose cells these are, for messages.

    Raises
    ------
    DataError
        There is no such column, no cell has a label, or all have the same one.
    """
    entries = label_column(obs, column, what=what)
    if (entries == "").all():
        msg = f"None of the {len(entries):,} cells of the {what} has a label in obs[{column!r}]: all are empty, NaN or {UNKNOWN!r}. Choose another column."
        raise DataError(msg)
    parts = _parts(entries, separator)
    classes = sorted({label for labels in parts for label in labels})
    if len(classes) < 2:
        msg = (
            f"obs[{column!r}] of the {what} has one label only, {classes[0]!r}; an annotator needs at least two to tell apart. "
            "Choose another column or a reference with more types."
        )
        raise DataError(msg)
    code = encode(entries, classes, separator=separator)
    return Labels(
        name=column,
        classes=tuple(classes),
        code=code,
        separator=separator,
        n_missing=int((entries == "").sum()),
    )


def label_column(obs: "pd.DataFrame", column: str, *, what: str) -> "NDArray[np.str_]":
    """Return the entries of a column as text, "" where there is no label.

    Parameters
    ----------
    obs
        Table of the cells.
    column
        Its name.
    what
        Whose cells these are, for messages.

    Raises
    ------
    DataError
        There is no such column.
    """
    if column not in obs.columns:
        msg = f"There is no column {column!r} in obs of the {what}; it has {', '.join(map(str, obs.columns)) or 'no columns'}. Name one of these."
        raise DataError(msg)
    values = obs[column].astype(object)
    missing = values.isna().to_numpy()
    text = np.array([str(value).strip() for value in values], dtype=str).reshape(len(values))
    text = np.where(missing, "", text)
    return np.where(text == UNKNOWN, "", text)


def encode(
    entries: "NDArray[np.str_]", classes: Sequence[str], *, separator: str | None = None
) -> "NDArray[np.int64]":
    """Return the codes of entries; −1 for entries without a known label.

    Parameters
    ----------
    entries
        Text of each cell.
    classes
        Labels by code.
    separator
        What stands between the labels of one entry.

    Returns
    -------
    Shape (cell,), or with a separator flags (cell, class).
    """
    place = {name: code for code, name in enumerate(classes)}
    if separator is None:
        return np.array([place.get(entry, -1) for entry in entries], np.int64)
    flags = np.zeros((len(entries), len(classes)), np.int64)
    for row, labels in enumerate(_parts(entries, separator)):
        flags[row, [place[label] for label in labels if label in place]] = 1
    flags[~flags.any(axis=1)] = -1
    return flags


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parents:
    """Coarser labels above each label; a label may have several."""

    above: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str, str]]) -> Self:
        """Make it of (child, parent) pairs.

        Raises
        ------
        DataError
            A label is above itself.
        """
        above: dict[str, tuple[str, ...]] = {}
        for child, parent in pairs:
            above[child] = (*above.get(child, ()), parent)
        parents = cls(above=above)
        for child in above:
            if child in parents.ancestors(child):
                msg = f"In the parent map {child!r} is above itself. Take the circle out: every chain of parents must end."
                raise DataError(msg)
        return parents

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a two-column table (child, tab, parent) or the is_a relations of an OBO file, by the terms' names.

        Raises
        ------
        DataError
            The file is missing, holds no relation, or has a line that is none.
        """
        path = Path(path)
        if not path.is_file():
            msg = f"There is no file {path}; expected a two-column TSV of child and parent, or an OBO file. Check the path."
            raise DataError(msg)
        text = path.read_text(encoding="utf-8")
        pairs = _obo_pairs(text) if "[Term]" in text else _tsv_pairs(text, path)
        if not pairs:
            msg = f"{path} holds no child and parent; expected a two-column TSV, or an OBO file with is_a relations. Convert the file to one of these forms."
            raise DataError(msg)
        return cls.from_pairs(pairs)

    def ancestors(self, label: str) -> frozenset[str]:
        """Return all labels above a label."""
        found: set[str] = set()
        waiting = list(self.above.get(label, ()))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.above.get(name, ())
        return frozenset(found)

    def check(self, classes: Sequence[str]) -> None:
        """Refuse a map that is about other labels than these.

        Raises
        ------
        DataError
            None of the classes has a parent.
        """
        if not any(name in self.above for name in classes):
            msg = (
                f"None of the labels {', '.join(map(repr, classes[:N_SHOWN]))} … has a parent in the parent map, which speaks of "
                f"{', '.join(map(repr, list(self.above)[:N_SHOWN]))} …. Use the same names in both."
            )
            raise DataError(msg)


def coarse_labels(
    probability: "NDArray[np.floating]",
    classes: Sequence[str],
    parents: Parents,
    *,
    threshold: float,
) -> "NDArray[np.str_]":
    """Return for each cell the finest label whose probability, summed over the classes below it, reaches the threshold.

    Only the best class and the labels above it are considered. A label above all classes says nothing and is never given.

    Parameters
    ----------
    probability
        Cell × class, rows sum to 1.
    classes
        Their names.
    parents
        The labels above.
    threshold
        Least probability.

    Returns
    -------
    Labels, "unknown" where no label is that certain.
    """
    lines = [frozenset({name}) | parents.ancestors(name) for name in classes]
    names = sorted(frozenset[str]().union(*lines))
    below = np.array([[name in line for line in lines] for name in names])  # name × class
    names = [name for name, row in zip(names, below, strict=True) if not row.all()]
    below = below[~below.all(axis=1)]
    total = probability @ below.T.astype(np.float64)
    best = probability.argmax(axis=1)
    # Finest first: fewest classes below; of two equally fine ones the likelier.
    candidate = below.T[best] & (total >= threshold)
    size = np.where(candidate, below.sum(axis=1) - np.minimum(total, 1) / 2, np.inf)
    chosen = size.argmin(axis=1)
    found = np.isfinite(size[np.arange(len(size)), chosen])
    return np.where(found, np.array(names, dtype=str)[chosen], UNKNOWN)


def _parts(entries: "NDArray[np.str_]", separator: str | None) -> list[list[str]]:
    if separator is None:
        return [[str(entry)] if entry else [] for entry in entries]
    split = [[part.strip() for part in str(entry).split(separator)] for entry in entries]
    return [[part for part in parts if part] for parts in split]


def _tsv_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            msg = f"Line {number} of {path} is {line!r}; expected a child and its parent with a tab between them. Give a number in that range."
            raise DataError(msg)
        pairs.append((fields[0], fields[1]))
    return pairs


def _obo_pairs(text: str) -> list[tuple[str, str]]:
    """Return (name, name of parent) of all is_a relations of the terms that are not obsolete."""
    names: dict[str, str] = {}
    relations = []
    for stanza in text.split("\n[")[1:]:
        kind, _, body = stanza.partition("]")
        fields = [line.partition(": ") for line in body.splitlines()]
        values = {key: value.strip() for key, _, value in fields if key in ("id", "name")}
        obsolete = any(key == "is_obsolete" and value.strip() == "true" for key, _, value in fields)
        if kind != "Term" or obsolete or "id" not in values:
            continue
        names[values["id"]] = values.get("name", values["id"])
        relations += [
            (values["id"], value.partition("!")[0].partition("{")[0].strip())
            for key, _, value in fields
            if key == "is_a"
        ]
    return [(names[child], names.get(parent, parent)) for child, parent in relations]
