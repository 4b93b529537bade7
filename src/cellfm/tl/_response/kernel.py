r"""Our predictor of genetic responses: Gaussian processes over perturbed genes, whose noise is known.

Responses are divided by the spread of each gene, so that the sampling noise of condition *p* is :math:`\tau_p` in every gene
(:mod:`cellfm.tl._response.responses`), and written in the singular vectors :math:`u_r` of the training responses. Each score is a Gaussian process
over conditions,

.. math::
    z_r \sim N\Big(0,\; s_r \sum_k w_{rk} K_k + \mathrm{diag}(\tau)\Big), \qquad
    K_k(p, q) = \sum_{a \in p} \sum_{b \in q} k_k(a, b)

with a kernel for each thing that is known of genes (CellFM's embedding, CellFM's states in control cells, co-expression, response to other
perturbations, gene sets), one for the identity of the gene, which makes responses to genes that were seen alone additive, and a
constant one for what all perturbations have in common. *s* and *w* maximise the marginal likelihood (Rasmussen & Williams 2006, eq. 5.8)
under a prior that draws the weights of the axes to each other; which vectors are used at all is chosen by cross-validation over the training
genes, so what tells nothing is left out and the prediction falls back to the mean response. What pairs do beyond the sum of their genes is
fitted on the training pairs by :class:`Interaction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.conditions import Condition, first_tested, fold_conditions
from cellfm.corpus.split import TEST
from cellfm.errors import DataError
from cellfm.tl._response.baselines import Prediction, own_change, with_own_change
from cellfm.tl._response.gene_features import GeneFeatures, Kind
from cellfm.tl._response.gene_kernels import RESPONSE, kernels_of, neighbours
from cellfm.tl._response.interaction import Interaction
from cellfm.tl._response.likelihood import maximise
from cellfm.tl._response.responses import Responses

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_RANK = 16
MOST_FITTED = 150
"""Conditions the weights are fitted on; more make the likelihood slow and move nothing."""
LEAST = 1e-8
LEAST_CHOSEN = 8
"""Fewer genes cannot choose among vectors."""
N_FOLDS = 5
"""Of the cross-validation by which the kinds of vectors are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPredictor:
    """Fitted Gaussian processes.

    Attributes
    ----------
    train
        Responses fitted to.
    features
        Vectors of genes.
    kinds
        Which of them are used.
    response
        Whether the genes' responses to other perturbations are used.
    slope
        Of scaled responses on what varies with the perturbed gene in control cells; 0 where co-expression is not used.
    loading
        u, shape (rank, gene).
    scale
        s, shape (rank,).
    weight
        w by the name of the kernel, shape (rank,); the kernels' sum to 1.
    interaction
        Of pairs.
    own
        Change of a perturbed gene's own expression in units of its mean in controls, −1 for a complete knock-out; NaN where no training
        condition has one. Genes that were not seen alone get it.
    """

    train: Responses
    features: GeneFeatures
    kinds: tuple[Kind, ...]
    response: bool
    slope: float
    loading: "NDArray[np.float64]"
    scale: "NDArray[np.float64]"
    weight: "Mapping[str, NDArray[np.float64]]"
    interaction: Interaction
    own: float

    def predict(self, conditions: Sequence[Condition]) -> Prediction:
        """Return posterior means and standard deviations.

        Parameters
        ----------
        conditions
            Any genes of the vocabulary, alone or in pairs.
        """
        mean, variance = self._posterior(conditions)
        spread = np.sqrt(self.train.spread)
        base = self.slope * neighbours(conditions, self.features, self.train)
        delta, deviation = base + mean @ self.loading, np.sqrt(variance @ self.loading**2)
        alone = sorted({single for each in conditions if len(each.genes) > 1 for single in each.singles})  # fmt: skip
        if alone:
            of_single = dict(zip(alone, self._expected(alone), strict=True))
            for row, each in enumerate(conditions):
                if len(each.genes) > 1:
                    factor = self.interaction.factor(*(of_single[one] for one in each.singles))
                    delta[row], deviation[row] = delta[row] * factor, deviation[row] * abs(factor)
        return Prediction(
            conditions=tuple(conditions),
            delta=with_own_change(delta * spread, conditions, self.train, self.own),
            sd=deviation * spread,
        )

    def _posterior(
        self, conditions: Sequence[Condition]
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Mean and variance of the scores, each of shape (condition, rank)."""
        known = self.train.conditions
        kernels = self._kernels((*known, *conditions))
        n = len(known)
        base = self.slope * neighbours(known, self.features, self.train)
        scores = (_scaled(self.train) - base) @ self.loading.T
        mean = np.zeros((len(conditions), len(self.scale)))
        variance = np.zeros_like(mean)
        for r, s in enumerate(self.scale):
            kernel = np.sum([self.weight[name][r] * each for name, each in kernels.items()], axis=0)
            own = np.diag(kernel)[n:]
            inner = s * kernel[:n, :n] + np.diag(self.train.tau)
            across = s * kernel[n:, :n]
            both = np.linalg.solve(inner, np.column_stack([scores[:, r], across.T]))
            mean[:, r] = across @ both[:, 0]
            variance[:, r] = np.maximum(s * own - (across * both[:, 1:].T).sum(axis=1), 0.0)
        return mean, variance

    def _expected(self, conditions: Sequence[Condition]) -> "NDArray[np.float64]":
        """Posterior mean of the scaled responses, shape (condition, gene)."""
        base = self.slope * neighbours(conditions, self.features, self.train)
        return base + self._posterior(conditions)[0] @ self.loading

    def _kernels(self, conditions: Sequence[Condition]) -> "dict[str, NDArray[np.float64]]":
        return kernels_of(conditions, self.features, self.train, self.kinds, response=self.response)


def fit_kernel(
    train: Responses,
    features: GeneFeatures,
    *,
    kinds: Sequence[Kind] | None = None,
    response: bool = True,
    seed: int = 0,
) -> KernelPredictor:
    """Fit to responses.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    kinds
        Which of them are used; None for all that there are.
    response
        Use the genes' responses to other perturbations too.
    seed
        Of the choice of conditions the weights are fitted on, when there are very many.

    Raises
    ------
    DataError
        There are fewer than two conditions.
    """
    if len(train.conditions) < 2:
        msg = f"There are responses to {len(train.conditions)} conditions to learn from; at least 2 are needed. Give more of them."
        raise DataError(msg)
    kinds = tuple(features.kinds if kinds is None else kinds)
    base = neighbours(train.conditions, features, train)
    slope = _slope(train, base) if "coexpression" in kinds else 0.0
    rest = _scaled(train) - slope * base
    loading = _axes(rest, train.tau)
    kernels = kernels_of(train.conditions, features, train, kinds, response=response)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train.conditions))[:MOST_FITTED])
    scale, weight = maximise(
        {name: kernel[np.ix_(chosen, chosen)] for name, kernel in kernels.items()},
        (rest @ loading.T)[chosen],
        train.tau[chosen],
    )
    fitted = KernelPredictor(
        train=train,
        features=features,
        kinds=kinds,
        response=response,
        slope=slope,
        loading=loading,
        scale=scale,
        weight=weight,
        interaction=Interaction(),
        own=own_change(train),
    )
    return _with_interaction(fitted)


def choose_kernel(
    train: Responses,
    features: GeneFeatures,
    *,
    candidates: Sequence[tuple[Sequence[Kind], bool]] | None = None,
    seed: int = 0,
) -> "tuple[KernelPredictor, Mapping[str, float]]":
    """Choose the kinds of vectors by cross-validation over the training genes, then fit to all.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    candidates
        Kinds to choose among, and whether responses to other perturbations are used with them; None for nothing, CellFM's vectors,
        co-expression and responses, gene sets where there are some, and all together.
    seed
        Of the folds.

    Returns
    -------
    The predictor, and the mean squared error of each candidate on left-out genes in units of the spread.
    """
    candidates = _candidates(features) if candidates is None else candidates
    errors = {_label(kinds, response=response): 0.0 for kinds, response in candidates}
    if len({gene for each in train.conditions for gene in each.genes}) >= LEAST_CHOSEN:
        splits = fold_conditions(train.conditions, n_folds=N_FOLDS, seed=seed)
        for split, tested in zip(splits, first_tested(splits), strict=True):
            held, kept = train.take(tested), train.take(split.part != TEST)
            if not len(tested) or len(kept.conditions) < 2:
                continue
            for kinds, response in candidates:
                predictor = fit_kernel(kept, features, kinds=kinds, response=response, seed=seed)
                wrong = predictor.predict(held.conditions).delta - held.delta
                errors[_label(kinds, response=response)] += float((wrong**2 / train.spread).sum())
    best = min(candidates, key=lambda each: errors[_label(each[0], response=each[1])])
    predictor = fit_kernel(train, features, kinds=best[0], response=best[1], seed=seed)
    return predictor, {name: error / train.delta.size for name, error in errors.items()}


def _candidates(features: GeneFeatures) -> list[tuple[tuple[Kind, ...], bool]]:
    of_sets: tuple[Kind, ...] = () if features.sets is None else ("sets",)
    every: list[tuple[tuple[Kind, ...], bool]] = [
        ((), False),
        (("embedding", "state"), False),
        (("coexpression",), True),
        (("embedding", "state", "coexpression"), True),
    ]
    if of_sets:
        every += [(of_sets, False), (("embedding", "state", "coexpression", *of_sets), True)]
    return every


def _label(kinds: Sequence[Kind], *, response: bool) -> str:
    return " + ".join((*kinds, *((RESPONSE,) if response else ()))) or "nothing"


def _slope(train: Responses, base: "NDArray[np.float64]") -> float:
    """Least squares of the scaled responses on what co-expression says, weighted by their precision."""
    square = float(((base**2).sum(axis=1) / train.tau).sum())
    return (
        float(((base * _scaled(train)).sum(axis=1) / train.tau).sum()) / square
        if square > LEAST
        else 0.0
    )


def _axes(scaled: "NDArray[np.float64]", tau: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Singular vectors of scaled responses, weighted by their precision, shape (rank, gene)."""
    _, size, right = np.linalg.svd(scaled / np.sqrt(tau)[:, None], full_matrices=False)
    return right[: max(1, min(MOST_RANK, int((size > LEAST * size[0]).sum())))]


def _scaled(train: Responses) -> "NDArray[np.float64]":
    return np.asarray(train.delta / np.sqrt(train.spread))


def _with_interaction(fitted: KernelPredictor) -> KernelPredictor:
    """Fit what pairs do beyond the sum of their genes."""
    train = fitted.train
    pairs = np.array([len(each.genes) == 2 for each in train.conditions])
    if not pairs.any():
        return fitted
    singles = fitted.train.take(~pairs) if (~pairs).any() else None
    if singles is None or len(singles.conditions) < 2:
        return fitted
    alone = replace(fitted, train=singles)
    conditions = [each for each, pair in zip(train.conditions, pairs, strict=True) if pair]
    first = alone._expected([each.singles[0] for each in conditions])
    second = alone._expected([each.singles[1] for each in conditions])
    interaction = Interaction.fit(_scaled(train)[pairs], first, second, train.tau[pairs])
    return replace(fitted, interaction=interaction)
