"""Which pairs of genes differ between two conditions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, DataError
from cellfm.tl._genes.embeddings import _draw_cells
from cellfm.tl._network import controls
from cellfm.tl._network.genes import Genes, NetworkCells, read_cells
from cellfm.tl._network.scoring import N_CELLS, Asked, Method, Progress, score_pairs
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

N_BLOCKS = 10
"""Parts of the cells of each condition; their labels are shuffled."""
LEAST_TOGETHER = 20
"""Cells of each condition that must express both genes of a pair."""
LEVEL = 0.05
CHUNK = 20_000
"""Pairs whose permutations are held at a time."""
ADDITIVE = ("retention", "knockout", "gradient")
"""Methods whose score is a mean over cells."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DifferentialNetwork:
    """Pairs in two conditions.

    Attributes
    ----------
    changes
        A row for each pair that enough cells of both conditions express, by the size of z, as :meth:`table` says.
    groups
        The two conditions.
    n_cells
        Cells of each.
    method
        Of the scores.
    """

    changes: "pd.DataFrame"
    groups: tuple[str, str]
    n_cells: int
    method: str

    def table(self, n: int | None = 10_000) -> "pd.DataFrame":
        r"""Return the pairs that differ most.

        Parameters
        ----------
        n
            How many; None for all.

        Returns
        -------
        ``source``, ``target``; ``difference``, second condition less the first, of the score's mean over cells, as a rank from 0 to 1; ``z``, in units of the standard deviation of
        shuffled labels; ``p`` of the pair; ``p_family``, that any pair would have such a \\|z\\|; ``n_first``, ``n_second``, cells that express both; and what could be behind it:
        ``pearson_difference``, of the correlations, ``source_change`` and ``target_change``, of the means of log1p(counts per 10⁴).
        """
        return self.changes if n is None else self.changes.head(n)

    @property
    def verdict(self) -> str:
        """How many pairs differ, and what that rests on."""
        n = int((self.changes["p_family"] <= LEVEL).sum())
        share = float((self.changes["p"] <= LEVEL).mean())
        return (
            f"{n:,} of {len(self.changes):,} pairs differ between {self.groups[0]} and {self.groups[1]} at a family-wise p ≤ {LEVEL:g} (largest |z| of shuffled labels); {share:.1%} have a p ≤ {LEVEL:g} "
            "each, of which 5.0% are expected without any difference. Cells, not donors, are shuffled: what differs may be the sample. Where the genes' own expression changes "
            "(source_change, target_change), so may the score."
        )


def differential_network(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    groupby: str,
    groups: tuple[str, str],
    sources: Genes,
    targets: Genes | None = None,
    method: Method = "retention",
    n_cells: int | None = None,
    n_permutations: int = 1000,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DifferentialNetwork:
    r"""Compare the scores of pairs between two conditions, with a permutation p for each pair and for all together.

    As many cells of each condition are taken, and dealt into ten blocks at random. Each block is scored once, so the cost is one pass over all cells and does not
    grow with the permutations, which deal the blocks out to the conditions anew. Scores of the retention are ranks within cells already; those
    of knock-outs and gradients are turned into ranks among all pairs of a block. Memory: 8 bytes for each pair and block, so 160 bytes a pair.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, in memory or backed; it is not changed.
    model
        From `cellfm.load`, or a weights folder or name; None for the model of the package.
    groupby, groups
        Column of ``obs``, and the two entries that are compared, the first the one differences are from.
    sources, targets, min_cells
        As in `gene_network`; genes are those that enough cells of both together express.
    method
        As in `gene_network`, but for the similarities of vectors, which are no means over cells.
    n_cells
        Cells of each condition at most; None as in `gene_network`.
    n_permutations
        Of the blocks' labels.
    layer, use_raw, gene_names, scale, min_matched, device
        As in `embed`.
    seed
        Of the choice of cells, their blocks and the permutations.
    progress
        Called with (cells done, in all).

    Raises
    ------
    ConfigError
        The method is a similarity, or the two conditions are the same.
    DataError
        There are too few cells, or no pair that 20 cells of each condition express.
    CountsError, GeneMatchError
        As in `embed`.

    Examples
    --------
    >>> changes = cellfm.tl.differential_network(  # doctest: +SKIP
    ...     adata, groupby="condition", groups=("control", "treated"), sources="tfs.txt"
    ... )
    """
    if method not in ADDITIVE:
        msg = f"method is {method!r}; two conditions are compared by {', '.join(map(repr, ADDITIVE))}, which are means over cells. Choose one of these."
        raise ConfigError(msg)
    if len(groups) != 2 or groups[0] == groups[1] or n_permutations < 1:
        msg = f"groups is {groups!r} and n_permutations {n_permutations}; expected two different entries of obs[{groupby!r}] (--between a,b), and at least 1 permutation."
        raise ConfigError(msg)
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched, empty="nan"
    )  # fmt: skip
    Asked(method=method, groupby=None, group=None, n_cells=n_cells, min_cells=min_cells, seed=seed)
    pretrained = as_model(model, device)
    most = N_CELLS[method] if n_cells is None else n_cells
    rows = _equal(adata, groupby, groups, n_cells=most, seed=seed)
    cells = read_cells(adata, np.sort(rows.ravel()), pretrained.vocabulary, options, min_cells=min_cells)  # fmt: skip
    source = cells.named(sources, "sources")
    target = cells.expressed if targets is None else cells.named(targets, "targets")
    first = np.isin(np.sort(rows.ravel())[cells.cells.cell], rows[0])
    asked = _Pairs(cells=cells, first=first, sources=source, targets=target)
    blocks = _Blocks.of(pretrained, asked, method=method, seed=seed, progress=progress)
    changes = _compared(blocks, _labels(n_permutations, seed=seed), asked)
    return DifferentialNetwork(changes=changes, groups=groups, n_cells=rows.shape[1], method=method)


