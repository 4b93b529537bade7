"""Tables and other things as JSON."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def to_json(table: "pd.DataFrame") -> dict[str, object]:
    """Return a table as JSON can hold it; NaN becomes null.

    Parameters
    ----------
    table
        With an index of text.
    """
    values = [
        [None if value != value else value for value in row]  # noqa: PLR0124 - NaN alone is not itself
        for row in table.astype(object).to_numpy().tolist()
    ]
    return {
        "index": list(map(str, table.index)),
        "columns": list(map(str, table.columns)),
        "names": [table.index.name, table.columns.name],
        "values": values,
    }


def from_json(stored: Mapping[str, object]) -> "pd.DataFrame":
    """Return the table of `to_json`.

    Parameters
    ----------
    stored
        What JSON gave back.
    """
    import pandas as pd

    columns = list(map(str, as_list(stored["columns"])))
    rows = [
        [float("nan") if value is None else value for value in as_list(row)]
        for row in as_list(stored["values"])
    ]
    table = pd.DataFrame(rows, index=list(map(str, as_list(stored["index"]))), columns=columns)
    table.index.name, table.columns.name = (
        None if name is None else str(name) for name in as_list(stored["names"])
    )
    return table.infer_objects()


def as_mapping(value: object) -> Mapping[str, object]:
    """Take a value of JSON for what it must be.

    Parameters
    ----------
    value
        A mapping.
    """
    assert isinstance(value, Mapping)
    return value


def as_list(value: object) -> Sequence[object]:
    """Take a value of JSON for what it must be.

    Parameters
    ----------
    value
        A list.
    """
    assert isinstance(value, list)
    return value
