"""Write a folder of simulated count files to build a corpus of: 12 files in 5 formats, and 3 that must be set aside.

::

    python tools/make_show_files.py FOLDER [--cells 200000] [--shared ../shared/data]
    cellfm corpus build FOLDER/SOURCES.tsv STORE --metadata FOLDER/metadata.yaml

The cells are of one simulated organism with several tissues, donors and batches. Some are in two files, or twice in one. The
last three files are log-normalised, of another species, and cut off. ``SOURCES.tsv`` lists them all, and the h5ad files of
the shared folder when it is there.
"""

import argparse
import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import io as scipy_io
from scipy import sparse

from cellfm.corpus.simulate import PerturbationConfig, Simulation, SimulationConfig

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ("path", "name", "licence", "url", "gene_names", "cell_type", "tissue", "disease", "donor", "assay", "batch")  # fmt: skip
METADATA_MAP = """\
columns:
  cell_type: [cell_type, celltype]
  donor: [donor, donor_id, replicate]
values:
  tissue: {peripheral blood: blood}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file to write: its share of the cells, genes, tissue and writer."""

    name: str
    suffix: str
    share: float
    tissue: str
    write: Callable[[anndata.AnnData, Path], None]
    n_genes: int = 3000
    disease: str = "normal"
    assay: str = "simulated 3' v3"
    perturbed: bool = False
    listed: bool = False
    """Whether the metadata are given in the list, because the format holds none."""


def write_rows(adata: anndata.AnnData, path: Path) -> None:
    """h5ad by cells."""
    adata.write_h5ad(path, compression="lzf")


def write_columns(adata: anndata.AnnData, path: Path) -> None:
    """h5ad by genes."""
    adata.X = adata.X.tocsc()
    adata.write_h5ad(path, compression="lzf")


def write_dense(adata: anndata.AnnData, path: Path) -> None:
    """h5ad with zeros stored, and other names of columns."""
    adata.X = adata.X.toarray().astype(np.float32)
    adata.obs = adata.obs.rename(columns={"cell_type": "celltype", "donor": "donor_id"})
    adata.write_h5ad(path, compression="lzf")


def write_layer(adata: anndata.AnnData, path: Path) -> None:
    """h5ad with log-normalised values in X and the counts in a layer."""
    adata.layers["counts"] = adata.X
    adata.X = log_normalised(adata.X)
    adata.write_h5ad(path, compression="lzf")


def write_raw(adata: anndata.AnnData, path: Path) -> None:
    """h5ad with the counts in raw, and some cells twice."""
    n = adata.n_obs // 20
    twice = anndata.concat([adata, adata[:n]], merge="same", index_unique="-")
    twice.raw = twice
    twice.X = log_normalised(twice.X)
    twice.write_h5ad(path, compression="lzf")


def write_ensembl(adata: anndata.AnnData, path: Path) -> None:
    """h5ad with Ensembl ids for names."""
    adata = adata[:, adata.var["ensembl_id"] != ""].copy()
    adata.var["symbol"] = adata.var_names
    adata.var_names = adata.var["ensembl_id"].astype(str)
    adata.write_h5ad(path, compression="lzf")


def write_10x_v3(adata: anndata.AnnData, path: Path) -> None:
    """HDF5 of Cell Ranger 3 and later."""
    with h5py.File(path, "w") as file:
        group = matrix_group(file, "matrix", adata)
        features = group.create_group("features")
        features["id"] = np.array(adata.var["ensembl_id"], dtype="S")
        features["name"] = np.array(adata.var_names, dtype="S")
        features["feature_type"] = np.full(adata.n_vars, b"Gene Expression")
        features["genome"] = np.full(adata.n_vars, b"GRCh38")


def write_10x_v2(adata: anndata.AnnData, path: Path) -> None:
    """HDF5 of Cell Ranger 2: a group for the genome."""
    with h5py.File(path, "w") as file:
        group = matrix_group(file, "GRCh38", adata)
        group["genes"] = np.array(adata.var["ensembl_id"], dtype="S")
        group["gene_names"] = np.array(adata.var_names, dtype="S")


def matrix_group(file: h5py.File, name: str, adata: anndata.AnnData) -> h5py.Group:
    """Genes × cells by columns, which is cells × genes by rows."""
    group, counts = file.create_group(name), adata.X.tocsr()
    for key in ("data", "indices", "indptr"):
        group.create_dataset(key, data=getattr(counts, key), compression="lzf")
    group["shape"] = np.array([adata.n_vars, adata.n_obs])
    group["barcodes"] = np.array(adata.obs_names, dtype="S")
    return group