def _equal(
    adata: "AnnData", groupby: str, groups: tuple[str, str], *, n_cells: int, seed: int
) -> "NDArray[np.int64]":
    """Return rows of as many cells of each condition, shape (2, cell)."""
    drawn = _draw_cells(adata.obs, groupby=groupby, group=list(groups), n_cells=n_cells, seed=seed)
    n = min(map(len, drawn.values()))
    if n < max(2 * N_BLOCKS, LEAST_TOGETHER):
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in drawn.items())
        msg = f"The conditions have too few cells: {sizes}; at least {max(2 * N_BLOCKS, LEAST_TOGETHER)} of each are needed. Take others, or raise n_cells."
        raise DataError(msg)
    rng = np.random.default_rng(seed + 1)
    return np.array([rng.permutation(drawn[name])[:n] for name in groups])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """Cells, which of them are of the first condition, and the tokens of sources and targets."""

    cells: NetworkCells
    first: "NDArray[np.bool_]"
    sources: "NDArray[np.int64]"
    targets: "NDArray[np.int64]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Blocks:
    """Sums of scores over the cells of each block, first those of the first condition, and in how many cells a pair was seen, shape (block, pair)."""

    total: "Values"
    number: "Values"
    sources: "NDArray[np.object_]"
    targets: "NDArray[np.object_]"

    @classmethod
    def of(
        cls,
        model: Pretrained,
        asked: _Pairs,
        *,
        method: str,
        seed: int,
        progress: Progress | None,
    ) -> "_Blocks":
        shape = (2 * N_BLOCKS, len(asked.sources) * len(asked.targets))
        total, number = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        done, names = 0, (np.empty(0, object), np.empty(0, object))
        for place, rows in enumerate(_dealt(asked.first, seed=seed)):
            part = replace(asked.cells, cells=asked.cells.cells.select(rows))
            tell = None if progress is None else _after(progress, done, len(asked.first))
            scores = score_pairs(
                model, part, asked.sources, asked.targets, method=method, least=1, progress=tell
            ).scores
            value = scores.score.ravel()
            value = value if method == "retention" else _ranks(value)
            seen = np.where(np.isfinite(value), scores.n_cells.ravel(), 0)
            total[place], number[place] = np.nan_to_num(value) * seen, seen
            done, names = done + len(rows), (scores.sources, scores.targets)
        return cls(total=total, number=number, sources=names[0], targets=names[1])


