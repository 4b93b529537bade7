"""How well cell types can be read off an embedding, by two simple classifiers fitted on its training cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellfm.bench.metrics.classification import macro_f1
from cellfm.bench.resample import TAILS, resample
from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.tl._classical import N_FOLDS, STRENGTHS, folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

Probe = Literal["kNN", "linear"]
PROBES: tuple[Probe, ...] = ("kNN", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """Score of one embedding under one probe."""

    method: str
    probe: Probe
    macro_f1: Estimate
    """Mean over the classes of the test cells, each counting the same."""
    n_train: int
    n_test: int
    chosen: str
    """What cross-validation on the training cells chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Macro-F1 of one embedding minus that of another on the same resampled test cells."""

    method: str
    against: str
    probe: Probe
    macro_f1: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTable:
    """All scores, and the first method's differences from the others."""

    rows: tuple[ProbeRow, ...]
    differences: tuple[Difference, ...]
    n_classes: int
    """Classes among the test cells."""


def probe_table(
    embeddings: "Mapping[str, NDArray[np.floating]]",
    labels: "NDArray[np.str_]",
    train: "NDArray[np.bool_]",
    *,
    k: int = 15,
    n_bootstrap: int = 1000,
    seed: int,
) -> ProbeTable:
    """Fit a kNN and a linear probe on training cells and score them on the others.

    Options (for kNN whether to standardise, for the linear probe its strength) are chosen for each embedding by
    cross-validation among the training cells: every method has the same choices, and none sees a test cell.
    The interval is a percentile bootstrap over test cells, drawn within each class so that the classes stay the same.

    Parameters
    ----------
    embeddings
        Cells × dim of each method; the first is the one that is compared with the others.
    labels
        Class of each cell.
    train
        Which cells the probes are fitted on.
    k
        Neighbours.
    n_bootstrap
        Resamples.
    seed
        Of folds and resamples.

    Raises
    ------
    DataError
        The arrays do not fit each other, hold NaN, or leave too little to fit or to score.
    MissingDependencyError
        scikit-learn is not installed.
    """
    require("sklearn")
    _check(embeddings, labels, train)
    classes, code = np.unique(labels, return_inverse=True)
    truth = code[~train]
    weights = resample(truth, n_draws=n_bootstrap, seed=seed).weights
    rows, scores = [], {}
    for probe in PROBES:
        for method, states in embeddings.items():
            search = _search(probe, code[train], k=k, seed=seed)
            search.fit(states[train], code[train])
            drawn = macro_f1(truth, search.predict(states[~train]), len(classes), weights=weights)
            scores[method, probe] = drawn
            row = ProbeRow(
                method=method,
                probe=probe,
                macro_f1=_estimate(drawn),
                n_train=int(train.sum()),
                n_test=len(truth),
                chosen=_chosen(probe, search.best_params_),
            )
            rows.append(row)
    return ProbeTable(
        rows=tuple(rows), differences=_differences(scores), n_classes=len(np.unique(truth))
    )


def _estimate(drawn: "NDArray[np.float64]") -> Estimate:
    low, high = np.percentile(drawn[1:], TAILS)
    return Estimate(value=float(drawn[0]), low=float(low), high=float(high))


def _differences(
    scores: "Mapping[tuple[str, Probe], NDArray[np.float64]]",
) -> tuple[Difference, ...]:
    first, *others = dict.fromkeys(method for method, _ in scores)
    return tuple(
        Difference(
            method=first,
            against=other,
            probe=probe,
            macro_f1=_estimate(scores[first, probe] - scores[other, probe]),
        )
        for probe in PROBES
        for other in others
    )


def _search(probe: Probe, code: "NDArray[np.integer]", *, k: int, seed: int) -> Any:  # noqa: ANN401 - sklearn has no types
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score, make_scorer
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    fold = folds(code, seed=seed)
    smallest_fit = len(code) - int(np.bincount(fold).max())
    grid: dict[str, list[object]]
    if probe == "kNN":
        model, grid = (
            KNeighborsClassifier(n_neighbors=min(k, smallest_fit)),
            {"scale": [StandardScaler(), "passthrough"]},
        )
    else:
        model, grid = LogisticRegression(max_iter=10_000), {"probe__C": list(STRENGTHS)}
    return GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("probe", model)]),
        grid,
        scoring=make_scorer(f1_score, average="macro", zero_division=0),
        cv=PredefinedSplit(fold),
    )


def _chosen(probe: Probe, parameters: Mapping[str, object]) -> str:
    if probe == "linear":
        return f"C={parameters['probe__C']}"
    return "as it is" if parameters["scale"] == "passthrough" else "standardised"


def _check(
    embeddings: "Mapping[str, NDArray[np.floating]]",
    labels: "NDArray[np.str_]",
    train: "NDArray[np.bool_]",
) -> None:
    if not embeddings:
        msg = "There are 0 embeddings to probe; give at least one."
        raise DataError(msg)
    sizes = {name: len(states) for name, states in embeddings.items()}
    sizes |= {"labels": len(labels), "train": len(train)}
    if len(set(sizes.values())) > 1:
        msg = f"The arrays have different numbers of cells: {sizes}. Give one row, label and flag for each cell."
        raise DataError(msg)
    for name, states in embeddings.items():
        bad = int((~np.isfinite(states).all(axis=1)).sum())
        if bad:
            msg = f"The embedding {name!r} has NaN or infinite values in {bad} of {len(states)} cells. Leave these cells out."
            raise DataError(msg)
    n_train, n_test = int(train.sum()), int((~train).sum())
    kinds = np.unique(labels[train], return_counts=True)[1]
    if n_train < 2 * N_FOLDS or not n_test or len(kinds) < 2 or kinds.max() > n_train - 2:
        msg = (
            f"There are {n_train} training cells of {len(kinds)} classes and {n_test} test cells; probes need at least "
            f"{2 * N_FOLDS} training cells, two of them outside the largest class, and a test cell. Use more labelled cells."
        )
        raise DataError(msg)
