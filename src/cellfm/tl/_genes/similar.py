"""Which genes are near which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import ConfigError, DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.families import family
from cellfm.genes.lookup import Lookup
from cellfm.genes.near import near_symbols
from cellfm.optional import require
from cellfm.tl._genes.embeddings import gene_embeddings
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

COLUMNS = ("symbol", "hgnc_id", "ensembl_id", "locus_group")
LEAST_GENES = 3
"""Of fewer, centred vectors point nowhere: two are opposite whatever they are."""


def similar_genes(
    adata: "AnnData | Pretrained | str | Path", gene: str, *, n: int = 20
) -> "pd.DataFrame":
    """Return the genes whose vectors are nearest to that of a gene, by the cosine after the mean of all genes is taken off.

    Without taking it off all cosines of contextual vectors are near 1: what all genes have in common is most of them. Nearness is what the
    model makes of co-occurrence in its training cells (and, for contextual vectors, of the level of expression in the chosen ones); it is
    not evidence of a common function.

    Parameters
    ----------
    adata
        Genes × dim from `gene_embeddings`, of one group of cells; or a model, for its embedding table.
    gene
        Symbol, earlier symbol, alias or Ensembl id.
    n
        How many.

    Returns
    -------
    A row for each near gene, nearest first:

    ``rank``
        From 1.
    ``gene``
        Symbol in the vocabulary.
    ``cosine``
        With the vector of the gene that was asked for, both centred.
    ``percentile``
        Share of all other genes that are less near, in per cent.
    ``locus_group``
        Of HGNC.
    ``n_cells``
        For contextual vectors: cells the near gene's was averaged over.

    ``attrs["gene"]`` is the symbol of the gene that was asked for, ``attrs["n_genes"]`` how many others there are.

    Raises
    ------
    DataError
        The gene is unknown, near names are suggested; or there are several groups, too few genes, or not the columns of `gene_embeddings`.
    ConfigError
        `n` is less than 1.

    Examples
    --------
    >>> cellfm.tl.similar_genes("my-model", "CD3E")  # doctest: +SKIP
    """
    import pandas as pd

    if n < 1:
        msg = f"n is {n}; at least one near gene must be asked for. Give a number in that range."
        raise ConfigError(msg)
    genes = gene_embeddings(adata) if isinstance(adata, Pretrained | str | Path) else adata
    vocabulary = _names_of(genes)
    row = _row_of(gene, vocabulary)
    unit = _unit(centred(genes))
    cosine = (unit @ unit[row]).clip(-1.0, 1.0)
    others = np.delete(np.arange(len(cosine)), row)
    order = others[np.argsort(-cosine[others], kind="stable")][:n]
    # A gene's rank among ties would say more than is known: only those less near are counted.
    less = np.searchsorted(np.sort(cosine[others]), cosine[order], side="left")
    obs = genes.obs.iloc[order]
    found = pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "gene": obs["symbol"].astype(str).to_numpy(),
            "cosine": cosine[order],
            "percentile": 100.0 * less / len(others),
            "locus_group": obs["locus_group"].astype(str).to_numpy(),
        }
    )
    if "n_cells" in obs:
        found["n_cells"] = obs["n_cells"].to_numpy()
    found.attrs.update(gene=vocabulary.symbols[row], n_genes=len(others))
    return found


def lay_out(genes: "AnnData", *, n_neighbors: int = 15, seed: int = 0) -> "AnnData":
    """Return a copy with ``obsm["X_umap"]``, by the cosine of centred vectors as in `similar_genes` (McInnes et al. 2018).

    Parameters
    ----------
    genes
        From `gene_embeddings`.
    n_neighbors
        Neighbours of a gene in the graph that is laid out.
    seed
        Of the layout.

    Raises
    ------
    DataError
        There are no more genes than neighbours.
    ConfigError
        Fewer than two neighbours.

    References
    ----------
    McInnes L, Healy J, Melville J (2018) UMAP: uniform manifold approximation and projection, arXiv:1802.03426.
    """
    require("umap")
    from warnings import catch_warnings, simplefilter

    if n_neighbors < 2:
        msg = f"n_neighbors is {n_neighbors}; a layout needs at least 2 neighbours of each gene (--n-neighbors)."
        raise ConfigError(msg)
    if genes.n_obs <= max(n_neighbors, LEAST_GENES):
        msg = f"{genes.n_obs:,} genes cannot be laid out by {n_neighbors} neighbours each. Ask for fewer by n_neighbors=… (--n-neighbors), or give more genes."
        raise DataError(msg)
    laid = genes.copy()
    # Of unit vectors the Euclidean neighbours are those by the cosine.
    unit = _unit(centred(genes)).astype(np.float32)
    with catch_warnings():
        simplefilter("ignore")  # umap and numba: of their own ways of compiling
        from umap import UMAP

        # A fixed seed means one thread; starting from PCA, no disconnected graph is a problem.
        layout = UMAP(
            n_neighbors=n_neighbors, init="pca", min_dist=0.3, random_state=seed, n_jobs=1
        )
        laid.obsm["X_umap"] = np.asarray(layout.fit_transform(unit), np.float32)
    return laid


def families_of(
    genes: "AnnData",
    names: Sequence[str] = (),
    *,
    n: int = 10,
    gene_groups: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return gene families as sets of the genes that are there: those named, or the largest.

    Parameters
    ----------
    genes
        From `gene_embeddings`.
    names
        Of families.
    n
        Without names, how many.
    gene_groups
        Family of each gene, from `cellfm.genes.families.read_gene_groups`; None takes the stems of symbols.

    Raises
    ------
    DataError
        There is no such family, near names are suggested; or none has two genes.
    """
    symbols = [str(symbol) for symbol in dict.fromkeys(genes.obs["symbol"])]
    own = {symbol: family(symbol) if gene_groups is None else gene_groups.get(symbol, "") for symbol in symbols}  # fmt: skip
    size = Counter(name for name in own.values() if name)
    for name in names:
        if name not in size:
            near = get_close_matches(name, list(size), n=3)
            hint = f"; near names: {', '.join(near)}" if near else ""
            msg = f"None of the {len(own):,} genes is of a family {name!r}{hint}. Correct --highlight, or leave it out for the largest families."
            raise DataError(msg)
    chosen = list(names) or [name for name, count in size.most_common(n) if count > 1]
    if not chosen:
        msg = f"No two of the {len(own):,} genes are of one family. Colour by something else (--color)."
        raise DataError(msg)
    return {name: tuple(symbol for symbol in own if own[symbol] == name) for name in chosen}


