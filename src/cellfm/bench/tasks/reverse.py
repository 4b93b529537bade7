"""Reverse search, which perturbation made these cells.

The query is the mean response of half of the cells of a perturbation that nothing was fitted on; all perturbed genes of the screen and,
where it has pairs, all their pairs are candidates. Ranks are among those that are not in the training part: what a method was fitted on
it knows by heart, and a query that is like none of it is thereby known to be new, whichever it is; a predictor of the mean alone would
be far above chance. The ranks among all candidates, as scGPT and CellFM print them, are in the metrics ``all_…``. A method predicts the response of each candidate; candidates are ranked by the
cosine to the query without any perturbed gene (:mod:`cellfm.tl._perturb.reverse`). The ceiling has the other half of the cells of every
measured candidate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods import responses as methods
from cellfm.bench.methods.responses import Ask, Predicted, ResponseView
from cellfm.bench.metrics.conditions import clopper_pearson, condition_scores, retrieval_table
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role
from cellfm.bench.tasks.screens import PerturbationCase, refuses_screen, screen_cases, screen_views
from cellfm.corpus.conditions import Condition
from cellfm.errors import DataError
from cellfm.tl._perturb.reverse import likeness
from cellfm.tl._response.baselines import Prediction, nearest_condition

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.tl._response.gene_features import GeneFeatures
    from cellfm.tl._response.responses import Responses

_REPLICATE = "replicate"
FIRST = (1, 5, 10)


def _metrics(prefix: str, where: str) -> tuple[Metric, ...]:
    # Only among unseen candidates is the rank of a predictor without knowledge known.
    chance = 0.5 if not prefix else None
    return (
        Metric(name=f"{prefix}mrr", summary=f"mean of 1 / rank of the right one of {where}"),
        Metric(name=f"{prefix}mean_rank", summary=f"rank of the right one of {where}, 0 the first and 1 the last", higher=False, best=0.0, chance=chance),
        *(Metric(name=f"{prefix}hit_{k}", summary=f"share of queries with the right one of {where} among the first {k}") for k in FIRST),
        *(Metric(name=f"{prefix}relevant_hit_{k}", summary=f"share of queries with one of {where} of a right gene among the first {k}") for k in FIRST),
    )  # fmt: skip


METRICS = (
    *_metrics("", "the unseen candidates"),
    *_metrics("all_", "all candidates (legacy: not to rank on)"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReverseView(ResponseView):
    """What methods see: cells of controls and training conditions, candidates, and the queries without their names.

    Attributes
    ----------
    query
        Responses, shape (query, gene).
    candidates
        What could have made them.
    """

    query: "NDArray[np.float64]"
    candidates: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Answer with ``score``, shape (query, candidate), more is better.

    Attributes
    ----------
    predicted
        Predicts the response of each candidate.
    """

    predicted: Predicted

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view."""
        assert isinstance(case, ReverseView)
        train = methods.responses_of(case, context)
        delta, notes = self.predicted.predict(case, context, case.candidates)
        score = [likeness(delta.delta, wanted, train, case.candidates) for wanted in case.query]
        return Answer(arrays={"score": np.stack(score)}, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverse:
    """The task."""

    name: str = "reverse"
    summary: str = "which perturbation made these cells"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "random"
    positive: str | None = "ceiling"
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "shuffled_labels", "negative", "positive"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        return refuses_screen(dataset)

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield a case for unseen singles and, where there are pairs, one for unseen pairs."""
        for case in screen_cases(dataset, seed=seed):
            if case.split != "contexts":
                n = len(_candidates(case))
                yield replace(case, notes=(*case.notes, f"{n:,} candidates"))

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each fold."""
        assert isinstance(case, PerturbationCase)
        candidates = _candidates(case)
        return [
            ReverseView(
                **{name: getattr(view, name) for name in ResponseView.__dataclass_fields__ if name != "asked"},
                query=_shuffled_queries(fold.truth[0].delta, case.seed),
                candidates=candidates,
            )
            for view, fold in zip(screen_views(case), case.folds, strict=True)
        ]  # fmt: skip

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge the ranks of the right candidates of all folds."""
        assert isinstance(case, PerturbationCase)
        table = _table(case, answers)
        chosen = [note for answer in answers for note in answer.notes]
        counted = [f"{note} {chosen.count(note)}×" for note in dict.fromkeys(chosen)]
        exact, told = {}, []
        for name in (f"{prefix}hit_{k}" for prefix in ("", "all_") for k in FIRST):
            right, n = int(table[name].sum()), len(table)
            low, high = clopper_pearson(right, n)
            exact[name] = [right, n, low, high]
            told.append(f"{name}: {right} of {n}, exact 95 % interval {low:.0%} to {high:.0%}")
        return Outcome(
            scores=condition_scores(table, seed=case.seed),
            notes=(*counted, *told),
            extra={"exact": exact, "conditions": list(table.index), "mrr": table["mrr"].tolist()},
        )


def _candidates(case: PerturbationCase) -> tuple[Condition, ...]:
    """Perturbed genes, and their pairs where any were measured."""
    conditions = case.data.conditions[1:]
    genes = sorted({gene for each in conditions for gene in each.genes})
    singles = [Condition((gene,)) for gene in genes]
    if not any(len(each.genes) == 2 for each in conditions):
        return tuple(singles)
    return (*singles, *(Condition.of(pair) for pair in combinations(genes, 2)))


