"""Cell types of cells of donors, or batches, that nothing was fitted on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods.embeddings import EMBEDDINGS
from cellfm.bench.methods.heads import Classified, Head, majority
from cellfm.bench.methods.scanvi import METHOD as SCANVI
from cellfm.bench.methods.tuned import METHODS as TUNED
from cellfm.bench.metrics import classification
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Method, Metric, Outcome, Role, Score, Setting
from cellfm.bench.tasks.labelled import LabelCase, fold_views, folds_of, label_cases, refuses_labels
from cellfm.corpus.split import TEST
from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RARE = 0.05
"""Types with a smaller share of the cells are rare."""
METRICS = (
    Metric(name="macro_f1", summary="mean F1 over the types of the truth"),
    Metric(name="accuracy", summary="share of the cells whose type is right"),
    Metric(name="balanced_accuracy", summary="mean over types of the share that is right"),
    Metric(name="weighted_f1", summary="F1, types weighing as many cells as they have"),
    Metric(name="macro_f1_nan", summary="mean F1 over types that are predicted at all: flatters"),
    Metric(name="ece", summary="expected calibration error, 15 bins", higher=False, best=0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """The task."""

    name: str = "annotation"
    summary: str = "cell types of held-out donors or batches"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "majority"
    positive: str | None = None
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "shuffled_labels", "negative"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        return refuses_labels(dataset)

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield a case for each protocol; each donor, or batch, is held out once."""
        yield from label_cases(dataset, seed=seed)

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each fold."""
        return fold_views(case)

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge the probabilities of all test cells of all folds together."""
        truth, probability, group = pooled(case, answers)
        unit = case.unit if isinstance(case, LabelCase) else case.split
        drawn = resample(truth, group, unit=unit, seed=case.seed)
        predicted, n = probability.argmax(axis=1), len(case.classes)
        score = partial(Score, n_units=drawn.n_units, unit=drawn.unit)
        scores = {
            name: getattr(classification, name)(truth, predicted, n, weights=drawn.weights)
            for name in ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1", "macro_f1_nan")
        }
        scores["ece"] = classification.calibration_error(truth, probability, weights=drawn.weights)
        return Outcome(
            scores={name: score(value=float(x[0]), draws=x[1:]) for name, x in scores.items()},
            notes=tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
            extra=_details(case, truth, predicted),
        )


def pooled(
    case: Case, answers: Sequence[Answer]
) -> "tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.str_] | None]":
    """Return truth, probabilities and groups of the test cells of all folds, one fold after the other.

    Parameters
    ----------
    case
        With the truth.
    answers
        With ``probability``, shape (cell, class), for each fold.

    Raises
    ------
    DataError
        An answer is of another shape, or not finite.
    """
    shape = (len(case.part), len(case.classes))
    truth, probability, rows = [], [], []
    for fold, answer in zip(folds_of(case), answers, strict=True):
        given = answer.arrays["probability"]
        if given.shape != shape or not np.isfinite(given).all():
            msg = f"An answer must be finite probabilities of shape {shape}; found shape {given.shape}. Correct the method."
            raise DataError(msg)
        test = np.flatnonzero(fold.part == TEST)
        rows.append(test)
        truth.append(case.code[test])
        probability.append(given[test])
    group = None if case.group is None else case.group[np.concatenate(rows)]
    return np.concatenate(truth), np.concatenate(probability), group


def _details(
    case: Case, truth: "NDArray[np.int64]", predicted: "NDArray[np.integer]"
) -> dict[str, object]:
    n = len(case.classes)
    tally = classification.Tally.of(truth, predicted, n)
    confusion = np.zeros((n, n), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    share = tally.truth[0] / len(truth)
    rare = (share < RARE) & (share > 0)
    return {
        "classes": list(case.classes),
        "confusion": confusion.tolist(),
        "f1": tally.f1[0].tolist(),
        "n_cells": tally.truth[0].astype(int).tolist(),
        "n_rare": int(rare.sum()),
        "rare_f1": float(tally.f1[0][rare].mean()) if rare.any() else None,
    }


def _method(embedding: str, head: Head, setting: Setting, *roles: Role, name: str = "") -> Method:
    made = EMBEDDINGS[embedding]
    how = {"knn": "vote of 15 or 5 neighbours", "l2": "L2 logistic regression", "l1": "L1 logistic regression"}  # fmt: skip
    suffix = "linear" if head == "l2" and embedding != "hvg" else head
    ours = "candidate" in roles
    against = ("random-weights", "pca50", "pca50-corpus")
    return Method(
        name=name or f"{embedding}+{suffix}",
        summary=f"{made.summary}, {how[head]}" + (", labels permuted" if name else ""),
        setting=setting,
        roles=frozenset(roles),
        run=Classified(embedding=made, head=head, shuffle="shuffled_labels" in roles),
        needs=("sklearn", "scanpy"),
        corpus=made.corpus,
        against=(*(f"{other}+{suffix}" for other in against), "hvg+l2") if ours else (),
        detail=made.detail,
    )


def _methods() -> tuple[Method, ...]:
    return (
        _method("cellfm", "knn", "zero_shot", "candidate"),
        _method("cellfm", "l2", "frozen_probe", "candidate"),
        _method("random-weights", "knn", "zero_shot", "random_weights"),
        _method("random-weights", "l2", "frozen_probe", "random_weights"),
        _method("pca50", "knn", "fitted", "pca"),
        _method("pca50", "l2", "fitted", "pca"),
        _method("pca50-corpus", "knn", "zero_shot", "pca"),
        _method("pca50-corpus", "l2", "frozen_probe", "pca"),
        _method("hvg", "l2", "fitted", "classical"),
        _method("hvg", "l1", "fitted", "classical"),
        _method("random-embedding", "knn", "fitted", "negative"),
        _method("cellfm", "l2", "frozen_probe", "shuffled_labels", name="shuffled-labels"),
        Method(
            name="majority",
            summary="the most frequent type of the training cells",
            setting="fitted",
            roles=frozenset({"negative"}),
            run=majority,
        ),
        SCANVI,
        *TUNED,
    )


TASK = Annotation(methods=_methods())
