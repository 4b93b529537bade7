"""Are cells of a type that the reference lacks recognised as unknown? Each type is left out of the reference once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods.embeddings import EMBEDDINGS, Embedding
from cellfm.bench.metrics import novelty
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role, Score, Setting
from cellfm.bench.tasks.labelled import TEST_SHARE, VALIDATION_SHARE
from cellfm.corpus.split import TEST, split_cells, split_hash
from cellfm.errors import DataError
from cellfm.tl._classical import fit_linear
from cellfm.tl._confidence import Mahalanobis, energy, knn_distance, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

ScoreName = Literal["softmax", "energy", "knn", "mahalanobis"]
SCORES: dict[ScoreName, str] = {
    "softmax": "1 − highest probability",
    "energy": "energy of the class scores",
    "knn": "distance to the 50 nearest training cells",
    "mahalanobis": "distance to the nearest class under the shared covariance",
}
K = 50
"""Neighbours of the distance; fewer where there are fewer training cells."""
LEAST_TYPES = 3
"""With fewer, leaving one out leaves nothing to tell apart."""
LEAST_CELLS = 20
"""A type with fewer cells is never the one left out."""
SPLIT = "leave-one-type-out"
NAMES = ("auroc", "average_precision", "fpr95", "risk_coverage")
METRICS = (
    Metric(name="auroc", summary="cells of the left-out type against the others", chance=0.5),
    Metric(name="average_precision", summary="area under precision and recall of the unknown"),
    Metric(
        name="fpr95",
        summary="share of known cells called unknown when 95 % of the unknown are found",
        higher=False,
        best=0.0,
        chance=0.95,
    ),
    Metric(
        name="risk_coverage",
        summary="share of wrong labels among the cells kept, over all shares kept",
        higher=False,
        best=0.0,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSet:
    """The task."""

    name: str = "open_set"
    summary: str = "cells of a type that the reference lacks, each type left out once"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "random-score"
    positive: str | None = None
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "shuffled_labels", "negative"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        if dataset.label is None:
            return "it has no labels (entry `label` of its file)"
        counts = dataset.cells.obs[dataset.label].astype(str).value_counts()
        if (counts > 1).sum() < LEAST_TYPES or not (counts >= LEAST_CELLS).any():
            return (
                f"it has {len(counts)} types, the largest with {counts.max()} cells; {LEAST_TYPES} types and {LEAST_CELLS} cells of "
                "the one left out are needed"
            )
        return None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield the one case: types with 20 cells or more are left out in turn."""
        cells = dataset.cells
        labels = cells.obs[dataset.label].astype(str).to_numpy().astype(np.str_)
        group = None
        if dataset.donor is not None:
            group = cells.obs[dataset.donor].astype(str).to_numpy().astype(np.str_)
        part = split_cells(labels, group, validation=VALIDATION_SHARE, test=TEST_SHARE, seed=seed)
        left_out = types_left_out(labels)
        yield Case(
            dataset=dataset,
            adata=cells,
            rows=np.arange(cells.n_obs),
            split=SPLIT,
            split_hash=split_hash(list(cells.obs_names), part),
            part=part,
            seed=seed,
            labels=labels,
            classes=tuple(np.unique(labels).tolist()),
            notes=(f"{len(left_out)} types of at least {LEAST_CELLS} cells left out in turn",),
        )

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each type, all of whose cells are test cells."""
        assert case.labels is not None
        return [
            case.view(np.where(case.labels == name, TEST, case.part).astype(np.int8), fold=name)
            for name in types_left_out(case.labels)
        ]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge each fold and average over the types left out, which count the same."""
        assert case.labels is not None
        names = types_left_out(case.labels)
        parts = [
            fold_scores(case, name, answer) for name, answer in zip(names, answers, strict=True)
        ]
        mean = np.mean(parts, axis=0)
        n_cells = len(case.part)
        return Outcome(
            scores={
                metric: Score(value=float(row[0]), draws=row[1:], n_units=n_cells, unit="cell")
                for metric, row in zip(NAMES, mean, strict=True)
            },
            notes=tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
            extra={
                "left_out": names,
                **{
                    metric: [float(part[number][0]) for part in parts]
                    for number, metric in enumerate(NAMES)
                },
            },
        )


def types_left_out(labels: "NDArray[np.str_]") -> list[str]:
    """Return the types with enough cells to be left out, in alphabetical order.

    Parameters
    ----------
    labels
        Of all cells.
    """
    names, counts = np.unique(labels, return_counts=True)
    return [str(name) for name in names[counts >= LEAST_CELLS]]


