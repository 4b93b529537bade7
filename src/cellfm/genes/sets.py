"""Named sets of genes from files: GMT, or a table of two columns."""

import re
from collections.abc import Mapping
from pathlib import Path

from cellfm.errors import DataError
from cellfm.genes.text import read_text

GeneSets = Mapping[str, tuple[str, ...]]
"""Name of a set → names of its genes."""


def read_gene_sets(path: str | Path) -> GeneSets:
    """Read gene sets; a GMT file (``.gmt``), or a table with a gene and a set, or two genes that interact, in each line.

    Parameters
    ----------
    path
        Text file, which may be gzipped. In a table the columns are separated by tabs or commas; an interaction becomes a set of two.

    Raises
    ------
    DataError
        There is no such file, it is no text or damaged, or it holds no sets.
    """
    path = Path(path)
    text = read_text(path, "gene sets in GMT form, or a table of two columns")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    is_gmt = ".gmt" in path.suffixes
    sets = _gmt(lines, path) if is_gmt else _pairs(lines, path)
    if not sets:
        msg = f"{path} holds no gene sets; expected lines such as NAME<tab>description<tab>GENE1<tab>GENE2 (.gmt), or GENE<tab>SET. Convert the file to one of these forms."
        raise DataError(msg)
    return sets


def _gmt(lines: list[str], path: Path) -> GeneSets:
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        name, *rest = line.split("\t")
        if len(rest) < 2:
            msg = f"Line {number} of {path} has {1 + len(rest)} columns; a GMT line has a name, a description and at least one gene, with tabs between. Correct it."
            raise DataError(msg)
        # Some libraries write weights behind the genes: STAT1,1.0
        genes = dict.fromkeys(entry.split(",")[0].strip() for entry in rest[1:])
        sets[name.strip()] = tuple(gene for gene in genes if gene)
    return {name: genes for name, genes in sets.items() if genes}


def _pairs(lines: list[str], path: Path) -> GeneSets:
    members: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in re.split(r"[\t,]", line)]
        if len(parts) < 2 or not parts[0] or not parts[1]:
            msg = f"Line {number} of {path} is {line[:60]!r}; expected a gene and a set, or two genes, with a tab or comma between. Correct it."
            raise DataError(msg)
        members.setdefault(parts[1], []).append(parts[0])
    return {name: tuple(dict.fromkeys((*genes, name))) for name, genes in members.items()}
