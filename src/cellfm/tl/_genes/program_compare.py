r"""Programs of several representations beside each other: how many known sets each finds, at the same number of programs.

A set counts once, for the program in which it is most significant: so the count of a method is a sum over its programs, and resampling them says
how much it hangs on a few. An interval is of draws in each of which a clustering is taken at random and its programs, of both methods, are drawn
with replacement. Genes and cells are not resampled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cellfm.errors import ConfigError, DataError
from cellfm.genes.sets import GeneSets
from cellfm.tl._genes.programs import (
    LEVEL,
    MOST_SET,
    N_TRIES,
    Programs,
    cluster,
    neighbour_graph,
    random_programs,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Values = NDArray[np.float64]
    Counts = NDArray[np.int64]

RANDOM = "random"
N_RANDOM = 20
"""Draws of random programs for each clustering."""
N_DRAWS = 2000
TAILS = (2.5, 97.5)
NEGLIGIBLE = 1e-17
"""Share of a tail from which a further term does not change it in double precision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetTable:
    """Gene sets among background genes.

    Attributes
    ----------
    names
        Of the sets.
    member
        Shape (set, gene).
    size
        Genes of each set, shape (set,).
    """

    names: tuple[str, ...]
    member: "csr_matrix"
    size: "Counts"

    @classmethod
    def of(cls, genes: Sequence[str], gene_sets: GeneSets) -> Self:
        """Take the sets that have at least two background genes, and not very many.

        Parameters
        ----------
        genes
            Background.
        gene_sets
            Under the same names.

        Raises
        ------
        DataError
            There is no such set.
        """
        from scipy import sparse

        place = {name: i for i, name in enumerate(genes)}
        own = {name: sorted({place[g] for g in given if g in place}) for name, given in gene_sets.items()}  # fmt: skip
        own = {name: rows for name, rows in own.items() if 2 <= len(rows) <= MOST_SET}
        if not own:
            msg = f"None of the {len(gene_sets):,} gene sets has two of the {len(place):,} genes; sets of another species, or under Ensembl ids? Give sets of human symbols."
            raise DataError(msg)
        size = np.array([len(rows) for rows in own.values()], np.int64)
        column = np.concatenate([np.array(rows, np.int64) for rows in own.values()])
        row = np.repeat(np.arange(len(own)), size)
        shape = (len(own), len(genes))
        member = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
        return cls(names=tuple(own), member=member, size=size)

    def found(self, programs: Programs, *, level: float = LEVEL) -> "Counts":
        """Return how many sets are most significant in each program and significant there, shape (program,).

        Parameters
        ----------
        programs, level
            As in `significant`.
        """
        flags, best = self.significant(programs, level=level)
        return np.bincount(best[flags], minlength=programs.n)

    def significant(
        self, programs: Programs, *, level: float = LEVEL
    ) -> "tuple[NDArray[np.bool_], Counts]":
        """Return which sets are significant in a program (Benjamini & Hochberg over all pairs), and in which most, shape (set,).

        Parameters
        ----------
        programs
            Of the background genes.
        level
            Of q.
        """
        from scipy import sparse
        from scipy.stats import false_discovery_control

        if programs.n == 0:
            return np.zeros(len(self.names), bool), np.zeros(len(self.names), np.int64)
        inside = np.flatnonzero(programs.code >= 0)
        flags = sparse.csr_matrix(
            (np.ones(len(inside)), (inside, programs.code[inside])),
            shape=(len(programs.genes), programs.n),
        )
        n = np.asarray((self.member @ flags).todense(), np.int64)
        p = upper_tail(
            n, len(programs.genes), self.size[:, None], np.asarray(flags.sum(axis=0), np.int64)
        )
        best = p.argmin(axis=1)
        q = false_discovery_control(p.ravel()).reshape(p.shape)
        return q[np.arange(len(p)), best] <= level, best