def fold_scores(case: Case, left_out: str, answer: Answer) -> "NDArray[np.float64]":
    """Return the metrics of one fold, shape (metric, 1 + draw).

    Parameters
    ----------
    case
        With the truth.
    left_out
        Type that the reference lacks.
    answer
        With ``novelty`` of shape (cell,), higher for stranger cells, and ``label``, a class of each cell.

    Raises
    ------
    DataError
        The answer is of another shape or not finite.
    """
    assert case.labels is not None
    strange, label = answer.arrays["novelty"], answer.arrays["label"]
    if strange.shape != case.part.shape or label.shape != case.part.shape or not np.isfinite(strange).all():  # fmt: skip
        msg = f"An answer must be a finite novelty and a label for each of {len(case.part)} cells; found shapes {strange.shape} and {label.shape}. Correct the method."
        raise DataError(msg)
    novel = case.labels == left_out
    rows = np.flatnonzero(novel | (case.part == TEST))
    weights = resample(case.code[rows], seed=case.seed).weights
    score, is_novel = strange[rows], novel[rows]
    wrong = is_novel | (label[rows] != case.code[rows])
    return np.stack(
        [
            novelty.auroc(score, is_novel, weights=weights),
            novelty.average_precision(score, is_novel, weights=weights),
            novelty.false_positive_rate(score, is_novel, weights=weights),
            novelty.risk_coverage_area(score, wrong, weights=weights),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """Take an embedding, fit logistic regression on the known cells, and score how strange each cell is.

    Attributes
    ----------
    embedding
        Makes the points.
    score
        Which novelty score.
    shuffle
        Permute the labels first.
    """

    embedding: Embedding
    score: ScoreName
    shuffle: bool = False

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view with ``novelty`` and ``label``, both of shape (cell,)."""
        points = self.embedding.of(case, context)
        known = case.known
        code = case.code[known]
        if self.shuffle:
            code = np.random.default_rng([case.seed, 1]).permutation(code)
        linear = fit_linear(points[known], code, n_classes=len(case.classes), seed=case.seed)
        logits = linear.logits(points)
        strange = _novelty(self.score, points, logits, known=known, code=code)
        return Answer(
            arrays={"novelty": strange, "label": logits.argmax(axis=1)},
            notes=(f"C={linear.strength}",),
        )


def _novelty(
    kind: ScoreName,
    points: "NDArray[np.float32]",
    logits: "NDArray[np.float32]",
    *,
    known: "NDArray[np.bool_]",
    code: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    """Return the novelty of all cells."""
    if kind == "softmax":
        return -softmax(logits).max(axis=1)
    if kind == "energy":
        return energy(logits)
    if kind == "mahalanobis":
        gapless = np.unique(code, return_inverse=True)[1]
        return Mahalanobis.fit(points[known], gapless).distance(points)
    fit = points[known].astype(np.float64)
    scale = fit.std(axis=0)
    scale[scale < 1e-8] = 1.0
    return knn_distance(fit / scale, points / scale, k=K)


def random_score(case: Case, context: Context) -> Answer:
    """Give every cell a random novelty and the most frequent type.

    Parameters
    ----------
    case
        A view.
    context
        Not used.
    """
    rng = np.random.default_rng([case.seed, 2])
    top = int(np.bincount(case.code[case.known]).argmax())
    n_cells = len(case.part)
    return Answer(arrays={"novelty": rng.random(n_cells), "label": np.full(n_cells, top)})


def _method(embedding: str, score: ScoreName, *roles: Role, name: str = "") -> Method:
    made = EMBEDDINGS[embedding]
    fitted: Setting = "fitted" if embedding in ("pca50", "hvg") else "frozen_probe"
    ours = "candidate" in roles
    return Method(
        name=name or f"{embedding}+{score}",
        summary=f"{made.summary}, {SCORES[score]}" + (", labels permuted" if name else ""),
        setting=fitted,
        roles=frozenset(roles),
        run=Recognised(embedding=made, score=score, shuffle="shuffled_labels" in roles),
        needs=("sklearn", "scanpy"),
        corpus=made.corpus,
        against=(f"random-weights+{score}", f"pca50+{score}") if ours else (),
        detail=made.detail,
    )


def _methods() -> tuple[Method, ...]:
    rooms: tuple[tuple[str, Role], ...] = (
        ("cellfm", "candidate"),
        ("random-weights", "random_weights"),
        ("pca50", "pca"),
    )
    return (
        *(_method(embedding, score, role) for embedding, role in rooms for score in SCORES),
        _method("hvg", "softmax", "classical"),
        _method("hvg", "energy", "classical"),
        _method("cellfm", "softmax", "shuffled_labels", name="shuffled-labels"),
        Method(
            name="random-score",
            summary="a random number, and the most frequent type",
            setting="fitted",
            roles=frozenset({"negative"}),
            run=random_score,
        ),
    )


TASK = OpenSet(methods=_methods())
