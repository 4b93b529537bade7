r"""Counts of single cells that show a predicted response: real control cells, moved gene by gene.

The count of gene *g* in control cell *i* of depth :math:`T_i` is taken as Poisson of rate :math:`T_i \lambda_{ig}`, with
:math:`\lambda_{ig}` gamma of mean :math:`\mu_g` and shape :math:`1/\varphi_g` over the cells: a negative binomial. The response
multiplies the rates of a gene by :math:`f_g`:

- :math:`f \le 1` thins the cell's own molecules, each stays with probability *f*;
- :math:`f > 1` adds :math:`\mathrm{Poisson}((f - 1) T_i \lambda_{ig})` molecules, :math:`\lambda_{ig}` drawn from its posterior
  :math:`\mathrm{Gamma}(1/\varphi_g + y_{ig},\ 1/(\varphi_g \mu_g) + T_i)`, so that a zero can become positive.

Both are exact for this model: the result is negative binomial of mean :math:`f \mu_g T_i` and the dispersion there was. What the cells
vary in, and how their genes vary together, comes from real cells, and is not averaged away.

One uniform number a molecule, its *mark*, serves every *f*: own molecules have marks in (0, 1), new ones, a Poisson process, above 1, and
those with a mark below *f* are in the cell. The counts rise with *f*, so that the fold change whose **sampled** mean of
log1p(counts per 10⁴) is the wanted one is found by Newton steps between bounds, exact but for a molecule.

Values are those at the depth the cells have afterwards. Counts per 10⁴ of all genes sum to 10⁴, whatever the depth, so that a response
of all genes determines it only through the scarce ones, whose mean logarithm depends on how many counts there are: the total that
agrees with the counts it leads to is found by the secant method. Genes whose response is 0 keep their counts. A response may contradict itself (some
genes rise, and nothing falls): depth then moves by a factor of :data:`MOST_DEPTH` at most, and what is missing is missing in all genes alike.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import CountsError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

UNIT = 1e4
MISSED = 0.02
"""A gene is missed if the mean log value is off by more than this, and by more than a tenth of what was asked for."""
MISSED_SHARE = 0.1
BLOCK = 1_000_000
"""Entries, cell × gene, that are dense at a time."""
IMPOSSIBLE = 2.0
"""A response is refused if its counts per 10⁴ would sum to more than so many times 10⁴."""
MOST_DEPTH = 1.5
"""By which factor depth may rise or fall for the sake of the response."""
_ROUNDS, _PROBES, _TOLERANCE, _TOTAL = 8, 14, 3e-4, 1e-3
_MARGIN, _DOUBLINGS = 1.25, 12
_LEAST_DISPERSION, _MOST_DISPERSION, _USUAL_DISPERSION = 0.01, 20.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampled:
    """Cells that were sampled, and how near they come to the response."""

    counts: "csr_matrix"
    """Non-negative int32, shape (cell, gene)."""
    source: "Integers"
    """The row of the control cell that each began as, shape (cell,)."""
    achieved: "Floats"
    """Mean log1p(counts per 10⁴) of the cells less that of their sources, shape (gene,)."""
    missed: "NDArray[np.bool_]"
    """
    Genes that are not where they were asked to be, shape (gene,): asked to fall further than to zero in every cell, to rise beyond
    half of all counts, or in contradiction with the other genes (see the module).
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneRates:
    """How the counts of each gene are distributed over control cells."""

    mean: "Floats"
    """μ, share of a cell's counts, shape (gene,); half a molecule in all cells where there is none."""
    dispersion: "Floats"
    """φ, shape (gene,)."""

    @classmethod
    def of(cls, counts: "csr_matrix") -> "GeneRates":
        r"""Estimate them by moments at the cells' depths, dispersions of scarce genes shrunk to the usual one.

        .. math:: \hat\varphi_g = \frac{\sum_i (y_{ig} - \mu_g T_i)^2 - y_{ig}}{\mu_g^2 \sum_i T_i^2}, \qquad
                  \mathrm{se} = \frac{\sqrt 2}{\mu_g \sqrt{\sum_i T_i^2}} \text{ where } \varphi_g = 0

        Parameters
        ----------
        counts
            Shape (cell, gene).
        """
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
        squares = max(float((depth**2).sum()), 1.0)
        mean = np.maximum(total, 0.5) / max(float(depth.sum()), 1.0)
        products = np.asarray(counts.T @ depth, dtype=np.float64).ravel()
        own = np.asarray(counts.multiply(counts).sum(axis=0), dtype=np.float64).ravel()
        excess = own - 2 * mean * products + mean**2 * squares - total
        raw = np.clip(excess / (mean**2 * squares), _LEAST_DISPERSION, _MOST_DISPERSION)
        error = np.sqrt(2 / squares) / mean
        known = error < 0.5
        usual = float(np.median(raw[known])) if known.any() else _USUAL_DISPERSION
        weight = usual**2 / (usual**2 + error**2)
        return cls(mean=mean, dispersion=weight * raw + (1 - weight) * usual)


