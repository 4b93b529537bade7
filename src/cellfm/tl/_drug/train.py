"""Responses of cells to drugs: train on treated cells, predict untreated ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from cellfm.errors import ConfigError, DataError
from cellfm.tl._drug.baselines import Baseline, DrugTraining, same_drug
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
from cellfm.tl._drug.features import DrugFeatures, read_smiles
from cellfm.tl._drug.head import DrugHead, orthonormal
from cellfm.tl._drug.judge import (
    default_hold_out,
    head_predictor,
    judge_folds,
    standard_methods,
)
from cellfm.tl._drug.model import DrugMethod, DrugModel
from cellfm.tl._drug.responses import (
    Contexts,
    DrugResponses,
    control_halves,
    fitted_and_truth,
)
from cellfm.tl._drug.transport import KINDS, CellMap, CellPairs, Latent, LatentKind, dense_values
from cellfm.tl._embed import frozen_states
from cellfm.tl._labels import label_column
from cellfm.tl._response.population import e_distance
from cellfm.tl._states import EmbedOptions, as_model, default_pool
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

N_COEXPRESSION, N_EMBEDDING = 30, 64
N_TRIED_DRUGS = 3
"""Drugs on whose held-out cells the latent is chosen."""
HELD_CELLS = 0.3
N_JUDGED = 300
"""Cells of a population whose energy distance is taken."""
MOST_CELLS = 20_000
"""Cells that a latent is fitted on."""
Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done and what there is to do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugCells:
    """Everything a method is fitted on.

    Attributes
    ----------
    data
        Cells.
    responses, features, contexts
        Of all treatments.
    states
        Frozen states, shape (cell, dim).
    spaces
        Gene spaces by name, shape (gene, component).
    """

    data: DrugData
    responses: DrugResponses
    features: DrugFeatures
    contexts: Contexts
    states: "NDArray[np.float32]"
    spaces: "Mapping[str, Floats]"

    @staticmethod
    def of(
        data: DrugData,
        features: DrugFeatures,
        model: Pretrained,
        states: "NDArray[np.float32]",
    ) -> "DrugCells":
        """Average cells, and take gene spaces from the control cells and the model.

        Parameters
        ----------
        data
            Cells.
        features
            Of their drugs.
        model
            Whose gene embeddings are taken.
        states
            Of the cells.
        """
        control = np.flatnonzero(data.code < 0)
        contexts = Contexts.of(
            data.counts[control], data.context[control], data.contexts, states[control]
        )
        return DrugCells(
            data=data,
            responses=DrugResponses.of(data),
            features=features,
            contexts=contexts,
            states=states,
            spaces=gene_spaces(data, model),
        )


def train_drugs(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    drug: str = "drug",
    dose: str | None = "dose",
    context: str | None = None,
    batch: str | None = None,
    control: str | None = None,
    smiles: str | Path | Mapping[str, str] | None = None,
    features: "Mapping[str, NDArray[np.floating]] | None" = None,
    method: DrugMethod = "conditional",
    hold_out: HoldOut | None = None,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    n_steps: int = 300,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> DrugModel:
    """Learn what drugs do to cells, and say how well on drugs, doses or contexts that were held out.

    The scores are of models fitted without the held-out treatments; the model that is returned is then fitted on all.

    Parameters
    ----------
    adata
        Treated and control cells × genes, counts.
    model
        CellFM model; None takes the small one that comes with the package.
    drug, dose
        Columns of ``obs``: the drug, or what controls are called; and the dose, a number above 0 in one unit (None: one dose each).
    context, batch
        Columns with the cell type or line, and with the replicate.
    control
        What controls are called, besides dmso, vehicle, control, ….
    smiles
        Structures: a column of ``obs``, a mapping, or a file of two columns, drug and SMILES. Needs rdkit (extra chem).
    features
        Instead: numbers of each drug. Without either, nothing can be predicted of a drug that was not trained on.
    method
        ``"conditional"``: a Gaussian process over structure, dose and context; ``"transport"``: an optimal-transport map of cells for each drug
        (CellOT), for drugs that were measured; ``"shift"``: the measured mean response, moved to the context.
    hold_out
        What the scores hold out whole: ``"drug"``, ``"scaffold"``, ``"dose"`` or ``"context"``; None chooses by what there is.
    min_cells
        Treatments with fewer cells are left out.
    layer, use_raw, gene_names, min_matched
        As in `embed`.
    n_steps
        Steps of the potentials of a map, with the method transport.
    seed
        Of splits, settings and maps.
    device
        To compute states on.
    progress
        Called with (stage, done, in all).

    Raises
    ------
    DataError
        A column is missing, a dose is no number above 0, there are no controls or too few cells, or a SMILES cannot be read.
    CountsError
        The values are no counts.
    ConfigError
        The method or what to hold out is unknown, or both structures and features were given.
    MissingDependencyError
        Structures were given, and rdkit is missing.

    Examples
    --------
    >>> trained = cellfm.tl.train_drugs(
    ...     adata, context="cell_line", smiles="SMILES"
    ... )  # doctest: +SKIP
    >>> trained.predict(controls, "vorinostat", 1.0, context="cell_line")  # doctest: +SKIP
    """
    _check(method, smiles, features)
    tell = progress or (lambda what, done, total: None)
    pretrained = as_model(model, device)
    options = DrugOptions(
        drug=drug, dose=dose, control=control, context=context, batch=batch, min_cells=min_cells, layer=layer,
        use_raw=use_raw, gene_names=gene_names, min_matched=min_matched,
    )  # fmt: skip
    data = read_drugs(adata, pretrained.vocabulary, options)
    table = DrugFeatures.of(data.drugs, smiles=structures(adata, drug, smiles), table=features)
    reading = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, pool=default_pool(pretrained), min_matched=min_matched, empty="nan")  # fmt: skip
    chosen = data.rows if method == "transport" else data.rows[data.code < 0]
    states = np.zeros((len(data.rows), _width(pretrained)), np.float32)
    found, _ = frozen_states(adata[chosen], pretrained, reading, progress=lambda a, b: tell("cell states", a, b))  # fmt: skip
    states[np.isin(data.rows, chosen)] = np.nan_to_num(found)
    cells = DrugCells.of(data, table, pretrained, states)
    by = hold_out or _default(method, cells)
    fitted = _judged(cells, _Plan(method=method, by=by, n_steps=n_steps, seed=seed), tell)
    notes = (*data.notes, *fitted.notes, *_about(table))
    return replace(fitted, weights_hash=pretrained.hash, genes=data.genes, notes=notes)


def gene_spaces(data: DrugData, model: Pretrained) -> "dict[str, Floats]":
    """Return gene spaces in which responses may be expected: principal components of the control cells, gene embeddings of the model.

    Parameters
    ----------
    data
        Cells.
    model
        Whose embeddings are taken.
    """
    control = np.flatnonzero(data.code < 0)[:MOST_CELLS]
    values = dense_values(data.counts[control])
    centred = values - values.mean(axis=0)
    table = model.network.gene_embedding.weight.detach().cpu().numpy()[data.match.token]
    known = data.match.token > 0
    table = np.where(known[:, None], table - table[known].mean(axis=0), 0.0)
    return {
        "coexpression": orthonormal((centred.T @ centred) / len(centred), N_COEXPRESSION),
        "cellfm": orthonormal(table, N_EMBEDDING),
    }


def choose_latent(
    cells: DrugCells,
    treated: "NDArray[np.int64]",
    *,
    kinds: Sequence[LatentKind] = KINDS,
    seed: int,
    n_steps: int = 300,
) -> "tuple[LatentKind, dict[LatentKind, float]]":
    """Choose what cells are mapped in: by the energy distance of mapped controls from held-out treated cells of a few drugs.

    Parameters
    ----------
    cells
        All cells.
    treated
        Treated cells that may be used.
    kinds
        To choose among.
    seed
        Of cells and maps.
    n_steps
        Of the maps.

    Returns
    -------
    The best, and the mean distance of each.
    """
    data, rng = cells.data, np.random.default_rng(seed)
    held = rng.random(len(data.code)) < HELD_CELLS
    control = np.flatnonzero(data.code < 0)
    values = dense_values(data.counts)
    known = np.concatenate([control[~held[control]], treated[~held[treated]]])[:MOST_CELLS]
    judge = Latent.fit("expression", values[known], cells.states[known])
    drugs = drug_of(data)
    names, number = np.unique(drugs[treated], return_counts=True)
    tried = names[np.argsort(-number, kind="stable")][:N_TRIED_DRUGS]
    distances: dict[LatentKind, float] = {}
    for kind in kinds:
        latent = Latent.fit(kind, values[known], cells.states[known])
        found = []
        for name in tried:
            own = treated[drugs[treated] == name]
            fitted = fit_map(cells, latent, (control[~held[control]], own[~held[own]]), seed=seed, n_steps=n_steps)  # fmt: skip
            found += _distances(cells, (latent, fitted, judge), (control[held[control]], own[held[own]]), values)  # fmt: skip
        distances[kind] = float(np.mean(found)) if found else float("inf")
    return min(distances, key=lambda kind: distances[kind]), distances


def fit_map(
    cells: DrugCells,
    latent: Latent,
    rows: "tuple[NDArray[np.int64], NDArray[np.int64]]",
    *,
    seed: int,
    n_steps: int = 300,
) -> CellMap:
    """Fit the map of a drug, of its log dose.

    Parameters
    ----------
    cells
        All cells.
    latent
        The space.
    rows
        Control cells, and cells of the drug.
    seed, n_steps
        As in `CellMap.fit`.
    """
    control, own = rows
    data = cells.data
    own = own[np.isin(data.context[own], data.context[control])]
    dose = np.array([data.treatments[i].dose for i in data.code[own]])
    pairs = CellPairs(
        source=latent.encode(dense_values(data.counts[control]), cells.states[control]),
        source_context=data.context[control],
        target=latent.encode(dense_values(data.counts[own]), cells.states[own]),
        target_context=data.context[own],
        condition=np.log10(dose)[:, None],
    )
    return CellMap.fit(pairs, n_steps=n_steps, seed=seed)


def transport_predictor(cells: DrugCells, latent: Latent, *, seed: int, n_steps: int = 300) -> Baseline:  # fmt: skip
    """Return the maps as a prediction of mean responses; of a drug that was not trained on, no change.

    Parameters
    ----------
    cells
        All cells; those of treatments that were not trained on are left alone.
    latent
        The space.
    seed, n_steps
        As in `CellMap.fit`.
    """

    def predict(train: DrugTraining, asked: Sequence[Treatment]) -> "Floats":
        data = cells.data
        first, _ = control_halves(data)
        control = np.flatnonzero(first)
        known = set(train.responses.treatments)
        usable = np.array([t in known for t in data.treatments])
        drugs = drug_of(data)
        result = np.zeros((len(asked), len(data.genes)))
        for name in sorted({t.drug for t in asked} & {t.drug for t in known}):
            own = np.flatnonzero((drugs == name) & (data.code >= 0))
            own = own[usable[data.code[own]]]
            fitted = fit_map(cells, latent, (control, own), seed=seed, n_steps=n_steps)
            for row, t in enumerate(asked):
                if t.drug == name:
                    here = control[data.context[control] == data.contexts.index(t.context)]
                    z = latent.encode(dense_values(data.counts[here]), cells.states[here])
                    moved = fitted(z, np.array([np.log10(t.dose)])) - z
                    result[row] = moved.mean(axis=0) @ latent.decoder
        return result

    return predict


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is fitted, and what held out."""

    method: DrugMethod
    by: HoldOut
    n_steps: int
    seed: int


