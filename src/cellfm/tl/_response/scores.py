"""The table of scores of predicted responses: a row for each condition, a column for each metric."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._response import genewise, metrics

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.tl._response.responses import Responses

    Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseMetric:
    """What a column of the table means.

    Attributes
    ----------
    name, summary
        Of the column.
    higher
        Whether more is better.
    best
        Value of the truth itself.
    chance
        Value of the mean of the training perturbations; None where that is measured, not known.
    ranked
        Whether methods may be ranked on it.
    legacy
        Listed because others print it: it rewards predictors that say the same of every perturbation.
    """

    name: str
    summary: str
    higher: bool = True
    best: float = 1.0
    chance: float | None = None
    ranked: bool = True
    legacy: bool = False


METRICS: tuple[ResponseMetric, ...] = (
    ResponseMetric(name="pds", summary="share of other conditions that the prediction is further from (cosine, no targets)", chance=0.5),
    ResponseMetric(name="centroid_accuracy", summary="share of other conditions that the prediction is further from (Euclidean)", chance=0.5),
    ResponseMetric(name="centroid_accuracy_trans", summary="the same without the perturbed genes of any condition", chance=0.5),
    ResponseMetric(name="pearson_delta_ref", summary="correlation of deltas from the mean of perturbations", chance=0.0),
    ResponseMetric(name="r2_weighted", summary="R² of deltas from the mean of perturbations, genes weighted by how they differ", chance=0.0),
    ResponseMetric(name="wmse", summary="squared error, genes weighted by how they differ", higher=False, best=0.0),
    ResponseMetric(name="nmae", summary="absolute error over significant genes, no change = 1", higher=False, best=0.0),
    ResponseMetric(name="l2_top1000", summary="Euclidean distance over the 1,000 most expressed genes", higher=False, best=0.0),
    ResponseMetric(name="de_overlap", summary="share of the 20 most differential genes on the predicted list", ranked=False),
    ResponseMetric(name="mse_de20", summary="squared error over the 20 most differential genes", higher=False, best=0.0, ranked=False),
    ResponseMetric(name="r2_delta", summary="R² of deltas over genes", ranked=False),
    ResponseMetric(name="pearson_delta", summary="correlation of deltas from the control", ranked=False, legacy=True),
    ResponseMetric(name="mse", summary="squared error over all genes", higher=False, best=0.0, ranked=False, legacy=True),
    ResponseMetric(name="direction", summary="share of the 20 most differential genes whose direction is right", ranked=False, legacy=True),
    ResponseMetric(name="direction_wrong", summary="share of the 20 most differential genes whose direction is wrong", higher=False, best=0.0, ranked=False, legacy=True),
)  # fmt: skip
"""Columns of :func:`score_responses`, the primary one first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Measured responses and how sure they are.

    Attributes
    ----------
    names
        Of the conditions.
    delta, variance
        Responses and their sampling variances, shape (condition, gene).
    control
        Means of control cells, shape (gene,).
    own_variance
        The part of `variance` that comes from the cells of the condition, not from the controls.
    targets
        Perturbed genes of each condition, shape (condition, gene).
    """

    names: tuple[str, ...]
    delta: "Values"
    variance: "Values"
    control: "Values"
    own_variance: "Values"
    targets: "NDArray[np.bool_]"

    @staticmethod
    def of(responses: "Responses") -> "Truth":
        """Take what was measured.

        Parameters
        ----------
        responses
            Of the conditions to be judged.
        """
        return Truth(
            names=tuple(condition.name for condition in responses.conditions),
            delta=responses.delta,
            variance=responses.variance,
            control=responses.control,
            own_variance=responses.own_variance,
            targets=target_genes(
                responses.symbol, [condition.genes for condition in responses.conditions]
            ),
        )


def target_genes(genes: tuple[str, ...], perturbed: "list[tuple[str, ...]]") -> "NDArray[np.bool_]":
    """Return where the perturbed genes of each condition are, shape (condition, gene).

    Parameters
    ----------
    genes
        Vocabulary symbols of the columns.
    perturbed
        Genes of each condition; those without a column are left out.
    """
    column = {name: i for i, name in enumerate(genes)}
    found = np.zeros((len(perturbed), len(genes)), np.bool_)
    for row, names in enumerate(perturbed):
        found[row, [column[name] for name in names if name in column]] = True
    return found


def score_responses(
    predicted: "Values",
    truth: Truth,
    *,
    reference: "Values | None" = None,
    group: "NDArray[np.integer] | None" = None,
) -> "pd.DataFrame":
    """Score predicted deltas; formulas are in :mod:`cellfm.tl._response.metrics` and :mod:`cellfm.tl._response.genewise`.

    The perturbed gene itself counts for nothing in `r2_weighted`, `wmse`, `nmae`, `de_overlap` and `direction`, the
    perturbed genes of all conditions in `pds` and `centroid_accuracy_trans`: that a knocked-down gene is down is no discovery.

    Parameters
    ----------
    predicted
        Deltas, shape (condition, gene), in the order of the truth.
    truth
        What was measured.
    reference
        Mean delta of the training perturbations, shape (gene,) or, where each condition was predicted from other ones,
        (condition, gene). By default the mean over the truth of the group, as Systema has it.
    group
        Fold of each condition: only conditions of a fold are told apart. None for one fold.

    Returns
    -------
    Conditions × :data:`METRICS`, NaN where a metric does not apply to a condition.

    Raises
    ------
    DataError
        The predictions are of another shape than the truth, or not finite.
    """
    import pandas as pd

    metrics.check_deltas(predicted, truth.delta)
    true = truth.delta
    own_mean = metrics.group_mean(true, group)
    mean = own_mean if reference is None else reference
    score = genewise.score_against_control(true, truth.variance)
    rest = genewise.score_against_rest(true, truth.own_variance)
    own = truth.targets
    others = ~own.any(axis=0)
    weight = genewise.de_weights(rest, own)
    directions = genewise.direction(predicted, true, score, excluded=own)
    columns = {
        "pds": metrics.pds(predicted, true, own, group),
        "centroid_accuracy": metrics.centroid_accuracy(predicted, true, group),
        "centroid_accuracy_trans": metrics.centroid_accuracy(
            predicted[:, others], true[:, others], group
        ),
        "pearson_delta_ref": metrics.pearson_delta_ref(predicted, true, mean, own_mean),
        "r2_weighted": metrics.r2_weighted(predicted, true, weight, mean),
        "wmse": metrics.wmse(predicted, true, weight),
        "nmae": genewise.nmae(predicted, true, score, excluded=own),
        "l2_top1000": metrics.l2_top(predicted, true, truth.control),
        "de_overlap": genewise.de_overlap(predicted, score, excluded=own),
        "mse_de20": genewise.mse_de(predicted, true, score),
        "r2_delta": metrics.r2_delta(predicted, true),
        "pearson_delta": metrics.pearson_delta(predicted, true),
        "mse": metrics.mse(predicted, true),
        "direction": directions.right,
        "direction_wrong": directions.wrong,
    }
    return pd.DataFrame(columns, index=pd.Index(truth.names, name="condition"))