def sample_cells(
    control: "csr_matrix",
    delta: "NDArray[np.floating]",
    *,
    rng: np.random.Generator,
    n_cells: int | None = None,
) -> Sampled:
    """Sample counts of cells that show a response, each from a real control cell.

    Parameters
    ----------
    control
        Counts of the control cells, whole numbers, shape (cell, gene); all genes together make a cell's depth.
    delta
        Wanted change of each gene's mean log1p(counts per 10⁴), shape (gene,). All zeros return the control cells as they are.
    rng
        Source of all randomness.
    n_cells
        Cells to sample; each control cell begins as many of them as any other, or one more. None: each begins one, in their order.

    Returns
    -------
    Counts, the control cell each came from, and what was reached.

    Raises
    ------
    CountsError
        Counts are negative or no whole numbers.
    DataError
        There are no cells, a shape does not fit, or the response is not finite or impossible.
    """
    wanted = np.asarray(delta, dtype=np.float64)
    _check(control, wanted, n_cells)
    source = _sources(control.shape[0], n_cells, rng)
    cells = control if n_cells is None else control[source]
    before = _mean_log(cells)
    _check_possible(before + wanted)
    gene = np.flatnonzero(wanted)
    counts = cells.astype(np.int32)
    if len(gene):
        molecules = _molecules(cells, GeneRates.of(control), gene, before + wanted, rng=rng)
        counts = _fitted(cells, molecules, (before + wanted)[gene])
    achieved = _mean_log(counts) - before
    missed = np.abs(achieved - wanted) > np.maximum(MISSED, MISSED_SHARE * np.abs(wanted))
    return Sampled(counts=counts, source=source, achieved=achieved, missed=missed)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Molecules:
    """The molecules that some genes can have in the cells, sorted by gene, then cell."""

    n_cells: int
    gene: "Integers"
    """Columns of the asked genes."""
    limit: "Floats"
    """Fold change up to which there are molecules, at least 1, shape (asked,)."""
    entry_gene: "NDArray[np.int32]"
    """Number among the asked genes, shape (entry,)."""
    entry_cell: "NDArray[np.int32]"
    """Shape (entry,)."""
    size: "NDArray[np.int32]"
    """Molecules of each entry, at least 1."""
    mark: "NDArray[np.float32]"
    """Shape (molecule,)."""

    def counts(self, fold: "Floats") -> "NDArray[np.int32]":
        """Return the count of each entry at fold changes, shape (entry,)."""
        if not len(self.size):
            return self.size
        each = np.bincount(self.entry_gene, self.size, minlength=len(self.gene)).astype(np.int64)
        there = self.mark < np.repeat(fold.astype(np.float32), each)
        start = np.cumsum(self.size, dtype=np.int64) - self.size
        return np.add.reduceat(there, start, dtype=np.int32)

    def means(self, fold: "Floats", unit: "Floats") -> "tuple[Floats, Floats]":
        r"""Return the mean value :math:`g(y) = \log(1 + uy)` of each asked gene, and its slope over the logarithm of the fold change.

        The slope of the mean of a function of Poisson counts is :math:`\mathrm{mean}\; y (g(y) - g(y - 1))`; so is that of thinning.

        Parameters
        ----------
        fold
            Fold changes, shape (asked,).
        unit
            u, 10⁴ over the depth of each cell.
        """
        y = self.counts(fold)
        there = np.flatnonzero(y)
        y, gene = y[there], self.entry_gene[there]
        u = unit[self.entry_cell[there]]
        value = np.log1p(u * y)
        step = y * (value - np.log1p(u * (y - 1)))
        n = len(self.gene)
        mean, slope = (np.bincount(gene, x, minlength=n) / self.n_cells for x in (value, step))
        return mean, slope

    def solve(self, target: "Floats", unit: "Floats", fold: "Floats") -> "Floats":
        """Return fold changes at which the means are the targets, or as near as the limits let them come.

        Parameters
        ----------
        target
            Wanted means, shape (asked,).
        unit
            10⁴ over the depth of each cell.
        fold
            Where to begin.
        """
        # one molecule more or less in one cell is as near as it gets
        close = max(_TOLERANCE, 0.6 * float(np.log1p(np.median(unit))) / self.n_cells)
        found = np.where(target <= 0, 0.0, np.minimum(fold, self.limit))
        open_ = np.flatnonzero(target > 0)
        low, high, some = np.zeros(len(open_)), self.limit[open_], self.take(open_)
        for _ in range(_PROBES):
            now = found[open_]
            mean, slope = some.means(now, unit)
            value = mean - target[open_]
            low, high = np.where(value < 0, now, low), np.where(value < 0, high, now)
            far = np.abs(value) >= close
            if not far.any():
                break
            found[open_[far]] = _next(now, low, high, value / np.maximum(slope, 1e-12))[far]
            if far.mean() < 0.7:
                open_, low, high = open_[far], low[far], high[far]
                some = some.take(np.flatnonzero(far))
        return found

    def take(self, asked: "Integers") -> "_Molecules":
        """Return the molecules of some of the asked genes.

        Parameters
        ----------
        asked
            Their numbers, rising.
        """
        number = np.full(len(self.gene), -1, dtype=np.int32)
        number[asked] = np.arange(len(asked), dtype=np.int32)
        entry = number[self.entry_gene]
        kept = entry >= 0
        return _Molecules(
            n_cells=self.n_cells,
            gene=self.gene[asked],
            limit=self.limit[asked],
            entry_gene=entry[kept],
            entry_cell=self.entry_cell[kept],
            size=self.size[kept],
            mark=self.mark[np.repeat(kept, self.size)],
        )


