"""Small sources and corpora for the tests."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from cellfm.corpus.curate import CuratedCells, Rules
from cellfm.corpus.fingerprint import fingerprint
from cellfm.corpus.manifest import REPORT, REPORTS
from cellfm.corpus.metadata import METADATA
from cellfm.corpus.part import LABELS, Labels
from cellfm.corpus.part_writer import SortedCells
from cellfm.corpus.sources import SourceEntry
from cellfm.genes import GeneTable, Vocabulary

N_GENES = 120
RULES = Rules(min_genes=5)


@functools.cache
def vocabulary(n_genes: int = N_GENES) -> Vocabulary:
    """Return a gene list of protein-coding genes."""
    genes = [g for g in GeneTable.load().genes if g.locus_group == "protein-coding gene"]
    return Vocabulary.from_symbols([gene.symbol for gene in genes[:n_genes]])


def counts(n_cells: int, *, seed: int = 0, n_genes: int = N_GENES) -> sparse.csr_matrix:
    """Return a matrix of counts with at least 10 genes in each cell, all cells different."""
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.6, (n_cells, n_genes))
    dense[:, :10] += 1
    dense[:, 10] += np.arange(n_cells) % 7
    return sparse.csr_matrix(dense.astype(np.float32))


def curated(matrix: sparse.csr_matrix, *, donor: str = "d1") -> CuratedCells:
    """Return the rows of a matrix as curated cells."""
    gene, count = matrix.indices.astype(np.int32) + 1, matrix.data.astype(np.uint32)
    offsets = matrix.indptr.astype(np.int64)
    n_cells = matrix.shape[0]
    obs = {name: np.full(n_cells, "", dtype=object) for name in METADATA}
    obs["donor"] = np.full(n_cells, donor, dtype=object)
    obs["cell_type"] = np.array([f"type {i % 3}" for i in range(n_cells)], dtype=object)
    return CuratedCells(
        gene=gene,
        count=count,
        offsets=offsets,
        fingerprint=fingerprint(gene, count, offsets),
        row=np.arange(n_cells),
        obs=obs,
    )


def in_order(matrix: sparse.csr_matrix, *, dataset: str = "first") -> SortedCells:
    """Return the rows of a matrix in the order of their fingerprints."""
    first = curated(matrix)
    order = np.lexsort((first.fingerprint[:, 1], first.fingerprint[:, 0]))
    cells = curated(matrix[order])
    labels = {
        name: Labels(codes=np.zeros(len(order), np.int32), categories=("",)) for name in LABELS
    }
    labels["dataset"] = Labels(codes=np.zeros(len(order), np.int32), categories=(dataset,))
    return SortedCells(
        gene=cells.gene,
        count=cells.count,
        offsets=cells.offsets,
        fingerprint=cells.fingerprint,
        row=order,
        labels=labels,
    )


def write_source(
    path: Path, matrix: sparse.csr_matrix, *, donor: str = "d1", **more: str
) -> SourceEntry:
    """Write a matrix as h5ad and return its entry."""
    index = [f"cell {i}" for i in range(matrix.shape[0])]
    obs = pd.DataFrame({"donor": donor, "cell_type": "T cell"}, index=index)
    var = pd.DataFrame(index=list(vocabulary().symbols))
    ad.AnnData(matrix, obs=obs, var=var).write_h5ad(path)
    return SourceEntry(name=path.stem, path=path.absolute(), **more)


def four_sources(folder: Path) -> list[SourceEntry]:
    """Write sources with copies within and across: 12 + 10 + 8 cells, 25 of them different, and a file that is none."""
    base = counts(30, seed=1)
    matrices = {
        "a": base[:12],
        "b": sparse.vstack([base[12:20], base[12:13], base[0:1]]).tocsr(),
        "c": sparse.vstack([base[20:25], base[3:5], base[20:21]]).tocsr(),
    }
    entries = [
        write_source(folder / f"{name}.h5ad", matrix, donor=f"donor {name}")
        for name, matrix in matrices.items()
    ]
    bad = folder / "bad.h5ad"
    bad.write_bytes(b"no HDF5 at all")
    return [*entries, SourceEntry(name="bad", path=bad.absolute())]


def files_of(store: Path, *, without: Sequence[str] = (REPORT,)) -> dict[str, bytes]:
    """Return the bytes of all files of a store but the times in its reports."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if not path.is_file() or name in without:
            continue
        content = path.read_bytes()
        if name.startswith(f"{REPORTS}/"):
            content = json.dumps({**json.loads(content), "seconds": 0}).encode()
        found[name] = content
    return found
