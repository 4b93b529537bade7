"""Scores of an integrated embedding: biology kept, batches mixed, and how the two make one number."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BIO = ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi")
"""Metrics of biology kept; their mean is Bio."""
BATCH = ("bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison")
"""Metrics of batches mixed; their mean is Batch."""
BIO_WEIGHT = 0.6
"""Of Bio in the Total, as in scIB (Luecken et al. 2022, Nat. Methods 19, 41)."""
MOST_NEIGHBOURS = 90
"""Neighbours that LISI asks for; a set needs more cells than that."""

_THEIRS = {
    "isolated_labels": "isolated_labels",
    "kmeans_nmi": "nmi_ari_cluster_labels_kmeans_nmi",
    "kmeans_ari": "nmi_ari_cluster_labels_kmeans_ari",
    "silhouette_label": "silhouette_label",
    "clisi": "clisi_knn",
    "bras": "bras",
    "ilisi": "ilisi_knn",
    "kbet": "kbet_per_label",
    "graph_connectivity": "graph_connectivity",
    "pcr_comparison": "pcr_comparison",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationScore:
    """Scores of one embedding, each in 0 … 1 (ARI and isolated labels can fall a little below)."""

    parts: Mapping[str, float]
    """Value of each metric of `BIO` and `BATCH`."""

    @property
    def bio(self) -> float:
        """Mean over the metrics of biology."""
        return float(np.mean([self.parts[name] for name in BIO]))

    @property
    def batch(self) -> float:
        """Mean over the metrics of mixing."""
        return float(np.mean([self.parts[name] for name in BATCH]))

    @property
    def total(self) -> float:
        """``0.6 Bio + 0.4 Batch``."""
        return BIO_WEIGHT * self.bio + (1 - BIO_WEIGHT) * self.batch


def scib_scores(
    embeddings: "Mapping[str, NDArray[np.floating]]",
    unintegrated: "NDArray[np.floating]",
    label: "NDArray[np.str_]",
    batch: "NDArray[np.str_]",
) -> dict[str, IntegrationScore]:
    """Score embeddings by scib-metrics' default set, unscaled.

    Nothing of the result depends on which embeddings are scored together: scaling between methods is off. Neighbours are
    exact (brute force), where scib-metrics takes approximate ones by default.

    Parameters
    ----------
    embeddings
        Shape (cell, dim) each.
    unintegrated
        Embedding before integration that the principal-component regression compares with, shape (cell, component).
    label, batch
        Type and batch of each cell.

    Returns
    -------
    A score for each embedding.

    Raises
    ------
    DataError
        There are too few cells for 90 neighbours, or numbers that are not finite.
    """
    _check(embeddings, unintegrated, label, batch)
    from anndata import AnnData
    from scib_metrics.benchmark import Benchmarker

    cells = AnnData(np.zeros((len(label), 1), np.float32), obs={"label": label, "batch": batch})
    cells.obsm["unintegrated"] = np.asarray(unintegrated, dtype=np.float32)
    keys = [f"embedding {number}" for number in range(len(embeddings))]
    for key, embedding in zip(keys, embeddings.values(), strict=True):
        cells.obsm[key] = np.asarray(embedding, dtype=np.float32)
    judge = Benchmarker(
        cells,
        "batch",
        "label",
        keys,
        pre_integrated_embedding_obsm_key="unintegrated",  # otherwise it writes X_pca itself
        progress_bar=False,
    )
    with warnings.catch_warnings():
        # scib-metrics says for every subsample that a negative PCR comparison counts as 0.
        warnings.simplefilter("ignore", UserWarning)
        judge.prepare(_neighbours())
        judge.benchmark()
        table = judge.get_results(min_max_scale=False, clean_names=False)
    return {
        name: IntegrationScore(
            parts={ours: float(table.loc[key, theirs]) for ours, theirs in _THEIRS.items()}
        )
        for name, key in zip(embeddings, keys, strict=True)
    }


def _neighbours() -> "Callable[[NDArray[np.floating], int], object]":
    """Return exact neighbours in the form that scib-metrics asks for: itself first."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    def compute(x: "NDArray[np.floating]", k: int) -> object:
        finder = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x)
        distances, indices = finder.kneighbors(x)
        return NeighborsResults(indices=indices, distances=distances)

    return compute