def _next(now: "Floats", low: "Floats", high: "Floats", step: "Floats") -> "Floats":
    """Return the next fold changes: Newton's in the logarithm; halfway to the end of the bracket where that would leave it."""
    newton = now * np.exp(-np.clip(step, -2.0, 2.0))
    inside = np.where(newton < high, newton, (now + high) / 2)
    return np.where(newton > low, inside, (now + low) / 2)


def _fitted(cells: "csr_matrix", molecules: _Molecules, target: "Floats") -> "csr_matrix":
    """Find the fold changes and the depth that go together, and return the counts."""
    first = np.asarray(cells.sum(axis=1), dtype=np.float64).ravel()
    asked = np.asarray(cells[:, molecules.gene].sum(axis=1), dtype=np.float64).ravel()
    total, depth, fold = max(float(first.sum()), 1.0), first, np.ones(len(target))
    tried: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        # the cells' depths of the last round, at the total that is tried now
        taken = _next_total(tried)
        scaled = depth * np.exp(taken) * total / max(float(depth.sum()), 1.0)
        fold = molecules.solve(target, _units(scaled), fold)
        made = molecules.counts(fold)
        depth = first - asked + np.bincount(molecules.entry_cell, made, minlength=len(first))
        tried.append((taken, float(np.log(max(float(depth.sum()), 1.0) / total))))
        if len(tried) > 1 and abs(tried[-1][1] - taken) < _TOTAL:
            break
    return _assembled(cells, molecules, made)


