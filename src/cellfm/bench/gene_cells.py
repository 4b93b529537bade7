"""Datasets of genes: cells that express them, and sets of genes that do something together."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.genes import Vocabulary
from cellfm.genes.sets import GeneSets, read_gene_sets

if TYPE_CHECKING:
    from anndata import AnnData

N_CELLS, N_GENES = 300, 300
N_MODULES, MODULE, KNOWN = 6, 30, 20
"""Modules, genes of each, and how many of these its set knows."""
SEED = 17


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneDataset(Dataset):
    """Cells, and what their genes do.

    Attributes
    ----------
    gene_sets
        File with the sets; None where `set_maker` makes them.
    set_maker
        Makes the sets.
    """

    gene_sets: Path | None = None
    set_maker: Callable[[], GeneSets] | None = None

    @cached_property
    def sets(self) -> GeneSets:
        """The sets, read once.

        Raises
        ------
        DataError
            There is no such file, or it holds no sets.
        """
        if self.set_maker is not None:
            return self.set_maker()
        return read_gene_sets(self.gene_sets or Path())

    def blind(self) -> Dataset:
        """Return the same name and hash, without cells and sets: what a view of a case holds."""
        plain = Dataset(name=self.name, licence=self.licence, about=self.about, scale=self.scale, maker=_nothing)  # fmt: skip
        plain.__dict__["hash"] = self.hash
        return plain.blind()


def simulated_genes() -> GeneDataset:
    """Return 300 genes, 180 of them in six modules that rise and fall together, and sets that know 20 of the 30 genes of each module."""
    return GeneDataset(
        name="simulated-genes",
        maker=_cells,
        set_maker=_sets,
        licence="none needed",
        about=f"Simulated: {N_CELLS} cells × {N_GENES} genes in {N_MODULES} modules of {MODULE} that rise and fall together; sets of {KNOWN} of them, and as many sets of random genes.",
    )


def _symbols() -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    """Genes in an order in which neighbours are of no family: the modules are not families."""
    every = np.array(Vocabulary.from_hgnc(("protein-coding gene",), locus_types=()).symbols[:4000])
    return np.random.default_rng(SEED).choice(every, N_GENES, replace=False)


def _cells() -> "AnnData":
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(SEED)
    module = np.minimum(np.arange(N_GENES) // MODULE, N_MODULES)
    activity = np.c_[rng.normal(0.0, 0.9, (N_CELLS, N_MODULES)), np.zeros(N_CELLS)]
    level = rng.normal(0.3, 0.7, N_GENES)
    counts = rng.poisson(np.exp(level + activity[:, module])).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(_symbols())))


def _sets() -> GeneSets:
    rng = np.random.default_rng(SEED + 1)
    symbols = _symbols()
    starts = MODULE * np.arange(N_MODULES)
    own = {f"module {i}": tuple(map(str, symbols[at : at + KNOWN])) for i, at in enumerate(starts)}
    chance = {
        f"chance {i}": tuple(map(str, rng.choice(symbols, KNOWN, replace=False)))
        for i in range(N_MODULES)
    }
    return own | chance


def _nothing() -> "AnnData":
    """Stand in for cells that are not to be seen."""
    from anndata import AnnData

    return AnnData(np.zeros((0, 0), np.float32))
