"""Simple predictions of responses: what every other one has to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.corpus.conditions import Condition
from cellfm.tl._response.gene_features import GeneFeatures, Kind
from cellfm.tl._response.responses import Responses

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 0.1
N_BILINEAR = 10
K_NEAREST = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Predicted responses.

    Attributes
    ----------
    conditions
        What they are responses to.
    delta
        Change of mean log1p of counts per 10⁴, shape (condition, gene).
    sd
        Standard deviation of the prediction (not of cells), same shape; NaN where a method knows none.
    """

    conditions: tuple[Condition, ...]
    delta: "NDArray[np.float64]"
    sd: "NDArray[np.float64]"

    @classmethod
    def plain(cls, conditions: Sequence[Condition], delta: "NDArray[np.float64]") -> "Prediction":
        """Return predictions without uncertainty.

        Parameters
        ----------
        conditions
            What they are responses to.
        delta
            Shape (condition, gene).
        """
        return cls(conditions=tuple(conditions), delta=delta, sd=np.full(delta.shape, np.nan))


class Predictor(Protocol):
    """Something fitted to responses."""

    def predict(self, conditions: Sequence[Condition]) -> Prediction:
        """Return the responses to these conditions, on the genes of the training data."""


Baseline = Callable[[Responses, GeneFeatures, Sequence[Condition]], Prediction]


