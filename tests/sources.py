"""The same counts in files of every format."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import io, sparse

from cellfm.genes import GeneTable, Vocabulary

_GENES = [gene for gene in GeneTable.load().genes if gene.ensembl_id.startswith("ENSG")]
SYMBOLS = [gene.symbol for gene in _GENES[:60]] + ["MT-ND1", "MT-CO1"]
VOCABULARY = Vocabulary.from_symbols(SYMBOLS)
IDS = list(VOCABULARY.ensembl_ids)
N_GENES = len(SYMBOLS)


def simulated(n_cells: int = 12, seed: int = 0) -> np.ndarray:
    """Return counts of distinct cells; each has some, and each cell a single one at least."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 3.0, (n_cells, N_GENES)))
    counts[:, 0] = 1 + rng.permutation(n_cells)
    counts[:, 1] = 1
    return counts


def anndata_of(counts, symbols=SYMBOLS, *, matrix=sparse.csr_matrix, dtype=np.float32):
    """Return an AnnData with barcodes and symbols."""
    values = matrix(np.asarray(counts).astype(dtype))
    obs = pd.DataFrame(index=[f"CELL-{i}" for i in range(len(counts))])
    with warnings.catch_warnings(
        action="ignore"
    ):  # names that are there twice are what some tests are about
        return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=list(symbols)))


def h5ad(folder: Path, counts, symbols=SYMBOLS, **options) -> Path:
    """Write an h5ad file."""
    path = folder / "cells.h5ad"
    adata = anndata_of(counts, symbols, **options)
    with warnings.catch_warnings(action="ignore"):
        adata.write_h5ad(path, compression="gzip")
    return path


def _tenx_group(group, counts, dtype):
    rows = sparse.csr_matrix(np.asarray(counts).astype(dtype))
    group["data"], group["indptr"] = rows.data, rows.indptr.astype(np.int64)
    group["indices"] = rows.indices.astype(np.int64)
    group["shape"] = np.array([rows.shape[1], rows.shape[0]])
    group["barcodes"] = np.array([f"CELL-{i}-1".encode() for i in range(rows.shape[0])])


def tenx_h5_v3(
    folder: Path, counts, symbols=SYMBOLS, *, ids=None, kinds=None, genomes=None, dtype=np.int32
) -> Path:
    """Write a file of Cell Ranger 3."""
    path = folder / "filtered_feature_bc_matrix.h5"
    n = len(symbols)
    with h5py.File(path, "w") as file:
        _tenx_group(file.create_group("matrix"), counts, dtype)
        features = file["matrix"].create_group("features")
        features["id"] = np.array([name.encode() for name in ids or ids_of(symbols)])
        features["name"] = np.array([name.encode() for name in symbols])
        features["feature_type"] = np.array(kinds or ["Gene Expression"] * n, dtype="S")
        features["genome"] = np.array(genomes or ["GRCh38"] * n, dtype="S")
    return path


def tenx_h5_v2(folder: Path, counts, symbols=SYMBOLS, *, genomes=("GRCh38",), dtype=np.int32):
    """Write a file of Cell Ranger 2; further genomes hold mouse genes."""
    path = folder / "filtered_gene_bc_matrices_h5.h5"
    with h5py.File(path, "w") as file:
        for genome in genomes:
            _tenx_group(file.create_group(genome), counts, dtype)
            human = genome.startswith(("GRCh", "hg"))
            names = list(symbols) if human else [name.capitalize() for name in symbols]
            file[genome]["genes"] = np.array([name.encode() for name in ids_of(symbols)])
            file[genome]["gene_names"] = np.array([name.encode() for name in names])
    return path


def ids_of(symbols) -> list[str]:
    """Ensembl ids of the symbols, or the names themselves."""
    known = dict(zip(SYMBOLS, IDS, strict=True))
    return [known.get(name, name) for name in symbols]


def write_text(path: Path, text: str) -> None:
    """Write text, gzipped if the name says so."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def mtx(
    folder: Path, counts, symbols=SYMBOLS, *, old=False, end=".gz", dtype=np.int64, prefix=""
) -> Path:
    """Write a 10x folder with old or new names."""
    path = folder / "mtx"
    path.mkdir(exist_ok=True)
    rows = zip(ids_of(symbols), symbols, strict=True)
    kind = "" if old else "\tGene Expression"
    lines = [f"{identifier}\t{name}{kind}\n" for identifier, name in rows]
    write_text(path / f"{prefix}{'genes' if old else 'features'}.tsv{end}", "".join(lines))
    barcodes = [f"CELL-{i}-1\n" for i in range(len(counts))]
    write_text(path / f"{prefix}barcodes.tsv{end}", "".join(barcodes))
    plain = path / f"{prefix}matrix.mtx"
    io.mmwrite(plain, sparse.coo_matrix(np.asarray(counts).T.astype(dtype)))
    if end:
        write_text(path / f"{prefix}matrix.mtx{end}", plain.read_text())
        plain.unlink()
    return path


def table(folder: Path, counts, symbols=SYMBOLS, *, name="cells.csv", turned=False, corner=True):
    """Write a text table, cells × genes or turned."""
    path = folder / name
    values = np.asarray(counts)
    frame = pd.DataFrame(values, [f"CELL-{i}" for i in range(len(values))], list(symbols))
    frame = frame.T if turned else frame
    separator = "," if ".csv" in name else "\t"
    text = frame.to_csv(sep=separator)
    write_text(path, text if corner else text.removeprefix(separator))
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "h5ad csr": h5ad,
    "h5ad csc": lambda folder, counts, *names: h5ad(
        folder, counts, *names, matrix=sparse.csc_matrix
    ),
    "h5ad dense": lambda folder, counts, *names: h5ad(
        folder, counts, *names, matrix=np.asarray, dtype=np.int64
    ),
    "10x h5 v3": tenx_h5_v3,
    "10x h5 v2": tenx_h5_v2,
    "mtx new gz": mtx,
    "mtx old": lambda folder, counts, *names: mtx(folder, counts, *names, old=True, end=""),
    "mtx real": lambda folder, counts, *names: mtx(folder, counts, *names, dtype=np.float64),
    "csv": table,
    "csv turned gz": lambda folder, counts, *names: table(
        folder, counts, *names, name="cells.csv.gz", turned=True
    ),
    "tsv": lambda folder, counts, *names: table(
        folder, counts, *names, name="cells.tsv", corner=False
    ),
}
"""A way to write counts with names of genes, by format."""
