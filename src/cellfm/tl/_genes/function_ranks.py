"""Labels of unlabelled genes, ranked, with the labelled genes that are nearest."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._genes.labels import LabelledGenes

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

N_NEAREST = 3
N_RANKED = 100
"""Genes that are listed for each label where genes may have several."""


def rank_genes(
    genes: LabelledGenes,
    probability: "NDArray[np.float64]",
    asked: "NDArray[np.int64]",
    *,
    states: "NDArray[np.float32]",
    symbols: "NDArray[np.object_]",
) -> "pd.DataFrame":
    """Rank unlabelled genes by their probability of each label.

    Parameters
    ----------
    genes
        Labelled genes.
    probability
        Shape (unlabelled gene, label).
    asked
        Rows of the unlabelled genes.
    states
        Vectors of all genes, by which the nearest are found.
    symbols
        Of all genes.
    """
    import pandas as pd

    most = N_RANKED if genes.task == "multilabel" else len(asked)
    parts = []
    for column, name in enumerate(genes.names):
        order = np.argsort(-probability[:, column], kind="stable")[:most]
        parts.append(
            pd.DataFrame(
                {
                    "label": name,
                    "rank": np.arange(1, len(order) + 1),
                    "gene": symbols[asked[order]],
                    "probability": probability[order, column],
                    "nearest": _nearest(genes, states, symbols, asked[order]),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _nearest(
    genes: LabelledGenes,
    states: "NDArray[np.float32]",
    symbols: "NDArray[np.object_]",
    asked: "NDArray[np.int64]",
) -> list[str]:
    """Name the labelled genes nearest to each gene by the cosine after the mean of all genes is taken off, as `similar_genes` does."""
    states = states - states[np.isfinite(states).all(axis=1)].mean(axis=0)
    unit = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    near = unit[asked] @ unit[genes.rows].T
    order = np.argsort(-near, axis=1, kind="stable")[:, :N_NEAREST]
    own = [f"{symbols[row]} ({genes.of(i)}, " for i, row in enumerate(genes.rows)]
    return [
        "; ".join(f"{own[i]}{near[row, i]:.2f})" for i in found) for row, found in enumerate(order)
    ]
