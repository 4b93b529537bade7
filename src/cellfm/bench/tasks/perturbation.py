"""Responses to perturbations of genes that nothing was fitted on: unseen singles, unseen pairs, unseen contexts.

Each condition is predicted once, from the controls and the cells of other conditions. The cells of the predicted ones, and the
controls, are divided in halves; predictions are judged on each half, and the ceiling is what one half says of the other: what a
second experiment of that size would know. A prediction is compared with the truths of its own fold only, so that a method that
says the same of all conditions has 0.5 in what tells them apart. Conditions are the unit of the intervals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods import responses as methods
from cellfm.bench.methods.responses import Ask, Predicted
from cellfm.bench.metrics.conditions import condition_scores
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role
from cellfm.bench.tasks.screens import (
    Fold,
    PerturbationCase,
    refuses_screen,
    screen_cases,
    screen_views,
)
from cellfm.errors import DataError
from cellfm.tl._response.collapse import collapse
from cellfm.tl._response.scores import METRICS as RESPONSE_METRICS
from cellfm.tl._response.scores import Truth, score_responses

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_REPLICATE = "replicate"
"""Array of the ceiling's answer; the task puts the other half of the cells in its place."""
METRICS = tuple(
    Metric(
        name=each.name,
        summary=each.summary + (" (legacy: not to rank on)" if each.legacy else ""),
        higher=each.higher,
        best=each.best,
        chance=each.chance,
    )
    for each in RESPONSE_METRICS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """The task."""

    name: str = "perturbation"
    summary: str = "responses to perturbations that nothing was fitted on"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "perturbed-mean"
    positive: str | None = "ceiling"
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "shuffled_labels", "negative", "positive"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        return refuses_screen(dataset)

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield a case for each protocol: unseen singles, unseen pairs where there are pairs, unseen contexts where there are several."""
        yield from screen_cases(dataset, seed=seed)

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each fold."""
        assert isinstance(case, PerturbationCase)
        return screen_views(case)

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge the predictions of all folds together."""
        assert isinstance(case, PerturbationCase)
        tables, predicted = _tables(case, answers)
        table = (tables[0] + tables[1]) / 2
        scores = condition_scores(table, seed=case.seed)
        notes, extra = _collapse(case, predicted)
        chosen = [note for answer in answers for note in answer.notes]
        counted = [f"{note} {chosen.count(note)}×" for note in dict.fromkeys(chosen)]
        return Outcome(scores=scores, notes=(*counted, *notes), extra=extra | _rows(case, table))


def _tables(
    case: PerturbationCase, answers: Sequence[Answer]
) -> "tuple[list[pd.DataFrame], NDArray[np.float64]]":
    """Scores on each half, and the predictions of all folds."""
    group = np.concatenate([np.full(len(fold.asked), i) for i, fold in enumerate(case.folds)])
    reference = np.concatenate([np.tile(f.reference, (len(f.asked), 1)) for f in case.folds])
    truth = [_joined([fold.truth[h] for fold in case.folds]) for h in range(2)]
    tables = []
    for h in range(2):
        if any(_REPLICATE in answer.arrays for answer in answers):
            predicted = truth[1 - h].delta
        else:
            predicted = np.concatenate([_delta(fold, answer) for fold, answer in zip(case.folds, answers, strict=True)])  # fmt: skip
        tables.append(score_responses(predicted, truth[h], reference=reference, group=group))
    return tables, predicted


def _delta(fold: Fold, answer: Answer) -> "NDArray[np.float64]":
    delta = np.asarray(answer.arrays["delta"], np.float64)
    expected = fold.truth[0].delta.shape
    if delta.shape != expected:
        msg = f"An answer must be deltas of shape {expected}; found shape {delta.shape}. Correct the method."
        raise DataError(msg)
    return delta


def _joined(truths: Sequence[Truth]) -> Truth:
    return Truth(
        names=tuple(name for each in truths for name in each.names),
        delta=np.concatenate([each.delta for each in truths]),
        variance=np.concatenate([each.variance for each in truths]),
        control=np.mean([each.control for each in truths], axis=0),
        own_variance=np.concatenate([each.own_variance for each in truths]),
        targets=np.concatenate([each.targets for each in truths]),
    )


def _collapse(
    case: PerturbationCase, predicted: "NDArray[np.float64]"
) -> tuple[tuple[str, ...], dict[str, object]]:
    """Verdicts fold by fold: the means of different folds differ."""
    score, n_found, start = [], 0, 0
    for fold in case.folds:
        one, other = fold.truth
        delta = (one.delta + other.delta) / 2
        variance = (one.own_variance + other.own_variance) / 4
        own = predicted[start : start + len(fold.asked)]
        start += len(fold.asked)
        found = collapse(own, delta, variance)
        n_found += found.collapsed
        score.append(found.score if np.isfinite(found.score) else None)
    notes = (f"collapsed in {n_found} of {len(case.folds)} folds",) if n_found else ()
    return notes, {"collapse": score}


def _rows(case: PerturbationCase, table: "pd.DataFrame") -> dict[str, object]:
    """Values of each condition, for the report."""
    folds = [fold.name for fold in case.folds for _ in fold.asked]
    values = {
        str(name): [float(x) if np.isfinite(x) else None for x in table[name]] for name in table
    }
    return {"conditions": list(table.index), "fold": folds, "values": values}


def _ceiling(case: Case, context: Context) -> Answer:
    """Ask for the other half of the cells."""
    return Answer(arrays={_REPLICATE: np.empty(0)})


def _methods() -> tuple[Method, ...]:
    against = ("bilinear-pca", "additive", "perturbed-mean", "knn", "kernel-coexpression", "random-weights", "kernel-random-weights")  # fmt: skip

    def make(
        name: str, summary: str, ask: Ask, *roles: Role, trains: bool = False, **options: bool
    ) -> Method:
        return Method(
            name=name,
            summary=summary,
            setting="fitted",
            roles=frozenset(roles),
            run=Predicted(ask=ask, **options),
            trains=trains,
            against=against if "candidate" in roles else (),
        )

    plain = methods.baseline
    vectors = methods.kernel(("embedding", "state"), response=False)
    others = methods.kernel(("coexpression",), response=True)
    return (
        make("no-change", "nothing happens", plain("no-change"), "negative"),
        make("perturbed-mean", "mean response of the training conditions", plain("perturbed-mean"), "negative"),
        make("mean-and-target", "mean response, and the perturbed gene as others change", plain("mean-and-target"), "classical"),
        make("matching-mean", "mean of the responses to the genes alone, else the mean", plain("matching-mean"), "classical"),
        make("additive", "sum of the responses to the genes alone", plain("additive"), "classical"),
        make("bilinear-pca", "bilinear ridge on principal components of the responses", plain("bilinear-pca"), "pca"),
        make("bilinear-cellfm", "bilinear ridge on CellFM's gene embedding", plain("bilinear-cellfm"), "candidate"),
        make("bilinear-random", "bilinear ridge on random vectors", plain("bilinear-random")),
        make("knn", "mean of the 5 genes that are most alike in co-expression", plain("knn"), "classical"),
        make("kernel-coexpression", "Gaussian processes on co-expression and responses", others, "classical"),
        make("kernel-cellfm", "Gaussian processes on CellFM's embedding and states", vectors, "candidate"),
        make("kernel-random-weights", "as kernel-cellfm, from random weights", vectors, "random_weights", random=True),
        make("cellfm", "Gaussian processes, vectors chosen on training genes", methods.chosen_kernel, "candidate"),
        make("random-weights", "as cellfm, from random weights", methods.chosen_kernel, "random_weights", random=True),
        make("shuffled-labels", "as cellfm, training conditions permuted", methods.chosen_kernel, "shuffled_labels", shuffle=True),
        make("graph", "graph head on CellFM's embedding, the paper's setting", methods.graph, "candidate", trains=True),
        make("graph-random", "the same from random weights", methods.graph, random=True, trains=True),
        Method(
            name="ceiling",
            summary="the other half of the cells",
            setting="fitted",
            roles=frozenset({"positive"}),
            run=_ceiling,
        ),
    )  # fmt: skip


TASK = replace(Perturbation(), methods=_methods())
