"""Scores of gene programs in cells: how far the genes of a program are expressed beyond genes of their level."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import Scale, check_counts
from cellfm.errors import DataError, OutputExistsError
from cellfm.genes import Vocabulary
from cellfm.tl._embed import match_genes
from cellfm.tl._genes.program_study import GenePrograms
from cellfm.tl._genes.programs import Programs, score_programs
from cellfm.tl._response.log_counts import log_values
from cellfm.tl._states import EmbedOptions, check_key

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "X_programs"
BLOCK = 4096


def program_scores(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    *,
    programs: Programs | GenePrograms,
    key_added: str = KEY,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the score of each program in each cell: the mean log expression of its genes less that of genes expressed alike (Tirosh et al. 2016).

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    programs
        From `gene_programs`, of these cells or of others.
    key_added
        Key of ``obsm``.
    layer, use_raw, gene_names, scale
        As in `embed`.
    seed
        Of the genes that are compared with.
    overwrite
        Replace an existing key.

    Returns
    -------
    Nothing; writes to `adata`

    ``obsm[key_added]``
        Float32, shape (cell, program); NaN for a program of which the cells have no gene.
    ``uns["cellfm"][key_added]``
        ``names`` of the columns (number, and the set that is most significant in the program), ``n_genes`` of each program that the cells
        have, ``size`` of each program, seed and version.

    Raises
    ------
    OutputExistsError
        The key exists and `overwrite` is false.
    DataError
        The cells have no gene of any program.
    CountsError, GeneMatchError
        As in `embed`.
    MissingDependencyError
        scanpy is missing.

    References
    ----------
    Tirosh I et al. (2016) Dissecting the multicellular ecosystem of metastatic melanoma by single-cell RNA-seq, Science 352,
    doi:10.1126/science.aad0501; `scanpy.tl.score_genes`.

    Examples
    --------
    >>> found = cellfm.tl.gene_programs(adata, gene_sets="GO.gmt")  # doctest: +SKIP
    >>> cellfm.tl.program_scores(adata, programs=found)  # doctest: +SKIP
    >>> cellfm.pl.programs(adata, "cell_type")  # doctest: +SKIP
    """
    check_key(key_added)
    if key_added in adata.obsm and not overwrite:
        msg = f"adata has obsm[{key_added!r}] already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)
    own = programs.programs if isinstance(programs, GenePrograms) else programs
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=0.0
    )
    cells = cells_of_programs(adata, own, options)
    there = np.isin(own.genes, cells.var_names)
    adata.obsm[key_added] = score_programs(cells, own, seed=seed)
    named = own.code >= 0
    adata.uns["cellfm"] = {
        **adata.uns.get("cellfm", {}),
        key_added: {
            "names": np.array(names_of(programs), dtype=str),
            "size": np.bincount(own.code[named], minlength=own.n),
            "n_genes": np.bincount(own.code[named & there], minlength=own.n),
            "seed": seed,
            "scale": scale,
            "cellfm_version": __version__,
        },
    }


def names_of(programs: Programs | GenePrograms) -> tuple[str, ...]:
    """Return a name for each program: its number, and the set that is most significant in it where that is known.

    Parameters
    ----------
    programs
        From `gene_programs`.
    """
    if isinstance(programs, Programs):
        return tuple(str(number) for number in range(programs.n))
    best = programs.best_sets()
    return tuple(
        f"{number} {best[number]}" if number in best else str(number)
        for number in range(programs.programs.n)
    )


def cells_of_programs(
    adata: "AnnData", programs: Programs, options: EmbedOptions, *, rows: "np.ndarray | None" = None
) -> "AnnData":
    """Return log-normalised values of the genes that were clustered, under their symbols; counts are normalised by all genes.

    Parameters
    ----------
    adata
        Cells × genes.
    programs
        Whose background is taken.
    options
        Where the values are and what they are.
    rows
        Which cells, ascending; None for all.

    Raises
    ------
    DataError
        The cells have no gene of any program.
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    vocabulary = Vocabulary.from_symbols(programs.genes)
    token = match_genes(var, vocabulary, options).token
    present, column = np.unique(token, return_index=True)  # a gene under two names counts once
    present, column = present[present > 0], column[present > 0]
    if not (programs.code[present - 1] >= 0).any():
        msg = f"The cells have none of the {int((programs.code >= 0).sum()):,} genes of the programs, such as {', '.join(programs.genes[:3])}. Give cells that measure them, or other programs."
        raise DataError(msg)
    kept = np.ones(source.n_rows, bool) if rows is None else np.isin(np.arange(source.n_rows), rows)
    blocks = []
    for start in range(0, source.n_rows, BLOCK):
        stop = min(start + BLOCK, source.n_rows)
        block = source.read(start, stop)
        check_counts(block, first_row=start, scale=options.scale)
        block = sparse.csr_matrix(block)[kept[start:stop]]
        values = log_values(block) if options.scale == "counts" else block
        blocks.append(sparse.csr_matrix(values[:, column], dtype=np.float32))
    obs = adata.obs[[]].iloc[np.flatnonzero(kept)]
    names = pd.Index([vocabulary.symbols[number - 1] for number in present])
    return AnnData(sparse.csr_matrix(sparse.vstack(blocks)), obs=obs, var=pd.DataFrame(index=names))
