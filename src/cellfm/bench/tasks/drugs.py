"""Chemical perturbation: responses to drugs that were not measured, at doses that were not, or in types of cells where they were not.

Treatments (drug, dose, context) are held out by chemical scaffold, by dose level and by context, in folds that test each once. A view has
one half of the control cells and the treated cells of its training treatments. Predictions are judged with the other half of the controls,
so that a chance deviation of these is worth nothing; the 50 most differential genes of a treatment are chosen by one half of its cells and
judged by the other. Whole drugs are resampled.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.drug_cells import DrugDataset
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role, Score
from cellfm.corpus.split import TEST
from cellfm.errors import ConfigError, DataError
from cellfm.genes import Vocabulary
from cellfm.tl._drug.baselines import BASELINES, DrugTraining, TreatmentErrors, top_genes
from cellfm.tl._drug.data import (
    DrugData,
    DrugOptions,
    HoldOut,
    Treatment,
    TreatmentSplit,
    fold_treatments,
    read_drugs,
    units_of,
)
from cellfm.tl._drug.features import DrugFeatures
from cellfm.tl._drug.judge import Predict, drug_weights, head_predictor, shuffled
from cellfm.tl._drug.responses import (
    Contexts,
    DrugResponses,
    control_halves,
    fitted_and_truth,
)
from cellfm.tl._drug.train import DrugCells, drug_of, fit_map, gene_spaces, structures
from cellfm.tl._drug.transport import CellMap, CellPairs, Latent, dense_values, gaussian_map
from cellfm.tl._embed import match_genes
from cellfm.tl._response.population import e_distance, mmd
from cellfm.tl._states import EmbedOptions, default_pool
from cellfm.weights.folder import random_twin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.weights.folder import Pretrained

    Floats = NDArray[np.float64]

MIN_CELLS = 10
N_FOLDS = 5
N_PROBES = 60
"""Control cells of a context whose cells are to be predicted."""
N_COMPONENTS = 30
N_COORDINATES = 6
"""Coordinates of a drug that a conditional potential gets."""
PROTOCOLS: tuple[HoldOut, ...] = ("scaffold", "dose", "context")
_CEILING = "ceiling"
METRICS = (
    Metric(name="r2_top50", summary="R² of deltas over the 50 most differential genes, against no change", chance=0.0),
    Metric(name="r2", summary="R² of deltas over all genes, against no change", chance=0.0),
    Metric(name="pearson_delta", summary="mean correlation of predicted and measured delta"),
    Metric(name="e_distance", summary="mean energy distance of predicted and treated cells, PCA-30", higher=False, best=0.0),
    Metric(name="mmd", summary="mean unbiased squared MMD of predicted and treated cells, PCA-30", higher=False, best=0.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugView(Case):
    """What a method sees of a fold.

    Attributes
    ----------
    data
        Training treatments and half of the control cells.
    features
        Structures of all drugs, those asked for included.
    asked
        Treatments to predict, ``delta`` of shape (treatment, gene).
    probes
        Rows in `data` of the control cells of each context, of which ``cells`` may be predicted, log values of shape (treatment, probe, gene).
    """

    data: DrugData
    features: DrugFeatures
    asked: tuple[Treatment, ...]
    probes: "tuple[NDArray[np.int64], ...]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugCase(Case):
    """Treated cells and the folds of their treatments.

    Attributes
    ----------
    data
        All cells.
    features
        Of all drugs.
    splits
        Folds.
    truth
        Responses to the half of the controls that no view has.
    """

    data: DrugData
    features: DrugFeatures
    splits: tuple[TreatmentSplit, ...]
    truth: DrugResponses


@dataclass(frozen=True, slots=True, kw_only=True)
class Drugs:
    """The task."""

    name: str = "drugs"
    summary: str = "responses of cells to unseen drugs, doses and contexts"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "no-change"
    positive: str | None = _CEILING
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "negative", "positive", "shuffled_labels"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        if not isinstance(dataset, DrugDataset):
            return "it names no column with drugs"
        if dataset.scale != "counts":
            return "responses are measured on raw counts"
        return None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield a case for each way of holding out treatments that the data allow."""
        assert isinstance(dataset, DrugDataset)
        options = DrugOptions(
            drug=dataset.drug, dose=dataset.dose, control=dataset.control, context=dataset.context, batch=dataset.batch,
            min_cells=MIN_CELLS, min_matched=0.0,
        )  # fmt: skip
        data = read_drugs(dataset.cells, Vocabulary.from_hgnc(), options)
        smiles = None if dataset.smiles is None else structures(dataset.cells, dataset.drug, dataset.smiles)  # fmt: skip
        features = DrugFeatures.of(data.drugs, smiles=smiles)
        _, truth = fitted_and_truth(data)
        for by in PROTOCOLS if features.scaffolds else ("drug", *PROTOCOLS[1:]):
            try:
                splits = fold_treatments(truth.treatments, by, scaffolds=features.scaffold_of, n_folds=N_FOLDS, seed=seed)  # fmt: skip
            except (DataError, ConfigError):
                continue  # fewer than three of them
            digest = hashlib.sha256(f"{MIN_CELLS} {seed} {' '.join(s.hash for s in splits)}".encode())  # fmt: skip
            yield DrugCase(
                dataset=dataset,
                adata=dataset.cells[data.rows],
                rows=data.rows,
                split=by,
                split_hash=digest.hexdigest(),
                part=np.where(control_halves(data)[0], 0, TEST).astype(np.int8),
                seed=seed,
                notes=(*data.notes, f"{len(truth.treatments)} treatments of {len(data.drugs)} drugs, {len(splits)} folds"),
                data=data,
                features=features,
                splits=tuple(splits),
                truth=truth,
            )  # fmt: skip

    def views(self, case: Case) -> Sequence[Case]:
        """Return a view for each fold, without the cells of what is to be predicted and half of the controls."""
        from anndata import AnnData

        assert isinstance(case, DrugCase)
        shown_controls, _ = control_halves(case.data)
        views = []
        for number, split in enumerate(case.splits):
            data = case.data.only(split.part != TEST, shown_controls)
            rows = np.searchsorted(case.data.rows, data.rows)
            adata = AnnData(case.adata.X[rows])
            adata.var_names = case.adata.var_names
            views.append(
                DrugView(
                    dataset=case.dataset.blind(),
                    adata=adata,
                    rows=data.rows,
                    split=case.split,
                    split_hash=case.split_hash,
                    part=np.zeros(len(data.rows), np.int8),
                    seed=case.seed,
                    fold=f"fold {1 + number}",
                    data=data,
                    features=case.features,
                    asked=tuple(case.data.treatments[i] for i in np.flatnonzero(split.part == TEST)),
                    probes=probes(data),
                )
            )  # fmt: skip
        return views

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge ``delta``, and ``cells`` where there are any; otherwise each control cell is shifted by the delta."""
        assert isinstance(case, DrugCase)
        tested = [np.flatnonzero(split.part == TEST) for split in case.splits]
        truth = case.truth.take(np.concatenate(tested))
        ceiling = all(_CEILING in answer.arrays for answer in answers)
        if ceiling:
            errors = _least_errors(truth)
        else:
            errors = TreatmentErrors.of(np.concatenate([a.arrays["delta"] for a in answers]), truth)
        weights = drug_weights(truth.treatments, seed=case.seed)
        distance = [_distances(case, answer, rows, ceiling=ceiling) for answer, rows in zip(answers, tested, strict=True)]  # fmt: skip
        e, m = (np.concatenate([each[k] for each in distance]) for k in (0, 1))
        n = len({t.drug for t in truth.treatments})
        known = np.isfinite(e)

        def score(values: "Floats") -> Score:
            return Score(value=float(values[0]), draws=values[1:], n_units=n, unit="drug")

        def mean(values: "Floats", rows: "NDArray[np.bool_] | None" = None) -> Score:
            w = weights if rows is None else weights[:, rows]
            v = values if rows is None else values[rows]
            return score((w @ v) / np.maximum(w.sum(axis=1), 1e-12))

        scores = {
            "r2_top50": score(errors.r2(weights, top=True)),
            "r2": score(errors.r2(weights)),
            "pearson_delta": mean(errors.pearson),
        }
        if known.any():
            scores |= {"e_distance": mean(e, known), "mmd": mean(m, known)}
        notes = tuple(dict.fromkeys(note for answer in answers for note in answer.notes))
        return Outcome(scores=scores, notes=(*case.notes, *notes))


def probes(data: DrugData) -> "tuple[NDArray[np.int64], ...]":
    """Return the first control cells of each context.

    Parameters
    ----------
    data
        Cells.
    """
    return tuple(
        np.flatnonzero((data.code < 0) & (data.context == number))[:N_PROBES]
        for number in range(len(data.contexts))
    )


def _least_errors(truth: DrugResponses) -> TreatmentErrors:
    """Errors to expect of the true responses: the sampling variance of what was measured; correlation √(1 − noise / total)."""
    top = top_genes(truth)
    centred = truth.delta - truth.delta.mean(axis=1, keepdims=True)
    noise = truth.variance.sum(axis=1) / np.maximum(np.square(centred).sum(axis=1), 1e-12)
    return TreatmentErrors(
        error=truth.variance.sum(axis=1),
        total=np.square(truth.delta).sum(axis=1),
        error_top=((truth.split_tau[:, None] * truth.spread) * top).sum(axis=1),
        total_top=(np.square(truth.split[1]) * top).sum(axis=1),
        pearson=np.sqrt(np.clip(1.0 - noise, 0.0, 1.0)),
    )


def _distances(
    case: DrugCase, answer: Answer, rows: "NDArray[np.int64]", *, ceiling: bool
) -> "tuple[Floats, Floats]":
    """Energy distance and MMD of each treatment of a fold; NaN where there are few cells."""
    data, shown = case.data, control_halves(case.data)[0]
    controls = np.flatnonzero(~shown & (data.code < 0))
    values = dense_values(data.counts[controls])
    space = Latent.fit("expression", values, np.zeros((len(values), 1), np.float32), n_components=N_COMPONENTS)  # fmt: skip
    none = np.zeros((1, 1), np.float32)
    own = data.only(np.ones(len(data.treatments), bool), shown)
    starts = [dense_values(own.counts[each]) for each in probes(own)]
    found = np.full((2, len(rows)), np.nan)
    for place, number in enumerate(rows):
        there = np.flatnonzero(data.code == number)
        real = space.encode(dense_values(data.counts[there]), none)
        start = starts[data.contexts.index(data.treatments[number].context)]
        if ceiling:
            guess, real = real[::2], real[1::2]
        elif "cells" in answer.arrays:
            guess = space.encode(
                answer.arrays["cells"][place, : len(start)].astype(np.float64), none
            )
        else:
            guess = space.encode(np.maximum(start + answer.arrays["delta"][place], 0.0), none)
        if min(len(guess), len(real)) >= 5:
            found[:, place] = e_distance(guess, real), mmd(guess, real)
    return found[0], found[1]


def _view(case: Case) -> DrugView:
    assert isinstance(case, DrugView)
    return case


def _training(view: DrugView, states: "NDArray[np.float32] | None" = None) -> DrugTraining:
    """Return what a prediction may be fitted on; states are those of the control cells."""
    control = np.flatnonzero(view.data.code < 0)
    known = DrugResponses.of(view.data)
    told = np.zeros((len(control), 1), np.float32) if states is None else states
    contexts = Contexts.of(view.data.counts[control], view.data.context[control], view.data.contexts, told)  # fmt: skip
    by = {"scaffold": "scaffold", "dose": "dose", "context": "context"}.get(view.split, "drug")
    block = units_of(known.treatments, by, view.features.scaffold_of)  # type: ignore[arg-type] # of HoldOut
    if len(np.unique(block)) < 2:
        block = units_of(known.treatments, "drug")
    return DrugTraining(responses=known, features=view.features, contexts=contexts, block=block)


def _baseline(predict: Predict, case: Case, context: Context) -> Answer:
    view = _view(case)
    train = context.states.remember(
        ("drug training", view.dataset.hash, view.split_hash, view.rows), partial(_training, view)
    )
    return Answer(arrays={"delta": predict(train, view.asked)})


def _ceiling_answer(case: Case, context: Context) -> Answer:
    return Answer(arrays={_CEILING: np.ones(1)})


def _spaces(
    view: DrugView, model: "Pretrained | None", context: Context
) -> "tuple[dict[str, Floats], NDArray[np.float32]]":
    """Gene spaces, and states of the control cells: principal components where there is no model."""
    control = np.flatnonzero(view.data.code < 0)
    reading = model or context.model
    match = match_genes(view.adata.var, reading.vocabulary, EmbedOptions(min_matched=0.0))
    spaces = gene_spaces(replace(view.data, match=match), reading)
    if model is None:
        values = dense_values(view.data.counts[control])
        scores = (values - values.mean(axis=0)) @ spaces["coexpression"]
        return {"coexpression": spaces["coexpression"]}, scores.astype(np.float32)
    # The control cells are the same in all folds, so their states are computed once.
    shown = replace(view, adata=view.adata[control].copy(), rows=view.rows[control])
    states = context.states.frozen(shown, model, pool=default_pool(model))
    return spaces, states


def _head(
    case: Case,
    context: Context,
    *,
    model: Callable[[Case, Context], "Pretrained | None"],
    wrong: bool = False,
) -> Answer:
    view = _view(case)
    spaces, states = _spaces(view, model(case, context), context)
    predict = head_predictor(spaces, seed=case.seed)
    if wrong:
        predict = shuffled(predict, seed=case.seed)
    return Answer(arrays={"delta": predict(_training(view, states), view.asked)})


def _maps(case: Case, context: Context, *, gaussian: bool) -> Answer:
    """Fit a map of cells for each drug, in the principal components of expression; no change for drugs without cells."""
    view, none = _view(case), np.zeros((1, 1), np.float32)
    data, drugs = view.data, drug_of(view.data)
    values = dense_values(data.counts)
    latent = Latent.fit("expression", values, none)
    control = np.flatnonzero(data.code < 0)
    cells = _drug_cells(view)
    predicted = np.zeros((len(view.asked), N_PROBES, values.shape[1]), np.float32)
    delta = np.zeros((len(view.asked), values.shape[1]))
    for name in sorted({t.drug for t in view.asked}):
        own = np.flatnonzero((drugs == name) & (data.code >= 0))
        fitted = fit_map(cells, latent, (control, own), seed=case.seed) if len(own) and not gaussian else None  # fmt: skip
        for place, t in enumerate(view.asked):
            if t.drug != name:
                continue
            here = control[data.context[control] == data.contexts.index(t.context)]
            z = latent.encode(values[here], none)
            if fitted is not None:
                change = fitted(z, np.array([np.log10(t.dose)])) - z
            elif len(own):
                source, target = _nearest(data, latent, (control, own), t)
                change = gaussian_map(source, target, z) - z
            else:
                change = np.zeros_like(z)
            moved = np.maximum(values[here] + change @ latent.decoder, 0.0)
            delta[place] = (change @ latent.decoder).mean(axis=0)
            some = moved[:N_PROBES]
            predicted[place, : len(some)] = some
    return Answer(arrays={"delta": delta, "cells": predicted}, notes=_unseen(view, drugs))


def _nearest(
    data: DrugData,
    latent: Latent,
    rows: "tuple[NDArray[np.int64], NDArray[np.int64]]",
    asked: Treatment,
) -> "tuple[Floats, Floats]":
    """Latents of the drug's cells at the nearest dose, and of control cells of the same contexts."""
    control, own = rows
    none = np.zeros((1, 1), np.float32)
    dose = np.log10([data.treatments[i].dose for i in data.code[own]])
    gap = np.abs(dose - np.log10(asked.dose))
    near = own[gap <= gap.min() + 1e-9]
    here = control[np.isin(data.context[control], data.context[near])]
    return tuple(latent.encode(dense_values(data.counts[r]), none) for r in (here, near))  # type: ignore[return-value]


