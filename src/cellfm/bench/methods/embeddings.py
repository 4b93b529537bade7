"""Cells as points: the frozen network and what it is compared with.

The candidate's representation is set in one place, :data:`REPRESENTATION`; its random-weight twin follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.task import Case, Context, Role
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.split import TEST
from cellfm.errors import DataError
from cellfm.tl._classical import Profiles
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions, Pool, default_pool
from cellfm.tl._whiten import LEAST_CELLS_FOR_EACH, whitening_on
from cellfm.weights.folder import random_twin
from cellfm.weights.whitening import Whitening

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.corpus.store import Store
    from cellfm.weights.folder import Pretrained


N_COMPONENTS = 50
N_TWIN_CELLS = 1000
"""Cells that the random-weight twin's whitening is fitted on."""
MOST_CORPUS_CELLS = 20_000
"""Cells of the corpus that its PCA is fitted on; any block of a corpus is a random sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """What stands for a cell.

    Attributes
    ----------
    pool
        As in :func:`cellfm.tl.embed`.
    standardise
        Give every feature mean 0 and variance 1 over the training cells; no label is used.
    """

    pool: Pool
    standardise: bool

    @property
    def detail(self) -> str:
        """For the key of outcomes."""
        return f"pool={self.pool} standardise={self.standardise}"


REPRESENTATION = Representation(pool="whitened", standardise=False)
"""Of the candidate and of its random-weight twin, in all tasks; weights without a whitening give the state of [CLS]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A way to make points of the cells of a view.

    Attributes
    ----------
    name, summary
        For people.
    role
        What it is to every task.
    of
        Takes a view and a context, returns float32 points of all its cells, shape (cell, dim).
    corpus
        Needs the pretraining corpus.
    detail
        Options, for the key of outcomes.
    """

    name: str
    summary: str
    role: Role
    of: "Callable[[Case, Context], NDArray[np.float32]]"
    corpus: bool = False
    detail: str = ""


def frozen(case: Case, context: Context) -> "NDArray[np.float32]":
    """Frozen states of the network, shape (cell, dim).

    Parameters
    ----------
    case
        A view.
    context
        With the model.
    """
    return _represent(case, context.states.frozen(case, context.model, pool=pool_of(context.model)))


def pool_of(model: "Pretrained") -> Pool:
    """Return the candidate's way of pooling, as far as the weights allow it.

    Parameters
    ----------
    model
        Weights.
    """
    return default_pool(model) if REPRESENTATION.pool == "whitened" else REPRESENTATION.pool


def random_weights(case: Case, context: Context) -> "NDArray[np.float32]":
    """States of the same architecture with random weights of the case's seed, shape (cell, dim).

    Parameters
    ----------
    case
        A view.
    context
        With the model.
    """
    model = random_twin(context.model, seed=case.seed)
    if pool_of(context.model) == "whitened":
        model = _whitened(case, context, model)
    return _represent(case, context.states.frozen(case, model, pool=pool_of(model)))


def pca(case: Case, context: Context) -> "NDArray[np.float32]":
    """PCA-50 scores, genes and components from the training cells of the view, shape (cell, component).

    Parameters
    ----------
    case
        A view.
    context
        With what is fitted already.
    """
    profiles = context.states.profiles(case)
    return profiles.project(context.states.log_values(case))


def variable_genes(case: Case, context: Context) -> "NDArray[np.float32]":
    """Log values of 2,000 variable genes of the training cells of the view, shape (cell, gene).

    Parameters
    ----------
    case
        A view.
    context
        With what is fitted already.
    """
    return context.states.log_values(case)


def corpus_pca(case: Case, context: Context) -> "NDArray[np.float32]":
    """PCA-50 scores, genes and components from the corpus the network was pretrained on, shape (cell, component).

    Parameters
    ----------
    case
        A view.
    context
        With the corpus.

    Raises
    ------
    DataError
        There is no corpus.
    """
    store = context.store
    if store is None:
        msg = "PCA of the pretraining corpus was asked for without a corpus. Give --corpus."
        raise DataError(msg)
    key = ("corpus", str(store.path), store.manifest.vocabulary)
    profiles = context.states.remember(key, partial(_fit_on_corpus, store))
    return profiles.scores(_on_vocabulary(case, store), scale=case.dataset.scale)


def random_embedding(case: Case, context: Context) -> "NDArray[np.float32]":
    """Return points that have nothing to do with the cells, standard normal, shape (cell, 50).

    Parameters
    ----------
    case
        A view.
    context
        Not used.
    """
    rng = np.random.default_rng([case.seed, 50])
    return rng.standard_normal((len(case.part), N_COMPONENTS)).astype(np.float32)


EMBEDDINGS: Mapping[str, Embedding] = {
    each.name: each
    for each in (
        Embedding(name="cellfm", summary="frozen CellFM", role="candidate", of=frozen, detail=REPRESENTATION.detail),
        Embedding(name="random-weights", summary="CellFM with random weights", role="random_weights", of=random_weights, detail=REPRESENTATION.detail),
        Embedding(name="pca50", summary="PCA-50 of the task's training cells", role="pca", of=pca),
        Embedding(name="pca50-corpus", summary="PCA-50 of the pretraining corpus", role="pca", of=corpus_pca, corpus=True),
        Embedding(name="hvg", summary="2,000 variable genes of the training cells", role="classical", of=variable_genes),
        Embedding(name="random-embedding", summary="random points", role="negative", of=random_embedding),
    )
}  # fmt: skip
"""By name."""


def _whitened(case: Case, context: Context, model: "Pretrained") -> "Pretrained":
    """Give the twin a whitening of its own, of the training cells of the view: nearer to the task than the candidate's.

    Too few cells leave it without.
    """
    fit = np.flatnonzero(case.part != TEST)
    if len(fit) < LEAST_CELLS_FOR_EACH * model.network.config.dim:
        return model

    def make() -> Whitening:
        options = EmbedOptions(scale=case.dataset.scale)
        match = match_genes(case.adata.var, model.vocabulary, options)
        source, _ = anndata_source(case.adata[fit])
        cells = InMemoryCells.from_source(source, match.token, scale=case.dataset.scale)
        return whitening_on(cells, model, n_cells=N_TWIN_CELLS, seed=case.seed)

    key = ("whitening", model.hash, case.dataset.hash, case.rows[fit])
    whitening = context.states.remember(key, make)
    return replace(model, whitening=whitening)


def _represent(case: Case, states: "NDArray[np.float32]") -> "NDArray[np.float32]":
    if not REPRESENTATION.standardise:
        return states
    fit = states[case.part != TEST].astype(np.float64)
    scale = fit.std(axis=0)
    scale[scale < 1e-8] = 1.0
    return ((states - fit.mean(axis=0)) / scale).astype(np.float32)


def _fit_on_corpus(store: "Store") -> Profiles:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    rows = store.read(0, min(len(store), MOST_CORPUS_CELLS))
    entries = (rows.count.astype(np.float32), rows.gene.astype(np.int64) - 1, rows.offsets)
    adata = AnnData(csr_matrix(entries, shape=(len(rows.offsets) - 1, len(store.vocabulary))))
    adata.var_names = list(store.vocabulary.symbols)
    return Profiles.fit(adata, n_components=N_COMPONENTS, seed=0)


def _on_vocabulary(case: Case, store: "Store") -> "AnnData":
    """Return the cells on the genes of the corpus, which have its names."""
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    token = match_genes(case.adata.var, store.vocabulary, EmbedOptions(min_matched=0.0)).token
    known = np.flatnonzero(token)
    entries = (np.ones(len(known), np.float32), (known, token[known] - 1))
    to_vocabulary = csr_matrix(entries, shape=(len(token), len(store.vocabulary)))
    adata = AnnData(csr_matrix(case.adata.X @ to_vocabulary))
    adata.var_names = list(store.vocabulary.symbols)
    return adata
