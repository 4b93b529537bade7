"""What genes do, from their embedding: labels learnt of some genes, measured beside controls, predicted for others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from cellfm.errors import ConfigError
from cellfm.genes.families import read_gene_groups
from cellfm.genes.ontology import propagate, read_obo
from cellfm.optional import require
from cellfm.tl._genes.controls import Controls, make_controls
from cellfm.tl._genes.function_folds import Protocol, cross_validate, protocols_of
from cellfm.tl._genes.function_heads import Head, fit
from cellfm.tl._genes.function_judge import CANDIDATE, Judged, OutOfFold, Validation, judge, verdict
from cellfm.tl._genes.function_ranks import rank_genes
from cellfm.tl._genes.function_through import Through, Tick, read_through
from cellfm.tl._genes.function_tuned import GeneTuning
from cellfm.tl._genes.labels import Choice, LabelledGenes, Labels, Task, as_sets, label_genes
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneFunction:
    """Labels of genes, learnt and measured.

    Attributes
    ----------
    table
        A row for each protocol (``"random"``, ``"families"``, ``"groups"``) and method, the embedding first (``"cellfm"``), with ``n`` genes; ``auroc`` with
        its 95 % bootstrap interval, ``auprc``, ``mcc``, ``fmax`` (several labels a gene only), means over repeats and labels; for controls of random
        numbers means over ``n_random`` draws, whose AUROC has the standard deviation ``spread``; for the embedding its permutation ``p``; for controls ``difference``, ``difference_low``, ``difference_high``: embedding less control in AUROC, paired.
    scores
        The metrics of each protocol, method and repeat.
    labels
        AUROC of each label, a column for each method, beside ``n_genes``; rows are protocol and label.
    predictions
        A row for each label and unlabelled gene, the most probable first: ``label``, ``rank``, ``gene``, ``probability``, and ``nearest``, the three
        labelled genes nearest by centred cosine with their labels and similarities. With several labels a gene, the first 100 genes of each.
    verdict
        What the table shows and what it does not.
    task
        Kind of labels.
    left_out
        Labels that had too few genes, or too many.
    notes
        What was done with the labels before.
    """

    table: "pd.DataFrame"
    scores: "pd.DataFrame"
    labels: "pd.DataFrame"
    predictions: "pd.DataFrame"
    verdict: str
    task: Task
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def classify_genes(  # noqa: PLR0913 - the arguments of a user's question
    embeddings: "AnnData",
    labels: "Labels | pd.DataFrame",
    *,
    task: Task | None = None,
    head: Head = "linear",
    tuning: GeneTuning | None = None,
    n_repeats: int | None = None,
    n_folds: int = 5,
    n_permutations: int | None = None,
    families: bool = True,
    gene_groups: str | Path | None = None,
    ontology: str | Path | None = None,
    min_genes: int = 10,
    max_genes: int | None = None,
    n_labels: int | None = None,
    n_random: int = 3,
    model: Pretrained | str | Path | None = None,
    twin: "AnnData | Sequence[AnnData] | None" = None,
    adata: "AnnData | None" = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    progress: Progress | None = None,
) -> GeneFunction:
    """Learn labels of genes from an embedding of genes, measure how well that goes beside controls, and predict those of other genes.

    Each gene is predicted by heads that have not seen it, in repeated cross-validation; under further protocols no gene of its family, or of its gene
    group, was seen either. The same is done with the embedding by random weights, with random vectors and, where cells are given, with three expression
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
        ``"linear"``: L2 logistic regression, whose strength is chosen within each training part; ``"mlp"``: a perceptron with a hidden layer of 64 units,
        whose penalty and number of epochs are. Controls have the same head.
    tuning
        Also fine-tune the model itself, and one of random weights, anew for each fold: adapters in it and a linear head on the states of the genes in some
        of the cells. Only genes that these express are judged then, and the fine-tuned model comes first. With the packaged model and the defaults
        that takes about 6 minutes of a CPU core for each protocol and repeat, and with larger models as much longer as training them does.
    n_repeats
        How often folds are dealt anew; None is 5, and 1 where genes have several labels or with `tuning`.
    n_folds
        Folds of each repeat.
    n_permutations
        Permutations of the labels, for p; 0 leaves it out. None is 100, and 0 where genes have several labels or with `tuning`, which take long.
    families
        Also judge with gene families (symbols of the same stem: HOXA1 and HOXA13, ZNF12 and ZNF8) in one fold each.
    gene_groups
        HGNC's complete set, or another table with the columns symbol and gene_group: also judge with the genes of a group in one fold. A gene of several
        groups counts to the smallest, one of none to its family by the stem of its symbol.
    ontology
        OBO file, such as go-basic.obo: genes of a term are genes of all that it is or is part of, too. The labels hold the ids of terms.
    min_genes
        Labels with fewer genes are left out; and, where genes may have several, labels that fewer genes do not have.
    max_genes
        Labels with more genes are left out.
    n_labels
        Labels drawn at random of those that are left; None takes all.
    n_random
        Random weights and random vectors that are drawn; the scores of each are averaged.
    model
        The weights that the embedding is of; None is the small model that comes with the package.
    twin
        The same embedding by random weights, or several of them; None makes them where the embedding is static or of queries.
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
    choice = Choice(least=min_genes, most=max_genes, n_labels=n_labels, seed=seed)
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, min_matched=min_matched)  # fmt: skip
    states = np.asarray(embeddings.X, np.float32)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(states).all(axis=1), bool)
    sets, notes = _prepare(labels, ontology)
    groups = None if gene_groups is None else read_gene_groups(gene_groups)
    # Before anything long: labels that cannot be used.
    asked = label_genes(embeddings, sets, task=task, choice=choice, usable=known)
    slow = tuning is not None or asked.task == "multilabel"
    validation = Validation(
        n_repeats=(1 if slow else 5) if n_repeats is None else n_repeats,
        n_folds=n_folds,
        n_permutations=(0 if slow else 100) if n_permutations is None else n_permutations,
        seed=seed,
    )
    _check(head, validation, min_genes=min_genes, n_random=n_random, tuning=tuning)
    controls = make_controls(
        embeddings,
        model=model,
        twin=twin,
        adata=adata,
        options=options,
        n_random=n_random,
        seed=seed,
    )
    tick = Tick(progress)
    through = None if tuning is None else read_through(embeddings, adata, model, options, tuning=tuning, seed=seed, tick=tick)  # fmt: skip
    usable = known & controls.measured & (True if through is None else through.expressed)
    genes = label_genes(embeddings, sets, task=task, choice=choice, usable=usable)
    judged = _judge_all(
        genes,
        _methods(genes, states, controls, head=head, through=through),
        protocols_of(genes, embeddings, families=families, groups=groups, n_folds=n_folds),
        validation=validation,
        through=through,
        tick=tick,
    )
    free = known if through is None else known & through.expressed
    return _result(
        judged,
        genes,
        predictions=_predict(genes, embeddings, free, through, head=head, seed=seed),
        notes=(*notes, *_notes(genes)),
    )