def upper_tail(n: "Counts", total: int, set_size: "Counts", program_size: "Counts") -> "Values":
    """Return P(X ≥ n) of the hypergeometric distribution where n is more than expected, and 1 elsewhere: such pairs are significant at no level.

    Terms are summed from n on by the ratio of neighbours, until they add nothing: scipy's loop over pairs takes a hundred times as long.

    Parameters
    ----------
    n
        Shared genes, shape (set, program).
    total
        Background genes.
    set_size, program_size
        Broadcast with `n`.
    """
    from scipy.stats import hypergeom

    p = np.ones(n.shape)
    set_size, program_size = np.broadcast_arrays(set_size, program_size, subok=False)
    rows = n * float(total) > set_size * program_size.astype(np.float64)
    k, a, b = (x[rows].astype(np.float64) for x in (n, set_size, program_size))
    term = np.exp(hypergeom.logpmf(k, total, a, b))
    tail, at = term.copy(), np.arange(len(k))
    while len(at):
        term = term[: len(at)] * (a[at] - k[at]) * (b[at] - k[at])
        term = term / ((k[at] + 1) * (total - a[at] - b[at] + k[at] + 1))
        k[at] += 1
        tail[at] += term
        going = term > NEGLIGIBLE * tail[at]
        at, term = at[going], term[going]
    p[rows] = np.minimum(tail, 1.0)
    return p


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clustering:
    """One clustering by each method.

    Attributes
    ----------
    resolution, seed
        Of the first method.
    found
        Sets of each program by method, shape (program,); of random programs shape (draw, program).
    """

    resolution: float
    seed: int
    found: "Mapping[str, Counts]"


class Matched:
    """Clusters the genes of one method into a number of programs; where the last search ended the next begins."""

    def __init__(self, vectors: "NDArray[np.floating]", genes: Sequence[str]) -> None:
        self.graph: AnnData = neighbour_graph(vectors, genes)
        self.last: tuple[float, int] | None = None

    def of_number(self, n: int, *, seed: int) -> Programs:
        """Return the clustering whose number of programs comes nearest."""
        low, high = 0.01, 100.0
        guess = 1.0 if self.last is None else self.last[0] * n / max(self.last[1], 1)
        best: tuple[float, Programs] | None = None
        for _ in range(N_TRIES):
            guess = float(np.clip(guess, low, high))
            found = cluster(self.graph, resolution=guess, seed=seed)
            if best is None or abs(found.n - n) < abs(best[1].n - n):
                best = guess, found
            if found.n == n:
                break
            low, high = (guess, high) if found.n < n else (low, guess)
            near = guess * n / max(found.n, 1)  # the number grows about as the resolution
            guess = near if low < near < high else float(np.sqrt(low * high))
        assert best is not None  # it was tried
        self.last = best[0], best[1].n
        return best[1]


