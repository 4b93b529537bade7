"""Labels of genes: from sets, tables and files to rows of an embedding, and the families that genes are of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which labels are taken.

    Attributes
    ----------
    least
        Genes a label must have; where genes may have several labels, also genes that it must not have.
    most
        Genes it may have; None for any number.
    n_labels
        Labels drawn at random from those with such numbers; None for all.
    seed
        Of the draw.
    """

    least: int
    most: int | None = None
    n_labels: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.most is not None and self.most < self.least) or (self.n_labels or 2) < 2:
            msg = f"min_genes is {self.least}, max_genes {self.most} and n_labels {self.n_labels}; expected max_genes at least min_genes, and two labels at least, or None. Give a number in that range."
            raise ConfigError(msg)


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
    unknown
        Those of them that no gene of the embedding has.
    left_out
        Labels with too few genes, or too many.
    n_fitting
        Labels that were left, before some were drawn.
    """

    task: Task
    names: tuple[str, ...]
    negative: str
    rows: "NDArray[np.int64]"
    flags: "NDArray[np.bool_]"
    n_given: int
    unknown: tuple[str, ...]
    left_out: tuple[str, ...]
    n_fitting: int

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
            msg = f"The folder {path} holds no labels; expected text files, each named as a label, with a gene a line. Check the path."
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
    choice: Choice,
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
    choice
        Which labels are taken.
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
    sets = as_sets(labels)
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
    found = _labelled(
        table & usable[:, None], tuple(sets), task=task, choice=choice, n_given=len(given)
    )
    return replace(found, unknown=tuple(name for name in given if row[name] < 0))


def _labelled(
    table: "NDArray[np.bool_]",
    names: tuple[str, ...],
    *,
    task: Task | None,
    choice: Choice,
    n_given: int,
) -> LabelledGenes:
    least, n_genes = choice.least, int(table.any(axis=1).sum())
    if n_genes < LEAST_GENES:
        msg = f"Only {n_genes} labelled genes (of {n_given:,} given) can be used; at least {LEAST_GENES} are needed. Give more genes, or cells that measure them."
        raise DataError(msg)
    kept = _fitting(table, task, choice)
    left_out = tuple(name for name, keep in zip(names, kept, strict=True) if not keep)
    column = np.flatnonzero(kept)
    if choice.n_labels is not None and choice.n_labels < len(column):
        drawn = np.random.default_rng(choice.seed).choice(column, choice.n_labels, replace=False)
        column = np.sort(drawn)
    names, table = tuple(names[each] for each in column), table[:, column]
    task = task or _task_of(table)
    _check_classes(task, names, left_out, choice)
    if task != "multilabel":  # a gene of two classes belongs to neither
        table = table & (table.sum(axis=1) == 1)[:, None]
        if (table.sum(axis=0) < least).any():
            msg = f"A class has fewer than {least} genes of its own: {dict(zip(names, table.sum(axis=0).tolist(), strict=True))} without genes of several. Take task='multilabel'."
            raise DataError(msg)
    rows = np.flatnonzero(table.any(axis=1))
    flags = table[rows]
    if task == "multilabel" and flags.all(axis=0).any():
        msg = f"All {len(rows):,} genes with a label have {names[int(flags.all(axis=0).argmax())]!r}: there is nothing to tell it from. Take fewer genes a label (max_genes, --max-genes), or other labels."
        raise DataError(msg)
    return LabelledGenes(
        task=task,
        names=names[:1] if task == "binary" else names,
        negative=names[1] if task == "binary" else "",
        rows=rows,
        flags=flags[:, :1] if task == "binary" else flags,
        n_given=n_given,
        unknown=(),
        left_out=left_out,
        n_fitting=int(kept.sum()),
    )


def _fitting(table: "NDArray[np.bool_]", task: Task | None, choice: Choice) -> "NDArray[np.bool_]":
    """Tell which labels have enough genes, and not too many."""
    if task is not None and task not in get_args(Task):
        msg = f"There is no task {task!r}; choose one of {', '.join(get_args(Task))}."
        raise ConfigError(msg)
    size = table.sum(axis=0)
    kept = (size >= choice.least) & (size <= (choice.most or len(table)))
    if (task or _task_of(table[:, kept])) == "multilabel":
        # What all labelled genes are, such as the root of an ontology, cannot be told from anything.
        kept &= table.any(axis=1).sum() - size >= choice.least
    return np.asarray(kept, bool)


def _task_of(table: "NDArray[np.bool_]") -> Task:
    if (table.sum(axis=1) > 1).any():
        return "multilabel"
    return "binary" if table.shape[1] == 2 else "multiclass"


def _check_classes(
    task: Task, names: tuple[str, ...], left_out: tuple[str, ...], choice: Choice
) -> None:
    most = f" or more than {choice.most}" if choice.most else ""
    small = f" ({len(left_out)} with fewer than {choice.least}{most} genes are left out)" if left_out else ""  # fmt: skip
    if len(names) < 2:
        msg = f"There is one class or none to tell apart: {', '.join(names) or 'none'}{small}. Give genes of a second class."
        raise DataError(msg)
    if task == "binary" and len(names) > 2:
        msg = f"A binary task has two classes, and there are {len(names)} labels: {', '.join(names[:5])}, …. Choose two of them, or task='multilabel'."
        raise ConfigError(msg)


def as_sets(labels: "Labels | pd.DataFrame") -> Mapping[str, tuple[str, ...]]:
    """Return the genes of each label.

    Parameters
    ----------
    labels
        Name → genes, or a table whose first column is a gene and whose second a label.

    Raises
    ------
    DataError
        The table has not two columns.
    """
    if isinstance(labels, Mapping):
        return {str(name): tuple(map(str, genes)) for name, genes in labels.items()}
    if labels.shape[1] != 2:
        msg = f"The table of labels has {labels.shape[1]} columns; expected two: gene and label. Remove the others, or name the two."
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
        msg = "The embedding needs obs['symbol'] with each gene once, as tl.gene_embeddings makes it. For several groups of cells, take one group at a time."
        raise DataError(msg)
    symbols = tuple(obs["symbol"].astype(str))
    if not {"hgnc_id", "ensembl_id"} <= set(obs.columns):
        return Vocabulary.from_symbols(symbols)
    return Vocabulary(
        symbols=symbols,
        hgnc_ids=tuple(obs["hgnc_id"].astype(str)),
        ensembl_ids=tuple(obs["ensembl_id"].astype(str)),
    )
