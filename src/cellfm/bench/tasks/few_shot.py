"""Cell types from one, five or ten labelled cells of each type.

The labels are drawn five times among the training cells; the others stay there without a label, so that the PCA and the variable
genes are those of all training cells. Every method may choose its classifier among the same, on the labelled cells alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods.embeddings import EMBEDDINGS, Embedding
from cellfm.bench.methods.heads import majority
from cellfm.bench.metrics import classification
from cellfm.bench.resample import resample
from cellfm.bench.task import HIDDEN, Answer, Case, Context, Method, Metric, Outcome, Role, Score
from cellfm.bench.tasks.annotation import pooled
from cellfm.bench.tasks.labelled import LabelCase, folds_of, label_cases, refuses_labels
from cellfm.corpus.split import TEST
from cellfm.tl._classical import fit_knn, fit_linear, folds
from cellfm.tl._confidence import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOTS = (1, 5, 10)
N_SETS = 5
"""Times the labelled cells are drawn."""
Head = Literal["centroid", "knn", "linear"]
HEADS: tuple[Head, ...] = ("centroid", "linear", "knn")
"""The first is taken where one label a type leaves nothing to choose by, and where heads are even."""
METRICS = (
    Metric(name="macro_f1", summary="mean F1 over the types of the truth"),
    Metric(name="accuracy", summary="share of the cells whose type is right"),
    Metric(name="balanced_accuracy", summary="mean over types of the share that is right"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """The task."""

    name: str = "few_shot"
    summary: str = "cell types from 1, 5 or 10 labelled cells of each"
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
        """Yield a case for each protocol and number of labels."""
        for case in label_cases(dataset, seed=seed):
            for k in SHOTS:
                yield replace(case, k=k)

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each draw of labels and each fold."""
        return [
            case.view(fold.part, labels=_few(case, fold.part, draw), fold=fold.name)
            for draw in range(N_SETS)
            for fold in folds_of(case)
        ]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge all test cells for each draw of labels; the interval is over draws of labels and over units."""
        n_folds = len(folds_of(case))
        sets = [answers[i : i + n_folds] for i in range(0, len(answers), n_folds)]
        truth, _, group = pooled(case, sets[0])
        unit = case.unit if isinstance(case, LabelCase) else case.split
        drawn = resample(truth, group, unit=unit, seed=case.seed)
        guesses = [pooled(case, of_set)[1].argmax(axis=1) for of_set in sets]
        scores = {}
        for metric in self.metrics:
            measure = getattr(classification, metric.name)
            values = np.stack(
                [
                    measure(truth, guess, len(case.classes), weights=drawn.weights)
                    for guess in guesses
                ]
            )
            scores[metric.name] = Score(
                value=float(values[:, 0].mean()),
                draws=_over_sets(values[:, 1:], seed=case.seed),
                n_units=len(sets),
                unit=f"draw of labels × {drawn.n_units} {drawn.unit}",
            )
        notes = [note for answer in answers for note in answer.notes]
        chosen = {note: notes.count(note) for note in sorted(set(notes))}
        return Outcome(scores=scores, notes=tuple(f"{note}: {n}×" for note, n in chosen.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotMethod:
    """Points and the classifiers to choose from.

    Attributes
    ----------
    embedding
        Makes the points.
    heads
        To choose from by leave-one-out or 5-fold cross-validation on the labelled cells.
    shuffle
        Permute the labels first.
    """

    embedding: Embedding
    heads: tuple[Head, ...] = HEADS
    shuffle: bool = False

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view with ``probability``, shape (cell, class)."""
        points = self.embedding.of(case, context)
        known, n_classes = case.known, len(case.classes)
        x, code = points[known], case.code[known]
        if self.shuffle:
            code = np.random.default_rng([case.seed, 1]).permutation(code)
        head = _choose(self.heads, x, code, n_classes, seed=case.seed)
        return Answer(
            arrays={"probability": _fit(head, x, code, points, n_classes=n_classes)},
            notes=(head,),
        )


def _few(case: Case, part: "NDArray[np.int8]", draw: int) -> "NDArray[np.str_]":
    """Return labels with k of each class left among the training cells."""
    code, k = case.code, case.k or 1
    rng = np.random.default_rng([case.seed, draw])
    kept = np.zeros(len(code), np.bool_)
    for kind in range(len(case.classes)):
        there = np.flatnonzero((code == kind) & (part != TEST))
        kept[rng.permutation(there)[:k]] = True
    labels = np.full(len(code), HIDDEN, dtype=object)
    labels[kept] = np.array(case.classes, dtype=object)[code[kept]]
    return labels.astype(np.str_)


