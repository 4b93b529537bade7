"""How good predicted responses are: cross-validation over perturbed genes or pairs, beside every control and the ceiling."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.corpus.conditions import Condition, Protocol, Split, first_tested, fold_conditions
from cellfm.corpus.split import TEST, TRAIN, VALIDATION
from cellfm.errors import ConfigError
from cellfm.tl._perturb.data import PerturbData
from cellfm.tl._response.baselines import BASELINES, Prediction, Predictor
from cellfm.tl._response.collapse import collapse
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.graph import GraphConfig, fit_graph_head
from cellfm.tl._response.kernel import choose_kernel
from cellfm.tl._response.responses import Responses
from cellfm.tl._response.scores import METRICS, Truth, score_responses

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Head = Literal["kernel", "graph"]
Progress = Callable[[int, int], None]
CANDIDATE, TWIN, CEILING = "cellfm", "random weights", "ceiling (half of the cells)"
N_DRAWS = 2000
TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Result of the cross-validation.

    Attributes
    ----------
    table
        A row for each method: the mean of each metric over conditions with ``_low`` and ``_high``, the 95 % bootstrap interval over
        conditions; ``n`` conditions; for the candidate's rivals ``difference``, ``difference_low``, ``difference_high``: candidate less
        rival in the first metric, paired.
    scores
        Metrics of each method and condition, indexed by both.
    predicted
        Of the candidate, each condition by folds that had not seen it, mean over repeats, shape (condition, gene).
    sd
        Its standard deviation.
    truth
        What was measured.
    groups
        What the training part of the first repeat knew of each condition.
    warnings
        What is wrong with the predictions as a whole.
    hash
        Of all splits.
    """

    table: "pd.DataFrame"
    scores: "pd.DataFrame"
    predicted: "NDArray[np.float64]"
    sd: "NDArray[np.float64]"
    truth: Responses
    groups: tuple[str, ...]
    warnings: tuple[str, ...]
    hash: str

    def responses(self) -> "pd.DataFrame":
        """Return predicted and measured responses, a row for each condition and gene."""
        import pandas as pd

        truth = self.truth
        names = [each.name for each in truth.conditions]
        index = pd.MultiIndex.from_product([names, truth.genes], names=["condition", "gene"])
        columns = {
            "predicted": self.predicted.ravel(),
            "predicted_sd": self.sd.ravel(),
            "measured": truth.delta.ravel(),
            "measured_sd": np.sqrt(truth.variance).ravel(),
        }
        return pd.DataFrame(columns, index=index)


