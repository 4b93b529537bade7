"""Features of 10x files: which are genes, and of the human genome."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import SourceError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

GENE_EXPRESSION = "Gene Expression"
GENE_IDS = "gene_ids"
"""Column of `var` with the identifiers; the index has the symbols."""

_HUMAN = re.compile(r"(GRCh3[78]|hg19|hg38)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Genes of a 10x source.

    Attributes
    ----------
    var
        Their symbols and identifiers.
    columns
        Which features they are; None for all.
    notes
        What was left out.
    """

    var: "pd.DataFrame"
    columns: "NDArray[np.intp] | None"
    notes: tuple[str, ...]


def select_genes(
    symbols: Sequence[str],
    ids: Sequence[str],
    *,
    kinds: Sequence[str] | None,
    genomes: Sequence[str] | None,
    path: Path,
) -> Features:
    """Keep the features of gene expression and, of several genomes, those of the human one.

    Raises
    ------
    SourceError
        None is left, or none of several genomes is known to be human.
    """
    import pandas as pd

    kept = np.ones(len(symbols), dtype=np.bool_)
    notes: list[str] = []
    if kinds is not None:
        kept &= np.array([kind == GENE_EXPRESSION for kind in kinds], dtype=np.bool_)
        _note(notes, kept, f"features that are no {GENE_EXPRESSION}", kinds)
    if not kept.any():
        found = ", ".join(sorted(set(kinds or ()))) or "no features"
        msg = f"{path} has no feature of the type {GENE_EXPRESSION}; found {found}. Give the file of the gene expression library."
        raise SourceError(msg)
    if genomes is not None:
        names = sorted(set(compress(genomes, kept)))
        if len(names) > 1:
            human = human_genomes(names, path)
            kept &= np.array([genome in human for genome in genomes], dtype=np.bool_)
            notes.append(f"Of the genomes {', '.join(names)} only {', '.join(human)} was taken.")
    columns = np.flatnonzero(kept)
    var = pd.DataFrame(
        {GENE_IDS: list(compress(ids, kept))}, index=pd.Index(list(compress(symbols, kept)))
    )
    return Features(var=var, columns=None if kept.all() else columns, notes=tuple(notes))


def human_genomes(names: Sequence[str], path: Path) -> list[str]:
    """Those of several genomes that are human.

    Raises
    ------
    SourceError
        None is known to be.
    """
    human = [name for name in names if _HUMAN.match(name)]
    if not human:
        msg = (
            f"{path} has the genomes {', '.join(names)}; none is known to be human (GRCh38, GRCh37, hg38, hg19). "
            "Write the human genes to a file of their own."
        )
        raise SourceError(msg)
    return human


def _note(notes: list[str], kept: "NDArray[np.bool_]", what: str, values: Sequence[str]) -> None:
    """Say what was left out, if anything was."""
    left_out = list(compress(values, ~kept))
    if left_out:
        kinds = ", ".join(sorted(set(left_out)))
        notes.append(f"{len(left_out):,} {what} were left out ({kinds}).")