def centred(genes: "AnnData") -> "NDArray[np.float64]":
    """Return the vectors less their mean over genes, shape (gene, dim).

    Parameters
    ----------
    genes
        From `gene_embeddings`.

    Raises
    ------
    DataError
        Some are not finite, or there are too few.
    """
    table = genes.to_df().to_numpy(np.float64)
    if len(table) < LEAST_GENES or not np.isfinite(table).all():
        n_bad = int((~np.isfinite(table)).any(axis=1).sum())
        msg = f"There are {len(table):,} genes, {n_bad:,} of them with vectors that are not finite; at least {LEAST_GENES} are needed, all finite. Leave the others out."
        raise DataError(msg)
    return table - table.mean(axis=0)


def _unit(table: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(table, axis=1, keepdims=True)
    return table / np.where(length > 0, length, 1.0)


def _names_of(genes: "AnnData") -> Vocabulary:
    """Return the names of the rows, as a vocabulary of their own."""
    if missing := [name for name in COLUMNS if name not in genes.obs.columns]:
        msg = f"The genes have no {', '.join(missing)} in obs; expected what gene_embeddings returns (cellfm genes embed). Make them by that."
        raise DataError(msg)
    symbols = tuple(map(str, genes.obs["symbol"]))
    if len(set(symbols)) < len(symbols):
        groups = list(map(str, genes.obs["group"].unique())) if "group" in genes.obs else []
        msg = (
            f"Genes are there several times{f', once for each group: {groups[:10]}' if groups else ''}. Choose one group: genes[genes.obs['group'] == NAME], "
            "or gene_embeddings(…, group=NAME) (--group)."
        )
        raise DataError(msg)
    ids = (tuple(map(str, genes.obs[name])) for name in ("hgnc_id", "ensembl_id"))
    hgnc_ids, ensembl_ids = ids
    return Vocabulary(symbols=symbols, hgnc_ids=hgnc_ids, ensembl_ids=ensembl_ids)


def _row_of(gene: str, vocabulary: Vocabulary) -> int:
    table = GeneTable.load()
    token = Lookup(vocabulary, table).find(gene.strip()).token
    if token:
        return token - 1
    near = near_symbols(gene, vocabulary.symbols)
    known = table.identify(gene.strip()) is not None
    why = (
        "is a gene, but has no vector here (not in the model, or expressed in none of the chosen cells)"
        if known
        else "is not known"
    )
    hint = f"; near names: {', '.join(near)}" if near else ""
    msg = f"The gene {gene!r} {why}; there are {len(vocabulary):,} genes{hint}. Give a symbol, an earlier symbol, an alias or an Ensembl id of one of them."
    raise DataError(msg)