def write_mtx_v3(adata: anndata.AnnData, path: Path) -> None:
    """Folder of Cell Ranger 3, compressed."""
    write_mtx(adata, path, features="features.tsv", packed=True)


def write_mtx_v2(adata: anndata.AnnData, path: Path) -> None:
    """Folder of Cell Ranger 2, plain text."""
    write_mtx(adata, path, features="genes.tsv", packed=False)


def write_mtx(adata: anndata.AnnData, path: Path, *, features: str, packed: bool) -> None:
    """Matrix, features and barcodes."""
    path.mkdir()
    kind = "\tGene Expression" if packed else ""
    pairs = zip(adata.var["ensembl_id"], adata.var_names, strict=True)
    texts = {
        features: "".join(f"{identifier}\t{symbol}{kind}\n" for identifier, symbol in pairs),
        "barcodes.tsv": "".join(f"{name}\n" for name in adata.obs_names),
    }
    matrix = io.BytesIO()
    scipy_io.mmwrite(matrix, adata.X.T.tocoo(), field="integer")
    contents = {"matrix.mtx": matrix.getvalue()} | {k: v.encode() for k, v in texts.items()}
    for name, content in contents.items():
        if packed:
            (path / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
        else:
            (path / name).write_bytes(content)


def write_csv(adata: anndata.AnnData, path: Path) -> None:
    """Cells × genes, compressed."""
    table(adata).to_csv(path, compression={"method": "gzip", "compresslevel": 1, "mtime": 0})


def write_tsv(adata: anndata.AnnData, path: Path) -> None:
    """Genes × cells."""
    table(adata).T.to_csv(path, sep="\t")


def table(adata: anndata.AnnData) -> pd.DataFrame:
    """Counts as a table."""
    return pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)


