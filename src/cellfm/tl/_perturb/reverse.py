r"""Reverse search: the perturbations that would bring control cells into a given state.

The response of every candidate is predicted, and candidates are ranked by how like it is to the wanted change *t*, both in units of the
spread of each gene and without the genes that candidates perturb directly,

.. math:: \mathrm{score}(p) = \cos\big(\hat\delta_p / \sqrt v,\; t / \sqrt v\big)
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.corpus.conditions import Condition
from cellfm.errors import DataError
from cellfm.tl._labels import label_column
from cellfm.tl._perturb.cells import Trained, align_genes, read_cells
from cellfm.tl._perturb.data import PerturbOptions, resolve_targets
from cellfm.tl._response.baselines import Predictor, additive, nearest_condition
from cellfm.tl._response.log_counts import column_means, log_values
from cellfm.tl._response.responses import Responses
from cellfm.tl._response.scores import target_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.tl._response.gene_features import GeneFeatures

BLOCK = 1000
"""Candidates predicted at a time."""
LEAST_CELLS = 5
N_SHOWN = 12


class Predicting(Trained, Protocol):
    """What of a trained model is needed here."""

    @property
    def predictor(self) -> Predictor:
        """Fitted to all conditions."""

    @property
    def features(self) -> "GeneFeatures":
        """Vectors of genes."""


def rank_candidates(
    trained: Predicting,
    candidates: Sequence[Condition],
    wanted: "NDArray[np.float64]",
    kept: "NDArray[np.bool_]",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Rank candidates by the model, and by two simple methods; as `PerturbationModel.reverse`.

    Parameters
    ----------
    trained
        Predictor, and what it was fitted to.
    candidates
        Conditions.
    wanted
        Change of the mean log expression, shape (gene,).
    kept
        Genes that are compared.
    progress
        Called with (candidates done, candidates in all).
    """
    import pandas as pd

    train, features = trained.responses, trained.features
    columns: dict[str, list[NDArray[np.float64]]] = {"score": [], "size": [], "sum": [], "near": []}
    done = 0
    for block in _blocks(candidates):
        predicted = trained.predictor.predict(block).delta
        columns["size"].append(_sizes(predicted, wanted, kept))
        answers = (
            ("score", predicted),
            ("sum", additive(train, features, block).delta),
            ("near", nearest_condition(train, features, block).delta),
        )
        for name, delta in answers:
            columns[name].append(likeness(delta, wanted, train, candidates, kept=kept))
        done += len(block)
        if progress is not None:
            progress(done, len(candidates))
    score, size, summed, near = (np.concatenate(parts) for parts in columns.values())
    table = pd.DataFrame(
        {
            "rank": ranks(score),
            "score": score,
            "size": size,
            "seen": [_seen(each, train) for each in candidates],
            "additive_rank": ranks(summed),
            "centroid_rank": ranks(near),
        },
        index=pd.Index([each.name for each in candidates], name="perturbation"),
    )
    return table.sort_values(["rank", "perturbation"], kind="stable")


def likeness(
    predicted: "NDArray[np.float64]",
    wanted: "NDArray[np.float64]",
    train: Responses,
    candidates: Sequence[Condition],
    *,
    kept: "NDArray[np.bool_] | None" = None,
) -> "NDArray[np.float64]":
    """Return the cosine of predicted responses with a wanted change, 0 where nothing is predicted.

    Parameters
    ----------
    predicted
        Shape (candidate, gene).
    wanted
        Shape (gene,).
    train
        Genes and their spread.
    candidates
        Every condition that is compared, also those of other calls: the genes they perturb do not count.
    kept
        Genes that are compared; None for all.
    """
    touched = target_genes(train.symbol, [each.genes for each in candidates]).any(axis=0)
    used = ~touched if kept is None else ~touched & kept
    if not used.any():
        msg = "No gene is left to compare states by: the candidates perturb all of them. Name fewer genes."
        raise DataError(msg)
    scale = np.sqrt(train.spread[used])
    x, t = predicted[:, used] / scale, wanted[used] / scale
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(t)
    return np.divide(x @ t, length, out=np.zeros(len(x)), where=length > 1e-12)


def ranks(score: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return ranks from 1, best first; equal scores share their mean rank.

    Parameters
    ----------
    score
        More is better.
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(-score), np.float64)


def wanted_change(
    trained: Trained,
    adata: "AnnData",
    *,
    groupby: str,
    names: tuple[str, str | None],
    options: PerturbOptions,
) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
    """Return mean log expression of a target less that of a start, on the training genes; and which of these the cells have.

    Parameters
    ----------
    trained
        Genes and controls of the training.
    adata
        Cells of both states.
    groupby
        Column with the states.
    names
        Of target and start; None for the controls of the training.
    options
        Where the counts are.

    Raises
    ------
    DataError
        There is no such column or entry, a state has too few cells, or too few genes are shared.
    """
    means, kept = [], np.zeros(0, bool)
    for rows in _groups(adata, groupby, [name for name in names if name is not None]):
        counts, _, symbols = read_cells(adata, rows, trained.model, options)
        column = align_genes(trained.responses, symbols)
        kept = column >= 0
        means.append(column_means(log_values(counts))[column])
    begin = means[1] if len(means) > 1 else trained.responses.control
    return np.where(kept, means[0] - begin, 0.0), kept


def _groups(adata: "AnnData", column: str, names: Sequence[str]) -> "list[NDArray[np.int64]]":
    """Rows of the target and, where one is named, of the start."""
    entries = label_column(adata.obs, column, what="cells")
    groups = [np.flatnonzero(entries == name) for name in names]
    for name, rows in zip(names, groups, strict=True):
        if len(rows) < LEAST_CELLS:
            there = ", ".join(map(repr, sorted(set(entries.tolist()) - {""})[:N_SHOWN]))
            msg = f"obs[{column!r}] has {len(rows)} cells {name!r}; at least {LEAST_CELLS} are needed. It has {there}. Give more of them."
            raise DataError(msg)
    return groups


def candidates_of(
    trained: Trained, genes: Sequence[str] | None, *, doubles: bool
) -> list[Condition]:
    """Return genes, alone and in pairs.

    Parameters
    ----------
    trained
        Conditions of the training, and the vocabulary.
    genes
        Names; None for all genes of the training conditions.
    doubles
        Whether pairs are wanted too.

    Raises
    ------
    DataError
        A gene is not in the vocabulary; near names are suggested.
    """
    if genes is None:
        names = sorted({gene for each in trained.responses.conditions for gene in each.genes})
    else:
        names = sorted(set(resolve_targets(list(genes), trained.model.vocabulary).values()))
    singles = [Condition((name,)) for name in names]
    return singles + ([Condition.of(pair) for pair in combinations(names, 2)] if doubles else [])


def _blocks(candidates: Sequence[Condition]) -> Iterator[Sequence[Condition]]:
    return (candidates[i : i + BLOCK] for i in range(0, len(candidates), BLOCK))


def _sizes(
    predicted: "NDArray[np.float64]", wanted: "NDArray[np.float64]", kept: "NDArray[np.bool_]"
) -> "NDArray[np.float64]":
    return np.asarray(
        np.linalg.norm(predicted[:, kept], axis=1) / max(float(np.linalg.norm(wanted)), 1e-12)
    )


def _seen(condition: Condition, train: Responses) -> str:
    """Say what the training data has of a candidate."""
    there = set(train.conditions)
    if condition in there:
        return "itself"
    n = sum(single in there for single in condition.singles)
    if len(condition.genes) == 1:
        return "nothing"
    return ("none of its genes", "one of its genes", "both of its genes")[n]
