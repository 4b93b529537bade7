r"""A response measured in one kind of cells, moved to another kind.

What a treatment does is taken to be a fold change :math:`f_g` of each gene's rate, the same in both. The mean of log1p(counts per 10⁴)
then changes by less where a gene is scarce. Given its rate λ in a cell, the count k is Poisson, and for any function h
:math:`dE[h(k)] / d \log λ = λ E[h(k + 1) − h(k)] = E[k (h(k) − h(k − 1))]` (Chen 1975). With u = 10⁴ / depth and to first order in log f,

.. math:: s_g = \frac{d}{d \log f} E[\log(1 + u k)] \Big|_{f=1} = E\Big[k \log \frac{1 + u k}{1 + u (k − 1)}\Big], \qquad
          δ_g^{new} = δ_g^{old} \; s_g^{new} / s_g^{old}

whatever the rates of the cells are distributed like; for plentiful molecules this is the mean of y/(1+y), y = uk, which treats the measured
value itself as what is multiplied and is too small where single molecules are counted (at u = 3 by a factor of almost two). Depths are taken
to stay. Nothing is known of a gene that is silent where it was measured; the ratio is therefore shrunk to 1 and bounded.
"""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.tl._response.log_counts import CP10K, column_means

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]

SHRINK = 0.02
"""Added to both sensitivities: a gene with a molecule in one cell of 70, at a depth of 3,000, has this one."""
LIMIT = 4.0
"""Largest ratio, and its inverse the smallest."""


def sensitivity(counts: "csr_matrix") -> "Floats":
    """Return s of each gene, shape (gene,): from 0, for a gene that is silent, to 1 and, where molecules are few, somewhat above.

    Parameters
    ----------
    counts
        Control cells × genes, whole numbers; every cell has some.
    """
    from scipy import sparse

    made = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    total = np.asarray(made.sum(axis=1)).ravel()
    unit = np.repeat(CP10K / np.maximum(total, 1.0), np.diff(made.indptr))
    made.data = made.data * (np.log1p(unit * made.data) - np.log1p(unit * np.maximum(made.data - 1, 0)))  # fmt: skip
    return column_means(made)


def transfer_ratio(old: "Floats", new: "Floats", *, limit: float = LIMIT) -> "Floats":
    """Return what a response is to be multiplied by, (new + ε) / (old + ε) within 1/limit and limit; 1 where both are silent.

    Parameters
    ----------
    old, new
        Sensitivities from `sensitivity`, any shapes that fit together.
    limit
        Largest ratio, at least 1.

    Raises
    ------
    DataError
        A sensitivity is negative or not finite, or the limit below 1.
    """
    for name, value in (("old", old), ("new", new)):
        if not ((value >= 0) & np.isfinite(value)).all():
            msg = f"The sensitivities of the {name} cells run from {np.min(value):.3g} to {np.max(value):.3g}; expected finite numbers of at least 0. Use those of `sensitivity`."
            raise DataError(msg)
    if limit < 1:
        msg = f"limit is {limit}; the ratio of sensitivities lies within 1/limit and limit, so it must be at least 1. Give a number in that range."
        raise DataError(msg)
    return np.clip((new + SHRINK) / (old + SHRINK), 1.0 / limit, limit)


def transfer_response(
    delta: "Floats",
    old: "Floats",
    new: "Floats",
    *,
    control: "Floats | None" = None,
    limit: float = LIMIT,
) -> "Floats":
    """Return the response to expect in cells of another kind, in mean log1p(counts per 10⁴).

    Parameters
    ----------
    delta
        Response where it was measured, shape (…, gene).
    old, new
        Sensitivities of the control cells there and here.
    control
        Mean log expression of the control cells here: no gene falls below nought.
    limit
        As in `transfer_ratio`.

    Raises
    ------
    DataError
        As in `transfer_ratio`.
    """
    moved: Floats = delta * transfer_ratio(old, new, limit=limit)
    return moved if control is None else np.maximum(moved, -control)
