"""Context transfer: responses measured in some cell types, lines or donors, tried in another one."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._perturb.data import PerturbData
from cellfm.tl._perturb.judge import CANDIDATE, CEILING, ceiling, scores_table
from cellfm.tl._response.gene_features import GeneFeatures
from cellfm.tl._response.kernel import choose_kernel
from cellfm.tl._response.responses import Responses
from cellfm.tl._response.scores import Truth, score_responses
from cellfm.tl._response.transfer import transfer_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

SAME, MOVED = "same response", "moved response"
LEAST_CONDITIONS = 3


def judge_transfer(
    data: PerturbData, features: GeneFeatures, *, seed: int
) -> "tuple[pd.DataFrame, tuple[str, ...]] | None":
    """Predict the responses in each context from those in the others.

    ``same response`` takes the change of log expression as it was elsewhere; ``moved response`` takes the fold change
    (:mod:`cellfm.tl._response.transfer`); the candidate moves the denoised responses of :mod:`cellfm.tl._response.kernel`.

    Parameters
    ----------
    data
        Cells of several contexts.
    features
        Vectors of genes.
    seed
        Of halves and resamples.

    Returns
    -------
    A row for each method as in :class:`~cellfm.tl._perturb.judge.Judged`, over all pairs of a condition and a context; and the contexts that were held
    out. None where no context shares three conditions with the others.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    held = []
    for number, context in enumerate(data.contexts):
        scored = _one_context(data, features, number, seed=seed)
        if scored is None:
            continue
        held.append(context)
        for name, table in scored.items():
            tables.setdefault(name, []).append(table)
    if not held:
        return None
    from pandas import concat

    complete = {name: concat(parts) for name, parts in tables.items() if len(parts) == len(held)}
    return scores_table(complete, seed=seed), tuple(held)


def _one_context(
    data: PerturbData, features: GeneFeatures, number: int, *, seed: int
) -> "Mapping[str, pd.DataFrame] | None":
    """Score predictions for one context; None where it cannot be held out."""
    inside = data.context == number
    here, there = data.take(inside), data.take(~inside)
    if not len(here.controls) or not len(there.controls) or (here.code == 0).all():
        return None
    if (there.code == 0).all():
        return None
    truth, train = Responses.of(here), Responses.of(there)
    shared = [each for each in truth.conditions if each in set(train.conditions)]
    if len(shared) < LEAST_CONDITIONS:
        return None
    tested = np.array([truth.conditions.index(each) for each in shared])
    truth = truth.take(tested)
    rows = np.array([train.conditions.index(each) for each in shared])
    measured = train.delta[rows]
    denoised = choose_kernel(train, features, seed=seed)[0].predict(shared).delta
    answers = {
        CANDIDATE: _moved(denoised, train, truth),
        "no-change": np.zeros_like(measured),
        "perturbed-mean": np.tile(train.mean, (len(shared), 1)),
        SAME: measured,
        MOVED: _moved(measured, train, truth),
    }
    judged = Truth.of(truth)
    scores = {name: score_responses(delta, judged) for name, delta in answers.items()}
    half = ceiling(here, truth, np.arange(len(shared)), seed=seed)
    return scores if half is None else {**scores, CEILING: half}


def _moved(
    delta: "NDArray[np.float64]", train: Responses, truth: Responses
) -> "NDArray[np.float64]":
    return transfer_response(delta, train.sensitivity, truth.sensitivity)