def _potential(case: Case, context: Context) -> Answer:
    """One pair of potentials for all drugs, conditioned on coordinates of the structure and on log dose: also for unseen drugs."""
    view, none = _view(case), np.zeros((1, 1), np.float32)
    data = view.data
    values = dense_values(data.counts)
    latent = Latent.fit("expression", values, none)
    control, own = np.flatnonzero(data.code < 0), np.flatnonzero(data.code >= 0)
    coordinates = _coordinates(view)
    each = np.stack([np.append(coordinates[t.drug], np.log10(t.dose)) for t in data.treatments])
    z = latent.encode(values, none)
    fitted = CellMap.fit(
        CellPairs(source=z[control], source_context=data.context[control], target=z[own],
                  target_context=data.context[own], condition=each[data.code[own]]),
        n_steps=600, seed=case.seed,
    )  # fmt: skip
    predicted = np.zeros((len(view.asked), N_PROBES, values.shape[1]), np.float32)
    delta = np.zeros((len(view.asked), values.shape[1]))
    for place, t in enumerate(view.asked):
        here = control[data.context[control] == data.contexts.index(t.context)]
        change = (fitted(z[here], np.append(coordinates[t.drug], np.log10(t.dose))) - z[here]) @ latent.decoder  # fmt: skip
        delta[place] = change.mean(axis=0)
        some = np.maximum(values[here] + change, 0.0)[:N_PROBES]
        predicted[place, : len(some)] = some
    return Answer(arrays={"delta": delta, "cells": predicted})


