"""Datasets of the benchmark: a count matrix and what its columns mean.

A file becomes a dataset by a few lines of YAML::

    name: baron
    path: ../../../shared/data/baron_pancreas_mini/baron_pancreas_mini.h5ad   # relative to this file
    label: cell_type      # column of obs with the types
    donor: donor          # columns of obs with the independent units
    batch: null
    perturbation: null    # column of obs: control, GENE or GENE1+GENE2
    control: null         # what controls are called there, besides the usual names
    context: null         # column of obs with the cell type or line that was perturbed
    drop: {cell_type: [unknown]}   # cells that are left out
    gene_sets: hallmark.gmt        # what the genes do (GMT, or a table of genes and sets), relative to this file
    layer: null           # or use_raw: true; gene_names: column of var; scale: counts | log1p
    licence: CC BY 4.0
    about: Human pancreas, inDrop, four donors.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench import worlds
from cellfm.corpus.counts import Scale, check_counts
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

SCALES = ("counts", "log1p")
NOTE = "bench"
"""Key of ``uns`` with what :meth:`Dataset.load` left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Where cells come from, and what their columns mean.

    Not slotted: the cells and their hash are computed once.

    Attributes
    ----------
    name
        Short name.
    path
        h5ad file; None where `maker` makes the cells.
    maker
        Makes the cells.
    layer, use_raw, gene_names, scale
        As in :func:`cellfm.tl.embed`.
    label, batch, donor, perturbation, context
        Columns of ``obs``; None where there is none.
    control
        What unperturbed cells are called in the column `perturbation`, besides the usual names.
    drop
        Values of columns of ``obs`` whose cells are left out. Cells without a label are always left out.
    licence, about
        For the report.
    """

    name: str
    path: Path | None = None
    maker: "Callable[[], AnnData] | None" = None
    layer: str | None = None
    use_raw: bool = False
    gene_names: str | None = None
    scale: Scale = "counts"
    label: str | None = None
    batch: str | None = None
    donor: str | None = None
    perturbation: str | None = None
    control: str | None = None
    context: str | None = None
    drop: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    licence: str = ""
    about: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of ``obs`` that mean something, each once."""
        named = (self.label, self.batch, self.donor, self.perturbation, self.context)
        return tuple(dict.fromkeys(key for key in named if key is not None))

    @cached_property
    def cells(self) -> "AnnData":
        """What :meth:`load` returns, read once and shared: not to be changed."""
        return self.load()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the matrix, the names of cells and genes, and the columns that mean something."""
        adata, digest = self.cells, hashlib.sha256()
        x = adata.X
        for array in (x.indptr.astype(np.int64), x.indices.astype(np.int64), x.data.astype(np.float64)):  # fmt: skip
            digest.update(np.ascontiguousarray(array).data)
        columns = [adata.obs_names, adata.var_names, *(adata.obs[key] for key in adata.obs)]
        for column in columns:
            digest.update("\n".join(map(str, column)).encode())
            digest.update(b"\0")
        digest.update(f"{list(adata.obs)} {self.scale}".encode())
        return digest.hexdigest()

    def load(self) -> "AnnData":
        """Read the cells, check them and leave out what is to be left out.

        Returns
        -------
        Cells × genes: in ``X`` the values asked for (CSR), ``var_names`` the gene names asked for, in ``obs`` the columns of
        labels, batches, donors, perturbations and contexts as text, in ``uns["bench"]`` how many cells were left out by what.

        Raises
        ------
        DataError
            The file or a column is missing, or no cell is left.
        CountsError
            The values are not on the scale they are said to be on.
        """
        from anndata import AnnData

        from cellfm.corpus.adata import anndata_source, gene_names_of

        full = self._read()
        kept, dropped = self._kept(full.obs)
        source, var = anndata_source(full, layer=self.layer, use_raw=self.use_raw)
        x = source.read(0, source.n_rows)
        check_counts(x, scale=self.scale)
        x = _canonical(x[np.flatnonzero(kept)])
        adata = AnnData(x, obs=self._columns(full.obs[kept]))
        adata.var_names = [str(name) for name in gene_names_of(var, self.gene_names)]
        adata.uns[NOTE] = {"dropped": dropped}
        return adata

    def blind(self) -> "Dataset":
        """Return the same name and hash, without the cells: what a view of a case holds."""
        other = replace(self, path=None, maker=_no_cells)
        other.__dict__["hash"] = self.hash
        return other

    def _read(self) -> "AnnData":
        if self.maker is not None:
            return self.maker()
        if self.path is None or not self.path.is_file():
            msg = f"The dataset {self.name!r} should be at {self.path}, and there is no such file. Correct its path, or leave the dataset out."
            raise DataError(msg)
        import anndata

        return anndata.read_h5ad(self.path)

    def _kept(self, obs: "pd.DataFrame") -> "tuple[pd.Series[bool], dict[str, int]]":
        import pandas as pd

        wanted = [*self.columns, *self.drop]
        missing = [key for key in wanted if key not in obs.columns]
        if missing:
            msg = f"The dataset {self.name!r} has no column {missing[0]!r} in obs; it has {list(map(str, obs.columns)) or 'no columns'}. Choose one of these."
            raise DataError(msg)
        kept, dropped = pd.Series(True, index=obs.index), {}  # noqa: FBT003 - a column of flags
        rules = [
            (f"{key} = {value}", obs[key].astype(str) == value)
            for key, values in self.drop.items()
            for value in values
        ]
        if self.label is not None:
            rules.append((f"{self.label} missing", obs[self.label].isna()))
        for name, hit in rules:
            dropped[name] = int((hit & kept).sum())
            kept &= ~hit
        if not kept.any():
            msg = f"No cell of the dataset {self.name!r} is left: {dropped} were dropped of {len(obs):,}. Correct `drop` or `label`."
            raise DataError(msg)
        return kept, dropped

    def _columns(self, obs: "pd.DataFrame") -> "pd.DataFrame":
        table = obs[list(self.columns)].astype(str).astype("category")
        table.index = table.index.astype(str)
        return table


def read_dataset(path: Path) -> Dataset:
    """Read a dataset's YAML file; `path` in it is relative to the file.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    ConfigError
        There is no such file, or its entries are not those of a dataset.
    """
    import yaml

    if not path.is_file():
        msg = f"There is no dataset file {path}. Give a YAML file, or one of {', '.join(BUILT_IN)}."
        raise ConfigError(msg)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        msg = f"{path} is no valid YAML: {error}. Correct the file."
        raise ConfigError(msg) from error
    if not isinstance(entries, dict):
        msg = f"{path} holds no entries; expected name, path, label, …. Write them into the file."
        raise ConfigError(msg)
    _check_entries(path, entries)
    given = {key: value for key, value in entries.items() if value is not None}
    drop = given.pop("drop", {})
    kind = Dataset
    if "gene_sets" in given:
        from cellfm.bench.gene_cells import GeneDataset

        kind = GeneDataset
        given["gene_sets"] = (path.parent / Path(given["gene_sets"]).expanduser()).resolve()
    return kind(
        **{
            **given,
            "path": (path.parent / Path(given["path"]).expanduser()).resolve(),
            "drop": {str(key): tuple(map(str, values)) for key, values in drop.items()},
        }
    )


def find_datasets(names: tuple[str, ...]) -> Iterator[Dataset]:
    """Yield the datasets of names and YAML files.

    Parameters
    ----------
    names
        Names of built-in datasets, or paths of YAML files; a folder gives all that are in it.
    """
    for name in names:
        path = Path(name)
        if name in BUILT_IN:
            yield BUILT_IN[name]()
        elif path.is_dir():
            yield from map(read_dataset, sorted(path.glob("*.yaml")))
        else:
            yield read_dataset(path)


def simulated_types() -> Dataset:
    """Eight types in cells of five donors, no batches."""
    return Dataset(
        name="simulated-types",
        maker=_types,
        label="cell_type",
        donor="donor",
        licence="none needed",
        about="Simulated: 8 types, 5 donors, 1 batch, 600 cells × 1,500 genes.",
    )


def simulated_batches() -> Dataset:
    """Six types in three batches of unlike composition and strong effects."""
    return Dataset(
        name="simulated-batches",
        maker=_batches,
        label="cell_type",
        batch="batch",
        licence="none needed",
        about="Simulated: 6 types, 3 batches with strong effects, 600 cells × 1,500 genes.",
    )


def pbmc68k_reduced() -> Dataset:
    """700 sorted blood cells that come with scanpy; log-normalised values only."""
    return Dataset(
        name="pbmc68k_reduced",
        maker=_bundled,
        use_raw=True,
        scale="log1p",
        label="bulk_labels",
        licence="CC BY 4.0 (10x Genomics)",
        about="700 blood cells × 765 genes that come with scanpy, log-normalised, one donor.",
    )


def simulated_perturbations(world: str) -> Dataset:
    """Return a screen of :mod:`cellfm.bench.worlds`.

    Parameters
    ----------
    world
        ``"additive"``, ``"epistatic"``, ``"context"`` or ``"null"``.
    """
    make: Callable[[], AnnData] = getattr(worlds, world)
    return Dataset(
        name=f"simulated-perturbations-{world}",
        maker=make,
        perturbation="perturbation",
        context="cell_type" if world == "context" else None,
        licence="none needed",
        about=f"Simulated: {(make.__doc__ or '').strip()}",
    )


def simulated_drugs(world: str) -> Dataset:
    """Return treated cells of :mod:`cellfm.bench.drug_cells`.

    Parameters
    ----------
    world
        ``"class"``, ``"own"`` or ``"null"``.
    """
    from cellfm.bench.drug_cells import WORLDS, simulated_drugs

    return simulated_drugs(next(name for name in WORLDS if name == world))


def simulated_genes() -> Dataset:
    """Cells whose genes rise and fall in modules that gene sets know."""
    from cellfm.bench.gene_cells import simulated_genes

    return simulated_genes()


BUILT_IN: Mapping[str, Callable[[], Dataset]] = {
    "simulated-types": simulated_types,
    "simulated-batches": simulated_batches,
    "pbmc68k_reduced": pbmc68k_reduced,
    "simulated-genes": simulated_genes,
    **{
        f"simulated-perturbations-{world}": partial(simulated_perturbations, world)
        for world in ("additive", "epistatic", "context", "null")
    },
    **{
        f"simulated-drugs-{world}": partial(simulated_drugs, world)
        for world in ("class", "own", "null")
    },
}
"""Datasets that need no file."""


def _types() -> "AnnData":
    from cellfm.corpus.simulate import SimulationConfig, simulate

    config = SimulationConfig(n_cells=600, n_genes=1500, n_batches=1, n_donors=5, n_types=8)
    return simulate(config, seed=1)


def _batches() -> "AnnData":
    from cellfm.corpus.simulate import SimulationConfig, simulate

    config = SimulationConfig(
        n_cells=600, n_genes=1500, n_batches=3, n_donors=3, n_types=6, batch_effect=0.4
    )
    return simulate(config, seed=2)


def _bundled() -> "AnnData":
    import scanpy

    return scanpy.datasets.pbmc68k_reduced()


def _no_cells() -> "AnnData":
    msg = "A view of a case does not give the cells of its dataset away: they hold the labels of the test part. Use view.adata."
    raise DataError(msg)


def _canonical(x: "csr_matrix") -> "csr_matrix":
    """Ascending columns, no stored zeros: equal matrices get equal hashes."""
    x = x.copy()
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def _check_entries(path: Path, entries: Mapping[str, object]) -> None:
    allowed = {each.name for each in fields(Dataset)} - {"maker"} | {"gene_sets"}
    unknown = sorted(set(map(str, entries)) - allowed)
    if unknown:
        msg = f"{path} has the entries {unknown}, which no dataset has; it may have {sorted(allowed)}. Remove or correct them."
        raise ConfigError(msg)
    missing = [key for key in ("name", "path") if not isinstance(entries.get(key), str)]
    if missing:
        msg = f"{path} has no {' and no '.join(missing)}; a dataset needs both, as text. Add what is missing."
        raise ConfigError(msg)
    if entries.get("scale") not in (None, *SCALES):
        msg = f"scale in {path} is {entries['scale']!r}; it must be counts or log1p. Choose one of these."
        raise ConfigError(msg)
    drop = entries.get("drop") or {}
    if not isinstance(drop, dict) or not all(isinstance(values, list) for values in drop.values()):
        msg = f"drop in {path} is {drop!r}; expected columns with lists of values, such as {{cell_type: [unknown]}}. Correct the file."
        raise ConfigError(msg)