def _order(n: int, seed: int) -> "NDArray[np.int64]":
    """Order of the queries of a fold: names in theirs would give them away."""
    return np.random.default_rng([seed, 3]).permutation(n)


def _shuffled_queries(delta: "NDArray[np.float64]", seed: int) -> "NDArray[np.float64]":
    return delta[_order(len(delta), seed)]


def _table(case: PerturbationCase, answers: Sequence[Answer]) -> "pd.DataFrame":
    """Ranks of the right candidate of each query."""
    import pandas as pd

    candidates, tables = _candidates(case), []
    ceiling = (
        _OtherHalf(case=case, candidates=candidates) if _REPLICATE in answers[0].arrays else None
    )
    for fold, answer in zip(case.folds, answers, strict=True):
        order = _order(len(fold.asked), case.seed)
        asked = [fold.asked[i] for i in order]
        score = answer.arrays["score"] if ceiling is None else ceiling(fold.truth[0].delta[order])
        if score.shape != (len(asked), len(candidates)) or np.isnan(score).any():
            msg = f"An answer must be scores of shape {(len(asked), len(candidates))} without NaN; found shape {score.shape}. Correct the method."
            raise DataError(msg)
        right = np.array([[each == own for each in candidates] for own in asked])
        genes = [set(own.genes) for own in asked]
        relevant = np.array([[bool(own & set(each.genes)) for each in candidates] for own in genes])
        names = pd.Index([own.name for own in asked], name="condition")
        seen = {case.data.conditions[i] for i in np.unique(case.data.code[fold.rows])}
        new = np.array([each not in seen for each in candidates])
        unseen = retrieval_table(score[:, new], right[:, new], relevant[:, new])
        every = retrieval_table(score, right, relevant)
        columns = unseen | {f"all_{name}": values for name, values in every.items()}
        tables.append(pd.DataFrame(columns, index=names))
    return pd.concat(tables)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OtherHalf:
    """Scores by the second half of the cells; candidates that were not measured come last, all alike."""

    case: PerturbationCase
    candidates: tuple[Condition, ...]

    def __call__(self, query: "NDArray[np.float64]") -> "NDArray[np.float64]":
        place = {each: i for i, each in enumerate(self.candidates)}
        score = np.full((len(query), len(self.candidates)), -2.0)
        target = np.any([fold.truth[1].targets.any(axis=0) for fold in self.case.folds], axis=0)
        for fold in self.case.folds:
            x = fold.truth[1].delta[:, ~target]
            both = (
                np.linalg.norm(x, axis=1)[None] * np.linalg.norm(query[:, ~target], axis=1)[:, None]
            )
            score[:, [place[each] for each in fold.asked]] = query[:, ~target] @ x.T / both
        return score


def _ceiling(case: Case, context: Context) -> Answer:
    """Ask for the other half of the cells."""
    return Answer(arrays={_REPLICATE: np.empty(0)})


def _random(case: Case, context: Context) -> Answer:
    assert isinstance(case, ReverseView)
    shape = (len(case.query), len(case.candidates))
    seed = [case.seed, int.from_bytes(case.fold.encode()[-4:], "little")]
    return Answer(arrays={"score": np.random.default_rng(seed).random(shape)})


def _nearest(
    train: "Responses", features: "GeneFeatures", asked: Sequence[Condition]
) -> tuple[Prediction, tuple[str, ...]]:
    return nearest_condition(train, features, asked), ()


def _methods() -> tuple[Method, ...]:
    against = ("random", "additive", "nearest-centroid", "bilinear-pca", "random-weights")

    def make(name: str, summary: str, ask: Ask, *roles: Role, **options: bool) -> Method:
        return Method(
            name=name,
            summary=summary,
            setting="fitted",
            roles=frozenset(roles),
            run=Ranked(predicted=Predicted(ask=ask, **options)),
            against=against if "candidate" in roles else (),
        )

    plain, ours = methods.baseline, methods.chosen_kernel
    return (
        Method(name="random", summary="any order", setting="fitted", roles=frozenset({"negative"}), run=_random),
        make("additive", "sum of the responses to the genes alone", plain("additive"), "classical"),
        make("nearest-centroid", "nearest training condition, then those that share a gene with it", _nearest, "classical"),
        make("bilinear-pca", "bilinear ridge on principal components of the responses", plain("bilinear-pca"), "pca"),
        make("knn", "mean of the 5 genes that are most alike in co-expression", plain("knn"), "classical"),
        make("cellfm", "Gaussian processes, vectors chosen on training genes", ours, "candidate"),
        make("random-weights", "as cellfm, from random weights", ours, "random_weights", random=True),
        make("shuffled-labels", "as cellfm, training conditions permuted", ours, "shuffled_labels", shuffle=True),
        Method(name="ceiling", summary="the other half of the cells", setting="fitted", roles=frozenset({"positive"}), run=_ceiling),
    )  # fmt: skip


TASK = replace(Reverse(), methods=_methods())