def _check(
    head: str,
    validation: Validation,
    *,
    min_genes: int,
    n_random: int,
    tuning: GeneTuning | None,
) -> None:
    if head not in get_args(Head):
        msg = f"There is no head {head!r}; choose one of {', '.join(get_args(Head))}."
        raise ConfigError(msg)
    if tuning is not None and head != "linear":
        msg = f"head is {head!r}, but a network is fine-tuned with a linear head. Leave head= (--head) or tuning= (--finetune) out."
        raise ConfigError(msg)
    if validation.n_repeats < 1 or not 2 <= validation.n_folds <= min_genes or n_random < 1:
        msg = f"n_repeats is {validation.n_repeats}, n_folds {validation.n_folds}, min_genes {min_genes} and n_random {n_random}; expected at least one repeat, two folds, a gene of each label for every fold, and one draw. Give a number in that range."
        raise ConfigError(msg)


def _prepare(
    labels: "Labels | pd.DataFrame", ontology: str | Path | None
) -> tuple[Labels, tuple[str, ...]]:
    """Read labels, and propagate them; with what is to be said of that."""
    sets = as_sets(labels)
    if ontology is None:
        return sets, ()
    found = propagate(sets, read_obo(ontology))
    return found.sets, (str(found),)


def _notes(genes: LabelledGenes) -> list[str]:
    """Say which names were not found, and which labels were drawn."""
    said = []
    if genes.unknown:
        some = ", ".join(genes.unknown[:3]) + ", …" * (len(genes.unknown) > 3)
        said.append(f"{len(genes.unknown):,} of {genes.n_given:,} names are of no gene of the embedding ({some}).")  # fmt: skip
    if len(genes.names) + (genes.task == "binary") < genes.n_fitting:
        said.append(f"{len(genes.names):,} of {genes.n_fitting:,} labels were drawn at random.")
    return said


