"""Speed and peak memory of whole files, through the command line.

python benchmarks/files.py embed COUNTS.h5ad [--cells 200000]   # its cells, drawn again and thinned to a quarter
python benchmarks/files.py import [--preset 800m]        # a checkpoint of that size, with Adam moments
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
from anndata.io import write_elem
from pandas import DataFrame
from scipy import sparse

from cellfm.config import preset
from cellfm.weights.names import name_table
from cellfm.weights.protobuf_write import Raw, write

ROWS = 10_000


def resample(source: Path, target: Path, n_cells: int) -> None:
    """Write cells drawn with replacement and thinned binomially, block by block."""
    adata, rng = anndata.read_h5ad(source), np.random.default_rng(0)
    counts = sparse.csr_matrix(adata.X)
    with h5py.File(target, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", DataFrame(index=[f"cell{i}" for i in range(n_cells)]))
        write_elem(file, "var", adata.var[[]])
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        matrix.attrs["shape"] = np.array([n_cells, adata.n_vars])
        data, indices = (
            matrix.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1 << 20,))
            for name, dtype in (("data", "f4"), ("indices", "i4"))
        )
        ends = [np.zeros(1, np.int64)]
        for start in range(0, n_cells, ROWS):
            block = counts[rng.integers(0, adata.n_obs, min(ROWS, n_cells - start))]
            block.data = rng.binomial(block.data.astype(np.int64), 0.25)
            block.eliminate_zeros()
            before = len(data)
            for stored, values in ((data, block.data), (indices, block.indices)):
                stored.resize((before + block.nnz,))
                stored[before:] = values
            ends.append(block.indptr[1:].astype(np.int64) + before)
        matrix.create_dataset("indptr", data=np.concatenate(ends))
        print(f"{n_cells:,} cells, {len(data) / n_cells:.0f} genes a cell")


def checkpoint(path: Path, name: str) -> None:
    """Write random weights and moments under the official names."""
    config = preset(name)
    block = np.random.default_rng(0).standard_normal(1 << 20).astype("<f4").tobytes()

    def pieces(n_bytes: int) -> Iterator[bytes]:
        while n_bytes > 0:
            yield block[:n_bytes]
            n_bytes -= len(block)

    def tensors() -> Iterator[tuple[str, Raw]]:
        for kind in ("", "moment1.", "moment2."):
            for tensor in name_table(config):
                shape = tensor.their_shape
                content = pieces(4 * int(np.prod(shape)))
                yield kind + tensor.theirs, Raw(dtype="Float32", shape=shape, pieces=content)

    write(path, tensors())
    lines = "\n".join(f"GENE{i}" for i in range(config.n_genes))
    path.with_suffix(".csv").write_text(f"HGNC_gene\n{lines}\n")
    print(f"{path.stat().st_size:,} bytes")


def run(*arguments: str | Path) -> None:
    """Run the command line and say how long it took and how much memory it held."""
    words = [sys.executable, "-c", "from cellfm.cli import main; main()", *map(str, arguments)]
    began = time.perf_counter()
    subprocess.run(words, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{time.perf_counter() - began:.1f} s, peak memory {peak:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("embed", "import"))
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--preset", default="800m")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        if options.what == "import":
            checkpoint(folder / "weights.ckpt", options.preset)
            genes = folder / "weights.csv"
            run("weights", "import", folder / "weights.ckpt", folder / "weights", "--genes", genes)
            return
        if options.source is None:
            parser.error("embed needs a file of raw counts")
        resample(options.source, folder / "in.h5ad", options.cells)
        run("weights", "new", "mini", folder / "mini")
        run("embed", folder / "in.h5ad", folder / "out.h5ad", "--model", folder / "mini")


if __name__ == "__main__":
    main()
