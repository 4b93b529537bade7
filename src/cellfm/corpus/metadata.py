"""Columns that describe cells, under the same names in every source: by an explicit map, never by a guess."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cellfm.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

METADATA = ("cell_type", "tissue", "disease", "donor", "assay", "batch")
"""Columns of a corpus besides the name of the dataset; strings, empty where not known."""

_SECTIONS = ("columns", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataMap:
    """How the columns and values of all sources become those of the corpus.

    Attributes
    ----------
    columns
        Columns of `obs` that may hold a harmonised one, in order; the first that is there is taken.
    values
        New value for old ones, by harmonised column; others are kept.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Harmonised:
    """Metadata of the rows of one source.

    Attributes
    ----------
    columns
        One string per row, for each of `METADATA`.
    origin
        Where each came from, in words.
    """

    columns: "Mapping[str, NDArray[np.object_]]"
    origin: Mapping[str, str]


def read_metadata_map(path: Path) -> MetadataMap:
    """Read a YAML file with the sections ``columns`` and ``values``.

    Raises
    ------
    ConfigError
        It cannot be read, or holds something else.

    Examples
    --------
    ::

        columns:
          cell_type: [cell_type, celltype, louvain]
          donor: [donor_id, patient]
        values:
          tissue: {PBMC: blood, peripheral blood: blood}
    """
    import yaml

    try:
        # the base loader makes strings of everything: a donor 007 or a disease "no" stays what it is
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"The metadata map {path} cannot be read ({error}). A YAML file with the sections columns and values was expected. Correct the file."
        raise ConfigError(msg) from error
    sections = _mapping(data, str(path))
    check_known(sections, _SECTIONS, f"{path}: there is no section")
    columns = _mapping(sections.get("columns") or {}, f"columns of {path}")
    values = _mapping(sections.get("values") or {}, f"values of {path}")
    for name in (*columns, *values):
        check_known([name], METADATA, f"{path}: there is no metadata column")
    return MetadataMap(
        columns={name: _names(entry, f"{name} of {path}") for name, entry in columns.items()},
        values={name: _values(entry, f"{name} of {path}") for name, entry in values.items()},
    )


def harmonise(
    obs: "pd.DataFrame", *, given: Mapping[str, str], mapping: MetadataMap, path: Path
) -> Harmonised:
    """Take the metadata columns of a source.

    For each of `METADATA` the first of these counts: what the list of sources gives (``@NAME`` is a column of `obs`, anything
    else a constant); the first column of the map that is there; without an entry in either, a column of exactly the
    harmonised name; the empty string.

    Parameters
    ----------
    obs
        Table of the cells.
    given
        Entries of the list of sources.
    mapping
        Map of all sources.
    path
        The source; used in messages.

    Raises
    ------
    SourceError
        A column that the list of sources names is not there.
    """
    columns, origin = {}, {}
    for name in METADATA:
        text, origin[name] = _column(obs, name, given.get(name, ""), mapping=mapping, path=path)
        columns[name] = _renamed(text, mapping.values.get(name, {}))
    return Harmonised(columns=columns, origin=origin)


def check_known(names: Iterable[object], known: Iterable[str], problem: str) -> None:
    """Refuse a name that is not known, and say which was probably meant.

    Raises
    ------
    ConfigError
        There is such a name.
    """
    choices = list(known)
    for name in names:
        if name not in choices:
            near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"{problem} {name!r}.{hint} Known are {', '.join(choices)}. Use one of these."
            raise ConfigError(msg)


def _column(
    obs: "pd.DataFrame", name: str, given: str, *, mapping: MetadataMap, path: Path
) -> "tuple[NDArray[np.object_], str]":
    """Strings of one harmonised column, and where they came from."""
    if given.startswith("@"):
        if given[1:] not in obs.columns:
            found = ", ".join(map(str, obs.columns)) or "no columns"
            msg = f"obs of {path} has no column {given[1:]!r}, which is given for {name}; it has {found}. Correct the list of sources."
            raise SourceError(msg)
        return _strings(obs[given[1:]]), f"obs column {given[1:]!r}"
    if given:
        return np.full(len(obs), given, dtype=object), f"constant {given!r}"
    candidates = mapping.columns.get(name, (name,))
    for candidate in candidates:
        if candidate in obs.columns:
            return _strings(obs[candidate]), f"obs column {candidate!r}"
    origin = f"not known (no obs column {', '.join(candidates)})"
    return np.full(len(obs), "", dtype=object), origin


def _strings(column: "pd.Series | pd.DataFrame") -> "NDArray[np.object_]":
    """Values of a column as strings, missing ones as empty strings."""
    import pandas as pd

    if isinstance(column, pd.DataFrame):  # several columns of one name
        column = column.iloc[:, 0]
    codes, categories = pd.factorize(column)  # a missing value has the code -1
    text = np.array([*(_text(value) for value in categories), ""], dtype=object)
    return text[codes]


def _renamed(text: "NDArray[np.object_]", values: Mapping[str, str]) -> "NDArray[np.object_]":
    """Put new values for old ones."""
    if not values:
        return text
    return np.array([values.get(value, value) for value in text], dtype=object)


def _text(value: object) -> str:
    """Write a value as a string; bytes are UTF-8."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _mapping(data: object, where: str) -> Mapping[str, object]:
    """Check that a part of the map is a mapping."""
    if not isinstance(data, dict):
        msg = f"{where}: found {data!r}; expected a mapping, such as 'cell_type: [cell_type, louvain]'. Write it in that form."
        raise ConfigError(msg)
    return data


def _names(data: object, where: str) -> tuple[str, ...]:
    """Check a list of column names; one name may stand alone."""
    names = [data] if isinstance(data, str) else data
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        msg = f"{where}: found {data!r}; expected a list of columns of obs, such as [cell_type, louvain]. Write it in that form."
        raise ConfigError(msg)
    return tuple(names)


def _values(data: object, where: str) -> Mapping[str, str]:
    """Check a map from old to new values."""
    values = _mapping(data, where)
    for old, new in values.items():
        if not isinstance(new, str):
            msg = f"{where}: {old!r} becomes {new!r}; expected one value, such as 'PBMC: blood'. Write it in that form."
            raise ConfigError(msg)
    return cast("Mapping[str, str]", values)
