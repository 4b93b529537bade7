"""Cells a CPU-second from disk to ragged batch, all readers on the same cells in one process.

OMP_NUM_THREADS=1 python benchmarks/loader.py [--cells 65536] [--repeats 3] [--data ../shared/data] [--folder DIR]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import torch
import zarr
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from cellfm import __version__
from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.fingerprint import content_hash, content_hex, fingerprint
from cellfm.corpus.manifest import GENES, Manifest, PartEntry
from cellfm.corpus.part import LABELS, Labels
from cellfm.corpus.part_writer import SortedCells, write_part
from cellfm.corpus.ragged import boundaries, cell_totals, log_values
from cellfm.corpus.rows import row_source
from cellfm.corpus.sample import SLAB, EpochSampler
from cellfm.corpus.store import Store
from cellfm.corpus.stored import StoredCells
from cellfm.corpus.tokens import depth_features
from cellfm.genes import Vocabulary, resolve

FILES = ("pbmc3k/pbmc3k.h5ad", "pbmc_donorA_unlabelled/pbmc_donorA.h5ad")
PART_CELLS, BLOCK, WINDOW, LONGEST = 16_384, 1024, 8, 2048


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--token-budget", type=int, default=32_768)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(Path(name), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    began = time.process_time()
    store = build(folder, options)
    print(f"built in {time.process_time() - began:.0f} CPU-seconds")
    about(store, folder)
    cells, budget = StoredCells(store), options.token_budget
    plain = {"token_budget": budget, "seed": 0, "scored_fraction": None}
    masks = {"token_budget": budget, "seed": 0}
    readers: dict[str, Callable[[], Iterator[int]]] = {
        "bare memory map, ragged, rows by slice": lambda: bare(
            folder, store.n_cells, by_slice=True
        ),
        "bare memory map, ragged, rows by index": lambda: bare(
            folder, store.n_cells, by_slice=False
        ),
        "plain zarr, slices of 2,048 rows, padded": lambda: plain_zarr(store),
        "ours, values only": lambda: ours(cells, plain),
        "ours, values only, 4 length buckets": lambda: ours(cells, plain | {"length_buckets": 4}),
        "ours with masks": lambda: ours(cells, masks),
        "ours with masks and thinning": lambda: ours(cells, masks | {"thin": True}),
        "backed h5ad, rows at random": lambda: backed(folder, budget),
    }
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(options.repeats):
        for name, reader in readers.items():
            start, n_cells = time.process_time(), 0
            for n in reader():
                n_cells += n
                if time.process_time() - start > 20:
                    break
            times[name].append(n_cells / (time.process_time() - start))
    report(times)
    plan_speed(cells, budget)


def report(times: dict[str, list[float]]) -> None:
    """Print medians; ratios are taken within a round, as the machine may be shared."""
    best = [
        max(pair) for pair in zip(*(times[n] for n in times if n.startswith("bare")), strict=True)
    ]
    print("\n| reader | cells / CPU-second | of the faster bare reader |\n|---|---|---|")
    for name, found in times.items():
        ratio = statistics.median(rate / top for rate, top in zip(found, best, strict=True))
        print(f"| {name} | {statistics.median(found):,.0f} | {ratio:.2f} |")


def about(store: Store, folder: Path) -> None:
    def size(path: Path) -> int:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    part = store.path / "cells"
    print(
        f"{store.n_cells:,} cells, {store.manifest.n_values / store.n_cells:.0f} genes a cell; bytes a cell: store "
        f"{size(part) / store.n_cells:,.0f}, memory map {size(folder / 'map') / store.n_cells:,.0f}"
    )


# the readers


def ours(cells: StoredCells, options: dict) -> Iterator[int]:
    sampler = EpochSampler(cells, **options)
    for step in range(sampler.n_batches(0)):
        yield sampler.batch(step).n_cells


def bare(folder: Path, n_cells: int, *, by_slice: bool) -> Iterator[int]:
    """Blocks permuted, rows of 8 blocks shuffled, the same tensors, nothing checked."""
    gene, count = (
        np.memmap(folder / "map" / name, np.uint16, mode="r") for name in ("gene", "count")
    )
    indptr = np.fromfile(folder / "map" / "indptr", np.int64)
    rng = np.random.default_rng(0)
    blocks = rng.permutation(-(-n_cells // BLOCK))
    for first in range(0, len(blocks), WINDOW):
        rows = (blocks[first : first + WINDOW, None] * BLOCK + np.arange(BLOCK)).ravel()
        rows = rng.permutation(rows[rows < n_cells])
        ends = np.cumsum(indptr[rows + 1] - indptr[rows])
        for part in np.split(rows, np.searchsorted(ends, np.arange(SLAB, ends[-1], SLAB))):
            yield (sliced if by_slice else indexed)(gene, count, indptr, part).n_cells


def sliced(gene, count, indptr, rows) -> CellBatch:
    ends = list(zip(indptr[rows].tolist(), indptr[rows + 1].tolist(), strict=True))
    offsets = boundaries(indptr[rows + 1] - indptr[rows])
    genes = np.concatenate([gene[a:b] for a, b in ends], out=np.empty(offsets[-1], np.int32))
    counts = np.concatenate([count[a:b] for a, b in ends], out=np.empty(offsets[-1], np.float32))
    return ragged(genes, counts, offsets)


def indexed(gene, count, indptr, rows) -> CellBatch:
    offsets = boundaries(indptr[rows + 1] - indptr[rows])
    at = np.repeat(indptr[rows] - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])
    return ragged(gene[at].astype(np.int32), count[at].astype(np.float32), offsets)


def ragged(gene, count, offsets) -> CellBatch:
    total = cell_totals(count, offsets, whole=True)
    return CellBatch(
        gene=torch.from_numpy(gene),
        value=torch.from_numpy(log_values(count, total, np.diff(offsets))),
        offsets=torch.from_numpy(offsets),
        depth=depth_features(total, total),
    )


def plain_zarr(store: Store) -> Iterator[int]:
    """Read slices by zarr itself and pad each to 2,048 genes."""
    for part in store.parts:
        x = zarr.open_group(part.path, mode="r")["X"]
        indptr = x["indptr"][:]
        for start in range(0, part.n_cells, 2048):
            ends = indptr[start : start + 2049]
            gene, count = (x[name][ends[0] : ends[-1]] for name in ("indices", "data"))
            lengths = np.diff(ends)
            total = cell_totals(count, ends - ends[0], whole=True)
            value = log_values(count, total, lengths)
            rank = np.arange(len(gene)) - np.repeat(ends[:-1] - ends[0], lengths)
            row, kept = np.repeat(np.arange(len(lengths)), lengths), rank < LONGEST
            for of, kind in ((gene, np.int32), (value, np.float32)):
                padded = np.zeros((len(lengths), LONGEST), kind)
                padded[row[kept], rank[kept]] = of[kept]
                torch.from_numpy(padded)
            yield len(lengths)


def backed(folder: Path, budget: int) -> Iterator[int]:
    with h5py.File(folder / "cells.h5ad") as file:
        matrix = sparse_dataset(file["X"])
        order = np.random.default_rng(0).permutation(matrix.shape[0])
        n_cells = max(1, budget // 1500)
        for start in range(0, min(len(order), 600), n_cells):
            rows = sparse.vstack([matrix[int(row)] for row in order[start : start + n_cells]])
            offsets = rows.indptr.astype(np.int64)
            ragged(rows.indices.astype(np.int32), rows.data.astype(np.float32), offsets)
            yield rows.shape[0]


def plan_speed(cells: StoredCells, budget: int) -> None:
    """Cells a CPU-second when a far step is looked for, which reads lengths only."""
    sampler = EpochSampler(cells, token_budget=budget, seed=0)
    start = time.process_time()
    n_batches = sum(sampler.n_batches(epoch) for epoch in range(10))
    rate = 10 * len(cells) / (time.process_time() - start)
    print(f"\nfinding step {n_batches:,}: {rate:,.0f} cells / CPU-second")


# the corpus


def build(folder: Path, options: argparse.Namespace) -> Store:
    vocabulary = Vocabulary.from_hgnc()
    rng = np.random.default_rng(0)
    cells = grown(originals(options.data, vocabulary, rng), options.cells, rng)
    prints = fingerprint(cells.gene, cells.count, cells.offsets)
    order = np.lexsort((prints[:, 1], prints[:, 0]))
    cells, prints = cells.select(order, narrow=True), prints[order]
    entries = tuple(
        write(folder, cells, prints, start=start, vocabulary=vocabulary)
        for start in range(0, len(cells), PART_CELLS)
    )
    vocabulary.write(folder / "store" / GENES)
    Manifest(
        cellfm=__version__,
        vocabulary=vocabulary.hash,
        n_genes=len(vocabulary),
        content=content_hex(content_hash(prints)),
        rules={},
        datasets=(),
        set_aside=(),
        parts=entries,
    ).write(folder / "store")
    write_others(folder, cells, len(vocabulary))
    return Store.open(folder / "store")


def originals(data: Path, vocabulary: Vocabulary, rng) -> sparse.csr_matrix:
    """Real cells on the vocabulary if they are there, else simulated ones."""
    files = [data / name for name in FILES if (data / name).is_file()]
    if not files:
        print("no real cells found: simulated counts")
        mean = rng.gamma(0.15, 1.0, len(vocabulary)) * np.exp(rng.normal(0, 0.7, (6, 1)))
        counts = rng.poisson(mean[rng.integers(6, size=2000)] * rng.gamma(4, 0.25, (2000, 1)))
        return sparse.csr_matrix(counts.astype(np.float32))
    blocks = []
    for file in files:
        adata = anndata.read_h5ad(file)
        cells = InMemoryCells.from_source(
            row_source(adata.X), resolve(list(adata.var_names), vocabulary).token
        )
        shape = (len(cells), len(vocabulary))
        blocks.append(sparse.csr_matrix((cells.count, cells.gene - 1, cells.offsets), shape))
    return sparse.csr_matrix(sparse.vstack(blocks))


def grown(counts: sparse.csr_matrix, n_cells: int, rng) -> InMemoryCells:
    """Sums of three cells drawn with replacement, thinned by a rate of 0.5 to 1: about 1,500 genes a cell."""
    parts = []
    for start in range(0, n_cells, 4096):
        n = min(4096, n_cells - start)
        block = sum(counts[rng.integers(counts.shape[0], size=n)] for _ in range(3))
        rate = np.repeat(rng.uniform(0.5, 1, n), np.diff(block.indptr))
        block.data = rng.binomial(block.data.astype(np.int64), rate).astype(np.uint16)
        block.eliminate_zeros()
        block.sort_indices()
        parts.append(block)
    return InMemoryCells(
        gene=np.concatenate([part.indices.astype(np.uint16) + np.uint16(1) for part in parts]),
        count=np.concatenate([part.data for part in parts]),
        offsets=boundaries(np.concatenate([np.diff(part.indptr) for part in parts])),
        cell=np.arange(n_cells),
    )


def write(folder: Path, cells: InMemoryCells, prints, *, start: int, vocabulary) -> PartEntry:
    block = cells.read(start, min(start + PART_CELLS, len(cells)))
    unknown = Labels(codes=np.zeros(len(block), np.int32), categories=("",))
    name = f"cells/part-{start // PART_CELLS:05d}.zarr"
    path = folder / "store" / name
    labelled = SortedCells(
        gene=block.gene,
        count=block.count,
        offsets=block.offsets,
        fingerprint=prints[start : start + len(block)],
        row=block.cell,
        labels=dict.fromkeys(LABELS, unknown),
    )
    record = write_part(path, [labelled], vocabulary=vocabulary)
    return PartEntry(
        path=name,
        segment=0,
        n_cells=record.n_cells,
        n_values=record.n_values,
        sha256="",  # only a check of the files asks for it
    )


def write_others(folder: Path, cells: InMemoryCells, n_genes: int) -> None:
    """Write the same cells as a memory map and as an uncompressed h5ad matrix."""
    (folder / "map").mkdir()
    for name, values in (("gene", cells.gene), ("count", cells.count), ("indptr", cells.offsets)):
        values.tofile(folder / "map" / name)
    some = cells.read(0, min(len(cells), 20_000))
    shape = (len(some), n_genes)
    values = (some.count.astype(np.float32), some.gene.astype(np.int32) - 1, some.offsets)
    with h5py.File(folder / "cells.h5ad", "w") as file:
        write_elem(file, "X", sparse.csr_matrix(values, shape))
        assert read_elem(file["X/indptr"])[-1] == some.offsets[-1]


if __name__ == "__main__":
    main()