def _judged(cells: DrugCells, plan: _Plan, tell: Progress) -> DrugModel:
    """Score the method on held-out treatments, then fit it on all."""
    method, by, seed = plan.method, plan.by, plan.seed
    splits = fold_treatments(cells.responses.treatments, by, scaffolds=cells.features.scaffold_of, seed=seed)  # fmt: skip
    responses = cells.responses
    block = units_of(responses.treatments, by, cells.features.scaffold_of)
    training = DrugTraining(responses=responses, features=cells.features, contexts=cells.contexts, block=block)  # fmt: skip
    model = DrugModel(method=method, genes=(), training=training, maps={}, hold_out=by, split_hash=splits[0].hash)  # fmt: skip
    tell("held-out treatments", 0, 1)
    if method == "transport":
        return _with_maps(cells, model, splits[0], plan=plan, tell=tell)
    ours = same_drug if method == "shift" else head_predictor(cells.spaces, seed=seed)
    scores = judge_folds(fitted_and_truth(cells.data), splits, standard_methods(ours, seed=seed), features=cells.features, contexts=cells.contexts)  # fmt: skip
    tell("held-out treatments", 1, 1)
    if method == "shift":
        return replace(model, scores=scores)
    head = DrugHead.fit(responses, cells.features, cells.contexts, block=block, spaces=cells.spaces, seed=seed)  # fmt: skip
    space = f"smoothed over {head.weights.space}" if head.smoothing.any() else "not smoothed over genes"  # fmt: skip
    return replace(
        model, head=head, scores=scores, notes=(f"chosen by leaving {by}s out: {space}",)
    )


