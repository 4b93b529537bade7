"""What genes do, from their embedding: labels learnt of some genes, measured beside controls, predicted for others."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import ConfigError, DataError
from cellfm.optional import require
from cellfm.tl._genes.controls import Controls, make_controls
from cellfm.tl._genes.function_folds import Protocol, fit
from cellfm.tl._genes.function_judge import CANDIDATE, Validation, judge, verdict
from cellfm.tl._genes.labels import LabelledGenes, Labels, Task, family, label_genes
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
Head = Literal["linear"]
N_NEAREST = 3
N_RANKED = 100
"""Genes that are listed for each label where genes may have several."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneFunction:
    """Labels of genes, learnt and measured.

    Attributes
    ----------
    table
        A row for each protocol (``"random"``, ``"families"``) and method, the embedding first (``"cellfm"``), with ``n`` genes; ``auroc`` with its
        95 % bootstrap interval, ``auprc``, ``mcc``, ``fmax`` (several labels a gene only), means over repeats and labels; for the embedding its
        permutation ``p``; for controls ``difference``, ``difference_low``, ``difference_high``: embedding less control in AUROC, paired.
    scores
        The metrics of each protocol, method and repeat.
    predictions
        A row for each label and unlabelled gene, the most probable first: ``label``, ``rank``, ``gene``, ``probability``, and ``nearest``, the three
        labelled genes nearest by cosine with their labels and similarities. With several labels a gene, the first 100 genes of each.
    verdict
        What the table shows and what it does not.
    task
        Kind of labels.
    left_out
        Labels that had too few genes.
    """

    table: "pd.DataFrame"
    scores: "pd.DataFrame"
    predictions: "pd.DataFrame"
    verdict: str
    task: Task
    left_out: tuple[str, ...]


def classify_genes(  # noqa: PLR0913 - the arguments of a user's question
    embeddings: "AnnData",
    labels: "Labels | pd.DataFrame",
    *,
    task: Task | None = None,
    head: Head = "linear",
    n_repeats: int = 5,
    n_folds: int = 5,
    n_permutations: int = 100,
    families: bool = True,
    min_genes: int = 10,
    model: Pretrained | str | Path | None = None,
    twin: "AnnData | None" = None,
    adata: "AnnData | None" = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    progress: Progress | None = None,
) -> GeneFunction:
    """Learn labels of genes from an embedding of genes, measure how well that goes beside controls, and predict those of other genes.

    Each gene is predicted by heads that have not seen it, in repeated cross-validation; under the second protocol no gene of its family was
    seen either. The same is done with the embedding by random weights, with random vectors and, where cells are given, with three expression
    statistics, PCA loadings and a co-expression SVD of these cells; and, where genes have several labels, with the frequency of each label.
    With cells, only genes that they measure are judged, by every method.

    Parameters
    ----------
    embeddings
        Genes × dim with ``obs["symbol"]``, from `gene_embeddings`; genes with missing values are left out.
    labels
        Name → genes (symbols or Ensembl ids), or a table whose first column is a gene and whose second a label. Of two classes the first is
        the positive one.
    task
        ``"binary"``, ``"multiclass"`` (one label against all others), or ``"multilabel"``; None takes the last where a gene has several labels,
        else the first or second by the number of labels. In the first two a gene with several labels is left out.
    head
        ``"linear"``: L2 logistic regression, whose strength is chosen within each training part.
    n_repeats
        How often folds are dealt anew.
    n_folds
        Folds of each repeat.
    n_permutations
        Permutations of the labels, for p; 0 leaves it out.
    families
        Also judge with gene families (symbols of the same stem: HOXA1 and HOXA13, ZNF12 and ZNF8) in one fold each.
    min_genes
        Labels with fewer genes are left out.
    model
        The weights that the embedding is of; None is the small model that comes with the package.
    twin
        The same embedding by random weights; None makes it where the embedding is static.
    adata
        Cells with raw counts, for the controls.
    layer
        Layer with the counts instead of ``X``.
    use_raw
        Take the counts from ``adata.raw``.
    gene_names
        Column of ``var`` with symbols or Ensembl ids instead of ``var_names``.
    min_matched
        Least fraction of the genes of the cells that must be in the embedding.
    seed
        Of folds, resamples, permutations, random weights and vectors.
    progress
        Called with (cross-validations done, in all).

    Returns
    -------
    Scores with controls, predictions and a verdict; writes nothing.

    Raises
    ------
    DataError
        Fewer than ten labelled genes, or one class.
    GeneMatchError
        No labelled gene is in the embedding, or they are of another species.
    ConfigError
        The options do not fit each other.
    MissingDependencyError
        scikit-learn is not installed.

    Examples
    --------
    >>> genes = cellfm.tl.gene_embeddings("mini")  # doctest: +SKIP
    >>> found = cellfm.tl.classify_genes(
    ...     genes, {"bivalent": [...], "other": [...]}
    ... )  # doctest: +SKIP
    >>> print(found.verdict)  # doctest: +SKIP
    """
    require("sklearn")
    _check(head, n_repeats, n_folds, min_genes)
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, min_matched=min_matched)  # fmt: skip
    states = np.asarray(embeddings.X, np.float32)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(states).all(axis=1), bool)
    # Before anything long: labels that cannot be used.
    label_genes(embeddings, labels, task=task, least=min_genes, usable=known)
    controls = make_controls(
        embeddings, model=model, twin=twin, adata=adata, options=options, seed=seed
    )
    genes = label_genes(
        embeddings, labels, task=task, least=min_genes, usable=known & controls.measured
    )
    validation = Validation(
        n_repeats=n_repeats, n_folds=n_folds, n_permutations=n_permutations, seed=seed
    )
    symbols = embeddings.obs["symbol"].astype(str).to_numpy()
    table, scores = _judge_all(
        genes,
        states,
        controls,
        symbols,
        families=families,
        validation=validation,
        progress=progress,
    )
    return GeneFunction(
        table=table,
        scores=scores,
        predictions=_predict(genes, states, symbols, known, seed=seed),
        verdict=verdict(table),
        task=genes.task,
        left_out=genes.left_out,
    )


