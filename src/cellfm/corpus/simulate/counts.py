"""Gamma-Poisson counts of a tile of cells, sparse from the start."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE = 6.0
"""Rates above are drawn as a Poisson count of a Gamma rate; below, inversion is faster."""


def draw_counts(
    rate: "NDArray[np.float32]",
    dispersion: "NDArray[np.float64]",
    *,
    uniform: np.random.Generator,
    direct: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw ``x ~ Poisson(λ G), G ~ Gamma(1/φ, φ)`` for every cell and gene.

    ``P(x > 0) = 1 − (1 + φλ)^(−1/φ) ≤ λ``, so a gene whose uniform number is not below λ has the count 0. That is all
    that is computed for most pairs of cell and gene; the exact distribution function is for the few others.

    Parameters
    ----------
    rate
        λ, cells × genes.
    dispersion
        φ of each gene, above 0.
    uniform
        Source of the uniform numbers.
    direct
        Source of the numbers for large rates.

    Returns
    -------
    Counts as int32, genes ascending in each cell.
    """
    n_cells, n_genes = rate.shape
    coarse = uniform.random(rate.shape, dtype=np.float32)
    position = np.flatnonzero(coarse < rate)
    number = coarse.ravel()[position].astype(np.float64)
    # A float32 number has 24 bits; these are the others, without which no rate below 2⁻²⁴ would be right.
    number += uniform.random(len(position)) * 2.0**-24
    row, gene = np.divmod(position.astype(np.int32 if rate.size < 2**31 else np.int64), n_genes)
    chosen, spread = rate.ravel()[position].astype(np.float64), dispersion[gene]
    count = np.zeros(len(position), dtype=np.int32)
    large = chosen > LARGE
    few, many = np.flatnonzero(~large), np.flatnonzero(large)
    count[few] = invert(chosen[few], spread[few], number[few])
    gamma = direct.standard_gamma(1.0 / spread[many]) * spread[many]
    count[many] = direct.poisson(gamma * chosen[many])
    there = np.flatnonzero(count)
    indptr = np.searchsorted(row[there], np.arange(n_cells + 1)).astype(np.int32)
    return sparse.csr_matrix((count[there], gene[there], indptr), shape=rate.shape)


def invert(
    rate: "NDArray[np.float64]",
    dispersion: "NDArray[np.float64]",
    number: "NDArray[np.float64]",
) -> "NDArray[np.int32]":
    """Return the count *x* at which the upper tail ``P(X > x)`` of the gamma-Poisson first is at most `number`.

    The probabilities follow ``p(0) = (1 + φλ)^(−1/φ)``, ``p(k) = p(k − 1) · (k − 1 + 1/φ) / k · φλ / (1 + φλ)``.

    Parameters
    ----------
    rate, dispersion
        λ and φ of each draw.
    number
        Uniform numbers.
    """
    count = np.zeros(len(rate), dtype=np.int32)
    exponent = np.log1p(dispersion * rate) / dispersion
    tail = -np.expm1(-exponent)
    active = np.flatnonzero(number < tail)
    number, tail, probability = number[active], tail[active], np.exp(-exponent[active])
    shape = 1.0 / dispersion[active]
    ratio = dispersion[active] * rate[active]
    ratio /= 1.0 + ratio
    k = 0
    while len(active):
        k += 1
        count[active] = k
        probability *= (shape + (k - 1)) * ratio / k
        tail -= probability
        on = np.flatnonzero(number < tail)
        active, shape, ratio = active[on], shape[on], ratio[on]
        number, tail, probability = number[on], tail[on], probability[on]
    return count
