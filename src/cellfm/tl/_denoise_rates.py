r"""Expected counts of genes from cell states: decoder, calibration on the data, and the cell's own counts.

For cell *i* with state :math:`s_i`, depth :math:`T_i` and :math:`n_i` expressed genes (both over the genes of the vocabulary) and
gene *j* with input embedding :math:`g_j`, the cell-wise heads of Zeng et al. (2025) give

.. math::
    v_{ij} = \langle \sigma(W_m g_j), s_i \rangle, \qquad
    p_{ij} = \sigma\big(\langle W_z g_j + b, s_i \rangle + \log(n_i / \tilde n) + b_j\big)

the log-normalised value of the gene where it is expressed, and the probability that it is. The head is trained on an expressed and
an absent gene in turn, the absent one drawn as often as it is expressed anywhere: its own odds lack the gene's frequency, which
:math:`b_j` puts back, and the cell's number of genes. The expected count is

.. math:: \mu_{ij} = c_j\, p_{ij}\, \max\big((e^{v_{ij}} - 1)\, T_i / 10^4,\; 1\big)

An expressed gene has one count at least. (:math:`e^{v} - 1` of a mean of logarithms is an underestimate of the mean; the factor makes up for it on average.)
:math:`b_j` and :math:`c_j` are fitted on the data: the mean of *p* is to be the share of cells that express the gene, and the sum
of μ the sum of its counts. With a gamma prior of mean μ and shape α on the rate, Poisson counts :math:`y_{ij}` give the posterior mean

.. math:: \lambda_{ij} = w_{ij} y_{ij} + (1 - w_{ij}) \mu_{ij}, \qquad w_{ij} = \mu_{ij} / (\mu_{ij} + \alpha)

α is the one that predicts best, by Poisson likelihood, one half of the molecules from the other (molecular cross-validation, Batson
et al. 2019).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.nn.encoder import CellFM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

SHAPES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
"""Shapes α that are tried."""
UNIT = 1e4
GENES = 512
"""Genes calibrated at a time."""
_NEWTON, _STEP, _MOST = 12, 3.0, 30.0
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellSummary:
    """What the rates of some cells are made of."""

    state: "Matrix"
    """Shape (cell, dim); NaN for a cell without counts."""
    total: "Matrix"
    """Counts on vocabulary genes, shape (cell,)."""
    n_genes: "Matrix"
    """Expressed vocabulary genes, shape (cell,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What was fitted on the data, for each gene."""

    offset: "Matrix"
    """:math:`b_j`, of the log odds."""
    factor: "Matrix"
    """:math:`c_j`; 0 for a gene without any count."""
    typical: float
    """Median number of expressed genes, ñ."""
    shape: float
    """α; infinite: the cell's own counts do not enter."""

    @staticmethod
    def none(n_genes: int) -> "Calibration":
        """Return what leaves the decoders' numbers as they are.

        Parameters
        ----------
        n_genes
            Number of genes.
        """
        return Calibration(
            offset=np.zeros(n_genes, np.float32),
            factor=np.ones(n_genes, np.float32),
            typical=np.nan,
            shape=np.inf,
        )


class RateDecoder:
    """The cell-wise heads of a network on some genes.

    Parameters
    ----------
    network
        With decoders; with or without a detection head.
    token
        Genes.
    """

    def __init__(self, network: CellFM, token: "NDArray[np.integer]") -> None:
        with torch.inference_mode():
            gene = network.gene_embedding(torch.from_numpy(token.astype(np.int64)).to(network.cls.device))  # fmt: skip
            self._value = network.cell_decoder.map(gene).sigmoid().float().cpu().numpy().T.copy()
            self._logit = None
            if has_detection(network):
                head = network.cell_zero_decoder
                weight = torch.nn.functional.linear(gene, head.weight, head.bias)
                self._logit = weight.float().cpu().numpy().T.copy()

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self._value.shape[1]

    def values(self, state: "Matrix", genes: slice) -> "Matrix":
        """Return v, at least 0, shape (cell, gene)."""
        return np.maximum(state @ self._value[:, genes], 0)

    def logits(self, state: "Matrix", genes: slice) -> "Matrix | None":
        """Return the log odds of expression without offsets, shape (cell, gene); None without a detection head."""
        return None if self._logit is None else state @ self._logit[:, genes]

    def expected(self, cells: CellSummary, fitted: Calibration) -> "Matrix":
        """Return μ, the expected counts from the state alone, shape (cell, gene).

        Parameters
        ----------
        cells
            The cells.
        fitted
            Of the same genes.
        """
        mean = np.empty((len(cells.state), self.n_genes), np.float32)
        for genes in blocks(self.n_genes):
            part = self._uncalibrated(cells, genes, fitted.offset[genes], fitted.typical)
            mean[:, genes] = part * fitted.factor[genes]
        return mean

    def calibrate(
        self, cells: CellSummary, count: "Matrix", *, shape: float = np.inf
    ) -> Calibration:
        """Fit offsets and factors.

        Parameters
        ----------
        cells
            Cells with counts.
        count
            Their counts of the genes, shape (cell, gene).
        shape
            To be carried along.
        """
        typical = float(np.median(cells.n_genes))
        offset, factor = np.zeros((2, self.n_genes), np.float32)
        for genes in blocks(self.n_genes):
            logit = self.logits(cells.state, genes)
            if logit is not None:
                logit += np.log(cells.n_genes / typical)[:, None]
                offset[genes] = _offsets(logit, (count[:, genes] > 0).mean(axis=0))
            made = self._uncalibrated(cells, genes, offset[genes], typical).sum(
                axis=0, dtype=np.float64
            )
            factor[genes] = count[:, genes].sum(axis=0, dtype=np.float64) / np.maximum(made, 1e-30)
        return Calibration(offset=offset, factor=factor, typical=typical, shape=shape)

    def _uncalibrated(
        self, cells: CellSummary, genes: slice, offset: "Matrix", typical: float
    ) -> "Matrix":
        rate = np.expm1(self.values(cells.state, genes)) * (cells.total[:, None] / UNIT)
        # an expressed gene has one count at least; and a prior mean of 0 would deny the counts there are
        np.maximum(rate, 1, out=rate)
        logit = self.logits(cells.state, genes)
        if logit is not None:
            if np.isfinite(typical):
                logit += np.log(np.maximum(cells.n_genes, 1) / typical)[:, None]
            rate *= _sigmoid(logit + offset)
        return rate.astype(np.float32)


def has_detection(network: CellFM) -> bool:
    """Whether a network tells which genes a cell expresses.

    Parameters
    ----------
    network
        The network.
    """
    return network.config.zero_heads or network.config.detection_head


def posterior(mean: "Matrix", count: "Matrix", shape: float) -> "Matrix":
    """Return the posterior mean λ of gamma priors with the given means and one shape, after Poisson counts.

    Parameters
    ----------
    mean
        Prior means μ.
    count
        Counts y.
    shape
        α; infinite returns the prior means.
    """
    if not np.isfinite(shape):
        return mean
    return mean * (count + np.float32(shape)) / (mean + np.float32(shape))


def best_shape(mean: "Matrix", shown: "Matrix", held: "Matrix") -> tuple[float, dict[float, float]]:
    """Choose α by molecular cross-validation.

    Parameters
    ----------
    mean
        Expected counts of the shown half, from the shown half.
    shown, held
        Counts of the two halves.

    Returns
    -------
    The best of :data:`SHAPES` and infinity, and the mean Poisson loss of each.
    """
    loss = {}
    for shape in (*SHAPES, np.inf):
        rate = posterior(mean, shown, shape)
        loss[shape] = float(np.mean(rate - held * np.log(rate + _EPSILON), dtype=np.float64))
    return min(loss, key=lambda shape: loss[shape]), loss


def mean_log_values(rate: "Matrix", total: "Matrix") -> "Matrix":
    r"""Return the expectation of ``log1p(k / T × 10⁴)`` with k Poisson of mean λ: what a cell of that depth would show.

    It lies below the logarithm of the expected value. The series is summed on a grid of λ and T; between its points it is
    interpolated linearly (error below 0.5 % of the value).

    Parameters
    ----------
    rate
        λ, shape (cell, gene).
    total
        T, shape (cell,).
    """
    from scipy.stats import poisson

    most = max(float(np.nanmax(rate, initial=0.0)), 1.0)
    grid = np.concatenate([[0.0], np.geomspace(1e-6, most, 400)])
    k = np.arange(int(most + 10 * np.sqrt(most) + 20))
    chance = poisson.pmf(k, grid[:, None])
    depth = np.maximum(total.astype(np.float64), 1.0)
    # cells of nearly one depth share a column: 1 % of depth moves a logarithm by 0.01 at most
    group = np.rint(np.log(depth) * 100).astype(np.int64)
    values = np.empty(rate.shape, np.float32)
    for code in np.unique(group):
        rows = np.flatnonzero(group == code)
        table = chance @ np.log1p(k / np.exp(code / 100) * UNIT)
        values[rows] = np.interp(rate[rows], grid, table)
    return values


def blocks(n: int) -> list[slice]:
    """Cut a number of genes into runs.

    Parameters
    ----------
    n
        Number of genes.
    """
    return [slice(start, min(start + GENES, n)) for start in range(0, n, GENES)]


def _offsets(logit: "Matrix", share: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Solve, for each gene, mean(sigmoid(logit + offset)) = share, by Newton's method with bounded steps."""
    inner = np.clip(share, 1 / (2 * len(logit)), 1 - 1 / (2 * len(logit)))
    offset = np.log(inner / (1 - inner)) - logit.mean(axis=0)
    for _ in range(_NEWTON):
        p = _sigmoid(logit + offset.astype(np.float32))
        slope = np.maximum((p * (1 - p)).mean(axis=0), _EPSILON)
        step = np.clip((p.mean(axis=0) - inner) / slope, -_STEP, _STEP)
        offset = np.clip(offset - step, -_MOST, _MOST)
        if np.abs(step).max(initial=0.0) < 1e-3:
            break
    return offset


def _sigmoid(x: "Matrix") -> "Matrix":
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)