def _over_sets(values: "NDArray[np.float64]", *, seed: int) -> "NDArray[np.float64]":
    """Mean over draws of labels, which are resampled along with the units; values are (set, resample)."""
    n_sets, n_draws = values.shape
    times = np.random.default_rng([seed, 2]).multinomial(n_sets, np.full(n_sets, 1 / n_sets), n_draws)  # fmt: skip
    means: NDArray[np.float64] = (times.T * values).sum(axis=0) / n_sets
    return means


def _choose(
    heads: tuple[Head, ...],
    x: "NDArray[np.float32]",
    code: "NDArray[np.int64]",
    n_classes: int,
    *,
    seed: int,
) -> Head:
    """Return the head with the highest macro-F1 in cross-validation; the first where nothing can be held out."""
    if len(heads) == 1 or np.unique(code, return_counts=True)[1].max() < 2:
        return heads[0]
    fold = folds(code, seed=seed)
    scores = []
    for head in heads:
        guess = np.empty(len(code), np.int64)
        for held in np.unique(fold):
            fit, ask = fold != held, fold == held
            guess[ask] = _fit(head, x[fit], code[fit], x[ask], n_classes=n_classes).argmax(1)
        scores.append(float(classification.macro_f1(code, guess, n_classes)[0]))
    return heads[int(np.argmax(scores))]


def _fit(
    head: Head,
    x: "NDArray[np.float32]",
    code: "NDArray[np.int64]",
    points: "NDArray[np.float32]",
    *,
    n_classes: int,
) -> "NDArray[np.float32]":
    """Fit a head on labelled cells and return probabilities of others."""
    if head == "linear":
        # Variances of single features over a handful of cells are noise: all are scaled alike.
        fitted = fit_linear(
            x, code, n_classes=n_classes, seed=0, strengths=(1.0,), scalings=("common",)
        )
        return softmax(fitted.logits(points)).astype(np.float32)
    if head == "knn":
        k = max(1, int(np.bincount(code).max()) // 2)
        return fit_knn(x, code, n_classes=n_classes, k=k, standardise=False).probabilities(points)
    return _by_centroids(x, code, points, n_classes)


def _by_centroids(
    x: "NDArray[np.float32]",
    code: "NDArray[np.int64]",
    points: "NDArray[np.float32]",
    n_classes: int,
) -> "NDArray[np.float32]":
    """Softmax of the squared distances to the mean of each class, in units of their median; absent classes get 0."""
    there = np.unique(code)
    centre = np.stack([x[code == kind].mean(axis=0) for kind in there])
    square = (points**2).sum(axis=1)[:, None] - 2 * points @ centre.T + (centre**2).sum(axis=1)
    probability = np.zeros((len(points), n_classes), np.float32)
    probability[:, there] = softmax(-square / max(float(np.median(square)), 1e-12))
    return probability


def _method(embedding: str, *roles: Role, heads: tuple[Head, ...] = HEADS, name: str = "") -> Method:  # fmt: skip
    made = EMBEDDINGS[embedding]
    return Method(
        name=name or embedding,
        summary=made.summary + (", labels permuted" if name == "shuffled-labels" else ""),
        setting="few_shot",
        roles=frozenset(roles),
        run=FewShotMethod(embedding=made, heads=heads, shuffle="shuffled_labels" in roles),
        needs=("sklearn", "scanpy"),
        corpus=made.corpus,
        against=("pca50", "random-weights", "hvg+l2") if "candidate" in roles else (),
        detail=made.detail,
    )


def _methods() -> tuple[Method, ...]:
    return (
        _method("cellfm", "candidate"),
        _method("random-weights", "random_weights"),
        _method("pca50", "pca"),
        _method("pca50-corpus", "pca"),
        _method("hvg", "classical", heads=("linear",), name="hvg+l2"),
        _method("random-embedding", "negative"),
        _method("cellfm", "shuffled_labels", name="shuffled-labels"),
        Method(
            name="majority",
            summary="the most frequent type among the labels, which is one of all of them",
            setting="few_shot",
            roles=frozenset({"negative"}),
            run=majority,
        ),
    )


TASK = FewShot(methods=_methods())
