"""What a network must beat at recovering hidden values: the gene's mean, PCA, ridge regression on its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells, gene_means
from cellfm.corpus.draw import child, key_of
from cellfm.corpus.mask import mask_cells
from cellfm.corpus.ragged import cell_totals, log_values
from cellfm.corpus.tokens import depth_features

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

N_COMPONENTS = 50
"""Components of the PCA (evaluation protocols of the field take 50)."""
MAX_CELLS = 20_000
"""Cells that the baselines are fitted on at most; more change their error in the third digit."""
RIDGE = 10.0
"""Penalty of the ridge regression on scores of unit variance: a gene seen in 10 cells is pulled half-way to its mean."""

TOLERANCE = 1e-6
"""Relative accuracy of the principal components."""
CUT = 3.0
"""Standard deviations at which a gene's features are cut: a few genes carry most of each loading."""

_FIT, _EPOCH = -3, -2  # streams and epochs that training never uses


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baselines:
    r"""Simple predictors of hidden values, fitted on the cells that the network is trained on.

    With :math:`x_i` the values of cell *i* over all genes (zero where not expressed or hidden), :math:`\mu` the mean of the training
    cells and :math:`V` their first 50 principal directions:

    - ``gene_mean``: the mean of gene *j* over the training cells that express it, :math:`m_j`;
    - ``pca``: the reconstruction :math:`\mu_j + (V V^\top (x_i - \mu))_j`, hidden entries of :math:`x_i - \mu` being 0;
    - ``ridge``: :math:`m_j + w_j^\top z_i` with :math:`z_i` the standardised scores :math:`V^\top(x_i-\mu)` and the log depth, and
      :math:`w_j` fitted by ridge regression over the training cells that express *j* while other values are hidden as in a batch. It
      knows that a scored gene is expressed, which ``pca`` does not.
    """

    gene_mean: "NDArray[np.float32]"
    """Mean value of each token where it is expressed."""
    mean: "NDArray[np.float32]"
    """Mean value of each token over all cells."""
    directions: "NDArray[np.float32]"
    """Principal directions, shape (token, component)."""
    score_mean: "NDArray[np.float32]"
    score_scale: "NDArray[np.float32]"
    weight: "NDArray[np.float32]"
    """Ridge weights, shape (token, component + 2)."""
    seen: "NDArray[np.bool_]"
    """Whether any of the cells expresses a token."""

    @classmethod
    def fit(
        cls,
        cells: InMemoryCells,
        n_genes: int,
        *,
        seed: int,
        scored_fraction: float = 0.2,
        hidden_fraction: float = 1.0,
    ) -> "Baselines":
        """Fit all of them.

        Parameters
        ----------
        cells
            Training cells; of more than 20,000 those whose numbers hash lowest are taken.
        n_genes
            Genes of the vocabulary.
        seed
            Of the choice of cells and of the masks.
        scored_fraction, hidden_fraction
            Of the batches that will be predicted.
        """
        means = gene_means(cells, n_genes)
        cells = _sample(cells, seed)
        hidden = mask_cells(
            cells.gene,
            cells.offsets,
            cells.cell,
            seed=seed,
            epoch=_EPOCH,
            scored_fraction=scored_fraction,
            hidden_fraction=hidden_fraction,
        ).hidden
        total = cell_totals(cells.count, cells.offsets)
        value = log_values(cells.count, total, cells.lengths)
        mean, directions = _principal_directions(
            _matrix(cells.gene, value, cells.offsets, n_genes), seed
        )
        shown = _matrix(cells.gene, np.where(hidden, 0.0, value), cells.offsets, n_genes)
        centre = _hidden_means(cells.gene, cells.offsets, hidden, mean)
        features = _features(
            shown, centre, mean, directions, depth=depth_features(total, total).numpy()[:, :1]
        )
        score_mean, score_scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        standard = _with_constant((features - score_mean) / score_scale)
        residual = _matrix(cells.gene, value - means[cells.gene], cells.offsets, n_genes)
        return cls(
            gene_mean=means,
            mean=mean,
            directions=directions,
            score_mean=score_mean,
            score_scale=score_scale,
            weight=_ridge(residual, standard),
            seen=np.bincount(cells.gene, minlength=n_genes + 1) > 0,
        )

    def gene_table(self, dim: int, *, seed: int) -> "NDArray[np.float32]":
        r"""Embed each gene by what the PCA knows of it: a start for a network's gene table.

        The loadings and the gene's mean, each standardised over the seen genes and cut at three standard deviations, are rotated at random into `dim` dimensions and scaled to entries of variance
        :math:`1/\mathrm{dim}`. Genes that go together then start together, so that a state tells cell types apart before
        the first step.

        Returns
        -------
        Array of shape (token, dim); zero for genes that no cell expresses.
        """
        known = np.concatenate([self.directions, self.gene_mean[:, None]], axis=1)
        of_seen = known[self.seen]
        scale = np.maximum(of_seen.std(axis=0), np.finfo(np.float32).tiny)
        standard = ((known - of_seen.mean(axis=0)) / scale).clip(-CUT, CUT)
        normal = np.random.default_rng(seed).normal(size=(max(dim, known.shape[1]),) * 2)
        rotation = np.linalg.qr(normal)[0][: known.shape[1], :dim]
        table = standard @ rotation
        table *= dim**-0.5 / np.maximum(table[self.seen].std(), np.finfo(np.float32).tiny)
        table[~self.seen] = 0.0
        return table.astype(np.float32)

    def predict(self, batch: CellBatch) -> Mapping[str, torch.Tensor]:
        """Predict the scored genes of a batch.

        Returns
        -------
        For each baseline one value per scored gene, in the order of the batch.
        """
        gene, offsets = batch.gene.numpy(), batch.offsets.numpy()
        n_genes = len(self.gene_mean) - 1
        hidden = (
            np.zeros(len(gene), dtype=np.bool_) if batch.hidden is None else batch.hidden.numpy()
        )
        shown = _matrix(gene, np.where(hidden, 0.0, batch.value.numpy()), offsets, n_genes)
        centre = _hidden_means(gene, offsets, hidden, self.mean)
        features = _features(
            shown, centre, self.mean, self.directions, depth=batch.depth.numpy()[:, 1:]
        )
        standard = _with_constant((features - self.score_mean) / self.score_scale)
        scored = np.ones(len(gene), np.bool_) if batch.scored is None else batch.scored.numpy()
        at = gene[scored]
        cell = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[scored]
        scores = features[:, : self.directions.shape[1]]
        predictions = {
            "gene_mean": self.gene_mean[at],
            "pca": self.mean[at] + _dots(self.directions, at, scores, cell),
            "ridge": self.gene_mean[at] + _dots(self.weight, at, standard, cell),
        }
        return {name: torch.from_numpy(x.astype(np.float32)) for name, x in predictions.items()}

    def predict_all(self, batches: Sequence[CellBatch]) -> dict[str, list[torch.Tensor]]:
        """Predict the scored genes of each batch: for each baseline one tensor per batch."""
        predicted = [self.predict(batch) for batch in batches]
        return {name: [each[name] for each in predicted] for name in ("gene_mean", "pca", "ridge")}


