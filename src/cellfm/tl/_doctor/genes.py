"""Which names of the genes fit the model best."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellfm.errors import GeneMatchError
from cellfm.genes import GeneMatch, Vocabulary, resolve

if TYPE_CHECKING:
    import pandas as pd

CLEARLY_MORE = 0.05
"""Share of the genes by which a column must do better than the index to be preferred."""
FEW = 0.6
"""Below this share of matched genes a note is made."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedGenes:
    """Names that were taken.

    Attributes
    ----------
    column
        Column of ``var``; None for the index.
    match
        Tokens and report; None where no names are known.
    problem
        Why the index does not do, if it does not.
    n_duplicates
        Names of the index that are there more than once.
    """

    column: str | None
    match: GeneMatch | None
    problem: str
    n_duplicates: int


def best_names(var: "pd.DataFrame", vocabulary: Vocabulary, *, min_matched: float) -> NamedGenes:
    """Try the index, and every column of text where that is clearly better.

    Parameters
    ----------
    var
        Table of the genes.
    vocabulary
        Of the model.
    min_matched
        Least share of the genes that must be known.
    """
    n_duplicates = int(var.index.duplicated().sum())
    match, problem = _try(list(var.index), vocabulary, min_matched)
    column = None
    if match is None or match.report.n_matched < (1 - CLEARLY_MORE) * match.report.n_input:
        for place, name in enumerate(map(str, var.columns)):
            values = var.iloc[:, place]
            if values.dtype.kind in "biufc":
                continue
            other, _ = _try(list(values.astype(object)), vocabulary, min_matched)
            n_more = 0 if other is None else other.report.n_matched
            so_far = 0 if match is None else match.report.n_matched
            if n_more > so_far + CLEARLY_MORE * len(var):
                match, column = other, name
    return NamedGenes(column=column, match=match, problem=problem, n_duplicates=n_duplicates)


def _try(
    names: list[object], vocabulary: Vocabulary, min_matched: float
) -> tuple[GeneMatch | None, str]:
    try:
        return resolve(names, vocabulary, min_matched=min_matched), ""
    except GeneMatchError as error:
        return None, str(error)
