r"""Two groups of units beside each other: samples where there are any, cells where there are none.

With independent units Welch's t-test, with units that are in both groups the paired t-test. The effect is Hedges' g (1981),

.. math:: g = J\,\frac{\bar x_a - \bar x_b}{s}, \qquad J = 1 - \frac{3}{4\nu - 1},

with s the pooled standard deviation of the units and ν = n_a + n_b − 2, in both designs, so that they can be compared.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Rows = NDArray[np.int64]

Design = Literal["paired", "independent", "cells"]
LEAST_UNITS = 2
"""Of each group; fewer have no variance."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """Rows of cells that are one unit each, in both groups.

    Attributes
    ----------
    design
        ``"paired"``: unit *i* of the one group is that of the other; ``"independent"``; ``"cells"``: each cell is a unit, which is no replicate.
    own, against
        Rows of the cells of each unit, ascending.
    n_left_out
        Samples that have too few cells, or do not fit the design.
    """

    design: Design
    own: "tuple[Rows, ...]"
    against: "tuple[Rows, ...]"
    n_left_out: int = 0

    def means(self, values: "Values") -> "tuple[Values, Values]":
        """Return the mean of each unit of both groups, shape (unit, column).

        Parameters
        ----------
        values
            Shape (cell, column).
        """
        if self.design == "cells":
            return values[np.concatenate(self.own)], values[np.concatenate(self.against)]
        both = [[values[rows].mean(axis=0) for rows in side] for side in (self.own, self.against)]
        return np.stack(both[0]), np.stack(both[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """Two groups of units beside each other, an entry for each column; NaN where nothing can be said."""

    mean: "Values"
    mean_against: "Values"
    low: "Values"
    high: "Values"
    effect: "Values"
    p: "Values"


def units_of(
    inside: "NDArray[np.bool_]",
    outside: "NDArray[np.bool_]",
    sample: "NDArray[np.str_] | None",
    *,
    min_cells: int,
    name: str,
) -> Units:
    """Return the units that two groups of cells are compared by.

    Samples that have cells in both groups are paired, if that uses more means than those that have cells in one of them.

    Parameters
    ----------
    inside, outside
        Which cells are of each group.
    sample
        Of each cell, ``""`` for none; None makes each cell a unit.
    min_cells
        A sample with fewer cells in a group is left out of it.
    name
        Of the comparison, for messages.

    Raises
    ------
    DataError
        A group has fewer than two units.
    """
    if sample is None:
        sides = [np.flatnonzero(flags) for flags in (inside, outside)]
        if min(map(len, sides)) < LEAST_UNITS:
            msg = f"{name}: {len(sides[0])} and {len(sides[1])} cells; at least {LEAST_UNITS} of each are needed. Name other groups."
            raise DataError(msg)
        return Units(design="cells", own=tuple(sides[0][:, None]), against=tuple(sides[1][:, None]))
    own, against = (_rows_of(flags, sample, min_cells) for flags in (inside, outside))
    both = sorted(own.keys() & against.keys())
    only = sorted(own.keys() - against.keys()), sorted(against.keys() - own.keys())
    independent = sum(map(len, only)) if min(map(len, only)) >= LEAST_UNITS else 0
    n_samples = len(set(sample[inside | outside].tolist()) - {""})
    if len(both) >= LEAST_UNITS and 2 * len(both) >= independent:
        return Units(
            design="paired",
            own=tuple(own[key] for key in both),
            against=tuple(against[key] for key in both),
            n_left_out=n_samples - len(both),
        )
    if not independent:
        msg = (
            f"{name}: {len(own)} and {len(against)} samples with at least {min_cells} cells, {len(both)} of them in both; at least {LEAST_UNITS} of each, or in both, are needed. "
            "Give more samples, or leave the sample out: then cells are compared, which are no replicates."
        )
        raise DataError(msg)
    return Units(
        design="independent",
        own=tuple(own[key] for key in only[0]),
        against=tuple(against[key] for key in only[1]),
        n_left_out=n_samples - independent,
    )


def compare_units(own: "Values", against: "Values", *, paired: bool) -> Compared:
    """Compare the columns of two groups of units.

    Parameters
    ----------
    own, against
        Shape (unit, column).
    paired
        Whether unit *i* of both is the same sample.

    Returns
    -------
    Means, the 95 % interval of their difference, Hedges' g, and the two-sided p of the t-test.
    """
    from scipy.stats import ttest_ind, ttest_rel

    n = len(own), len(against)
    freedom = sum(n) - 2
    pooled = sum(
        (len(side) - 1) * side.var(axis=0, ddof=1) for side in (own, against)
    ) / max(freedom, 1)  # fmt: skip
    away = own.mean(axis=0) - against.mean(axis=0)
    varies = pooled > (1e-9 * (np.abs(own).max(axis=0) + np.abs(against).max(axis=0))) ** 2
    if paired:  # equal differences have no variance, whatever the units have
        varies &= np.ptp(own - against, axis=0) > 1e-9 * np.abs(own).max(axis=0)
    shape = own.shape[1]
    low, high, p, effect = (np.full(shape, np.nan) for _ in range(4))
    if varies.any():
        a, b = own[:, varies], against[:, varies]
        test = ttest_rel(a, b) if paired else ttest_ind(a, b, equal_var=False)
        interval = test.confidence_interval(0.95)
        low[varies], high[varies], p[varies] = interval.low, interval.high, test.pvalue
        effect[varies] = (1 - 3 / (4 * freedom - 1)) * away[varies] / np.sqrt(pooled[varies])
    return Compared(
        mean=own.mean(axis=0),
        mean_against=against.mean(axis=0),
        low=low,
        high=high,
        effect=effect,
        p=p,
    )


def adjusted(p: "Values") -> "Values":
    """Return Benjamini & Hochberg's (1995) q; NaN stay out.

    Parameters
    ----------
    p
        Of all tests.
    """
    from scipy.stats import false_discovery_control

    known = np.isfinite(p)
    q = np.full(p.shape, np.nan)
    if known.any():
        q[known] = false_discovery_control(p[known].clip(0.0, 1.0))
    return q


def _rows_of(
    flags: "NDArray[np.bool_]", sample: "NDArray[np.str_]", min_cells: int
) -> "dict[str, Rows]":
    """Rows of each sample that has enough cells of a group."""
    rows = {name: np.flatnonzero(flags & (sample == name)) for name in np.unique(sample[flags])}
    return {str(name): own for name, own in rows.items() if name != "" and len(own) >= min_cells}
