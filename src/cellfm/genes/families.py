"""Families of genes: the stem of a symbol, and HGNC's gene groups."""

import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cellfm.errors import DataError
from cellfm.genes.text import read_text

_STEM = re.compile(r"(.*?)-?\d+[A-Z]*$")
# Names by place or by number of a clone: alike in name, not in descent.
_PLACEHOLDER = re.compile(r"C(?:\d+|X|Y)ORF|LOC\d|LINC|KIAA|ENSG|[A-Z]{2}\d{6}")
GROUP_COLUMNS = ("gene_group", "gene_group_id")


def family(symbol: str) -> str:
    """Return the stem of a symbol, which paralogs share: without the last number and the letters behind it.

    HOXA1 and HOXA13 → HOXA, ZNF12 → ZNF, KRT6A → KRT, SLC25A4 → SLC25A, HLA-DRB1 → HLA-DRB. A gene whose name has no such number (ACTB), whose
    stem would be shorter than two letters, or whose name is one of place or clone (C1orf112, LOC…, LINC…, KIAA…) is a family of its own.
    The rule puts some unrelated genes together (TMEM9 and TMEM14A) and misses paralogs of unlike names
    (HOXA1 and HOXB1).

    Parameters
    ----------
    symbol
        Of a gene.
    """
    name = symbol.upper()
    found = _STEM.match(name)
    if found is None or _PLACEHOLDER.match(name) or sum(map(str.isalpha, found[1])) < 2:
        return symbol
    return found[1]


def read_gene_groups(path: str | Path) -> Mapping[str, str]:
    """Return the smallest gene group of each gene that has one, by symbol and, where the table has them, by HGNC id.

    HGNC puts a gene into several groups, by descent and by other things (ACTB: Actins, BAF complex subunits, …). Genes that share any group cannot be kept
    together: of the 14,747 protein-coding genes with a group in the table of October 2024, 11,712 hang together by such steps. The smallest group of
    a gene is the most specific one, and mostly a family; the largest of these has 548 genes (C2H2 zinc fingers).

    Parameters
    ----------
    path
        HGNC's complete set, or another table separated by tabs or commas, which may be gzipped: columns symbol and gene_group or gene_group_id, ``|`` between
        the groups of a gene.

    Raises
    ------
    DataError
        There is no such file, or a column is missing.
    """
    path = Path(path)
    lines = read_text(path, "a table of gene groups, such as HGNC's complete set").splitlines()
    rows = csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",")
    header = rows.fieldnames or ()
    column = next((name for name in GROUP_COLUMNS if name in header), None)
    if column is None or "symbol" not in header:
        msg = f"{path} has the columns {', '.join(list(header)[:8]) or 'none'}{' …' * (len(header) > 8)}; expected symbol and gene_group (or gene_group_id). Give HGNC's complete set."
        raise DataError(msg)
    found = [(row, [g.strip() for g in (row[column] or "").split("|") if g.strip()]) for row in rows]  # fmt: skip
    size = Counter(group for _, groups in found for group in groups)
    made: dict[str, str] = {}
    for row, groups in found:
        if groups:
            smallest = min(groups, key=lambda group: (size[group], group))
            made |= dict.fromkeys((row["symbol"], row.get("hgnc_id") or row["symbol"]), smallest)
    if not made:
        msg = f"{path} puts no gene into a group: the column {column} is empty. Give HGNC's complete set."
        raise DataError(msg)
    return made