def _coordinates(view: DrugView) -> "dict[str, Floats]":
    """Coordinates of all drugs on the leading axes of the training drugs' similarity."""
    features = view.features
    known = sorted({t.drug for t in view.data.treatments})
    rows = [features.names.index(name) for name in known]
    similar = features.similarity(features.table)
    own = similar[np.ix_(rows, rows)]
    size, vectors = np.linalg.eigh(own - own.mean())
    kept = np.argsort(-size)[:N_COORDINATES]
    scores = (similar[:, rows] - own.mean()) @ vectors[:, kept] / np.sqrt(np.maximum(size[kept], 1e-6))  # fmt: skip
    return dict(zip(features.names, scores, strict=True))


def _drug_cells(view: DrugView) -> DrugCells:
    train = _training(view)
    none = np.zeros((len(view.data.code), 1), np.float32)
    return DrugCells(
        data=view.data, responses=train.responses, features=view.features, contexts=train.contexts, states=none, spaces={},
    )  # fmt: skip


def _unseen(view: DrugView, drugs: "NDArray[np.str_]") -> tuple[str, ...]:
    lacking = {t.drug for t in view.asked} - set(drugs.tolist())
    return ("of drugs without training cells: no change",) if lacking else ()


def _ours(case: Case, context: Context) -> "Pretrained | None":
    return context.model