def stratified_subsamples(
    label: "NDArray[np.str_]",
    batch: "NDArray[np.str_]",
    *,
    n: int,
    fraction: float,
    seed: int,
) -> "list[NDArray[np.int64]]":
    """Draw cells without replacement, as many of each label in each batch in every draw.

    Equal numbers keep the shapes, so that compiled metrics are compiled once; what varies is which cells are taken, not how
    many of a kind there are.

    Parameters
    ----------
    label, batch
        Type and batch of each cell.
    n
        Draws.
    fraction
        Share of cells taken of each label in each batch, rounded; at least 1.
    seed
        Of the draws.
    """
    groups = _groups(label, batch)
    draws = []
    for number in range(n):
        generator = np.random.default_rng([seed, number])
        taken = [
            generator.choice(rows, max(1, round(fraction * len(rows))), replace=False)
            for rows in groups
        ]
        draws.append(np.sort(np.concatenate(taken)))
    return draws


def bras(x: "NDArray[np.floating]", label: "NDArray[np.str_]", batch: "NDArray[np.str_]") -> float:
    r"""Batch-removal-adapted silhouette (Rautenstrauch & Ohler 2025, Nat. Biotechnol.), with cosine distances.

    Within each label, cell *i* of batch *b* has the mean distance :math:`a_i` to the other cells of *b* and the mean over
    the other batches :math:`b'` of its mean distance to those, :math:`b_i` ("mean other", not the nearest batch);
    :math:`s_i = (b_i - a_i)/\max(a_i, b_i)`. A label scores the mean of :math:`1 - |s_i|`; the result is the mean over labels
    that are in two batches or more.

    Parameters
    ----------
    x
        Embedding, shape (cell, dim).
    label, batch
        Type and batch of each cell.

    Raises
    ------
    DataError
        No label is in two batches.
    """
    scores = []
    for name in np.unique(label):
        rows = label == name
        if len(np.unique(batch[rows])) > 1:
            scores.append(float(np.mean(1 - np.abs(_mean_other_silhouette(x[rows], batch[rows])))))
    if not scores:
        msg = "No label is in two batches, so mixing cannot be scored. Give a label that batches share."
        raise DataError(msg)
    return float(np.mean(scores))


def _mean_other_silhouette(
    x: "NDArray[np.floating]", batch: "NDArray[np.str_]"
) -> "NDArray[np.float64]":
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)
    distance = 1 - (unit @ unit.T).astype(np.float64)
    np.fill_diagonal(distance, 0.0)
    names, code = np.unique(batch, return_inverse=True)
    number = np.bincount(code)
    to_batch = distance @ np.eye(len(names))[code]  # (cell, batch) sums
    own = np.arange(len(x)), code
    within = to_batch[own] / np.maximum(number[code] - 1, 1)
    means = to_batch / number
    means[own] = 0.0
    between = means.sum(axis=1) / (len(names) - 1)
    highest = np.maximum(within, between)
    score = np.divide(between - within, highest, out=np.zeros(len(x)), where=highest > 0)
    score[number[code] == 1] = 0.0  # a cell alone has no silhouette, as in scikit-learn
    return score


def silhouette_label(x: "NDArray[np.floating]", label: "NDArray[np.str_]") -> float:
    """Mean silhouette of the labels (Rousseeuw 1987), moved from -1 … 1 to 0 … 1.

    Parameters
    ----------
    x
        Embedding, shape (cell, dim).
    label
        Type of each cell; two at least.
    """
    from sklearn.metrics import silhouette_score

    return float((silhouette_score(x, label) + 1) / 2)


def _groups(label: "NDArray[np.str_]", batch: "NDArray[np.str_]") -> "list[NDArray[np.int64]]":
    pair = np.unique(np.stack([label, batch]).astype(str), axis=1, return_inverse=True)[1].ravel()
    return [np.flatnonzero(pair == code) for code in range(int(pair.max()) + 1)]


def _check(
    embeddings: "Mapping[str, NDArray[np.floating]]",
    unintegrated: "NDArray[np.floating]",
    label: "NDArray[np.str_]",
    batch: "NDArray[np.str_]",
) -> None:
    n_cells = len(label)
    if n_cells <= MOST_NEIGHBOURS:
        msg = f"There are {n_cells} cells, but LISI needs more than {MOST_NEIGHBOURS}. Score a larger set."
        raise DataError(msg)
    lengths: Sequence[int] = [len(unintegrated), len(batch), *map(len, embeddings.values())]
    if any(length != n_cells for length in lengths):
        msg = f"Labels of {n_cells} cells were given with arrays of {sorted(set(lengths))} rows; expected as many. Give one label for each row."
        raise DataError(msg)
    for name, values in {**embeddings, "the unintegrated one": unintegrated}.items():
        if not np.isfinite(values).all():
            msg = f"The embedding {name!r} has numbers that are not finite; expected none. Leave out cells without a state."
            raise DataError(msg)
