r"""Whether the genes of a module lie together as closely in one condition as in another.

In the cells of a condition, genes have contextual vectors; centred over genes and brought to length 1 they are :math:`u_g`, and a module M of n
genes has the coherence

.. math:: c(M) = \frac{1}{n(n-1)} \sum_{g \ne h \in M} u_g \cdot u_h = \frac{\lVert \sum_{g \in M} u_g \rVert^2 - n}{n(n-1)},

the mean cosine within it. It is compared between conditions beside modules of the same sizes of permuted gene labels, and beside blocks of cells of
the same condition: samples, or two random halves.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.tl._genes.embeddings import gene_embeddings
from cellfm.tl._genes.programs import Programs
from cellfm.tl._genes.similar import LEAST_GENES
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Rows = NDArray[np.int64]

LEAST_CELLS = 3
"""Of a block that express a gene; states of fewer are mostly noise."""
LEAST_MEMBERS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coherence:
    """Coherence of modules in the blocks of two conditions.

    Attributes
    ----------
    own, against
        Shape (block, module); NaN for modules of which too few genes are expressed.
    p
        Of the difference of the means under permuted gene labels, shape (module,).
    noise
        Mean difference of two blocks of one condition, shape (module,).
    n_genes
        Genes of each module that enough cells of every block express.
    n_cells
        Cells of each block: as many in all.
    """

    own: "Values"
    against: "Values"
    p: "Values"
    noise: "Values"
    n_genes: "NDArray[np.int64]"
    n_cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoherenceOptions:
    """How the coherence is measured.

    Attributes
    ----------
    reading
        Where the values are and what they are.
    n_cells
        Most cells of a block. All blocks get the number of the smallest: means of fewer cells are noisier, and noise takes coherence away.
    n_permutations
        Of gene labels.
    seed
        Of the draws of cells and the permutations.
    """

    reading: EmbedOptions
    n_cells: int
    n_permutations: int
    seed: int


def halves(rows: "Rows", rng: np.random.Generator) -> "tuple[Rows, Rows]":
    """Return two random halves of some rows.

    Parameters
    ----------
    rows
        Of cells.
    rng
        Deals them.
    """
    dealt = rng.permutation(rows)
    return np.sort(dealt[: len(dealt) // 2]), np.sort(dealt[len(dealt) // 2 :])


def compare_coherence(
    adata: "AnnData",
    model: Pretrained,
    programs: Programs,
    *,
    blocks: "tuple[tuple[Rows, ...], tuple[Rows, ...]]",
    options: CoherenceOptions,
) -> Coherence:
    """Compare the coherence of modules in two conditions.

    Parameters
    ----------
    adata
        Cells × genes.
    model
        Weights on the device to compute on.
    programs
        Modules.
    blocks
        Rows of the blocks of both conditions, two or more each.
    options
        How.

    Raises
    ------
    DataError
        Too few genes are expressed in every block.
    """
    rng = np.random.default_rng(options.seed)
    every, split = [*blocks[0], *blocks[1]], len(blocks[0])
    size = min(options.n_cells, *map(len, every))
    drawn = [np.sort(rng.permutation(rows)[:size]) for rows in every]
    token, tables = _vectors(adata, model, drawn, options.reading)
    place = {symbol: i for i, symbol in enumerate(programs.genes)}
    symbols = [model.vocabulary.symbols[number - 1] for number in token]
    kept = np.array([symbol in place for symbol in symbols], bool)
    if kept.sum() < LEAST_GENES:
        msg = f"{int(kept.sum())} genes of the programs are expressed by at least {LEAST_CELLS} cells of each of the {len(tables)} blocks of {size} cells. Give more cells, or leave the coherence out (--no-coherence)."
        raise DataError(msg)
    code = programs.code[[place[name] for name, keep in zip(symbols, kept, strict=True) if keep]]
    unit = [_unit(table[kept]) for table in tables]
    found = np.stack([coherence(each, code, programs.n) for each in unit])
    away = _difference(found, split)
    null = np.stack(
        [
            _difference(np.stack([coherence(each, shuffled, programs.n) for each in unit]), split)
            for shuffled in (rng.permutation(code) for _ in range(options.n_permutations))
        ]
    )
    beyond = np.abs(null - null.mean(axis=0)) >= np.abs(away - null.mean(axis=0))
    p = np.where(np.isfinite(away), (1 + beyond.sum(axis=0)) / (1 + options.n_permutations), np.nan)
    return Coherence(
        own=found[:split],
        against=found[split:],
        p=p,
        noise=(_spread(found[:split]) + _spread(found[split:])) / 2,
        n_genes=np.bincount(code[code >= 0], minlength=programs.n),
        n_cells=size,
    )


def coherence(unit: "Values", code: "NDArray[np.int64]", n: int) -> "Values":
    """Return the mean cosine within each module, shape (module,); NaN for modules of fewer than five genes.

    Parameters
    ----------
    unit
        Vectors of length 1, shape (gene, dim).
    code
        Module of each gene, −1 for none.
    n
        Number of modules.
    """
    from scipy import sparse

    member = np.flatnonzero(code >= 0)
    inside = (np.ones(len(member)), (code[member], member))
    sums = sparse.csr_matrix(inside, shape=(n, len(unit))) @ unit
    size = np.bincount(code[member], minlength=n).astype(np.float64)
    pairs = np.where(size >= LEAST_MEMBERS, size * (size - 1), np.nan)
    lengths = np.bincount(code[member], np.square(unit[member]).sum(axis=1), minlength=n)
    return (np.square(sums).sum(axis=1) - lengths) / pairs


def _vectors(
    adata: "AnnData", model: Pretrained, blocks: "list[Rows]", options: EmbedOptions
) -> "tuple[NDArray[np.int64], list[Values]]":
    """Contextual vectors of the genes that enough cells of every block express, in the order of their tokens."""
    found = [
        gene_embeddings(
            model,
            adata[rows],
            kind="contextual",
            n_cells=len(rows),
            layer=options.layer,
            use_raw=options.use_raw,
            gene_names=options.gene_names,
            scale=options.scale,
            min_matched=options.min_matched,
        )
        for rows in blocks
    ]
    token = [
        genes.obs["token"].to_numpy()[genes.obs["n_cells"].to_numpy() >= LEAST_CELLS]
        for genes in found
    ]
    common = token[0]
    for other in token[1:]:
        common = np.intersect1d(common, other)
    tables = [
        np.asarray(genes.X, np.float64)[np.searchsorted(genes.obs["token"].to_numpy(), common)]
        for genes in found
    ]
    return common, tables


def _unit(table: "Values") -> "Values":
    centred = table - table.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1.0)


def _difference(found: "Values", split: int) -> "Values":
    return found[:split].mean(axis=0) - found[split:].mean(axis=0)


def _spread(found: "Values") -> "Values":
    """Mean absolute difference of two of the blocks, shape (module,)."""
    one, other = np.triu_indices(len(found), 1)
    return np.abs(found[one] - found[other]).mean(axis=0)
