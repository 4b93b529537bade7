"""How well responses to held-out treatments are predicted, always beside what is simple and what is shuffled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._drug.baselines import BASELINES, DrugTraining, TreatmentErrors, top_genes
from cellfm.tl._drug.data import HoldOut, Treatment, TreatmentSplit, units_of
from cellfm.tl._drug.head import DrugHead
from cellfm.tl._drug.responses import Contexts, DrugResponses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.tl._drug.features import DrugFeatures

    Floats = NDArray[np.float64]

N_DRAWS = 500
OURS, SHUFFLED, CEILING = "cellfm", "cellfm-shuffled-drugs", "replicate-ceiling"
Predict = Callable[[DrugTraining, Sequence[Treatment]], "Floats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugScore:
    """How good a prediction of held-out treatments is.

    Attributes
    ----------
    method
        Its name.
    r2_top50
        R² of deltas over the 50 most differential genes of each treatment, 1 − ΣΣ(δ̂ − δ)² / ΣΣδ²: no change has 0.
    low, high
        Its 95 % interval, whole drugs resampled.
    r2
        The same over all genes.
    pearson
        Mean over treatments of the correlation of predicted and measured delta.
    n_treatments, n_drugs
        Judged.
    """

    method: str
    r2_top50: float
    low: float
    high: float
    r2: float
    pearson: float
    n_treatments: int
    n_drugs: int


def head_predictor(spaces: "Mapping[str, Floats]", *, seed: int) -> Predict:
    """Return the conditional head as a prediction.

    Parameters
    ----------
    spaces
        Gene spaces to choose among.
    seed
        Of the settings that are tried.
    """

    def predict(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
        head = DrugHead.fit(
            train.responses, train.features, train.contexts, block=train.block, spaces=spaces, seed=seed,
        )  # fmt: skip
        return head.predict(asked, train.contexts)[0]

    return predict


def shuffled(predict: Predict, *, seed: int) -> Predict:
    """Return a prediction that is asked about another drug than the one that was given: what it then still has, it does not owe to the drug.

    Parameters
    ----------
    predict
        The prediction.
    seed
        Of the permutation, which leaves no drug in its place.
    """

    def wrong(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
        # Drugs of the same fold first; where a fold has one alone, another of the training ones.
        names = sorted({t.drug for t in asked})
        pool = names if len(names) > 1 else sorted({*names, *(t.drug for t in train.responses.treatments)})  # fmt: skip
        order = np.random.default_rng(seed).permutation(len(pool))
        other = {pool[i]: pool[order[k - 1]] for k, i in enumerate(order)}
        return predict(train, [replace(t, drug=other[t.drug]) for t in asked])

    return wrong


def training_part(
    responses: DrugResponses,
    split: TreatmentSplit,
    features: "DrugFeatures",
    contexts: Contexts,
    *,
    test: int,
) -> DrugTraining:
    """Return what a prediction of a fold may know.

    Parameters
    ----------
    responses
        Of all treatments.
    split
        Of the fold.
    features, contexts
        Of all drugs and contexts.
    test
        The number of the test part.
    """
    known = responses.take(split.part != test)
    block = units_of(known.treatments, split.by, features.scaffold_of)
    if len(np.unique(block)) < 2:
        block = units_of(known.treatments, "drug")
    return DrugTraining(responses=known, features=features, contexts=contexts, block=block)


def judge_folds(
    measured: tuple[DrugResponses, DrugResponses],
    splits: Sequence[TreatmentSplit],
    methods: "Mapping[str, Predict]",
    *,
    features: "DrugFeatures",
    contexts: Contexts,
) -> tuple[DrugScore, ...]:
    """Predict the test part of each fold by each method, and score them together.

    Parameters
    ----------
    measured
        Responses of all treatments to fit on, and to judge by, as of `fitted_and_truth`.
    splits
        Folds; each treatment is tested once or not at all.
    features, contexts
        Of all drugs and contexts.
    methods
        By name.
    """
    fitted, truth = measured
    rows = np.concatenate([np.flatnonzero(split.part == 2) for split in splits])
    guesses: dict[str, list[Floats]] = {name: [] for name in methods}
    for split in splits:
        train = training_part(fitted, split, features, contexts, test=2)
        asked = [fitted.treatments[i] for i in np.flatnonzero(split.part == 2)]
        for name, predict in methods.items():
            guesses[name].append(predict(train, asked))
    there = truth.take(rows)
    scores = [score_of(name, np.concatenate(each), there) for name, each in guesses.items()]
    return (*scores, ceiling(there))


def standard_methods(ours: Predict, *, seed: int) -> dict[str, Predict]:
    """Return ours, ours with shuffled drugs, and every baseline.

    Parameters
    ----------
    ours
        The prediction to be judged.
    seed
        Of the shuffle.
    """
    return {OURS: ours, SHUFFLED: shuffled(ours, seed=seed), **BASELINES}


def score_of(name: str, predicted: "Floats", truth: DrugResponses) -> DrugScore:
    """Score predictions.

    Parameters
    ----------
    name
        Of the method.
    predicted
        Shape (treatment, gene).
    truth
        Of the same treatments.
    """
    errors = TreatmentErrors.of(predicted, truth)
    weights = drug_weights(truth.treatments)
    draws = errors.r2(weights[1:], top=True)
    low, high = np.percentile(draws, (2.5, 97.5))
    return DrugScore(
        method=name,
        r2_top50=float(errors.r2(top=True)),
        low=float(low),
        high=float(high),
        r2=float(errors.r2()),
        pearson=float(errors.pearson.mean()),
        n_treatments=len(truth.treatments),
        n_drugs=len({t.drug for t in truth.treatments}),
    )


def ceiling(truth: DrugResponses) -> DrugScore:
    """Return what a prediction without error would score: R² is bounded by the noise of what was measured.

    The expected error of the true responses is the sampling variance.

    Parameters
    ----------
    truth
        Of the judged treatments.
    """
    top = top_genes(truth)
    error = ((truth.split_tau[:, None] * truth.spread) * top).sum(axis=1)
    total = (np.square(truth.split[1]) * top).sum(axis=1)
    weights = drug_weights(truth.treatments)
    draws = 1.0 - (weights @ error) / (weights @ total)
    low, high = np.percentile(draws[1:], (2.5, 97.5))
    return DrugScore(
        method=CEILING,
        r2_top50=float(draws[0]),
        low=float(low),
        high=float(high),
        r2=float(1.0 - truth.variance.sum() / np.square(truth.delta).sum()),
        pearson=float("nan"),
        n_treatments=len(truth.treatments),
        n_drugs=len({t.drug for t in truth.treatments}),
    )


def drug_weights(
    treatments: Sequence[Treatment], *, n_draws: int = N_DRAWS, seed: int = 0
) -> "Floats":
    """Return how often each treatment counts in each resample of whole drugs, the first row of ones, shape (1 + draw, treatment).

    Parameters
    ----------
    treatments
        Judged.
    n_draws, seed
        Of the resamples.
    """
    drugs = units_of(treatments, "drug")
    n = int(drugs.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return np.vstack([np.ones(len(drugs)), drawn[:, drugs]]).astype(np.float64)


def default_hold_out(features: "DrugFeatures", treatments: Sequence[Treatment]) -> HoldOut:
    """Return what to hold out: scaffolds where there are structures, otherwise dose levels, contexts or drugs, whichever there are three of.

    Parameters
    ----------
    features
        Of the drugs.
    treatments
        All.
    """
    order: tuple[HoldOut, ...] = ("dose", "context", "drug")
    if features.kind != "identity":
        order = ("scaffold", "drug", "dose", "context") if features.scaffolds else ("drug", "dose", "context")  # fmt: skip
    for by in order:
        if len(np.unique(units_of(treatments, by, features.scaffold_of))) > 2:
            return by
    return order[0]
