"""Simple predictions of responses to drugs: what every other one has to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._drug.data import Treatment
from cellfm.tl._drug.features import DrugFeatures
from cellfm.tl._drug.responses import Contexts, DrugResponses
from cellfm.tl._response.transfer import transfer_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
TOP = 50
"""Most differential genes (chemCPA)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugTraining:
    """What a prediction may be fitted on.

    Attributes
    ----------
    responses
        Of the training and validation treatments.
    features
        Of all drugs, those asked for included.
    contexts
        Of the control cells of all contexts.
    block
        What is left out together where something is chosen, shape (treatment,).
    """

    responses: DrugResponses
    features: DrugFeatures
    contexts: Contexts
    block: "NDArray[np.int64]"


Baseline = Callable[[DrugTraining, Sequence[Treatment]], "Floats"]


def no_change(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Nothing happens.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    return np.zeros((len(asked), train.responses.delta.shape[1]))


def drug_mean(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Every treatment does what the mean one of its dose does; the mean of all where its dose is new.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    return _group_mean(train, asked, lambda t: t.dose)


def context_mean(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Every treatment does what the mean one of its context does; the mean of all in a new one.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    return _group_mean(train, asked, lambda t: t.context)


def additive(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Mean of all, and what its drug, its context and its dose add to it, each by least squares with a penalty of one treatment.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    known = train.responses.treatments
    levels = [sorted({key(t) for t in known}) for key in _KEYS]
    x, new = (_indicators(each, levels) for each in (known, asked))
    centre = train.responses.delta.mean(axis=0)
    gram = x.T @ x + np.eye(x.shape[1])
    return np.asarray(
        centre + new @ np.linalg.solve(gram, x.T @ (train.responses.delta - centre)), np.float64
    )


def fingerprint_ridge(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Ridge regression on features of the drug, these times log dose, log dose, and the context; the penalty by leaving blocks out.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    x, new = _design(train, train.responses.treatments), _design(train, asked)
    centre = x.mean(axis=0)
    x, new = x - centre, new - centre
    first, judge = train.responses.halves
    errors = []
    for penalty in PENALTIES:
        guess = np.empty_like(first)
        for number in np.unique(train.block):
            out = train.block == number
            guess[out] = _ridge(x[~out], first[~out], x[out], penalty)
        errors.append(np.square(guess - judge).sum())
    return _ridge(x, train.responses.delta, new, PENALTIES[int(np.argmin(errors))])


def same_drug(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
    """Take what the drug did where it was measured, nearest doses interpolated in their logarithm, moved to the context by sensitivity.

    scGen's shift (Lotfollahi et al., Nat Methods 2019) in gene space. Of a drug that was not measured, no change.

    Parameters
    ----------
    train
        What is known.
    asked
        Treatments.
    """
    known = train.responses.treatments
    index = {name: number for number, name in enumerate(train.contexts.names)}
    sensitive = train.contexts.sensitivity
    result = np.zeros((len(asked), train.responses.delta.shape[1]))
    for row, t in enumerate(asked):
        own = [i for i, k in enumerate(known) if k.drug == t.drug]
        here = [i for i in own if known[i].context == t.context] or own
        if not here:
            continue
        old = sensitive[[index[known[i].context] for i in here]]
        ratio = transfer_ratio(old, sensitive[index[t.context]][None])
        result[row] = _at_dose(t.dose, [known[i].dose for i in here], train.responses.delta[here] * ratio)  # fmt: skip
    return result


BASELINES: Mapping[str, Baseline] = {
    "no-change": no_change,
    "drug-mean": drug_mean,
    "context-mean": context_mean,
    "additive": additive,
    "fingerprint-ridge": fingerprint_ridge,
    "same-drug-shift": same_drug,
}
"""By name."""
_KEYS: tuple[Callable[[Treatment], tuple[str, str]], ...] = (
    lambda t: ("drug", t.drug),
    lambda t: ("context", t.context),
    lambda t: ("dose", str(t.dose)),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreatmentErrors:
    """Sums over genes, by treatment, of which R² of any set of treatments is made.

    Attributes
    ----------
    error, total
        Σ (δ̂ − δ)² and Σ δ² over all genes, shape (treatment,).
    error_top, total_top
        Over the 50 genes of largest |z| in one half of the cells, in the other half: chosen and judged by the same noise, large predictions
        would look better than they are.
    pearson
        Correlation of δ̂ and δ over genes.
    """

    error: "Floats"
    total: "Floats"
    error_top: "Floats"
    total_top: "Floats"
    pearson: "Floats"

    @staticmethod
    def of(predicted: "Floats", truth: DrugResponses) -> "TreatmentErrors":
        """Compare predictions with what was measured.

        Parameters
        ----------
        predicted
            Shape (treatment, gene).
        truth
            Of the same treatments.
        """
        from cellfm.tl._response.metrics import check_deltas, pearson_delta

        check_deltas(predicted, truth.delta)
        top = top_genes(truth)
        error, total = np.square(predicted - truth.delta), np.square(truth.delta)
        judge = truth.split[1]
        error_top, total_top = np.square(predicted - judge), np.square(judge)
        return TreatmentErrors(
            error=error.sum(axis=1),
            total=total.sum(axis=1),
            error_top=(error_top * top).sum(axis=1),
            total_top=(total_top * top).sum(axis=1),
            pearson=np.nan_to_num(pearson_delta(predicted, truth.delta)),
        )

    def r2(self, weights: "Floats | None" = None, *, top: bool = False) -> "Floats":
        """R² against no change, 1 − ΣΣ(δ̂ − δ)² / ΣΣ δ², over treatments together.

        Weak treatments, of which nothing but noise can be measured, count for as little as they should.

        Parameters
        ----------
        weights
            Of treatments, shape (…, treatment); None for ones.
        top
            Over the 50 most differential genes of each treatment.
        """
        error, total = (self.error_top, self.total_top) if top else (self.error, self.total)
        w = np.ones(len(error)) if weights is None else weights
        return np.asarray(1.0 - (w @ error) / (w @ total), np.float64)


def top_genes(truth: DrugResponses) -> "NDArray[np.bool_]":
    """Return the 50 genes of each treatment that differ most in the first half of its cells, shape (treatment, gene).

    Parameters
    ----------
    truth
        Measured responses.
    """
    z = np.abs(truth.split[0]) / np.sqrt(truth.spread)
    top = np.zeros(z.shape, bool)
    np.put_along_axis(top, np.argsort(-z, axis=1, kind="stable")[:, :TOP], values=True, axis=1)
    return top


def _group_mean(
    train: DrugTraining, asked: Sequence[Treatment], key: Callable[[Treatment], object]
) -> "Floats":
    known = train.responses.treatments
    rows = []
    for t in asked:
        like = [i for i, k in enumerate(known) if key(k) == key(t)]
        rows.append(train.responses.delta[like or slice(None)].mean(axis=0))
    return np.stack(rows)


def _indicators(
    treatments: Sequence[Treatment], levels: Sequence[Sequence[tuple[str, str]]]
) -> "Floats":
    columns = [[key(t) == level for level in of] for key, of in zip(_KEYS, levels, strict=True)
               for t in treatments]  # fmt: skip
    n = len(treatments)
    return np.concatenate(
        [np.array(columns[k * n : (k + 1) * n], np.float64) for k in range(len(levels))], axis=1
    )


def _design(train: DrugTraining, treatments: Sequence[Treatment]) -> "Floats":
    """[features, features × log dose, log dose, context]."""
    table = np.stack([train.features.row(t.drug) for t in treatments]).astype(np.float64)
    dose = np.log10([[t.dose] for t in treatments])
    names = train.contexts.names
    context = np.array([[t.context == name for name in names] for t in treatments], np.float64)
    return np.concatenate([table, table * dose, dose, context], axis=1)


def _ridge(x: "Floats", y: "Floats", new: "Floats", penalty: float) -> "Floats":
    """Dual form: there are more features than treatments."""
    centre = y.mean(axis=0)
    dual = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y - centre)
    return np.asarray(centre + (new @ x.T) @ dual, np.float64)


def _at_dose(dose: float, doses: Sequence[float], delta: "Floats") -> "Floats":
    """Interpolate linearly in log dose between means at each dose; the nearest beyond them."""
    levels = np.array(sorted(set(doses)))
    means = np.stack([delta[np.array(doses) == level].mean(axis=0) for level in levels])
    place = np.interp(np.log10(dose), np.log10(levels), np.arange(len(levels)))
    low = int(np.floor(place))
    high = min(low + 1, len(levels) - 1)
    return np.asarray(means[low] + (place - low) * (means[high] - means[low]), np.float64)
