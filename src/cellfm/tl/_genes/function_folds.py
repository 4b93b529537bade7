"""Cross-validation of heads on vectors of genes."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import DataError
from cellfm.genes.families import family
from cellfm.tl._genes.function_heads import Head, fit
from cellfm.tl._genes.labels import LabelledGenes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

Protocol = Literal["random", "families", "groups"]
"""Genes dealt one by one, genes of one symbol stem kept together, genes of one gene group kept together."""


def deal(
    genes: LabelledGenes,
    families: "Numbers | None",
    *,
    n_folds: int,
    seed: int,
) -> "Numbers":
    """Return the fold of each labelled gene, shape (labelled gene,).

    Folds have like shares of the classes of a binary or multi-class task, as far as families allow it; with several labels a gene they are
    dealt at random.

    Parameters
    ----------
    genes
        Labelled genes.
    families
        Number of each gene's family, which stays in one fold; None deals single genes.
    n_folds
        How many.
    seed
        Of the order.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    options = {"n_splits": n_folds, "shuffle": True, "random_state": seed}
    single = genes.task == "multilabel"
    if families is None:
        splitter = KFold(**options) if single else StratifiedKFold(**options)
    else:
        splitter = GroupKFold(**options) if single else StratifiedGroupKFold(**options)
    code = np.zeros(len(genes.rows)) if single else genes.flags @ np.arange(1, genes.flags.shape[1] + 1)  # fmt: skip
    fold = np.empty(len(genes.rows), np.int64)
    for number, (_, test) in enumerate(splitter.split(code[:, None], code, families)):
        fold[test] = number
    return fold


def protocols_of(
    genes: LabelledGenes,
    embeddings: "AnnData",
    *,
    families: bool,
    groups: "Mapping[str, str] | None",
    n_folds: int,
) -> "dict[Protocol, NDArray[np.int64] | None]":
    """Return the number of each labelled gene's family under each protocol.

    Parameters
    ----------
    genes
        Labelled genes.
    embeddings
        Genes × dim, with symbols and perhaps HGNC ids.
    families
        Whether there is one for the stems of symbols.
    groups
        Gene group by symbol or HGNC id; None for no such protocol.
    n_folds
        There must be as many families.

    Raises
    ------
    DataError
        There are fewer, or no gene is in a group.
    """
    obs = embeddings.obs.iloc[genes.rows]
    symbols = list(obs["symbol"].astype(str))
    made: dict[Protocol, NDArray[np.int64] | None] = {"random": None}
    if families:
        made["families"] = _numbered([family(symbol) for symbol in symbols])
    if groups is not None:
        ids = list(obs["hgnc_id"].astype(str)) if "hgnc_id" in obs.columns else symbols
        found = [groups.get(key, groups.get(symbol, "")) for key, symbol in zip(ids, symbols, strict=True)]  # fmt: skip
        if not any(found):
            msg = f"None of the {len(found):,} labelled genes is in a gene group of the table; they begin with {symbols[:3]}. Give HGNC's complete set."
            raise DataError(msg)
        # A stem never looks like a group: it has no space in front.
        made["groups"] = _numbered([f" {group}" if group else family(symbol) for group, symbol in zip(found, symbols, strict=True)])  # fmt: skip
    for protocol, code in made.items():
        if code is not None and code.max() + 1 < n_folds:
            msg = f"The labelled genes are of {code.max() + 1} {protocol}, fewer than the {n_folds} folds. Give genes of more of them, or families=False (--no-families)."
            raise DataError(msg)
    return made


def _numbered(names: list[str]) -> "NDArray[np.int64]":
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def cross_validate(
    vectors: "NDArray[np.float32]",
    flags: "Flags",
    fold: "Numbers",
    *,
    seed: int,
    head: Head = "linear",
) -> "Values":
    """Return the probability of each label by a head that was fitted without the gene's fold, shape (gene, label).

    Parameters
    ----------
    vectors
        Of the labelled genes, shape (gene, dim).
    flags
        Whether a gene has a label, shape (gene, label).
    fold
        Of each gene.
    seed
        Of the genes held back to choose the strength.
    head
        Kind of the head.
    """
    probability = np.empty(flags.shape)
    for number in np.unique(fold):
        test = fold == number
        predict = fit(vectors[~test], flags[~test], seed=seed, head=head)
        probability[test] = predict(vectors[test])
    return probability


def frequencies(flags: "Flags", fold: "Numbers") -> "Values":
    """Return the share of genes of the other folds that have a label, shape (gene, label): the naive prediction.

    Parameters
    ----------
    flags
        Shape (gene, label).
    fold
        Of each gene.
    """
    made = np.empty(flags.shape)
    for number in np.unique(fold):
        made[fold == number] = flags[fold != number].mean(axis=0)
    return made
