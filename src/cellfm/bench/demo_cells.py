"""The cells of the demo: those that come with scanpy, or the user's; split before anything else is done."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.corpus.missing import refuse_no_file
from cellfm.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

MOST_CELLS = 3000
"""More cells than these are drawn at random: the demo is to end within minutes."""
TEST_FRACTION = 0.3
LEAST_CELLS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCells:
    """Cells with their split in ``obs["split"]``."""

    adata: "AnnData"
    scale: Scale
    label: str | None
    """Column of ``obs`` with the cell types, if there is one."""
    origin: str
    """What the cells are, in a sentence."""

    @property
    def train(self) -> "NDArray[np.bool_]":
        """Which cells anything may be fitted on."""
        return (self.adata.obs["split"] == "train").to_numpy()

    @property
    def split_hash(self) -> str:
        """SHA-256 of the cells' names, each with its part."""
        split = self.adata.obs["split"]
        lines = (f"{name}\t{part}\n" for name, part in zip(split.index, split, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def demo_cells(source: Path | None, label: str | None, *, seed: int) -> DemoCells:
    """Take the cells and split them, by type where types are known.

    Parameters
    ----------
    source
        h5ad file with raw counts in X; None for scanpy's ``pbmc68k_reduced``.
    label
        Column of ``obs`` with the cell types.
    seed
        Of the split.

    Raises
    ------
    DataError
        The label column is missing, or there are too few cells.
    """
    if source is None:
        if label not in (None, "bulk_labels"):
            msg = f"The label {label!r} was given without an input; the demo's own cells have 'bulk_labels'. Give --input too."
            raise DataError(msg)
        return _split(_bundled(), seed=seed)
    return _split(_read(source, label, seed=seed), seed=seed)


def _bundled() -> DemoCells:
    import scanpy
    from anndata import AnnData

    bundled = scanpy.datasets.pbmc68k_reduced()
    # Its X is standardised; raw holds the log-normalised values of the same 765 genes.
    adata = AnnData(bundled.raw.X.tocsr(), obs=bundled.obs[["bulk_labels"]].copy())
    adata.var_names = bundled.raw.var_names
    origin = (
        f"{adata.n_obs} blood cells of one donor × {adata.n_vars} genes (scanpy's pbmc68k_reduced), log-normalised values only, "
        'so scale="log1p": the read depth of the cells is unknown to the model; the donor is one of those that mini has seen, in another sample'
    )
    return DemoCells(adata=adata, scale="log1p", label="bulk_labels", origin=origin)


def _read(source: Path, label: str | None, *, seed: int) -> DemoCells:
    import anndata

    refuse_no_file(source, "an h5ad file with raw counts")
    full = anndata.read_h5ad(source)
    if label is not None and label not in full.obs.columns:
        msg = f"There is no column {label!r} in obs of {source}; it has {list(map(str, full.obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    drawn = np.arange(full.n_obs)
    if full.n_obs > MOST_CELLS:
        drawn = np.sort(np.random.default_rng(seed).choice(full.n_obs, MOST_CELLS, replace=False))
    # `split` and the results are written to it: start from counts, labels and names alone.
    obs = full.obs[[] if label is None else [label]]
    adata = anndata.AnnData(full.X[drawn].copy(), obs=obs.iloc[drawn].copy(), var=full.var.copy())
    if label is not None:
        adata.obs[label] = adata.obs[label].astype("category").cat.remove_unused_categories()
    part = "" if len(drawn) == full.n_obs else f" drawn at random from {full.n_obs:,}"
    origin = f"{adata.n_obs:,} cells{part} × {adata.n_vars:,} genes of {source.name}, raw counts"
    return DemoCells(adata=adata, scale="counts", label=label, origin=origin)


def _split(cells: DemoCells, *, seed: int) -> DemoCells:
    n = cells.adata.n_obs
    if n < LEAST_CELLS:
        msg = f"There are {n} cells; the demo needs at least {LEAST_CELLS} to train and to judge. Give a larger file."
        raise DataError(msg)
    code = np.zeros(n, int)
    if cells.label is not None:
        code = cells.adata.obs[cells.label].astype("category").cat.codes.to_numpy()
    generator = np.random.default_rng(seed)
    split = np.full(n, "train", dtype="<U5")
    for kind in np.unique(code):
        members = generator.permutation(np.flatnonzero(code == kind))
        split[members[: round(TEST_FRACTION * len(members))]] = "test"
    cells.adata.obs["split"] = split
    return cells