def _twin(case: Case, context: Context) -> "Pretrained | None":
    return random_twin(context.model, seed=case.seed)


def _no_model(case: Case, context: Context) -> "Pretrained | None":
    return None


ROLES: Mapping[str, tuple[str, Role]] = {
    "no-change": ("nothing happens", "negative"),
    "drug-mean": ("mean response of the dose over drugs", "classical"),
    "context-mean": ("mean response of the context", "classical"),
    "additive": ("mean, and what drug, context and dose add", "classical"),
    "fingerprint-ridge": ("ridge regression on Morgan bits × log dose, and context", "classical"),
    "same-drug-shift": ("the drug's own response, doses interpolated, moved to the context", "classical"),
}  # fmt: skip


def _methods() -> tuple[Method, ...]:
    def make(name: str, summary: str, run: Callable[[Case, Context], Answer], role: Role, *, trains: bool = False, needs: tuple[str, ...] = ()) -> Method:  # fmt: skip
        against = ("random-weights", "pca-head", "drug-mean", "fingerprint-ridge", "additive", "same-drug-shift", "shuffled-drugs") if name == "cellfm" else ()  # fmt: skip
        return Method(name=name, summary=summary, setting="fitted", roles=frozenset({role}), run=run, needs=needs, trains=trains, against=against)  # fmt: skip

    simple = [make(name, summary, partial(_baseline, BASELINES[name]), role) for name, (summary, role) in ROLES.items()]  # fmt: skip
    return (
        *simple,
        make("pca-head", "Gaussian process over structure, dose and context; co-expression only", partial(_head, model=_no_model), "pca"),
        make("cellfm", "the same with CellFM states of contexts and gene embeddings", partial(_head, model=_ours), "candidate"),
        make("random-weights", "the same with random weights", partial(_head, model=_twin), "random_weights"),
        make("shuffled-drugs", "cellfm asked about another drug", partial(_head, model=_ours, wrong=True), "shuffled_labels"),
        make("cell-transport", "a convex potential for each drug, of log dose (CellOT)", partial(_maps, gaussian=False), "classical", trains=True),
        make("gaussian-transport", "the optimal map between Gaussians, at the nearest dose (POT)", partial(_maps, gaussian=True), "classical", needs=("ot",)),
        make("conditional-potential", "one convex potential of structure and log dose", _potential, "classical", trains=True),
        make(_CEILING, "the true response: only the noise of the measurement is left", _ceiling_answer, "positive"),
    )  # fmt: skip


TASK = replace(Drugs(), methods=_methods())
