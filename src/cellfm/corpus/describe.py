"""What is in a corpus: cells by every label, genes and counts of cells, bytes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.manifest import Dataset, SetAside
from cellfm.corpus.metadata import METADATA
from cellfm.corpus.store import Store
from cellfm.corpus.summary import n_bytes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("dataset", *METADATA)
"""Columns by which cells are counted."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
N_BINS = 60
"""Of the histogram of genes per cell."""
BLOCK = 16_384
"""Cells read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cells with one label; an empty label is one that is not known."""

    label: str
    n_cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Numbers of cells between edges; the last bin holds its upper edge, too."""

    edges: tuple[float, ...]
    n_cells: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Account of a corpus, fit for JSON.

    Attributes
    ----------
    store
        Its folder.
    hash, content
        Of the corpus, and of its set of cells.
    n_cells, n_values, n_parts
        Cells, stored counts and parts.
    n_bytes
        Size of the parts.
    n_genes, n_genes_seen
        Genes of the vocabulary, and those with a count in any cell; the latter is None when counts were not read.
    groups
        Cells by label for each of `LABELS`, most cells first.
    genes_per_cell, counts_per_cell
        At each of `QUANTILES`.
    genes_histogram
        Cells by their number of genes.
    datasets, set_aside
        Sources in the corpus, and those that are not.
    """

    store: str
    hash: str
    content: str
    n_cells: int
    n_values: int
    n_parts: int
    n_bytes: int
    n_genes: int
    n_genes_seen: int | None
    groups: Mapping[str, tuple[Group, ...]]
    genes_per_cell: tuple[float, ...]
    counts_per_cell: tuple[float, ...]
    genes_histogram: Histogram
    datasets: tuple[Dataset, ...]
    set_aside: tuple[SetAside, ...]

    @property
    def bytes_per_cell(self) -> float:
        """Size of the parts by cell."""
        return self.n_bytes / max(self.n_cells, 1)

    def to_dict(self) -> dict[str, object]:
        """Return plain values that JSON can hold."""
        return {**asdict(self), "bytes_per_cell": self.bytes_per_cell, "quantiles": QUANTILES}


def describe(
    store: Store | Path | str,
    *,
    counts: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Description:
    """Describe a corpus.

    Parameters
    ----------
    store
        The corpus, or its folder.
    counts
        Read all counts, to say which genes were seen. Everything else is in the tables of the cells.
    progress
        Called with the number of cells whose counts were read, and of all.

    Raises
    ------
    CorpusError
        There is no corpus, or it is damaged.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    manifest = store.manifest
    n_genes = store.lengths()
    edges = np.histogram_bin_edges(n_genes, bins=N_BINS)
    return Description(
        store=str(store.path),
        hash=manifest.hash,
        content=manifest.content,
        n_cells=store.n_cells,
        n_values=manifest.n_values,
        n_parts=len(manifest.parts),
        n_bytes=n_bytes_of(store.path, manifest),
        n_genes=manifest.n_genes,
        n_genes_seen=int(_genes_seen(store, progress).sum()) if counts else None,
        groups={name: _groups(store, name) for name in LABELS},
        genes_per_cell=_quantiles(n_genes),
        counts_per_cell=_quantiles(store.numbers_of("total_counts")),
        genes_histogram=Histogram(
            edges=tuple(edges.tolist()),
            n_cells=tuple(np.histogram(n_genes, edges)[0].tolist()),
        ),
        datasets=manifest.datasets,
        set_aside=manifest.set_aside,
    )


def _groups(store: Store, name: str) -> tuple[Group, ...]:
    """Count the cells of each label, most first, of equal ones by name."""
    column = store.column(name)
    n_cells = np.bincount(column.codes, minlength=len(column.categories)).tolist()
    groups = [
        Group(label=label, n_cells=n)
        for label, n in zip(column.categories, n_cells, strict=True)
        if n
    ]
    return tuple(sorted(groups, key=lambda group: (-group.n_cells, group.label)))


def _quantiles(values: "NDArray[np.integer]") -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


def _genes_seen(store: Store, progress: Callable[[int, int], None] | None) -> "NDArray[np.bool_]":
    """Whether each gene has a count in any cell."""
    seen = np.zeros(store.manifest.n_genes, dtype=np.bool_)
    for start in range(0, store.n_cells, BLOCK):
        stop = min(start + BLOCK, store.n_cells)
        seen[store.read(start, stop).gene.astype(np.int64) - 1] = True
        if progress is not None:
            progress(stop, store.n_cells)
    return seen