def compare_programs(
    tables: "Mapping[str, NDArray[np.floating]]",
    genes: Sequence[str],
    gene_sets: GeneSets,
    *,
    resolutions: Sequence[float] = (1.0,),
    n_seeds: int = 5,
    n_random: int = N_RANDOM,
    progress: Callable[[int, int], None] | None = None,
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Count significant sets of several representations of the same genes, at the same number of programs.

    Parameters
    ----------
    tables
        Vectors by method, shape (gene, dim); the first sets the number of programs.
    genes
        Names of the rows.
    gene_sets
        As in `enrich`.
    resolutions
        Of the first method.
    n_seeds
        Of the clustering, at each resolution.
    n_random
        Draws of random programs of the first method's sizes, in each clustering.
    progress
        Called with (clusterings done, in all).

    Returns
    -------
    A row for each method and ``random``: mean number of ``programs`` and of significant ``sets``, its standard deviation ``sd`` and range ``low`` to
    ``high`` over clusterings (and draws); ``difference`` of the first method from it, paired by clustering, the share of clusterings in which it is
    ``ahead`` and the ``least`` and ``most`` difference of one, and ``difference_low``, ``difference_high``: the 95 % interval of resampled programs.

    And a row for each clustering and method: ``resolution``, ``seed``, ``method``, ``programs``, ``sets`` (``random``: mean over draws) and ``sd`` of draws.

    Raises
    ------
    ConfigError
        There is no method, seed, resolution, or fewer than two random draws.
    DataError
        No set has two of the genes, or there are too few genes.
    """
    if not tables or n_seeds < 1 or not resolutions or n_random < 2:
        msg = f"{len(tables)} representations, {n_seeds} seeds, {len(resolutions)} resolutions and {n_random} random draws were given; at least one of each is needed, of draws two. Give more of them."
        raise ConfigError(msg)
    sets = SetTable.of(genes, gene_sets)
    first = next(iter(tables))
    matched = {name: Matched(vectors, genes) for name, vectors in tables.items()}
    runs: list[Clustering] = []
    asked = [(resolution, seed) for resolution in resolutions for seed in range(n_seeds)]
    for resolution, seed in asked:
        own = cluster(matched[first].graph, resolution=resolution, seed=seed)
        found = {first: sets.found(own)}
        for name, each in matched.items():
            if name != first:
                found[name] = sets.found(each.of_number(own.n, seed=seed))
        found[RANDOM] = _random(own, sets, n_random, seed=seed)
        runs.append(Clustering(resolution=resolution, seed=seed, found=found))
        if progress is not None:
            progress(len(runs), len(asked))
    return _summary(runs, first), _each(runs)


def _random(programs: Programs, sets: SetTable, n_draws: int, *, seed: int) -> "Counts":
    """Return the sets of random programs of the same sizes, shape (draw, program)."""
    return np.stack(
        [sets.found(random_programs(programs, seed=seed * n_draws + i)) for i in range(n_draws)]
    )


def _summary(runs: list[Clustering], first: str) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    own = np.array([run.found[first].sum() for run in runs])
    for name in runs[0].found:
        counts = [run.found[name].sum(axis=-1) for run in runs]  # of draws, where there are any
        every = np.concatenate([np.atleast_1d(each) for each in counts])
        away = own - np.array([each.mean() for each in counts])
        low, high = np.percentile(_draws(runs, first, name), TAILS)
        rows.append(
            {
                "method": name,
                "programs": float(np.mean([run.found[name].shape[-1] for run in runs])),
                "sets": float(every.mean()),
                "sd": float(every.std(ddof=1)) if len(every) > 1 else 0.0,
                "low": int(every.min()),
                "high": int(every.max()),
                "difference": float(away.mean()),
                "difference_low": float(low),
                "difference_high": float(high),
                "ahead": float((away > 0).mean()),
                "least": float(away.min()),
                "most": float(away.max()),
            }
        )
    table = pd.DataFrame(rows).set_index("method")
    table.loc[first, ["difference_low", "difference_high"]] = 0.0
    return table


def _draws(runs: list[Clustering], first: str, other: str) -> "Values":
    """Differences in the number of sets, of clusterings taken at random whose programs are drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = np.empty(N_DRAWS)
    for i, number in enumerate(rng.integers(len(runs), size=N_DRAWS)):
        own, against = runs[number].found[first], runs[number].found[other]
        if against.ndim == 2:
            against = against[rng.integers(len(against))]
        drawn[i] = sum(
            sign * float(each[rng.integers(len(each), size=len(each))].sum())
            for sign, each in ((1, own), (-1, against))
            if len(each)
        )
    return drawn


def _each(runs: list[Clustering]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "resolution": run.resolution,
                "seed": run.seed,
                "method": name,
                "programs": found.shape[-1],
                "sets": float(found.sum(axis=-1).mean()),
                "sd": float(found.sum(axis=-1).std(ddof=1)) if found.ndim == 2 else np.nan,
            }
            for run in runs
            for name, found in run.found.items()
        ]
    )