def _sample(cells: InMemoryCells, seed: int) -> InMemoryCells:
    if len(cells) <= MAX_CELLS:
        return cells
    order = np.argsort(child(key_of(seed, _FIT), cells.cell), kind="stable")
    return cells.select(np.sort(order[:MAX_CELLS]))


def _matrix(
    gene: "NDArray[np.integer]",
    value: "NDArray[np.floating]",
    offsets: "NDArray[np.int64]",
    n_genes: int,
) -> "sparse.csr_array":
    from scipy import sparse

    return sparse.csr_array(
        (value.astype(np.float32), gene.astype(np.int64), offsets),
        shape=(len(offsets) - 1, n_genes + 1),
    )


def _principal_directions(
    x: "sparse.csr_array", seed: int
) -> tuple["NDArray[np.float32]", "NDArray[np.float32]"]:
    """Return mean and principal directions of the rows, centred without making them dense."""
    from scipy.sparse.linalg import LinearOperator, svds

    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    n_components = min(N_COMPONENTS, min(x.shape) - 1)
    if n_components < 1:
        return mean.astype(np.float32), np.zeros((x.shape[1], 0), dtype=np.float32)
    # In double precision: the last bits of single-precision products depend on where arrays lie in memory, and two runs of
    # one recipe are to begin alike.
    x = x.astype(np.float64)
    centred = LinearOperator(
        x.shape,
        matvec=lambda v: x @ v - mean @ v,
        rmatvec=lambda u: x.T @ u - mean * u.sum(),
        matmat=lambda v: x @ v - (mean @ v)[None, :],
        rmatmat=lambda u: x.T @ u - np.outer(mean, u.sum(axis=0)),
        dtype=np.float64,
    )
    start = np.random.default_rng(seed).normal(size=min(x.shape))
    _, _, right = svds(centred, k=n_components, v0=start, tol=TOLERANCE, solver="arpack")
    return mean.astype(np.float32), np.ascontiguousarray(right.T[:, ::-1], dtype=np.float32)


def _hidden_means(
    gene: "NDArray[np.integer]",
    offsets: "NDArray[np.int64]",
    hidden: "NDArray[np.bool_]",
    mean: "NDArray[np.float32]",
) -> "sparse.csr_array":
    """Put the mean where a value is hidden, so that it is 0 once centred."""
    return _matrix(gene, np.where(hidden, mean[gene], 0.0), offsets, len(mean) - 1)


def _features(
    shown: "sparse.csr_array",
    centre: "sparse.csr_array",
    mean: "NDArray[np.float32]",
    directions: "NDArray[np.float32]",
    *,
    depth: "NDArray[np.float32]",
) -> "NDArray[np.float32]":
    """Return principal scores and log depth of each cell."""
    scores = (shown + centre) @ directions - mean @ directions
    return np.concatenate([scores, depth], axis=1).astype(np.float32)


def _with_constant(features: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)


def _ridge(residual: "sparse.csr_array", features: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Regress the values of each gene on the features of the cells that express it."""
    columns = residual.tocsc()
    weight = np.zeros((residual.shape[1], features.shape[1]), dtype=np.float32)
    penalty = RIDGE * np.eye(features.shape[1], dtype=np.float64)
    for j in np.flatnonzero(np.diff(columns.indptr)):
        part = slice(columns.indptr[j], columns.indptr[j + 1])
        x = features[columns.indices[part]].astype(np.float64)
        weight[j] = np.linalg.solve(x.T @ x + penalty, x.T @ columns.data[part])
    return weight


def _dots(
    left: "NDArray[np.float32]",
    at: "NDArray[np.integer]",
    right: "NDArray[np.float32]",
    cell: "NDArray[np.integer]",
) -> "NDArray[np.float32]":
    """Inner products of paired rows, in pieces that fit the cache."""
    result = np.empty(len(at), dtype=np.float32)
    for start in range(0, len(at), 1 << 14):
        part = slice(start, start + (1 << 14))
        result[part] = np.einsum("ij,ij->i", left[at[part]], right[cell[part]])
    return result
