"""What is known of genes before a perturbation is seen: CellFM's embedding and states, co-expression, gene sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cellfm.errors import ConfigError
from cellfm.genes import Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.sets import GeneSets
from cellfm.genes.table import GeneTable
from cellfm.tl._perturb.data import PerturbData
from cellfm.tl._response.log_counts import log_values
from cellfm.tl._states import EmbedOptions, Groups, StateEncoder
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

Kind = Literal["embedding", "state", "coexpression", "sets", "random"]
N_STATES = 512
"""Control cells over which states are averaged."""
N_COMPONENTS = 20
"""Of the co-expression of control cells."""
RANDOM_DIM = 64
LEAST_SET, MOST_SET = 2, 500
"""Larger sets say little about a gene."""
BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneFeatures:
    """Vectors of genes.

    Attributes
    ----------
    vocabulary
        Genes that can be perturbed.
    symbol
        Vocabulary symbols of the genes of the data.
    embedding
        CellFM's static embedding, shape (token + 1, dim).
    state
        Mean contextual CellFM state of each gene of the data in control cells, shape (gene, dim); NaN where none expresses it.
    coexpression
        Principal components of the genes of the data over control cells, shape (gene, component).
    sets
        Whether a gene is in a set, weighted by log(genes / size of the set), rows of length 1; shape (token + 1, set); None without sets.
    seed
        Of random vectors.
    """

    vocabulary: Vocabulary
    symbol: tuple[str, ...]
    embedding: "NDArray[np.float32]"
    state: "NDArray[np.float32]"
    coexpression: "NDArray[np.float32]"
    sets: "csr_matrix | None" = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        data: PerturbData,
        model: Pretrained,
        *,
        gene_sets: GeneSets | None = None,
        seed: int = 0,
    ) -> "GeneFeatures":
        """Take them from the control cells of a data set; perturbed cells are not looked at.

        Parameters
        ----------
        data
            Cells.
        model
            Weights on the device to compute on.
        gene_sets
            Under any names that the vocabulary knows.
        seed
            Of random vectors and of the choice of control cells.
        """
        rng = np.random.default_rng(seed)
        controls = data.controls
        chosen = np.sort(rng.permutation(controls)[:N_STATES])
        return cls(
            vocabulary=model.vocabulary,
            symbol=data.symbol,
            embedding=model.network.gene_embedding.weight.detach().cpu().numpy(),
            state=_mean_states(data, model, chosen),
            coexpression=coexpression(data.counts[controls], seed=seed),
            sets=None if gene_sets is None else memberships(gene_sets, model.vocabulary),
            seed=seed,
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What can be asked for, without random vectors."""
        every: tuple[Kind, ...] = ("embedding", "state", "coexpression", "sets")
        return tuple(kind for kind in every if kind != "sets" or self.sets is not None)

    def table(
        self, kind: Kind, symbols: Sequence[str]
    ) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
        """Return the vectors of genes, shape (symbol, dim), 0 where unknown; and which are known.

        Parameters
        ----------
        kind
            Which vectors.
        symbols
            Of the vocabulary, or of genes of the data.

        Raises
        ------
        ConfigError
            There are no such vectors.
        """
        if kind not in get_args(Kind) or (kind == "sets" and self.sets is None):
            msg = f"There are no vectors {kind!r} of genes; there are {', '.join((*self.kinds, 'random'))}. Gene sets come with gene_sets=… (--gene-sets)."
            raise ConfigError(msg)
        if kind in ("state", "coexpression"):
            place = {name: row for row, name in reversed(list(enumerate(self.symbol)))}
            own = self.state if kind == "state" else self.coexpression
            known = np.array([name in place for name in symbols], bool)
            rows = own[[place.get(name, 0) for name in symbols]].astype(np.float64)
            known &= np.isfinite(rows).all(axis=1)
        else:
            place = {name: token for token, name in enumerate(self.vocabulary.symbols, start=1)}
            tokens = np.array([place.get(name, 0) for name in symbols], np.int64)
            rows = self._of_tokens(kind, tokens)
            known = (tokens > 0) & (rows != 0).any(axis=1)
        return np.where(known[:, None], rows, 0.0), known

    def _of_tokens(self, kind: Kind, tokens: "NDArray[np.int64]") -> "NDArray[np.float64]":
        if kind == "sets" and self.sets is not None:
            return self.sets[tokens].toarray().astype(np.float64)
        if kind == "random":
            shape = (len(self.vocabulary) + 1, RANDOM_DIM)
            return np.random.default_rng(self.seed).standard_normal(shape)[tokens]
        return self.embedding[tokens].astype(np.float64)


