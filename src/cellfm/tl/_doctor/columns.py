"""What the columns of ``obs`` look like: labels, batches, donors, perturbations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cellfm.corpus.conditions import parse_condition
from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["label", "batch", "donor", "perturbation", "perturbation without controls"]

MOST_VALUES = 2000
"""A column with more distinct values groups nothing."""
MANY_CELLS = 2.0
"""Least number of cells a value, on average: a column with fewer names cells, not groups of them."""
LEAST_GENES = 0.5
"""Least share of the entries of a column of perturbations that must name genes."""
SURE_GENES = 0.8
"""The same where no entry is a control."""

_NAMES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("donor", re.compile(r"donor|patient|individual|subject|participant|^mouse_?id$", re.IGNORECASE)),
    ("label", re.compile(r"cell_?(type|label|ontology|state|class|annotation)|^(louvain|leiden|seurat_clusters|clusters?|annotations?|labels?|ident|celltypes?)([_.].*)?$", re.IGNORECASE)),
    ("batch", re.compile(r"batch|^(sample|library|lane|plate|run|dataset|study|assay|chemistry|tech|technology|protocol|platform|replicate|experiment|gem_?group|channel|orig\.?ident|site)(_?(id|name|key))?$", re.IGNORECASE)),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ObsColumn:
    """A column that groups cells.

    Attributes
    ----------
    name
        Its name.
    n_values
        Distinct entries.
    smallest, largest
        Cells of the smallest and the largest group.
    n_missing
        Cells without an entry.
    roles
        What it looks like.
    n_unknown
        Of perturbations, entries that name no gene of the model.
    """

    name: str
    n_values: int
    smallest: int
    largest: int
    n_missing: int
    roles: tuple[Role, ...]
    n_unknown: int = 0


def grouping_columns(obs: "pd.DataFrame", vocabulary: Vocabulary) -> tuple[ObsColumn, ...]:
    """Return the columns that group cells, with what they look like by name, number of entries and content.

    Parameters
    ----------
    obs
        Table of the cells.
    vocabulary
        Of the model: perturbations name its genes.
    """
    return tuple(_grouping(obs, Lookup(vocabulary, GeneTable.load())))


def _grouping(obs: "pd.DataFrame", lookup: Lookup) -> Iterator[ObsColumn]:
    for place, name in enumerate(map(str, obs.columns)):
        column = obs.iloc[:, place]  # by place: two columns may have one name
        if column.dtype.kind == "f":
            continue
        sizes = column.value_counts()
        sizes = sizes[sizes > 0]
        n_values = len(sizes)
        named = _role_by_name(name)
        if not n_values or n_values > MOST_VALUES or len(obs) < MANY_CELLS * n_values:
            continue
        if column.dtype.kind in "iu" and named is None:  # a number, not a group
            continue
        roles: list[Role] = [] if named is None else [named]
        role, n_unknown = _perturbations([str(value) for value in sizes.index], lookup)
        if role is not None:
            roles.insert(0, role)
        yield ObsColumn(
            name=name,
            n_values=n_values,
            smallest=int(sizes.min()),
            largest=int(sizes.max()),
            n_missing=int(column.isna().sum()),
            roles=tuple(roles),
            n_unknown=n_unknown,
        )


def _role_by_name(name: str) -> Role | None:
    return next((role for role, pattern in _NAMES if pattern.search(name)), None)


def _perturbations(entries: list[str], lookup: Lookup) -> tuple[Role | None, int]:
    """Say whether entries name perturbed genes, with controls or without, and how many name none."""
    n_genes, n_controls = 0, 0
    for entry in entries:
        try:
            genes = parse_condition(entry).genes
        except DataError:
            continue
        n_controls += not genes
        n_genes += bool(genes) and all(lookup.find(gene).token for gene in genes)
    n_unknown = len(entries) - n_controls - n_genes
    share = n_genes / max(n_genes + n_unknown, 1)
    if n_controls and n_genes >= 2 and share >= LEAST_GENES:
        return "perturbation", n_unknown
    # Some types of cells have the names of genes: NK, DC.
    if not n_controls and n_genes >= 5 and share >= SURE_GENES:
        return "perturbation without controls", n_unknown
    return None, 0
