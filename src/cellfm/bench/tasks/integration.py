"""Batch integration, judged by scib-metrics: biology and mixing apart, and a guard on biology."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods.integration import METHODS
from cellfm.bench.metrics.integration import (
    MOST_NEIGHBOURS,
    IntegrationScore,
    scib_scores,
    stratified_subsamples,
)
from cellfm.bench.task import MINIMUM, Answer, Case, Method, Metric, Outcome, Role, Score
from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.tl._classical import Profiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_DRAWS = 5
FRACTION = 0.8
GUARD = 0.02
"""An integration counts only if its Bio is not further below that of unintegrated PCA."""
LEAST_OF_LABEL = 10
"""Cells of a label; cells of rarer ones are left out: kBET and the silhouettes say nothing about them."""
UNIT = f"{FRACTION:.0%} of the cells, drawn alike in every label and batch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegrationCase(Case):
    """A dataset with the embedding that mixing is compared with."""

    unintegrated: "NDArray[np.float32]"
    """PCA-50 of all cells."""
    guard: list[float] = field(default_factory=list)
    """Bio of `unintegrated` once it is known: every method of the case is held against it."""

    @property
    def batch(self) -> "NDArray[np.str_]":
        """Batch of each cell."""
        if self.group is None:  # never: `cases` sets it
            msg = "An integration case has no batches. Choose a dataset with a batch column."
            raise DataError(msg)
        return self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Integration:
    """Embeddings of all cells of a dataset; no method sees a label, and all fit on the cells they are judged on."""

    name: str = "integration"
    summary: str = "Mix batches and keep types: scib-metrics, Bio and Batch apart."
    metrics: tuple[Metric, ...] = (
        Metric(
            name="total",
            summary="0.6 Bio + 0.4 Batch (scib-metrics, unscaled); counts only with the guard on Bio",
        ),
        Metric(
            name="bio",
            summary="mean of isolated labels, k-means NMI and ARI, label silhouette, cLISI",
        ),
        Metric(
            name="batch", summary="mean of BRAS, iLISI, kBET, graph connectivity, PCR comparison"
        ),
        Metric(
            name="guard",
            summary=f"1 if Bio is at least that of unintegrated PCA - {GUARD}, or else 0",
        ),
    )
    methods: tuple[Method, ...] = METHODS
    negative: str = "random_embedding"
    positive: str | None = None
    required: frozenset[Role] = MINIMUM | {"shuffled_labels"}
    n_draws: int = N_DRAWS

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used; None if it can."""
        key = dataset.batch or dataset.donor
        if dataset.label is None:
            return "it has no labels to judge by"
        if key is None:
            return "it has neither batches nor donors"
        label, batch, _ = _columns(dataset)
        if len(np.unique(batch)) < 2:
            return f"{key} has one level only"
        if len(np.unique(label)) < 2:
            return f"fewer than two labels have {LEAST_OF_LABEL} cells"
        if round(FRACTION * len(label)) <= MOST_NEIGHBOURS:
            return f"it has {len(label)} cells, of which {FRACTION:.0%} are not more than {MOST_NEIGHBOURS}"
        sizes = np.unique(batch, return_counts=True)[1]
        return "it has a batch with one cell" if sizes.min() < 2 else None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield one case: all cells whose label has enough of them."""
        label, batch, rows = _columns(dataset)
        adata = dataset.cells[rows]
        profiles = Profiles.fit(adata, scale=dataset.scale, seed=0)
        n_rare = dataset.cells.n_obs - len(rows)
        rare = f"{n_rare} cells of labels with fewer than {LEAST_OF_LABEL} cells were left out."
        about = (
            f"Batches are {dataset.batch or dataset.donor}. Interval: {self.n_draws} subsamples of {UNIT}, the same for all "
            "methods; the embeddings are not made anew, so that it leaves out what fitting varies by."
        )
        yield IntegrationCase(
            dataset=dataset,
            adata=adata,
            rows=rows,
            split="all cells",
            split_hash=_hash(adata.obs_names.to_numpy(dtype=str), batch),
            part=np.zeros(len(rows), np.int8),
            seed=seed,
            labels=label,
            classes=tuple(map(str, np.unique(label))),
            group=batch,
            notes=(
                about,
                *((rare,) if n_rare else ()),
            ),
            unintegrated=profiles.scores(adata, scale=dataset.scale),
        )

    def views(self, case: Case) -> Sequence[Case]:
        """Return one view, without any label."""
        return (case.view(labels=np.full(len(case.part), "")),)

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge an embedding on all cells and on the subsamples."""
        if (
            not isinstance(case, IntegrationCase) or case.labels is None
        ):  # never: `cases` makes them
            msg = f"The integration task was given a case of the protocol {case.split!r}. Choose a split that the task has."
            raise DataError(msg)
        require("scib_metrics", extra="bench")
        arrays = answers[0].arrays
        label = case.labels[arrays["order"]] if "order" in arrays else case.labels
        if not case.guard:
            case.guard.append(_judge(case, case.unintegrated, case.labels).bio)
        judged = partial(_judge, case, arrays["embedding"], label)
        # by the labels that are judged with: their numbers, and with them the shapes that JAX compiles for, stay the same
        draws = stratified_subsamples(
            label, case.batch, n=self.n_draws, fraction=FRACTION, seed=case.seed
        )
        return _outcome(case, judged(), [judged(rows) for rows in draws])


