"""How large, how fast and how exact is a reference index of a million cells?

python benchmarks/index.py --data ../shared/data [--cells 1000000] [--queries 1000] [--kinds flat ivf ivf8]

States of the packaged model on pbmc3k, drawn with replacement and moved by noise of 0.5 of the standard deviation of each dimension among
the cells of the same type: a mixture of clusters that overlap, of the width and the correlations of real states. Queries are further draws, no members.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import faiss
import numpy as np

import cellfm
from cellfm.tl._embed import frozen_states
from cellfm.tl._reference_index import (
    QUANTISER,
    IndexDescription,
    Standard,
    list_count,
    make_vectors,
    nearest,
)
from cellfm.tl._states import EmbedOptions

K = 10
KINDS = {
    "flat": [1],
    "ivf": [8, 16, 32, 64, 128],
    "ivf8": [8, 16, 32, 64, 128],
    "hnsw": [16, 32, 64, 128, 256],
}
"""Structures and the efforts they are tried with."""


def draw(data: Path, n: int, seed: int) -> np.ndarray:
    """Return n synthetic states."""
    adata = anndata.read_h5ad(next(data.glob("pbmc3k/*.h5ad")))
    model = cellfm.load("mini")
    states, _ = frozen_states(adata, model, EmbedOptions())
    kind = adata.obs["cell_type"].astype(str).to_numpy()
    spread = np.zeros_like(states)
    for name in np.unique(kind):
        spread[kind == name] = states[kind == name].std(0)
    rng = np.random.default_rng(seed)
    row = rng.integers(len(states), size=n)
    out = np.empty((n, states.shape[1]), np.float32)
    for start in range(0, n, 65_536):
        part = row[start : start + 65_536]
        noise = rng.standard_normal((len(part), states.shape[1]), np.float32)
        out[start : start + 65_536] = states[part] + 0.5 * spread[part] * noise
    return out


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)]))


def _exact(vectors: np.ndarray, standard: Standard, states: np.ndarray) -> np.ndarray:
    """Return the true nearest neighbours."""
    flat = make_vectors(states, standard, metric="euclidean", structure="flat")
    return nearest(flat, vectors, K, about=describe(states, "flat")).row


def describe(states: np.ndarray, kind: str) -> IndexDescription:
    """Say what an index is; what does not bear on the search is made up."""
    return IndexDescription(
        weights_hash="",
        vocabulary_hash="",
        weights="",
        pool="cls",
        whitening_hash=None,
        n_cells=len(states),
        dim=states.shape[1],
        metric="euclidean",
        structure=kind,
        n_lists=list_count(len(states)) if kind in QUANTISER else 0,
        labels=(),
        batch_key=None,
        leave_one_out={},
        cellfm_version="",
    )


class Built(NamedTuple):
    """An index, and what making it took."""

    about: IndexDescription
    index: Any
    seconds: float
    cpu: float
    size: int

    @classmethod
    def of(cls, states: np.ndarray, standard: Standard, kind: str) -> "Built":
        started, cpu = time.perf_counter(), time.process_time()
        index = make_vectors(states, standard, metric="euclidean", structure=kind)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.faiss"
            faiss.write_index(index, str(path))
            size = path.stat().st_size
        return cls(describe(states, kind), index, seconds, cpu, size)

    def speed(self, vectors: np.ndarray, effort: int, n_threads: int) -> tuple[float, float]:
        """Return queries a second, and a CPU-second."""
        faiss.omp_set_num_threads(n_threads)
        started, cpu = time.perf_counter(), time.process_time()
        nearest(self.index, vectors, K, about=self.about, effort=effort)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return len(vectors) / seconds, len(vectors) / cpu

    def name(self, effort: int) -> str:
        kinds = {"flat": "flat (exact)", "hnsw": f"hnsw, efSearch {effort}"}
        lists = f"{self.about.structure} of {self.about.n_lists:,} lists, nprobe {effort}"
        return kinds.get(self.about.structure, lists)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    states = draw(args.data, args.cells + args.queries, seed=0)
    members, queries = states[: args.cells], states[args.cells :]
    standard = Standard.of(members)
    vectors = standard.vectors(queries, "euclidean")
    print(
        f"{args.cells:,} states of {states.shape[1]} numbers, {args.queries:,} held-out queries\n"
    )
    print(f"| index | recall@{K} | queries/CPU-second | queries/s, 1 thread | 2 threads |")
    print("|---|---|---|---|---|")
    exact, lines = _exact(vectors, standard, members), []
    for kind in sorted(args.kinds, key=list(KINDS).index):
        efforts = KINDS[kind]
        faiss.omp_set_num_threads(2)
        built = Built.of(members, standard, kind)
        lines.append(
            f"| {kind} | {built.seconds:,.0f} s | {built.cpu:,.0f} s | {built.size / 1e6:,.0f} MB | {built.size / args.cells:,.0f} |"
        )
        for effort in efforts:
            row = nearest(built.index, vectors, K, about=built.about, effort=effort).row
            one, two = (built.speed(vectors, effort, n) for n in (1, 2))
            shown = f"{recall(row, exact):.4f} | {one[1]:,.0f} | {one[0]:,.0f} | {two[0]:,.0f}"
            print(f"| {built.name(effort)} | {shown} |", flush=True)
    print("\n| index | build, 2 threads | CPU time | on disk | bytes a cell |")
    print("\n".join(["|---|---|---|---|---|", *lines]))


if __name__ == "__main__":
    main()