def fit_head(
    head: Head,
    train: Responses,
    features: GeneFeatures,
    *,
    validation: Responses | None,
    seed: int,
) -> Predictor:
    """Fit a predictor.

    Parameters
    ----------
    head
        ``"kernel"`` or ``"graph"``.
    train
        Responses to learn from.
    features
        Vectors of genes.
    validation
        More responses: to stop the training of the graph head by, or to learn from as well, with the kernels, which choose by
        cross-validation.
    seed
        Of what is drawn.
    """
    if head == "graph":
        return fit_graph_head(train, features, validation=validation, config=GraphConfig(seed=seed))
    return choose_kernel(joined(train, validation), features, seed=seed)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How predictions are judged.

    Attributes
    ----------
    protocol
        What is held out.
    n_folds, n_repeats
        Of the cross-validation: folds, and how often they are dealt anew.
    seed
        Of folds, halves and resamples.
    """

    protocol: Protocol = "singles"
    n_folds: int = 5
    n_repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_repeats < 1:
            msg = f"n_repeats is {self.n_repeats}; it must be at least 1. Give a number in that range."
            raise ConfigError(msg)


def judge(  # noqa: PLR0917 - what is compared
    data: PerturbData,
    responses: Responses,
    features: GeneFeatures,
    twin: GeneFeatures,
    validation: Validation,
    *,
    head: Head,
    progress: Progress | None = None,
) -> Judged:
    """Predict each condition by methods that have not seen it, and score them.

    Parameters
    ----------
    data
        Cells, for the ceiling.
    responses
        To all conditions.
    features, twin
        Vectors of genes by the model, and by a network of its shape with random weights.
    validation
        How they are judged.
    head
        How responses are predicted.
    progress
        Called with (fits done, fits in all).
    """
    seed, n_repeats = validation.seed, validation.n_repeats
    rounds = []
    for number in range(n_repeats):
        splits = fold_conditions(
            responses.conditions,
            n_folds=validation.n_folds,
            protocol=validation.protocol,
            seed=seed + number,
        )
        methods = _methods(head, features, twin, seed + number)
        n_before, n_fits = number * len(splits) * len(methods), len(splits) * len(methods)

        def tell(done: int, before: int = n_before, in_all: int = n_repeats * n_fits) -> None:
            if progress is not None:
                progress(before + done, in_all)

        rounds.append(_one_round(data, responses, splits, methods, seed=seed + number, tell=tell))
    names = [name for name in rounds[0].scores if all(name in each.scores for each in rounds)]
    scores = {name: _averaged([each.scores[name] for each in rounds]) for name in names}
    truth = responses.take(rounds[0].tested)
    predicted = np.mean([each.predicted for each in rounds], axis=0)
    return Judged(
        table=scores_table(scores, seed=seed),
        scores=_stacked(scores),
        predicted=predicted,
        sd=np.sqrt(np.mean([each.sd**2 for each in rounds], axis=0)),
        truth=truth,
        groups=rounds[0].groups,
        warnings=_warnings(predicted, truth),
        hash=hashlib.sha256("".join(each.hash for each in rounds).encode()).hexdigest(),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Round:
    """One cross-validation."""

    scores: "Mapping[str, pd.DataFrame]"
    tested: "NDArray[np.int64]"
    predicted: "NDArray[np.float64]"
    sd: "NDArray[np.float64]"
    groups: tuple[str, ...]
    hash: str


def _one_round(
    data: PerturbData,
    responses: Responses,
    splits: Sequence[Split],
    methods: "Mapping[str, Fitted]",
    *,
    seed: int,
    tell: Callable[[int], None],
) -> _Round:
    """Predict every condition once, by methods that have not seen it, and score them within its fold."""
    chosen = first_tested(splits)
    tested = np.sort(np.concatenate(chosen))
    fold = np.empty(len(responses.conditions), np.int64)
    for number, rows in enumerate(chosen):
        fold[rows] = number
    shape = responses.delta.shape
    made = {name: (np.zeros(shape), np.full(shape, np.nan)) for name in methods}
    done = 0
    for split, rows in zip(splits, chosen, strict=True):
        for name, method in methods.items():
            if len(rows):
                answer = method(responses, split, [responses.conditions[i] for i in rows])
                made[name][0][rows], made[name][1][rows] = answer.delta, answer.sd
            done += 1
            tell(done)
    reference = np.stack([responses.delta[splits[f].part != TEST].mean(axis=0) for f in fold[tested]])  # fmt: skip
    truth = Truth.of(responses.take(tested))
    scores = {
        name: score_responses(delta[tested], truth, reference=reference, group=fold[tested])
        for name, (delta, _) in made.items()
    }
    half = ceiling(data, responses, tested, group=fold[tested], seed=seed)
    if half is not None:
        scores[CEILING] = half
    return _Round(
        scores=scores,
        tested=tested,
        predicted=made[CANDIDATE][0][tested],
        sd=made[CANDIDATE][1][tested],
        groups=tuple(splits[fold[i]].group[i] for i in tested),
        hash="".join(split.hash for split in splits),
    )


def _averaged(tables: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """Mean over rounds of what is known, of each condition."""
    import pandas as pd

    return pd.concat(tables).groupby(level=0, sort=False).mean()


def _warnings(predicted: "NDArray[np.float64]", truth: Responses) -> tuple[str, ...]:
    """Say whether predictions of unlike perturbations are alike."""
    found = collapse(predicted, truth.delta, truth.own_variance)
    return (found.message,) if found.collapsed else ()


def verdict(table: "pd.DataFrame") -> str:
    """Say in two sentences what a table of scores shows, and what it does not.

    Parameters
    ----------
    table
        Of `Judged`.
    """
    metric = METRICS[0]
    chance = 0.5 if metric.chance is None else metric.chance
    own = table.loc[CANDIDATE]
    value, low, high = own[metric.name], own[f"{metric.name}_low"], own[f"{metric.name}_high"]
    if low > chance:
        first = "above chance"
    elif high < chance:
        first = "below chance"
    else:
        first = "not told apart from chance"
    rivals = table.drop(index=[name for name in (CANDIDATE, CEILING) if name in table.index])
    best = str(rivals[metric.name].idxmax())
    beside, value_of = rivals.loc[best], table[metric.name].to_dict()
    if beside["difference_low"] > 0:
        second = "ahead of"
    elif beside["difference_high"] < 0:
        second = "behind"
    else:
        second = "not told apart from"
    text = (
        f"Unseen conditions are recognised by their predicted response with a score ({metric.name}) of {value:.3f} [{low:.3f}, {high:.3f}], "
        f"{first} ({chance:g}) and {second} the best control, {best} ({value_of[best]:.3f}; difference {beside['difference']:+.3f} "
        f"[{beside['difference_low']:+.3f}, {beside['difference_high']:+.3f}])."
    )
    if CEILING in table.index:
        text += f" One half of the cells as a prediction of the other has {value_of[CEILING]:.3f}: more cannot be expected of these data."
    return text


def joined(first: Responses, second: Responses | None) -> Responses:
    """Put responses of two sets of conditions together.

    Parameters
    ----------
    first, second
        Of the same data; None adds nothing.
    """
    from dataclasses import replace

    if second is None or not second.conditions:
        return first
    return replace(
        first,
        conditions=first.conditions + second.conditions,
        delta=np.concatenate([first.delta, second.delta]),
        tau=np.concatenate([first.tau, second.tau]),
        n_cells=np.concatenate([first.n_cells, second.n_cells]),
    )


Fitted = Callable[[Responses, Split, Sequence[Condition]], Prediction]


def _methods(
    head: Head, features: GeneFeatures, twin: GeneFeatures, seed: int
) -> Mapping[str, Fitted]:
    def by_head(vectors: GeneFeatures) -> Fitted:
        def run(every: Responses, split: Split, asked: Sequence[Condition]) -> Prediction:
            train, validation = every.take(split.part == TRAIN), every.take(split.part == VALIDATION)  # fmt: skip
            fitted = fit_head(head, train, vectors, validation=validation, seed=seed)
            return fitted.predict(asked)

        return run

    def simple(name: str) -> Fitted:
        return lambda every, split, asked: BASELINES[name](
            every.take(split.part != TEST), features, asked
        )

    return {
        CANDIDATE: by_head(features),
        TWIN: by_head(twin),
        **{name: simple(name) for name in BASELINES},
    }


def ceiling(
    data: PerturbData,
    responses: Responses,
    tested: "NDArray[np.int64]",
    *,
    group: "NDArray[np.int64] | None" = None,
    seed: int,
) -> "pd.DataFrame | None":
    """Score one half of the cells of each condition as a prediction of the other.

    Parameters
    ----------
    data
        Cells.
    responses
        To all conditions.
    tested
        Numbers of those that are scored.
    group
        Fold of each of them; None for one.
    seed
        Of the halves.

    Returns
    -------
    As `score_responses`; None where a half of a condition has no stratum with controls.
    """
    rng = np.random.default_rng(seed)
    first = np.zeros(len(data.code), bool)
    for code in range(len(data.conditions)):
        rows = rng.permutation(np.flatnonzero(data.code == code))
        first[rows[: len(rows) // 2]] = True
    halves = [Responses.of(data, rows=rows) for rows in (first, ~first)]
    wanted = [responses.conditions[i] for i in tested]
    places = [{each: i for i, each in enumerate(half.conditions)} for half in halves]
    if not all(each in place for each in wanted for place in places):
        return None
    one, other = (
        half.take(np.array([place[each] for each in wanted]))
        for half, place in zip(halves, places, strict=True)
    )
    return score_responses(one.delta, Truth.of(other), group=group)


def scores_table(scores: "Mapping[str, pd.DataFrame]", *, seed: int) -> "pd.DataFrame":
    """Return means with intervals; the same resamples of conditions for every method.

    Parameters
    ----------
    scores
        Of each method, a row for each condition, in the same order.
    seed
        Of the resamples.
    """
    import pandas as pd

    n = len(next(iter(scores.values())))
    drawn = np.random.default_rng(seed).integers(n, size=(N_DRAWS, n))
    rows = []
    candidate = scores[CANDIDATE][METRICS[0].name].to_numpy()
    for name, table in scores.items():
        row: dict[str, object] = {"method": name, "n": n}
        for metric in METRICS:
            value = table[metric.name].to_numpy()
            low, high = _interval(value[drawn])
            row |= {metric.name: _mean(value), f"{metric.name}_low": low, f"{metric.name}_high": high}  # fmt: skip
        if name not in (CANDIDATE, CEILING):
            difference = candidate - table[METRICS[0].name].to_numpy()
            low, high = _interval(difference[drawn])
            row |= {"difference": _mean(difference), "difference_low": low, "difference_high": high}
        rows.append(row)
    return pd.DataFrame(rows).set_index("method")


def _interval(draws: "NDArray[np.float64]") -> tuple[float, float]:
    """Percentiles of the means of resamples, without missing values."""
    known = np.isfinite(draws)
    if not known.any():
        return float("nan"), float("nan")
    n = known.sum(axis=1)
    means = np.where(known, draws, 0.0).sum(axis=1)[n > 0] / n[n > 0]
    low, high = np.percentile(means, TAILS)
    return float(low), float(high)


def _mean(values: "NDArray[np.float64]") -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _stacked(scores: "Mapping[str, pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(dict(scores), names=["method", "condition"])