def no_change(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Nothing happens.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    return Prediction.plain(conditions, np.zeros((len(conditions), len(train.genes))))


def perturbed_mean(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Every perturbation does what the mean one does (non-control mean).

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    return Prediction.plain(conditions, np.tile(train.mean, (len(conditions), 1)))


def own_change(train: Responses) -> float:
    """Return the change of a perturbed gene's own expression in units of its mean in controls, by least squares over conditions of one gene.

    Parameters
    ----------
    train
        Responses to learn from.

    Returns
    -------
    −1 for complete knock-outs; NaN where no perturbed gene is among the genes.
    """
    column = {name: place for place, name in enumerate(train.symbol)}
    pairs = [
        (row, column[each.genes[0]])
        for row, each in enumerate(train.conditions)
        if len(each.genes) == 1 and each.genes[0] in column
    ]
    mean = train.control[[gene for _, gene in pairs]]
    change = train.delta[tuple(np.array(pairs, np.int64).reshape(-1, 2).T)]
    square = float(mean @ mean)
    return float(mean @ change) / square if square > 1e-8 else float("nan")


def with_own_change(
    delta: "NDArray[np.float64]", conditions: Sequence[Condition], train: Responses, own: float
) -> "NDArray[np.float64]":
    """Return responses in which perturbed genes that were not seen alone change as perturbed genes do.

    Parameters
    ----------
    delta
        Shape (condition, gene).
    conditions
        What they are responses to.
    train
        Genes and controls.
    own
        From `own_change`; NaN changes nothing.
    """
    delta = delta.copy()
    seen = {each.genes[0] for each in train.conditions if len(each.genes) == 1}
    column = {name: place for place, name in enumerate(train.symbol)}
    for row, each in enumerate(conditions) if not np.isnan(own) else ():
        new = [column[gene] for gene in each.genes if gene in column and gene not in seen]
        delta[row, new] = own * train.control[new]
    return delta


def mean_and_target(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Every perturbation does what the mean one does, and changes its own gene: what needs no knowledge of biology.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    mean = np.tile(train.mean, (len(conditions), 1))
    return Prediction.plain(conditions, with_own_change(mean, conditions, train, own_change(train)))


def matching_mean(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Mean of the responses to the genes of a condition alone, the mean response for unseen ones (Viñas Torné et al. 2025, Systema).

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    return Prediction.plain(
        conditions, np.stack([_of_singles(train, each).mean(axis=0) for each in conditions])
    )


def additive(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Sum of the responses to the genes of a condition alone, the mean single response for unseen ones (Ahlmann-Eltze et al. 2025).

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    return Prediction.plain(
        conditions, np.stack([_of_singles(train, each).sum(axis=0) for each in conditions])
    )


def bilinear(
    train: Responses,
    features: GeneFeatures,
    conditions: Sequence[Condition],
    *,
    kind: Kind | None = None,
    n_components: int = N_BILINEAR,
    ridge: float = RIDGE,
) -> Prediction:
    r"""Bilinear ridge regression (Ahlmann-Eltze, Huber & Anders, Nat Methods 2025).

    .. math::
        Y \approx G W P^\top + b, \qquad
        W = (G^\top G + \lambda I)^{-1} G^\top (Y - b) P\, (P^\top P + \lambda I)^{-1}

    Y is mean expression, genes × conditions with the control, b its row means, G a vector for each gene, P the sum of the vectors of the perturbed
    genes. Genes without a vector get 0, so that an unknown target is predicted by b.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    kind
        Which vectors, reduced to principal components over the genes of the data; None for those of Y itself.
    n_components
        Their number.
    ridge
        λ.
    """
    y = np.concatenate([train.control[None], train.control + train.delta]).T
    b = y.mean(axis=1, keepdims=True)
    if kind is None:
        vectors = principal(y - y.mean(axis=0), n_components)
        targets = _own_rows(vectors, train.symbol)
    else:
        every = sorted({*train.symbol, *(g for each in (*train.conditions, *conditions) for g in each.genes)})  # fmt: skip
        table, known = features.table(kind, every)
        scores = principal(table[known] - table[known].mean(axis=0), n_components)
        table = np.zeros((len(every), scores.shape[1]))
        table[known] = scores
        targets = dict(zip(every, table, strict=True))
        vectors = np.stack([targets[name] for name in train.symbol])
    width = vectors.shape[1]
    zero = np.zeros(width)
    seen = np.stack([zero] + [_summed(each, targets, zero) for each in train.conditions])
    asked = np.stack([_summed(each, targets, zero) for each in conditions])
    eye = ridge * np.eye(width)
    left = np.linalg.solve(vectors.T @ vectors + eye, vectors.T @ (y - b) @ seen)
    weight = np.linalg.solve(seen.T @ seen + eye, left.T).T
    mean = (vectors @ weight @ asked.T + b).T
    return Prediction.plain(conditions, mean - train.control)


def nearest(
    train: Responses,
    features: GeneFeatures,
    conditions: Sequence[Condition],
    *,
    kind: Kind | None = None,
    k: int = K_NEAREST,
) -> Prediction:
    """Mean of the responses to the k most similar genes (cosine), summed over the genes of a condition; the mean where nothing is known.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    kind
        Which vectors; None for gene sets where there are some, else co-expression.
    k
        Number of neighbours.
    """
    kind = kind or ("sets" if features.sets is not None else "coexpression")
    singles = [i for i, each in enumerate(train.conditions) if len(each.genes) == 1]
    names = [train.conditions[i].genes[0] for i in singles]
    if not names:
        return perturbed_mean(train, features, conditions)
    vectors, known = features.table(kind, names)
    direction = _directions(vectors)
    responses = train.delta[singles]
    mean = responses.mean(axis=0)

    symbols = sorted({gene for each in conditions for gene in each.genes})
    own, there = features.table(kind, symbols)
    likeness = np.where(known, _directions(own) @ direction.T, -np.inf)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, : min(k, int(known.sum()))]
    of_gene = {
        gene: responses[near].mean(axis=0) if knows and len(near) else mean
        for gene, near, knows in zip(symbols, order, there, strict=True)
    }
    return Prediction.plain(
        conditions,
        np.stack([np.sum([of_gene[g] for g in each.genes], axis=0) for each in conditions]),
    )


def nearest_condition(
    train: Responses, features: GeneFeatures, conditions: Sequence[Condition]
) -> Prediction:
    """Response to the condition itself where it was seen, else the mean of the training conditions with one of its genes, else the mean of all.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    conditions
        To predict.
    """
    place = {each: i for i, each in enumerate(train.conditions)}

    def of(condition: Condition) -> "NDArray[np.float64]":
        if condition in place:
            return train.delta[place[condition]]
        sharing = [i for each, i in place.items() if set(each.genes) & set(condition.genes)]
        return train.delta[sharing].mean(axis=0) if sharing else train.mean

    return Prediction.plain(conditions, np.stack([of(each) for each in conditions]))


BASELINES: Mapping[str, Baseline] = {
    "no-change": no_change,
    "perturbed-mean": perturbed_mean,
    "mean-and-target": mean_and_target,
    "matching-mean": matching_mean,
    "additive": additive,
    "bilinear-pca": bilinear,
    "bilinear-cellfm": lambda t, f, c: bilinear(t, f, c, kind="embedding"),
    "bilinear-random": lambda t, f, c: bilinear(t, f, c, kind="random"),
    "knn": nearest,
}
"""All of them by name."""


def principal(centred: "NDArray[np.float64]", n_components: int) -> "NDArray[np.float64]":
    """Return principal scores of the rows, shape (row, at most n_components).

    Parameters
    ----------
    centred
        Columns of mean 0.
    n_components
        At most.
    """
    u, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = size[:n_components] > 1e-10 * max(float(size[0]), 1e-300) if len(size) else slice(0)
    return (u[:, :n_components] * size[:n_components])[:, kept]


def _of_singles(train: Responses, condition: Condition) -> "NDArray[np.float64]":
    """Responses to the genes of a condition alone; the mean single response for those not seen."""
    place = {each: i for i, each in enumerate(train.conditions)}
    singles = [i for i, each in enumerate(train.conditions) if len(each.genes) == 1]
    mean = train.delta[singles].mean(axis=0) if singles else train.mean
    return np.stack(
        [train.delta[place[each]] if each in place else mean for each in condition.singles]
    )


def _summed(
    condition: Condition, table: "Mapping[str, NDArray[np.float64]]", zero: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    return np.sum([table.get(gene, zero) for gene in condition.genes], axis=0)


def _own_rows(
    vectors: "NDArray[np.float64]", symbols: Sequence[str]
) -> "dict[str, NDArray[np.float64]]":
    return dict(zip(reversed(symbols), vectors[::-1], strict=True))


def _directions(vectors: "NDArray[np.float64]") -> "NDArray[np.float64]":
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)