def memberships(gene_sets: GeneSets, vocabulary: Vocabulary) -> "csr_matrix":
    """Return weighted memberships of genes in sets, shape (token + 1, set).

    Parameters
    ----------
    gene_sets
        Under any names that the vocabulary knows; others are passed over, as are very large sets.
    vocabulary
        Of the model.
    """
    from scipy import sparse

    lookup = Lookup(vocabulary, GeneTable.load())
    names = {gene for genes in gene_sets.values() for gene in genes}
    token = {name: lookup.find(name).token for name in names}
    rows, columns, n_sets = [], [], 0
    for genes in gene_sets.values():
        tokens = sorted({token[gene] for gene in genes} - {0})
        if LEAST_SET <= len(tokens) <= MOST_SET:
            rows += tokens
            columns += [n_sets] * len(tokens)
            n_sets += 1
    flags = np.ones(len(rows))
    table = sparse.csr_matrix((flags, (rows, columns)), shape=(len(vocabulary) + 1, n_sets))
    size = np.asarray(table.sum(axis=0)).ravel()
    weighted = sparse.csr_matrix(table.multiply(np.log(len(vocabulary) / np.maximum(size, 1.0))))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(length, 1e-12)) @ weighted)


def _mean_states(
    data: PerturbData, model: Pretrained, rows: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """Mean last-layer state of each gene over some cells."""
    groups = Groups(names=("mean",), code=np.zeros(len(rows), np.int64))
    encoder = StateEncoder(
        model, data.match, EmbedOptions(genes=True, empty="nan"), n_cells=len(rows), groups=groups
    )
    for start in range(0, len(rows), BLOCK):
        encoder.encode(data.counts[rows[start : start + BLOCK]], start)
    assert encoder.sums is not None  # groups were given
    return encoder.sums.means()["mean"]


def coexpression(
    counts: "csr_matrix", *, seed: int, n_components: int = N_COMPONENTS, standardise: bool = True
) -> "NDArray[np.float32]":
    """Return loadings of genes in a truncated SVD of log expression; unexpressed genes get 0.

    Parameters
    ----------
    counts
        Cell × gene; every cell has some.
    seed
        Of the start of the iteration.
    n_components
        At most.
    standardise
        Divide genes by their standard deviation (correlations), or only centre them (covariances, as in PCA).

    Returns
    -------
    Shape (gene, component); products of rows are the correlations, or covariances, of genes, as far as the components keep them.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    values = log_values(counts)
    mean = np.asarray(values.mean(axis=0)).ravel()
    square = np.asarray(values.multiply(values).mean(axis=0)).ravel()
    scale = (
        1.0 / np.sqrt(np.maximum(square - mean**2, 1e-12)) if standardise else np.ones(len(mean))
    )
    scale[square == 0] = 0.0
    n_cells = values.shape[0]
    standard = LinearOperator(
        values.shape,
        matvec=lambda x: values @ (scale * x.ravel()) - float(mean @ (scale * x.ravel())),
        rmatvec=lambda y: scale * (values.T @ y.ravel() - mean * y.sum()),
        dtype=np.float64,
    )
    k = min(n_components, min(values.shape) - 1)
    if k < 1:
        return np.zeros((values.shape[1], 1), np.float32)
    start = np.random.default_rng(seed).standard_normal(min(values.shape))
    _, size, loading = svds(standard, k=k, v0=start)
    order = np.argsort(-size)
    return (loading[order].T * size[order] / np.sqrt(n_cells)).astype(np.float32)