def _check(head: str, n_repeats: int, n_folds: int, min_genes: int) -> None:
    if head != "linear":
        msg = f"There is no head {head!r}; choose 'linear'."
        raise ConfigError(msg)
    if n_repeats < 1 or not 2 <= n_folds <= min_genes:
        msg = f"n_repeats is {n_repeats}, n_folds {n_folds} and min_genes {min_genes}; expected at least one repeat, two folds, and a gene of each label for every fold."
        raise ConfigError(msg)


def _judge_all(
    genes: LabelledGenes,
    states: "NDArray[np.float32]",
    controls: Controls,
    symbols: "NDArray[np.object_]",
    *,
    families: bool,
    validation: Validation,
    progress: Progress | None,
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    import pandas as pd

    vectors = {CANDIDATE: states[genes.rows]}
    vectors |= {name: own[genes.rows] for name, own in controls.vectors.items()}
    stems = [family(symbols[row]) for row in genes.rows]
    code = np.unique(stems, return_inverse=True)[1]
    protocols: tuple[Protocol, ...] = ("random", "families") if families else ("random",)
    if families and code.max() + 1 < validation.n_folds:
        msg = f"The labelled genes are of {code.max() + 1} families, fewer than the {validation.n_folds} folds. Give genes of more families, or families=False (--no-families)."
        raise DataError(msg)
    in_all = len(protocols) * (len(vectors) * validation.n_repeats + validation.n_permutations)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, in_all)

    parts = [
        judge(genes, vectors, code, protocol, validation=validation, tell=tell)
        for protocol in protocols
    ]
    return pd.concat([table for table, _ in parts]), pd.concat(
        [scores for _, scores in parts]
    ).sort_index()


def _predict(
    genes: LabelledGenes,
    states: "NDArray[np.float32]",
    symbols: "NDArray[np.object_]",
    known: "NDArray[np.bool_]",
    *,
    seed: int,
) -> "pd.DataFrame":
    """Rank unlabelled genes by a head that was fitted on all labelled ones."""
    import pandas as pd

    free = known.copy()
    free[genes.rows] = False
    asked = np.flatnonzero(free)
    probability = fit(states[genes.rows], genes.flags, seed=seed)(states[asked])
    most = N_RANKED if genes.task == "multilabel" else len(asked)
    parts = []
    for column, name in enumerate(genes.names):
        order = np.argsort(-probability[:, column], kind="stable")[:most]
        parts.append(
            pd.DataFrame(
                {
                    "label": name,
                    "rank": np.arange(1, len(order) + 1),
                    "gene": symbols[asked[order]],
                    "probability": probability[order, column],
                    "nearest": _nearest(genes, states, symbols, asked[order]),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _nearest(
    genes: LabelledGenes,
    states: "NDArray[np.float32]",
    symbols: "NDArray[np.object_]",
    asked: "NDArray[np.int64]",
) -> list[str]:
    """Name the labelled genes nearest to each gene by cosine."""
    unit = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    near = unit[asked] @ unit[genes.rows].T
    order = np.argsort(-near, axis=1, kind="stable")[:, :N_NEAREST]
    own = [f"{symbols[row]} ({genes.of(i)}, {{:.2f}})" for i, row in enumerate(genes.rows)]
    return [
        "; ".join(own[i].format(near[row, i]) for i in found) for row, found in enumerate(order)
    ]
