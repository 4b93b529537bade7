"""From neighbours to labels: distance-weighted votes, and how well they do on reference cells left out."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.tl._reference_index import Neighbours


def vote_weights(distance: "NDArray[np.float32]") -> "NDArray[np.float64]":
    r"""Return the weight of each neighbour, :math:`w_j = \exp(-\tfrac12 (d_j / d_k)^2)`.

    The kernel's width is the distance of the farthest neighbour asked for, a scale of the query's own (self-tuning kernel of
    Zelnik-Manor & Perona 2004): equal distances give equal votes, and the nearest counts at most :math:`e^{1/2}` times the farthest.

    Parameters
    ----------
    distance
        Shape (cell, neighbour), ascending; infinite for neighbours that were not found.
    """
    found = np.isfinite(distance)
    width = np.where(found, distance, 0.0).max(1, keepdims=True)
    ratio = np.divide(distance, width, out=np.zeros(distance.shape), where=found & (width > 0))
    return np.where(found, np.exp(-0.5 * ratio**2), 0.0)


def vote_shares(
    neighbours: "Neighbours", code: "NDArray[np.int64]", n_labels: int
) -> "NDArray[np.float64]":
    """Return the share of the votes that each label gets, shape (cell, label); all 0 where no neighbour has a label.

    A vote's share is not a calibrated probability: it says how far the neighbours agree.

    Parameters
    ----------
    neighbours
        Of each cell.
    code
        Label of each reference cell; −1 for none, which does not vote.
    n_labels
        Number of labels.
    """
    row, distance = neighbours
    voted = np.where(row >= 0, code[row], -1)
    weight = np.where(voted >= 0, vote_weights(distance), 0.0)
    votes = np.zeros((len(row), n_labels))
    cell = np.broadcast_to(np.arange(len(row))[:, None], row.shape)
    np.add.at(votes, (cell, np.maximum(voted, 0)), weight)
    total = votes.sum(1, keepdims=True)
    return np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)


def transfer_scores(predicted: "NDArray[np.int64]", true: "NDArray[np.int64]") -> dict[str, float]:
    """Return accuracy and macro-F1 (mean of F1 over the labels that occur) over the cells that have a label.

    Parameters
    ----------
    predicted, true
        Codes; −1 in `true` for no label.
    """
    known = true >= 0
    predicted, true = predicted[known], true[known]
    if not len(true):
        return {"accuracy": float("nan"), "macro_f1": float("nan"), "n_cells": 0}
    f1 = []
    for label in np.unique(true):
        hit = np.sum((predicted == label) & (true == label))
        f1.append(2.0 * hit / (np.sum(predicted == label) + np.sum(true == label)))
    return {
        "accuracy": float(np.mean(predicted == true)),
        "macro_f1": float(np.mean(f1)),
        "n_cells": len(true),
    }