def _after(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _dealt(first: "NDArray[np.bool_]", *, seed: int) -> "Iterator[NDArray[np.int64]]":
    """Yield the cells of each block."""
    rng = np.random.default_rng(seed + 2)
    for mask in (first, ~first):
        yield from np.array_split(rng.permutation(np.flatnonzero(mask)), N_BLOCKS)


def _ranks(value: "Values") -> "Values":
    """Ranks from 0 to 1 of the pairs that have a score."""
    from scipy.stats import rankdata

    found = np.full(value.shape, np.nan, np.float32)
    there = np.isfinite(value)
    found[there] = (rankdata(value[there]) - 1) / max(int(there.sum()) - 1, 1)
    return found


def _labels(n: int, *, seed: int) -> "Values":
    """Which blocks are of the first condition: as they are, then in each permutation, shape (1 + n, block)."""
    rng = np.random.default_rng(seed + 3)
    own = np.arange(2 * N_BLOCKS) < N_BLOCKS
    return np.array([own, *(rng.permutation(own) for _ in range(n))], np.float32)


def _compared(blocks: _Blocks, labels: "Values", asked: _Pairs) -> "pd.DataFrame":
    """Return the table of changes."""
    import pandas as pd

    cells, first = asked.cells, asked.first
    sources, targets = asked.sources, asked.targets
    n_first = blocks.number[:N_BLOCKS].sum(axis=0)
    n_second = blocks.number[N_BLOCKS:].sum(axis=0)
    pairs = np.flatnonzero(np.minimum(n_first, n_second) >= LEAST_TOGETHER)
    if not len(pairs):
        msg = f"No pair of the {len(sources):,} sources and {len(targets):,} targets is expressed by {LEAST_TOGETHER} cells of each condition. Take more cells, or other genes."
        raise DataError(msg)
    difference, z, p, largest = permuted(blocks.total[:, pairs], blocks.number[:, pairs], labels)
    largest.sort()
    n_larger = len(largest) - np.searchsorted(largest, np.abs(z) - 1e-6)
    row, column = np.divmod(pairs, len(targets))
    table = pd.DataFrame(
        {
            "source": blocks.sources[row],
            "target": blocks.targets[column],
            "difference": difference,
            "z": z,
            "p": p,
            "p_family": (1 + n_larger) / (1 + len(largest)),
            "n_first": n_first[pairs].astype(int),
            "n_second": n_second[pairs].astype(int),
        }
    )
    values = controls.expression(cells.cells, len(cells.vocabulary))
    one, other = values[np.flatnonzero(first)], values[np.flatnonzero(~first)]
    pearson = [controls.correlations(part, sources, targets) for part in (one, other)]
    change = [
        controls.levels(other, genes) - controls.levels(one, genes) for genes in (sources, targets)
    ]
    table["pearson_difference"] = (pearson[1] - pearson[0])[row, column]
    table["source_change"], table["target_change"] = change[0][row], change[1][column]
    return table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def permuted(
    total: "Values", number: "Values", labels: "Values"
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]":
    r"""Return difference, z and p of each pair, and the largest \\|z\\| over pairs of each permutation.

    Parameters
    ----------
    total, number
        Sums and cells of each block, shape (block, pair).
    labels
        Which blocks are of the first condition, shape (1 + permutation, block); the first row is as they are.
    """
    n_pairs = total.shape[1]
    difference, z, p = (np.empty(n_pairs) for _ in range(3))
    largest = np.zeros(len(labels) - 1)
    for at in range(0, n_pairs, CHUNK):
        part = slice(at, at + CHUNK)
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # a permutation may leave a side without cells
            one = (labels @ total[:, part]) / (labels @ number[:, part])
            other = ((1 - labels) @ total[:, part]) / ((1 - labels) @ number[:, part])
        shift = np.nan_to_num(other - one, posinf=0.0, neginf=0.0).astype(np.float64)
        spread = np.maximum(shift[1:].std(axis=0), 1e-12)
        difference[part], z[part] = shift[0], shift[0] / spread
        size = np.abs(shift)
        # Single precision: the same blocks in another order differ in the last digits.
        p[part] = (1 + (size[1:] >= size[0] - 1e-6).sum(axis=0)) / len(labels)
        largest = np.maximum(largest, (size[1:] / spread).max(axis=1))
    return difference, z, p, largest
