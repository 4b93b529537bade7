"""Likeness of perturbed genes, and of conditions as sets of genes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.conditions import Condition
from cellfm.tl._response.baselines import principal
from cellfm.tl._response.gene_features import GeneFeatures, Kind
from cellfm.tl._response.responses import Responses

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDENTITY, COMMON, RESPONSE = "identity", "common", "response"
"""Kernels besides those of gene vectors."""
N_RESPONSE = 20
"""Principal components of the response of a gene to other perturbations."""
LEAST = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneKernels:
    """Vectors of genes by kind; 0 for genes without one.

    Those of embeddings, states and sets have length 1. Those of co-expression and of responses keep their lengths, in units of the usual one: genes
    whose expression says little have short ones, and little is predicted of them.
    """

    symbol: tuple[str, ...]
    vectors: "Mapping[str, NDArray[np.float64]]"

    @classmethod
    def of(
        cls,
        symbols: Sequence[str],
        features: GeneFeatures,
        train: Responses,
        kinds: Sequence[Kind],
        *,
        response: bool,
    ) -> "GeneKernels":
        """Look vectors up, centre them over the genes of the data and scale them.

        Parameters
        ----------
        symbols
            Perturbed genes.
        features
            Vectors of genes.
        train
            Responses; their genes are what vectors are centred on.
        kinds
            Which vectors.
        response
            Whether to add the genes' responses to the training perturbations.
        """
        vectors = {}
        for kind in kinds:
            own, known = features.table(kind, symbols)
            every, there = features.table(kind, train.symbol)
            if kind != "sets" and there.any():
                own = np.where(known[:, None], own - every[there].mean(axis=0), 0.0)
            vectors[str(kind)] = _usual(own) if kind == "coexpression" else _unit(own)
        if response:
            place = {name: row for row, name in reversed(list(enumerate(train.symbol)))}
            scaled = train.delta / np.sqrt(train.spread)
            scores = principal((scaled - scaled.mean(axis=1, keepdims=True)).T, N_RESPONSE)
            rows = [scores[place[name]] if name in place else np.zeros(scores.shape[1]) for name in symbols]  # fmt: skip
            vectors[RESPONSE] = _usual(np.stack(rows))
        return cls(symbol=tuple(symbols), vectors=vectors)


def kernels_of(
    conditions: Sequence[Condition],
    features: GeneFeatures,
    train: Responses,
    kinds: Sequence[Kind],
    *,
    response: bool,
) -> "dict[str, NDArray[np.float64]]":
    """Return each kernel, shape (condition, condition).

    Parameters
    ----------
    conditions
        What is compared.
    features, train, kinds, response
        As in `GeneKernels.of`.
    """
    symbols, member = members(conditions)
    genes = GeneKernels.of(symbols, features, train, kinds, response=response)
    kernels = {}
    for name, vectors in genes.vectors.items():
        # A gene without a vector is like no other, but no less able to do something.
        alone = (vectors == 0).all(axis=1).astype(np.float64)
        kernels[name] = (member @ vectors) @ (member @ vectors).T + (member * alone) @ member.T
    size = member.sum(axis=1)
    return {IDENTITY: member @ member.T, COMMON: np.outer(size, size), **kernels}


def neighbours(
    conditions: Sequence[Condition], features: GeneFeatures, train: Responses
) -> "NDArray[np.float64]":
    """Return how each gene varies with the perturbed ones in control cells, shape (condition, gene): correlations by the principal components that are kept.

    Parameters
    ----------
    conditions
        Perturbed genes; those that the data do not have count for nothing.
    features
        With co-expression.
    train
        Genes.
    """
    every, _ = features.table("coexpression", train.symbol)
    symbols, member = members(conditions)
    return member @ features.table("coexpression", symbols)[0] @ every.T


def members(conditions: Sequence[Condition]) -> "tuple[list[str], NDArray[np.float64]]":
    """Return the perturbed genes of some conditions, and which of them is in which, shape (condition, gene).

    Parameters
    ----------
    conditions
        The control has none.
    """
    symbols = sorted({gene for each in conditions for gene in each.genes})
    place = {name: column for column, name in enumerate(symbols)}
    member = np.zeros((len(conditions), len(symbols)))
    for row, each in enumerate(conditions):
        member[row, [place[gene] for gene in each.genes]] = 1.0
    return symbols, member


def _unit(vectors: "NDArray[np.float64]") -> "NDArray[np.float64]":
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > LEAST)


def _usual(vectors: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Scale all vectors alike, to a mean squared length of 1 of those that are not 0."""
    square = (vectors**2).sum(axis=1)
    mean = square[square > 0].mean() if (square > 0).any() else 1.0
    return vectors / np.sqrt(mean)