def _with_maps(
    cells: DrugCells, model: DrugModel, split: TreatmentSplit, *, plan: _Plan, tell: Progress
) -> DrugModel:
    """Choose the latent, judge on one fold, fit a map for each drug."""
    data, drugs, seed = cells.data, drug_of(cells.data), plan.seed
    part = np.where(data.code >= 0, split.part[data.code], -1)
    kind, distances = choose_latent(
        cells, np.flatnonzero(part == 0), seed=seed, n_steps=plan.n_steps
    )
    values = dense_values(data.counts)
    known = np.flatnonzero(part != 2)[:MOST_CELLS]
    ours = transport_predictor(cells, Latent.fit(kind, values[known], cells.states[known]), seed=seed, n_steps=plan.n_steps)  # fmt: skip
    scores = judge_folds(fitted_and_truth(data), [split], standard_methods(ours, seed=seed), features=cells.features, contexts=cells.contexts)  # fmt: skip
    latent = Latent.fit(kind, values[:MOST_CELLS], cells.states[:MOST_CELLS])
    control, maps = np.flatnonzero(data.code < 0), {}
    for number, name in enumerate(data.drugs):
        tell("maps", number, len(data.drugs))
        maps[name] = fit_map(
            cells, latent, (control, np.flatnonzero(drugs == name)), seed=seed, n_steps=plan.n_steps
        )
    tell("maps", len(data.drugs), len(data.drugs))
    told = ", ".join(f"{name} {value:.3f}" for name, value in distances.items())
    note = f"cells are mapped in the latent {kind!r}, chosen by the energy distance from held-out cells: {told}"
    return replace(model, latent=latent, maps=maps, scores=scores, notes=(note,))


