"""Bootstrap weights: how often each cell counts in each resample.

All methods of a case get the same resamples, so that differences between them are paired.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_DRAWS = 500
TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resamples:
    """Weights of cells, the first row of ones, and what was drawn."""

    weights: "NDArray[np.float64]"
    """Shape (1 + draw, cell)."""
    n_units: int
    unit: str


def resample(
    stratum: "NDArray[np.integer]",
    group: "NDArray[np.str_] | None" = None,
    *,
    unit: str = "donor",
    n_draws: int = N_DRAWS,
    seed: int,
) -> Resamples:
    """Draw units with replacement.

    Parameters
    ----------
    stratum
        Class of each cell; where cells are drawn, they are drawn within their class, so that the classes stay the same.
    group
        Independent unit of each cell; None draws cells, which says nothing about other donors.
    unit
        What a group is.
    n_draws
        Resamples.
    seed
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + n_draws, len(stratum)))
    if group is not None:
        of_group = np.unique(group, return_inverse=True)[1]
        n_groups = int(of_group.max()) + 1
        drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
        weights[1:] = drawn[:, of_group]
        return Resamples(weights=weights, n_units=n_groups, unit=unit)
    for kind in np.unique(stratum):
        members = np.flatnonzero(stratum == kind)
        even = np.full(len(members), 1 / len(members))
        weights[1:, members] = rng.multinomial(len(members), even, size=n_draws)
    return Resamples(weights=weights, n_units=len(stratum), unit="cell")


def interval(draws: "NDArray[np.floating]") -> tuple[float, float] | None:
    """95 % percentile interval of bootstrap draws; None without draws, or where some are NaN.

    Parameters
    ----------
    draws
        Values of the statistic in the resamples.
    """
    if not len(draws) or not np.isfinite(draws).all():
        return None
    low, high = np.percentile(draws, TAILS)
    return float(low), float(high)
