"""Genes as points: CellFM's vectors of genes, and what they are compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.gene_cells import GeneDataset
from cellfm.bench.task import Answer, Case, Context, Method, Role, Setting
from cellfm.errors import DataError
from cellfm.genes import Vocabulary
from cellfm.tl._embed import match_genes
from cellfm.tl._genes.controls import COEXPRESSION, PCA, STATISTICS, expression_vectors
from cellfm.tl._genes.embeddings import Kind, gene_embeddings
from cellfm.tl._genes.program_study import under_symbols
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import random_twin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cellfm.genes.sets import GeneSets

    Vectors = NDArray[np.float32]

MIN_CELLS = 10
"""Cells that must express a gene."""
LEAST_GENES = 100
DIM = 64
"""Of random vectors."""
N_CELLS = 1000
"""Most cells that contextual vectors are means over."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneView(Case):
    """What a method sees: the cells, and which genes are asked for. What these do it is not told.

    Attributes
    ----------
    genes
        Approved symbols of the genes, whose vectors an answer holds, shape (gene, dim), in this order; NaN where a method knows none.
    columns
        Of the cells' matrix.
    """

    genes: tuple[str, ...]
    columns: "NDArray[np.int64]"


def refuses_genes(dataset: Dataset) -> str | None:
    """Say why a dataset is no use to tasks on genes; None if it is.

    Parameters
    ----------
    dataset
        The dataset.
    """
    if not isinstance(dataset, GeneDataset):
        return "it names no gene sets (entry `gene_sets` of its file)"
    if dataset.scale != "counts":
        return "the controls are made of raw counts"
    return None


def genes_of(dataset: GeneDataset) -> "tuple[tuple[str, ...], NDArray[np.int64], GeneSets]":
    """Return the genes that the cells express, their columns, and the sets under their symbols; no model has a say in it.

    Parameters
    ----------
    dataset
        The dataset.

    Raises
    ------
    DataError
        The cells express too few genes.
    """
    vocabulary = Vocabulary.from_hgnc()
    cells = dataset.cells
    token = match_genes(cells.var, vocabulary, EmbedOptions(min_matched=0.0)).token
    expressed = np.asarray((cells.X > 0).sum(axis=0)).ravel() >= MIN_CELLS
    _, first = np.unique(token, return_index=True)
    columns = np.sort(first[(token[first] > 0) & expressed[first]])
    if len(columns) < LEAST_GENES:
        msg = f"The cells of {dataset.name!r} express {len(columns)} known genes, at least {MIN_CELLS} of them each; at least {LEAST_GENES} genes are needed. Give other cells."
        raise DataError(msg)
    genes = tuple(vocabulary.symbols[number - 1] for number in token[columns])
    return genes, columns.astype(np.int64), under_symbols(dataset.sets, vocabulary)


def filled(vectors: "NDArray[np.floating]", n_genes: int) -> "tuple[Vectors, int]":
    """Return vectors without gaps, and how many there were: a gene that a method does not know gets the mean of the others.

    Parameters
    ----------
    vectors
        Of an answer.
    n_genes
        Genes that were asked for.

    Raises
    ------
    DataError
        They are not of these genes, or none is known.
    """
    table = np.array(vectors, np.float32)
    if table.ndim != 2 or len(table) != n_genes:
        msg = f"An answer must be vectors of {n_genes} genes; found shape {table.shape}. Correct the method."
        raise DataError(msg)
    known = np.isfinite(table).all(axis=1)
    if not known.any():
        msg = f"The method knows none of the {n_genes} genes. Give a method whose genes are named as in the task."
        raise DataError(msg)
    table[~known] = table[known].mean(axis=0)
    return table, int((~known).sum())