def _distances(
    cells: DrugCells,
    fitted: tuple[Latent, CellMap, Latent],
    rows: "tuple[NDArray[np.int64], NDArray[np.int64]]",
    values: "Floats",
) -> list[float]:
    """Energy distances of mapped controls from treated cells, by treatment."""
    (latent, moved, judge), (control, own), data = fitted, rows, cells.data
    found = []
    for number in np.unique(data.code[own]):
        t = data.treatments[number]
        there = own[data.code[own] == number][:N_JUDGED]
        here = control[data.context[control] == data.contexts.index(t.context)][:N_JUDGED]
        if min(len(there), len(here)) < 5:
            continue
        z = latent.encode(values[here], cells.states[here])
        change = (moved(z, np.array([np.log10(t.dose)])) - z) @ latent.decoder
        guess = np.maximum(values[here] + change, 0.0)
        a, b = judge.encode(guess, cells.states[here]), judge.encode(values[there], cells.states[there])  # fmt: skip
        found.append(e_distance(a, b))
    return found


def drug_of(data: DrugData) -> "NDArray[np.str_]":
    """Return the drug of each cell, "" for a control.

    Parameters
    ----------
    data
        Cells.
    """
    names = np.array([*(t.drug for t in data.treatments), ""])
    return np.asarray(names[data.code], dtype=str)


def _default(method: DrugMethod, cells: DrugCells) -> HoldOut:
    treatments = cells.responses.treatments
    if method == "conditional":
        return default_hold_out(cells.features, treatments)
    for by in ("dose", "context"):
        if len(np.unique(units_of(treatments, by))) > 2:
            return by
    msg = (
        f"The method {method!r} predicts measured drugs at other doses or in other contexts, and there are fewer than three of both, so nothing "
        "can be held out to judge it by. Say hold_out='drug' to see it fail there, or take method='conditional'."
    )
    raise DataError(msg)


def structures(
    adata: "AnnData", drug: str, smiles: str | Path | Mapping[str, str] | None
) -> dict[str, str] | None:
    """Return structures by drug.

    Parameters
    ----------
    adata
        Cells.
    drug
        Column with the drugs.
    smiles
        Column of ``obs``, mapping, or file; None for none.

    Raises
    ------
    DataError
        A drug has two structures, or there is no such column or file.
    """
    if smiles is None or isinstance(smiles, Mapping):
        return None if smiles is None else dict(smiles)
    if str(smiles) not in adata.obs.columns:
        return read_smiles(smiles)
    names, entries = (label_column(adata.obs, key, what="data") for key in (drug, str(smiles)))
    found: dict[str, str] = {}
    for name, entry in zip(names.tolist(), entries.tolist(), strict=True):
        if entry and found.setdefault(name, entry) != entry:
            msg = f"obs[{str(smiles)!r}] gives the drug {name!r} two structures, {found[name]!r} and {entry!r}. Keep one."
            raise DataError(msg)
    return found


def _about(table: DrugFeatures) -> tuple[str, ...]:
    if table.kind != "identity":
        return ()
    return (
        "drugs are known by their names only: without structures or features nothing can be predicted of others",
    )


def _width(model: Pretrained) -> int:
    pool = default_pool(model)
    if pool == "whitened" and model.whitening is not None:
        return model.whitening.dim
    return model.network.config.dim


def _check(
    method: str,
    smiles: object,
    features: object,
) -> None:
    if method not in get_args(DrugMethod):
        msg = f"method is {method!r}; it must be one of {', '.join(map(repr, get_args(DrugMethod)))}. Choose one of these."
        raise ConfigError(msg)
    if smiles is not None and features is not None:
        msg = "Both smiles and features were given; drugs are told apart by one of them. Leave one out."
        raise ConfigError(msg)
