"""Cross-validation of a linear head on vectors of genes."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.tl._genes.labels import LabelledGenes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

Protocol = Literal["random", "families"]
STRENGTHS = (0.3, 3.0, 30.0)
"""Inverse strengths of the L2 penalty to choose from; columns have variance 1 / dim, so that they mean the same for every width."""
MOST_CHOOSING = 6
"""Labels whose inner log loss chooses the strength."""
CHOOSING_SHARE = 4
"""One gene in so many of the training part is held back to choose."""
N_ITERATIONS = 2000


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


def cross_validate(
    vectors: "NDArray[np.float32]",
    flags: "Flags",
    fold: "Numbers",
    *,
    seed: int,
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
    """
    probability = np.empty(flags.shape)
    for number in np.unique(fold):
        test = fold == number
        head = fit(vectors[~test], flags[~test], seed=seed)
        probability[test] = head(vectors[test])
    return probability


def fit(
    vectors: "NDArray[np.float32]", flags: "Flags", *, seed: int
) -> "Callable[[NDArray[np.float32]], Values]":
    """Fit an L2 logistic regression for each label and return what gives the probabilities of genes, shape (gene, label).

    Columns are standardised on the training genes and divided by √dim. The strength of the penalty is the one with the least log loss on
    a quarter of the training genes.

    Parameters
    ----------
    vectors
        Shape (gene, dim).
    flags
        Shape (gene, label).
    seed
        Of the genes held back.
    """
    mean, sd = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(sd > 1e-7, 1.0 / np.maximum(sd, 1e-7), 0.0) / np.sqrt(max((sd > 1e-7).sum(), 1))  # fmt: skip
    x = ((vectors - mean) * scale).astype(np.float64)
    rng = np.random.default_rng(seed)
    held = np.zeros(len(x), bool)
    held[rng.permutation(len(x))[: len(x) // CHOOSING_SHARE]] = True
    asked = np.sort(rng.permutation(flags.shape[1])[:MOST_CHOOSING])
    losses = [_loss(x, flags[:, asked], held, strength) for strength in STRENGTHS]
    models = _fit_all(x, flags, STRENGTHS[int(np.argmin(losses))])

    def predict(asked: "NDArray[np.float32]") -> "Values":
        z = ((asked - mean) * scale).astype(np.float64)
        return np.stack([model(z) for model in models], axis=1)

    return predict


def _loss(x: "Values", flags: "Flags", held: "Flags", strength: float) -> float:
    models = _fit_all(x[~held], flags[~held], strength)
    p = np.stack([model(x[held]) for model in models], axis=1)
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return float(-np.where(flags[held], np.log(p), np.log1p(-p)).mean())


def _fit_all(x: "Values", flags: "Flags", strength: float) -> "list[Callable[[Values], Values]]":
    return [_fit_one(x, flags[:, column], strength) for column in range(flags.shape[1])]


def _fit_one(x: "Values", true: "Flags", strength: float) -> "Callable[[Values], Values]":
    from sklearn.linear_model import LogisticRegression

    if true.all() or not true.any():  # a label may be in one fold alone
        share = float(true.mean())
        return lambda z: np.full(len(z), share)
    model = LogisticRegression(C=strength, max_iter=N_ITERATIONS).fit(x, true)
    weight, offset = model.coef_[0], float(model.intercept_[0])
    return lambda z: 1.0 / (1.0 + np.exp(-(z @ weight + offset)))


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