def gene_methods(setting: Setting) -> tuple[Method, ...]:
    """Return the ways to make vectors of genes, with their roles.

    Parameters
    ----------
    setting
        Of the candidates: whether something is trained on them.
    """
    against = ("pca-loadings", "coexpression-svd", "expression-statistics", "random-weights", "random-vectors")  # fmt: skip

    def make(name: str, summary: str, run: Callable[[Case, Context], Answer], role: Role) -> Method:
        return Method(
            name=name,
            summary=summary,
            setting=setting,
            roles=frozenset({role}),
            run=run,
            against=against if role == "candidate" else (),
        )

    return (
        make("cellfm", "the embedding table", _Network(kind="static"), "candidate"),
        make("cellfm-query", "what the cell-wise decoder asks by", _Network(kind="query"), "candidate"),
        make("cellfm-contextual", "mean states in these cells", _Network(kind="contextual"), "candidate"),
        make("random-weights", "an untrained embedding table", _Network(kind="static", random=True), "random_weights"),
        make("random-contextual", "mean states in these cells, random weights", _Network(kind="contextual", random=True), "random_weights"),
        make("random-vectors", "normal random numbers", _random, "negative"),
        make("expression-statistics", "mean, detection and variation in these cells", _Expression(name=STATISTICS), "classical"),
        make("pca-loadings", "PCA loadings of these cells", _Expression(name=PCA), "pca"),
        make("coexpression-svd", "SVD of co-expression in these cells", _Expression(name=COEXPRESSION), "classical"),
        make("shuffled-labels", "the embedding table, genes exchanged", _Network(kind="static", exchanged=True), "shuffled_labels"),
    )  # fmt: skip


def _view(case: Case) -> GeneView:
    assert isinstance(case, GeneView)
    return case


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """Vectors of a network."""

    kind: Kind
    random: bool = False
    exchanged: bool = False

    def __call__(self, case: Case, context: Context) -> Answer:
        view = _view(case)
        model = random_twin(context.model, seed=context.seed) if self.random else context.model
        key = ("gene vectors", view.dataset.hash, model.hash, self.kind, str(view.seed))
        made = context.states.remember(key, lambda: self._made(view, model))
        if self.exchanged:
            made = made[np.random.default_rng(view.seed).permutation(len(made))]
        return Answer(arrays={"vectors": made})

    def _made(self, view: GeneView, model: "object") -> "Vectors":
        from cellfm.weights.folder import Pretrained

        assert isinstance(model, Pretrained)
        cells = view.adata if self.kind == "contextual" else None
        options = (
            {} if cells is None else {"n_cells": N_CELLS, "min_matched": 0.0, "seed": view.seed}
        )
        found = gene_embeddings(model, cells, kind=self.kind, **options)  # type: ignore[arg-type] # of two kinds
        token = match_genes(view.adata.var, model.vocabulary, EmbedOptions(min_matched=0.0)).token
        place = np.full(len(model.vocabulary) + 1, -1, np.int64)
        place[found.obs["token"].to_numpy()] = np.arange(found.n_obs)
        rows = np.where(token[view.columns] > 0, place[token[view.columns]], -1)
        vectors = np.asarray(found.X, np.float32)[np.maximum(rows, 0)]
        vectors[rows < 0] = np.nan
        return vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expression:
    """What simple statistics of the cells say of genes."""

    name: str

    def __call__(self, case: Case, context: Context) -> Answer:
        view = _view(case)

        def make() -> "Mapping[str, Vectors]":
            counts: csr_matrix = view.adata.X[:, view.columns]
            some = np.asarray(counts.sum(axis=1)).ravel() > 0
            return expression_vectors(counts[some], seed=view.seed)

        key = ("expression of genes", view.dataset.hash, str(view.seed))
        return Answer(arrays={"vectors": context.states.remember(key, make)[self.name]})


def _random(case: Case, context: Context) -> Answer:
    rng = np.random.default_rng([case.seed, 1])
    vectors = rng.standard_normal((len(_view(case).genes), DIM)).astype(np.float32)
    return Answer(arrays={"vectors": vectors})
