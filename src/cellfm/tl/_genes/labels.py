"""Labels of genes: from sets, tables and files to rows of an embedding, and the families that genes are of."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cellfm.errors import ConfigError, DataError, GeneMatchError
from cellfm.genes import Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.sets import read_gene_sets
from cellfm.genes.species import check_human
from cellfm.genes.table import GeneTable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Task = Literal["binary", "multiclass", "multilabel"]
Labels = Mapping[str, Iterable[str]]
LEAST_GENES = 10
"""Labelled genes; fewer say nothing."""
MOST_SHOWN = 3
"""Labels of a gene that are named."""
_STEM = re.compile(r"(.*?)-?\d+[A-Z]*$")
# Names by place or by number of a clone: alike in name, not in descent.
_PLACEHOLDER = re.compile(r"C(?:\d+|X|Y)ORF|LOC\d|LINC|KIAA|ENSG|[A-Z]{2}\d{6}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledGenes:
    """Which genes have which labels.

    Attributes
    ----------
    task
        Kind of labels.
    names
        Of the labels; in a binary task the positive one alone.
    negative
        Name of the other class of a binary task, or an empty string.
    rows
        Rows of the embedding that are labelled, ascending.
    flags
        Whether a gene has a label, shape (labelled gene, label).
    n_given
        Distinct names of genes that were given.
    left_out
        Labels with too few genes.
    """

    task: Task
    names: tuple[str, ...]
    negative: str
    rows: "NDArray[np.int64]"
    flags: "NDArray[np.bool_]"
    n_given: int
    left_out: tuple[str, ...]

    def of(self, gene: int) -> str:
        """Return the labels of a gene as text.

        Parameters
        ----------
        gene
            Number among the labelled ones.
        """
        found = [name for name, flag in zip(self.names, self.flags[gene], strict=True) if flag]
        shown = found[:MOST_SHOWN] + ["…"] * (len(found) > MOST_SHOWN)
        return "+".join(shown) or self.negative or "-"


def read_labels(path: str | Path) -> Labels:
    """Read labels of genes.

    Parameters
    ----------
    path
        GMT file (``.gmt``, may be gzipped); a table with a gene and a label in each line, with a tab or comma between; or a folder of text
        files, each named as a label, with a gene a line.

    Raises
    ------
    DataError
        There is no such file or folder, or it holds no labels.
    """
    path = Path(path)
    if path.is_dir():
        texts = {each.stem: each.read_text("utf-8").split() for each in sorted(path.glob("*.txt"))}
        labels = {name: tuple(dict.fromkeys(genes)) for name, genes in texts.items() if genes}
        if not labels:
            msg = f"The folder {path} holds no labels; expected text files, each named as a label, with a gene a line."
            raise DataError(msg)
        return labels
    sets = read_gene_sets(path)
    if ".gmt" in path.suffixes:
        return sets
    # A line of a table may be an interaction, so the reader counts the second name as a gene of the set.
    return {name: tuple(gene for gene in genes if gene != name) for name, genes in sets.items()}


def label_genes(
    embeddings: "AnnData",
    labels: "Labels | pd.DataFrame",
    *,
    task: Task | None,
    least: int,
    usable: "NDArray[np.bool_]",
) -> LabelledGenes:
    """Find labelled genes among those of an embedding.

    Parameters
    ----------
    embeddings
        Genes × dim with ``obs["symbol"]``.
    labels
        Name → genes, or a table whose first column is a gene and whose second a label.
    task
        Kind of labels; None takes it from them.
    least
        Genes a label must have.
    usable
        Genes that may be taken, shape (gene,).

    Raises
    ------
    DataError
        Fewer than ten labelled genes, or one class.
    GeneMatchError
        None of the genes is in the embedding, or they are of another species.
    ConfigError
        The task does not fit the labels.
    """
    sets = _as_sets(labels)
    given = list(dict.fromkeys(gene for genes in sets.values() for gene in genes))
    if given:
        check_human(given)
    lookup = Lookup(vocabulary_of(embeddings), GeneTable.load())
    row = {name: lookup.find(name).token - 1 for name in given}
    table = np.zeros((embeddings.n_obs, len(sets)), bool)
    for column, genes in enumerate(sets.values()):
        table[[row[gene] for gene in genes if row[gene] >= 0], column] = True
    if given and not table.any():
        msg = (
            f"None of the {len(given):,} labelled genes is in the embedding of {embeddings.n_obs:,} genes; the labels begin with {given[:5]}, "
            f"the embedding with {list(embeddings.obs['symbol'][:5])}. Give symbols or Ensembl ids of human genes."
        )
        raise GeneMatchError(msg)
    return _labelled(
        table & usable[:, None], tuple(sets), task=task, least=least, n_given=len(given)
    )


def _labelled(
    table: "NDArray[np.bool_]",
    names: tuple[str, ...],
    *,
    task: Task | None,
    least: int,
    n_given: int,
) -> LabelledGenes:
    n_genes = int(table.any(axis=1).sum())
    if n_genes < LEAST_GENES:
        msg = f"Only {n_genes} labelled genes (of {n_given:,} given) can be used; at least {LEAST_GENES} are needed. Give more genes, or cells that measure them."
        raise DataError(msg)
    kept = table.sum(axis=0) >= least
    left_out = tuple(name for name, keep in zip(names, kept, strict=True) if not keep)
    names = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
    table = table[:, kept]
    task = task or _task_of(table)
    if task not in get_args(Task):
        msg = f"There is no task {task!r}; choose one of {', '.join(get_args(Task))}."
        raise ConfigError(msg)
    _check_classes(task, names, left_out, least)
    if task != "multilabel":  # a gene of two classes belongs to neither
        table = table & (table.sum(axis=1) == 1)[:, None]
        if (table.sum(axis=0) < least).any():
            msg = f"A class has fewer than {least} genes of its own: {dict(zip(names, table.sum(axis=0).tolist(), strict=True))} without genes of several. Take task='multilabel'."
            raise DataError(msg)
    rows = np.flatnonzero(table.any(axis=1))
    flags = table[rows]
    return LabelledGenes(
        task=task,
        names=names[:1] if task == "binary" else names,
        negative=names[1] if task == "binary" else "",
        rows=rows,
        flags=flags[:, :1] if task == "binary" else flags,
        n_given=n_given,
        left_out=left_out,
    )


def _task_of(table: "NDArray[np.bool_]") -> Task:
    if (table.sum(axis=1) > 1).any():
        return "multilabel"
    return "binary" if table.shape[1] == 2 else "multiclass"


def _check_classes(
    task: Task, names: tuple[str, ...], left_out: tuple[str, ...], least: int
) -> None:
    small = f" ({len(left_out)} with fewer than {least} genes are left out)" if left_out else ""
    if len(names) < 2:
        msg = f"There is one class or none to tell apart: {', '.join(names) or 'none'}{small}. Give genes of a second class."
        raise DataError(msg)
    if task == "binary" and len(names) > 2:
        msg = f"A binary task has two classes, and there are {len(names)} labels: {', '.join(names[:5])}, …. Choose two of them, or task='multilabel'."
        raise ConfigError(msg)


def _as_sets(labels: "Labels | pd.DataFrame") -> Mapping[str, tuple[str, ...]]:
    if isinstance(labels, Mapping):
        return {str(name): tuple(map(str, genes)) for name, genes in labels.items()}
    if labels.shape[1] != 2:
        msg = f"The table of labels has {labels.shape[1]} columns; expected two: gene and label."
        raise DataError(msg)
    sets: dict[str, list[str]] = {}
    for gene, label in labels.dropna().astype(str).itertuples(index=False):
        sets.setdefault(label, []).append(gene)
    return {name: tuple(genes) for name, genes in sets.items()}


def vocabulary_of(embeddings: "AnnData") -> Vocabulary:
    """Return the genes of an embedding; gene *i* has token ``i + 1``.

    Parameters
    ----------
    embeddings
        Genes × dim.
    """
    obs = embeddings.obs
    if "symbol" not in obs.columns or obs["symbol"].duplicated().any():
        msg = "The embedding needs obs['symbol'] with each gene once, as tl.gene_embeddings makes it; for several groups of cells take one group at a time."
        raise DataError(msg)
    symbols = tuple(obs["symbol"].astype(str))
    if not {"hgnc_id", "ensembl_id"} <= set(obs.columns):
        return Vocabulary.from_symbols(symbols)
    return Vocabulary(
        symbols=symbols,
        hgnc_ids=tuple(obs["hgnc_id"].astype(str)),
        ensembl_ids=tuple(obs["ensembl_id"].astype(str)),
    )


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