def _next_total(tried: list[tuple[float, float]]) -> float:
    """Return the logarithm of the total over that before to try next: where what is taken is what comes out, by the secant."""
    if len(tried) < 2:
        found = tried[0][1] if tried else 0.0
    else:
        (x0, y0), (x1, y1) = tried[-2:]
        slope = (y1 - x1 - y0 + x0) / (x1 - x0) if abs(x1 - x0) > 1e-9 else -1.0
        found = x1 - (y1 - x1) / slope if slope < -1e-3 else y1
    most = float(np.log(MOST_DEPTH))
    return min(max(found, -most), most)


def _assembled(
    cells: "csr_matrix", molecules: _Molecules, made: "NDArray[np.int32]"
) -> "csr_matrix":
    from scipy.sparse import csr_matrix

    old = cells.tocoo()
    asked = np.zeros(cells.shape[1], dtype=bool)
    asked[molecules.gene] = True
    keep, there = ~asked[old.col], made > 0
    row = np.concatenate([old.row[keep], molecules.entry_cell[there]])
    column = np.concatenate([old.col[keep], molecules.gene[molecules.entry_gene[there]]])
    data = np.concatenate([old.data[keep].astype(np.int32), made[there]])
    counts = csr_matrix((data, (row, column)), shape=cells.shape, dtype=np.int32)
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _molecules(
    cells: "csr_matrix",
    rates: GeneRates,
    gene: "Integers",
    target: "Floats",
    *,
    rng: np.random.Generator,
) -> _Molecules:
    """Draw every molecule that may be needed, block by block of genes."""
    by_gene = cells[:, gene].tocsc()
    depth = np.asarray(cells.sum(axis=1), dtype=np.float64).ravel()
    step = max(1, BLOCK // max(cells.shape[0], 1))
    limit = np.ones(len(gene))
    parts = []
    for start in range(0, len(gene), step):
        some = slice(start, min(start + step, len(gene)))
        own = by_gene[:, some].toarray().T.astype(np.int32)
        new, limit[some] = _new_molecules(
            own, depth, rates, gene=gene[some], target=target, rng=rng
        )
        entry_gene, entry_cell = np.nonzero(own + new)
        old, more = own[entry_gene, entry_cell], new[entry_gene, entry_cell]
        mark = _marks(old, more, limit[some][entry_gene], rng)
        parts.append((entry_gene + start, entry_cell, old + more, mark))
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Molecules(
        n_cells=cells.shape[0],
        gene=gene,
        limit=limit,
        entry_gene=joined[0].astype(np.int32),
        entry_cell=joined[1].astype(np.int32),
        size=joined[2].astype(np.int32),
        mark=joined[3],
    )


def _marks(
    old: "NDArray[np.int32]",
    more: "NDArray[np.int32]",
    limit: "Floats",
    rng: np.random.Generator,
) -> "NDArray[np.float32]":
    """Draw the marks of entries one after the other, in each the own molecules first."""
    kinds = np.column_stack([old, more]).ravel()
    new = np.repeat(np.tile([False, True], len(old)), kinds)
    mark = rng.random(len(new), dtype=np.float32)
    # drawn below 1, a new molecule's mark could round up to the limit, but never down below 1
    mark[new] = 1 + mark[new] * np.repeat(limit - 1, more).astype(np.float32)
    return mark


def _new_molecules(
    own: "NDArray[np.int32]",
    depth: "Floats",
    rates: GeneRates,
    *,
    gene: "Integers",
    target: "Floats",
    rng: np.random.Generator,
) -> "tuple[NDArray[np.int32], Floats]":
    """Draw added molecules up to a fold change that is enough, shape (gene, cell), and return it."""
    wanted, unit = target[gene], _units(depth)
    now = np.log1p(own * unit).mean(axis=1)
    limit, new = np.ones(len(gene)), np.zeros_like(own)
    # enough where the gene is scarce and the share of cells that show it grows, and where it is plenty
    rise = np.maximum(wanted - now, 0.0)
    guess = np.maximum(1 + rise / np.maximum(now, 1e-3), np.exp(rise))
    most = np.maximum(0.5 / rates.mean[gene], 1.0)
    open_ = np.flatnonzero(wanted > now)
    shape = 1 / rates.dispersion[gene]
    for _ in range(_DOUBLINGS):
        if not len(open_):
            break
        limit[open_] = np.minimum(1 + _MARGIN * (guess[open_] - 1), most[open_])
        alpha = shape[open_, None]
        rate = (alpha / rates.mean[gene[open_], None] + depth) / np.maximum(depth, 1e-30)
        mean = rng.standard_gamma(alpha + own[open_]) / rate
        new[open_] = rng.poisson((limit[open_, None] - 1) * mean)
        reached = np.log1p((own[open_] + new[open_]) * unit).mean(axis=1)
        enough = reached > wanted[open_] + 0.05 * rise[open_]
        open_ = open_[~enough & (limit[open_] < most[open_])]
        guess[open_] = 1 + 2 * (guess[open_] - 1)
    return new, limit


def _units(depth: "Floats") -> "Floats":
    """Return 10⁴ / depth; 0 for a cell without counts, which stays as it is."""
    return np.divide(UNIT, depth, out=np.zeros_like(depth), where=depth > 0)


def _mean_log(counts: "csr_matrix") -> "Floats":
    """Return the mean of log1p(counts per 10⁴) of each gene."""
    unit = _units(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel())
    values = np.log1p(counts.data * np.repeat(unit, np.diff(counts.indptr)))
    return np.bincount(counts.indices, values, minlength=counts.shape[1]) / counts.shape[0]


def _sources(n_control: int, n_cells: int | None, rng: np.random.Generator) -> "Integers":
    if n_cells is None:
        return np.arange(n_control)
    whole, rest = divmod(n_cells, n_control)
    part = rng.choice(n_control, rest, replace=False)
    return np.sort(np.concatenate([np.tile(np.arange(n_control), whole), part])).astype(np.int64)


def _check(control: "csr_matrix", delta: "Floats", n_cells: int | None) -> None:
    if delta.shape != (control.shape[1],):
        msg = f"The response has shape {delta.shape} and the control cells {control.shape[1]} genes; give one number a gene."
        raise DataError(msg)
    if not control.shape[0] or (n_cells is not None and n_cells < 1):
        msg = f"There are {control.shape[0]} control cells, and n_cells is {n_cells}; cells can be sampled from one at least, and one at least. Give a number in that range."
        raise DataError(msg)
    if not np.isfinite(delta).all():
        msg = f"The response of {int((~np.isfinite(delta)).sum())} genes is not finite; give 0 for a gene that stays as it is."
        raise DataError(msg)
    data = control.data
    if (data < 0).any() or (data != np.rint(data)).any():
        worst = data[(data < 0) | (data != np.rint(data))][0]
        msg = f"The control cells hold {worst:g}, which is no count; pass whole numbers of molecules, not normalised values."
        raise CountsError(msg)


def _check_possible(target: "Floats") -> None:
    # by Jensen's inequality the mean counts per 10⁴ are at least these
    with np.errstate(over="ignore"):
        least = float(np.expm1(np.maximum(target, 0.0)).sum())
    if least > IMPOSSIBLE * UNIT:
        msg = (
            f"With this response the counts per 10⁴ of all genes would sum to {least:.3g} at least, where they are 10⁴; give "
            f"changes of the mean of log1p(counts per 10⁴), in natural logarithms."
        )
        raise DataError(msg)
