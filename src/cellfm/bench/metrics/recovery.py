"""How well values or counts are recovered."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNIT = 1e4
_EPSILON = 1e-6


def log_normalised(counts: "NDArray[np.floating]") -> "NDArray[np.float32]":
    """Return log1p of the counts scaled to 10,000 per cell; a cell without any stays 0.

    Parameters
    ----------
    counts
        At least 0, shape (cell, gene).
    """
    total = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    factor = np.divide(UNIT, total, out=np.zeros_like(total), where=total > 0)
    return np.log1p(counts * factor.astype(np.float32)).astype(np.float32)


def cell_log_errors(
    test: "NDArray[np.floating]", denoised: "NDArray[np.floating]"
) -> "NDArray[np.float64]":
    """Mean squared error of each cell between log-normalised test counts and log-normalised denoised ones (Open Problems' MSE).

    Parameters
    ----------
    test
        Held-out molecules.
    denoised
        Estimates from the others, on any scale: every cell is scaled to 10,000.
    """
    error = log_normalised(test) - log_normalised(denoised)
    return np.square(error, out=error).mean(axis=1, dtype=np.float64)


def cell_poisson_losses(
    test: "NDArray[np.floating]", denoised: "NDArray[np.floating]", *, ratio: float
) -> "NDArray[np.float64]":
    r"""Mean over genes of :math:`\lambda - y \log(\lambda + 10^{-6})` for each cell, λ the denoised counts times `ratio`.

    Open Problems' Poisson loss: Batson et al. (2019) without the factorial.

    Parameters
    ----------
    test
        Held-out molecules *y*.
    denoised
        Expected counts at the depth of the training molecules.
    ratio
        Held-out molecules of all cells for each training molecule.
    """
    rate = denoised * np.float32(ratio)
    return np.asarray((rate - test * np.log(rate + _EPSILON)).mean(axis=1, dtype=np.float64))


def gene_r2(
    gene: "NDArray[np.integer]",
    truth: "NDArray[np.floating]",
    predicted: "NDArray[np.floating]",
    baseline: "NDArray[np.floating]",
    *,
    n_genes: int,
) -> "NDArray[np.float64]":
    """One minus the ratio of a gene's squared error to that of the gene's mean; NaN where the latter has none.

    Parameters
    ----------
    gene
        Of each masked entry.
    truth, predicted, baseline
        Values of the entries.
    n_genes
        Genes there are.
    """
    ours = np.bincount(gene, weights=np.square(truth - predicted), minlength=n_genes)
    theirs = np.bincount(gene, weights=np.square(truth - baseline), minlength=n_genes)
    ratio = np.full(n_genes, np.nan)
    np.divide(ours, theirs, out=ratio, where=theirs > 0)
    return 1 - ratio


def grouped_pearson(
    group: "NDArray[np.integer]",
    truth: "NDArray[np.floating]",
    predicted: "NDArray[np.floating]",
    *,
    n_groups: int,
) -> "NDArray[np.float64]":
    """Pearson correlation within each group; 0 for a constant prediction, NaN for a constant truth.

    Parameters
    ----------
    group
        Gene, or cell, of each entry.
    truth, predicted
        Values of the entries.
    n_groups
        Groups there are.
    """
    number = np.bincount(group, minlength=n_groups)

    def centred(x: "NDArray[np.floating]") -> "NDArray[np.float64]":
        mean = np.bincount(group, weights=x, minlength=n_groups) / np.maximum(number, 1)
        return x - mean[group]

    a, b = centred(truth), centred(predicted)
    ab, aa, bb = (
        np.bincount(group, weights=product, minlength=n_groups) for product in (a * b, a * a, b * b)
    )
    # what is left of the rounding of a constant is no variation
    flat = bb <= 1e-12 * np.bincount(group, weights=np.square(predicted), minlength=n_groups)
    scale = np.sqrt(aa * bb)
    result = np.where(flat, 0.0, ab / np.where(scale > 0, scale, 1.0))
    return np.where((aa > 0) & (number > 1), result, np.nan)