def _outcome(
    case: IntegrationCase, whole: IntegrationScore, parts: list[IntegrationScore]
) -> Outcome:
    n_batches, floor = len(np.unique(case.batch)), case.guard[0] - GUARD

    def score(name: str) -> Score:
        return Score(
            value=getattr(whole, name),
            draws=np.array([getattr(part, name) for part in parts]),
            n_units=n_batches,
            unit=f"batch; interval from {UNIT}",
        )

    kept = whole.bio >= floor
    passed = Score(value=float(kept), n_units=n_batches, unit="batch")
    note = f"Bio {whole.bio:.3f} is below that of unintegrated PCA ({case.guard[0]:.3f}) by more than {GUARD}: the total does not count."
    return Outcome(
        scores={**{name: score(name) for name in ("total", "bio", "batch")}, "guard": passed},
        notes=() if kept else (note,),
        extra={
            "parts": dict(whole.parts),
            "bio_of_pca": case.guard[0],
            "guard": kept,
        },
    )


def _judge(
    case: IntegrationCase,
    embedding: "NDArray[np.floating]",
    label: "NDArray[np.str_]",
    rows: "NDArray[np.int64] | None" = None,
) -> IntegrationScore:
    rows = np.arange(len(label)) if rows is None else rows
    found = scib_scores(
        {"it": embedding[rows]}, case.unintegrated[rows], label[rows], case.batch[rows]
    )
    return found["it"]


def _columns(
    dataset: Dataset,
) -> "tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.int64]]":
    """Label and batch of the cells whose label is frequent enough, and their rows."""
    obs, key = dataset.cells.obs, dataset.batch or dataset.donor
    label = obs[dataset.label].astype(str).to_numpy(dtype=str)
    batch = obs[key].astype(str).to_numpy(dtype=str)
    names, code = np.unique(label, return_inverse=True)
    rows = np.flatnonzero(np.bincount(code, minlength=len(names))[code] >= LEAST_OF_LABEL)
    return label[rows], batch[rows], rows


def _hash(names: "NDArray[np.str_]", batch: "NDArray[np.str_]") -> str:
    digest = hashlib.sha256()
    for name, of in zip(names.tolist(), batch.tolist(), strict=True):
        digest.update(f"{name}\0{of}\n".encode())
    return digest.hexdigest()


TASK = Integration()
