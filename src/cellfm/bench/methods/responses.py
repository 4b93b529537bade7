"""Predictors of perturbation responses as methods of the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cellfm.bench.task import Answer, Case, Context
from cellfm.corpus.conditions import Condition
from cellfm.genes import resolve
from cellfm.tl._perturb.data import PerturbData
from cellfm.tl._response.baselines import BASELINES, Prediction
from cellfm.tl._response.gene_features import GeneFeatures, Kind
from cellfm.tl._response.kernel import choose_kernel, fit_kernel
from cellfm.tl._response.responses import Responses
from cellfm.weights.folder import random_twin

Ask = Callable[[Responses, GeneFeatures, Sequence[Condition]], tuple[Prediction, tuple[str, ...]]]
"""Fits to responses and predicts; also says what was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResponseView(Case):
    """What methods see of a screen: cells of controls and training conditions, and the names of what to predict.

    Attributes
    ----------
    data
        Cells; in a case those of all conditions, in a view none of those to be predicted.
    asked
        What is to be predicted; nothing in a case.
    """

    data: PerturbData
    asked: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Answer with ``delta``, and ``sd`` where the method knows one, of shape (asked condition, gene).

    Attributes
    ----------
    ask
        Fits and predicts.
    random
        Take the vectors of genes from the same network with random weights.
    shuffle
        Permute the names of the training conditions first, singles among singles and pairs among pairs.
    """

    ask: Ask
    random: bool = False
    shuffle: bool = False

    def __call__(self, case: Case, context: Context) -> Answer:
        """Answer a view."""
        assert isinstance(case, ResponseView)
        found, notes = self.predict(case, context, case.asked)
        sd = {"sd": found.sd} if np.isfinite(found.sd).all() else {}
        return Answer(arrays={"delta": found.delta, **sd}, notes=notes)

    def predict(
        self, view: ResponseView, context: Context, asked: Sequence[Condition]
    ) -> tuple[Prediction, tuple[str, ...]]:
        """Fit to a view's cells and predict conditions.

        Parameters
        ----------
        view
            What may be fitted on.
        context
            With the model.
        asked
            What to predict.
        """
        train = responses_of(view, context)
        if self.shuffle:
            train = shuffled(train, seed=view.seed)
        return self.ask(train, features_of(view, context, random=self.random), asked)


def responses_of(view: ResponseView, context: Context) -> Responses:
    """Return the responses of the training conditions of a view, computed once for all methods.

    Parameters
    ----------
    view
        With the cells.
    context
        Keeps them.
    """
    make = partial(Responses.of, view.data)
    return context.states.remember(("responses", view.dataset.hash, view.rows, view.fold), make)


def features_of(view: ResponseView, context: Context, *, random: bool = False) -> GeneFeatures:
    """Return the vectors of genes, from the control cells of a view, computed once.

    Parameters
    ----------
    view
        With the cells.
    context
        With the model.
    random
        Of the same network with random weights.
    """

    def make() -> GeneFeatures:
        model = random_twin(context.model, seed=view.seed) if random else context.model
        match = resolve(view.data.genes, model.vocabulary, min_matched=0.0)
        return GeneFeatures.of(replace(view.data, match=match), model, seed=view.seed)

    rows = view.rows[view.data.controls]
    key = ("gene vectors", context.model.hash, str(random), str(view.seed), view.dataset.hash, rows)
    return context.states.remember(key, make)


def shuffled(train: Responses, *, seed: int) -> Responses:
    """Return responses under each other's names, singles among singles and pairs among pairs.

    Parameters
    ----------
    train
        Responses.
    seed
        Of the permutation.
    """
    rng, order = np.random.default_rng([seed, 1]), np.arange(len(train.conditions))
    n_genes = np.array([len(each.genes) for each in train.conditions])
    for number in np.unique(n_genes):
        own = np.flatnonzero(n_genes == number)
        order[own] = rng.permutation(own)
    return replace(
        train, delta=train.delta[order], tau=train.tau[order], n_cells=train.n_cells[order]
    )


def baseline(name: str) -> Ask:
    """Return one of the package's baselines.

    Parameters
    ----------
    name
        Of :data:`cellfm.tl._response.baselines.BASELINES`.
    """

    def ask(
        train: Responses, features: GeneFeatures, asked: Sequence[Condition]
    ) -> tuple[Prediction, tuple[str, ...]]:
        return BASELINES[name](train, features, asked), ()

    return ask


def chosen_kernel(
    train: Responses, features: GeneFeatures, asked: Sequence[Condition]
) -> tuple[Prediction, tuple[str, ...]]:
    """Gaussian processes, the kinds of vectors chosen by cross-validation on the training genes.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    asked
        What to predict.
    """
    predictor, errors = choose_kernel(train, features)
    return predictor.predict(asked), (f"chose {min(errors, key=errors.__getitem__)}",)


def kernel(kinds: tuple[Kind, ...], *, response: bool) -> Ask:
    """Return Gaussian processes on some vectors of genes.

    Parameters
    ----------
    kinds
        Which vectors.
    response
        Use the genes' own responses to training perturbations too.
    """

    def ask(
        train: Responses, features: GeneFeatures, asked: Sequence[Condition]
    ) -> tuple[Prediction, tuple[str, ...]]:
        return fit_kernel(train, features, kinds=kinds, response=response).predict(asked), ()

    return ask


def graph(
    train: Responses, features: GeneFeatures, asked: Sequence[Condition]
) -> tuple[Prediction, tuple[str, ...]]:
    """Graph head, stopped by training conditions that each member keeps back.

    Parameters
    ----------
    train
        Responses to learn from.
    features
        Vectors of genes.
    asked
        What to predict.
    """
    from cellfm.tl._response.graph import fit_graph_head

    return fit_graph_head(train, features).predict(asked), ()
