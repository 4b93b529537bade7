"""What a reader of one format does."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cellfm.errors import SourceError
from cellfm.genes import GeneMatch

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.corpus.rows import RowSource
    from cellfm.corpus.sources import SourceEntry

MATRIX = "matrix"
"""Name of the matrix in formats that hold one only."""

GeneFinder = Callable[[Sequence[str]], GeneMatch]
"""Finds names in the vocabulary; raises `GeneMatchError` where they are not human genes or too few are known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedSource:
    """One matrix of a source with its tables.

    Attributes
    ----------
    rows
        Cells × features, by blocks of rows.
    obs
        Table of the cells.
    var
        Table of the genes; its index names them.
    other_names
        Column of `var` with a second name of each gene, used for those whose first is not known; only where the format
        says what it is.
    columns
        Columns of `rows` that the genes are in; None where all features are genes.
    notes
        What was left out or decided, for the report.
    """

    rows: "RowSource"
    obs: "pd.DataFrame"
    var: "pd.DataFrame"
    other_names: str | None = None
    columns: "NDArray[np.intp] | None" = None
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Reader of one format; it holds no state."""

    @property
    def name(self) -> str:
        """Name of the format in lists of sources and reports."""

    def accepts(self, path: Path) -> bool:
        """Whether a file or folder is of this format, by its name and first bytes."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """Files that a source is made of; raises `SourceError` where one is missing."""

    def matrices(self, entry: "SourceEntry") -> tuple[str, ...]:
        """Names of the matrices to try for counts, in order."""

    def open(
        self, entry: "SourceEntry", matrix: str, find_genes: GeneFinder
    ) -> AbstractContextManager[OpenedSource]:
        """Open one of them."""


def only_matrix(entry: "SourceEntry", format_name: str) -> tuple[str, ...]:
    """Return the matrix of a format that holds one only.

    Raises
    ------
    SourceError
        A layer or raw was asked for.
    """
    if entry.layer is not None or entry.use_raw:
        asked = "use_raw" if entry.layer is None else f"layer={entry.layer!r}"
        msg = f"{asked} is given for {entry.path}, but a {format_name} source holds one matrix. Take it out of the list of sources."
        raise SourceError(msg)
    return (MATRIX,)