def log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Scale each cell to 10⁴ and take log1p."""
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    return sparse.csr_matrix(sparse.diags(1e4 / total) @ counts).log1p().astype(np.float32)


FILES = (
    File(name="blood_a", suffix=".h5ad", share=0.20, tissue="peripheral blood", write=write_rows),
    File(name="blood_b", suffix=".h5ad", share=0.125, tissue="blood", write=write_columns),
    File(name="lung_a", suffix=".h5ad", share=0.125, tissue="lung", write=write_layer, disease="fibrosis"),
    File(name="lung_b", suffix=".h5", share=0.125, tissue="lung", write=write_10x_v3, n_genes=3500, listed=True),
    File(name="gut_a", suffix=".h5", share=0.10, tissue="gut", write=write_10x_v2, assay="simulated 3' v2", listed=True),
    File(name="gut_b", suffix=".h5ad", share=0.04, tissue="gut", write=write_dense, n_genes=2500),
    File(name="brain_a", suffix="", share=0.10, tissue="brain", write=write_mtx_v3, listed=True),
    File(name="brain_b", suffix="", share=0.06, tissue="brain", write=write_mtx_v2, assay="simulated 3' v2", listed=True),
    File(name="skin_a", suffix=".csv.gz", share=0.025, tissue="skin", write=write_csv, listed=True),
    File(name="skin_b", suffix=".tsv", share=0.02, tissue="skin", write=write_tsv, listed=True),
    File(name="screen", suffix=".h5ad", share=0.06, tissue="cell line", write=write_ensembl, perturbed=True),
    File(name="blood_again", suffix=".h5ad", share=0.02, tissue="blood", write=write_raw),
)  # fmt: skip
"""The shares add up to 1."""


def simulated(file: File, number: int, n_cells: int) -> anndata.AnnData:
    """Cells of a file; tissues differ in which of the common types they have, files in donors and batches."""
    perturbations = PerturbationConfig(n_singles=20, n_doubles=10) if file.perturbed else None
    config = SimulationConfig(
        n_cells=n_cells,
        n_genes=file.n_genes,
        n_lineages=5,
        n_types=25,
        evenness=0.4,
        n_batches=2,
        n_donors=3,
        depth=2500.0,
        name=file.name,
        tissue=file.tissue,
        disease=file.disease,
        assay=file.assay,
        perturbations=perturbations,
    )
    return Simulation.of(config, seed=number).block(0, n_cells)


def make_cells(number: int, n_all: int) -> anndata.AnnData:
    """Cells of a file by its number; half of the last file's are copies of the first one's."""
    file = FILES[number]
    n_cells = max(round(file.share * n_all), 40)
    adata = simulated(file, number, n_cells)
    if file.write is write_raw:
        # A twentieth of its rows are written twice, so that many fewer are made here.
        n_own = n_cells - (n_cells // 21)
        n_copies = n_own // 2
        first = simulated(FILES[0], 0, n_copies)
        adata = anndata.concat([adata[: n_own - n_copies], first], merge="same")
    adata.uns.pop(
        "simulation", None
    )  # the truth of hundreds of megabytes is not what these files are for
    for key in list(adata.varm):
        del adata.varm[key]
    for key in list(adata.obsm):
        del adata.obsm[key]
    return adata


def write_bad(folder: Path, n_all: int) -> list[Path]:
    """Files that must be set aside: log-normalised, mouse, cut off."""
    n_cells = max(n_all // 200, 40)
    logged = make_cells(0, n_all)[:n_cells].copy()
    mouse = logged.copy()
    # A factor of its own for each cell, rounded: no counts can be read back out of it.
    logged.X = sparse.csr_matrix(log_normalised(logged.X).multiply(1.0 / 3.0)).astype(np.float32)
    mouse.var_names = [
        f"mt-{name[3:].capitalize()}" if name.startswith("MT-") else name.capitalize()
        for name in mouse.var_names
    ]
    mouse.var = mouse.var.drop(columns="ensembl_id")
    paths = [folder / f"{name}.h5ad" for name in ("logged_only", "mouse", "cut_off")]
    write_rows(logged, paths[0])
    write_rows(mouse, paths[1])
    write_rows(mouse, paths[2])
    with paths[2].open("r+b") as file:
        file.truncate(paths[2].stat().st_size // 2)
    return paths


def entry(path: Path, file: File | None = None) -> dict[str, str]:
    """Line of the list of sources."""
    line = {"path": path.name, "name": path.name.partition(".")[0], "licence": "simulated"}
    if file is not None and file.listed:
        line |= {"tissue": file.tissue, "disease": file.disease, "assay": file.assay}
        line |= {"donor": f"{file.name}_pool"}
    return line


SHARED = {
    "pbmc3k": {"licence": "CC BY 4.0 (10x Genomics)", "tissue": "blood", "donor": "pbmc3k", "assay": "10x 3' v1"},
    "pbmc_donorA_unlabelled": {"licence": "CC BY 4.0 (10x Genomics)", "tissue": "blood", "donor": "donor A", "assay": "10x 3' v1"},
    "tian_3celllines_2tech": {"licence": "public GEO record GSE118767", "tissue": "cell line", "assay": "@batch", "disease": "lung adenocarcinoma"},
    "baron_pancreas_mini": {"licence": "public GEO record GSE84133", "tissue": "pancreas", "assay": "inDrop"},
    "papalexi_thp1_crispr": {"licence": "public GEO record GSE153056", "tissue": "cell line", "assay": "ECCITE-seq", "batch": "@replicate"},
}  # fmt: skip
"""What is known of the shared files; see their SOURCE.md."""


def shared_entries(shared: Path) -> list[dict[str, str]]:
    """Lines of the real files that are there."""
    found = sorted(shared.glob("*/*.h5ad"))
    return [{"path": str(path.resolve()), "name": path.stem, **SHARED.get(path.parent.name, {})} for path in found]  # fmt: skip


def make(folder: Path, *, n_cells: int, shared: Path, say: Callable[[str], None] = print) -> None:
    """Write all files and their list."""
    if folder.exists() and any(folder.iterdir()):
        msg = f"{folder} is not empty; give a new folder."
        raise SystemExit(msg)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, file in enumerate(FILES):
        path = folder / f"{file.name}{file.suffix}"
        adata = make_cells(number, n_cells)
        say(f"{path.name}: {adata.n_obs:,} cells, {adata.X.nnz / adata.n_obs:,.0f} genes a cell")
        file.write(adata, path)
        lines.append(entry(path, file))
    lines += [entry(path) for path in write_bad(folder, n_cells)]
    lines += shared_entries(shared)
    with (folder / "SOURCES.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    (folder / "metadata.yaml").write_text(METADATA_MAP, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"wrote {folder}: {len(lines)} sources in SOURCES.tsv, {size / 1e6:,.0f} MB")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=200_000, help="simulated cells in all")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real h5ad files")  # fmt: skip
    given = parser.parse_args()
    make(given.folder, n_cells=given.cells, shared=given.shared)


if __name__ == "__main__":
    main()