def _methods(
    genes: LabelledGenes,
    states: "NDArray[np.float32]",
    controls: Controls,
    *,
    head: Head,
    through: Through | None,
) -> "dict[str, Sequence[OutOfFold]]":
    def frozen(vectors: "NDArray[np.float32]") -> OutOfFold:
        own = vectors[genes.rows]
        return lambda flags, fold, seed: cross_validate(own, flags, fold, seed=seed, head=head)

    every = {CANDIDATE: [states], **controls.vectors}
    methods = {} if through is None else through.methods(genes.rows)
    return methods | {name: [frozen(each) for each in drawn] for name, drawn in every.items()}


def _judge_all(
    genes: LabelledGenes,
    methods: "Mapping[str, Sequence[OutOfFold]]",
    protocols: "Mapping[Protocol, NDArray[np.int64] | None]",
    *,
    validation: Validation,
    through: Through | None,
    tick: Tick,
) -> list[Judged]:
    each = sum(map(len, methods.values())) * validation.n_repeats + validation.n_permutations
    epochs = 0 if through is None else through.n_epochs(validation)
    tick.expect(len(protocols) * (each + epochs))
    return [
        judge(genes, methods, code, protocol, validation=validation, tell=tick)
        for protocol, code in protocols.items()
    ]


def _result(
    judged: list[Judged],
    genes: LabelledGenes,
    *,
    predictions: "pd.DataFrame",
    notes: tuple[str, ...],
) -> GeneFunction:
    import pandas as pd

    table = pd.concat([each.table for each in judged])
    return GeneFunction(
        table=table,
        scores=pd.concat([each.repeats for each in judged]).sort_index(),
        labels=pd.concat([each.labels for each in judged]),
        predictions=predictions,
        verdict=verdict(table),
        task=genes.task,
        left_out=genes.left_out,
        notes=notes,
    )


def _predict(
    genes: LabelledGenes,
    embeddings: "AnnData",
    known: "NDArray[np.bool_]",
    through: Through | None,
    *,
    head: Head,
    seed: int,
) -> "pd.DataFrame":
    """Rank unlabelled genes by a head that was fitted on all labelled ones."""
    states = np.asarray(embeddings.X, np.float32)
    free = known.copy()
    free[genes.rows] = False
    asked = np.flatnonzero(free)
    if through is None:
        predict = fit(states[genes.rows], genes.flags, seed=seed, head=head)
        probability = predict(states[asked])
    else:
        probability = through.predict(genes, asked, seed=seed)
    symbols = embeddings.obs["symbol"].astype(str).to_numpy(object)
    return rank_genes(genes, probability, asked, states=states, symbols=symbols)
