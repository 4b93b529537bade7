"""Training an annotator: fitted on training cells, calibrated on validation cells, measured on test cells."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.split import TEST, TRAIN, VALIDATION, split_cells, split_hash, whole_groups
from cellfm.errors import CellFMError, ConfigError, DataError
from cellfm.genes import GeneReport
from cellfm.nn.classifier import HeadKind
from cellfm.optional import require
from cellfm.tl._annotator import Annotator, ColumnModel, principal_scores
from cellfm.tl._annotator_genes import ReferenceGenes
from cellfm.tl._annotator_heads import (
    STRENGTHS,
    FrozenScorer,
    Progress,
    Scored,
    Scorer,
    Strength,
    TunedScorer,
    Votes,
    columns_of,
    fit_probe,
    fit_votes,
    flags_of,
    read_cells,
)
from cellfm.tl._annotator_judge import Judge
from cellfm.tl._annotator_result import PCA
from cellfm.tl._annotator_score import (
    METRICS,
    Truth,
    calibration_table,
    confusion_table,
    metric_row,
)
from cellfm.tl._classical import Linear, Profiles
from cellfm.tl._confidence import NOVELTIES, Novelty
from cellfm.tl._embed import frozen_states
from cellfm.tl._labels import Labels, label_column, read_labels
from cellfm.tl._states import EmbedOptions, Pool, default_pool
from cellfm.tl._tune import Strength as Tuned
from cellfm.tl._tune import fit_classifier
from cellfm.train.finetune import TuneConfig
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

VALIDATION_SHARE = TEST_SHARE = 0.15
MOST_VOTERS = 20_000
"""Training cells that a kNN annotator keeps; a random sample of more."""
LEAST_GROUPS = 3
REFERENCE_TEST = "reference test"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorOptions:
    """Everything that decides what an annotator becomes, apart from weights and cells."""

    labels: tuple[str, ...]
    strength: Strength = "linear"
    head: HeadKind = "mlp"
    novelty: Novelty = "mahalanobis"
    pool: Pool | None = None
    multilabel: str | None = None
    donor_key: str | None = None
    rank: int = 8
    tune: TuneConfig = field(default_factory=TuneConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "strength": STRENGTHS,
            "head": ("clusters", "mlp"),
            "novelty": NOVELTIES,
        }
        if self.pool is not None:
            choices["pool"] = ("cls", "mean", "both", "whitened")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                msg = f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, allowed))}. Choose one of these."
                raise ConfigError(msg)
        if not self.labels or len(set(self.labels)) < len(self.labels):
            msg = f"label is {list(self.labels)}; give the name of a column, or several different ones."
            raise ConfigError(msg)
        if self.multilabel is not None and not self.multilabel.strip():
            msg = f"multilabel is {self.multilabel!r}; give what stands between the labels of an entry, such as ';'."
            raise ConfigError(msg)
        if self.multilabel is not None and self.tuned and len(self.labels) > 1:
            msg = (
                f"{len(self.labels)} columns with several labels a cell were asked for with strength={self.strength!r}, which tunes on "
                "one such column at a time. Name one column, or use strength='linear'."
            )
            raise ConfigError(msg)

    @property
    def tuned(self) -> bool:
        """Whether the network itself is trained."""
        return self.strength in ("lora", "finetune")


def fit_annotator(
    reference: "AnnData",
    model: Pretrained,
    options: AnnotatorOptions,
    read: EmbedOptions,
    *,
    progress: Progress | None = None,
) -> Annotator:
    """Fit an annotator on a labelled reference.

    Parameters
    ----------
    reference
        Cells × genes with label columns.
    model
        Weights, on the device to compute on.
    options
        What to fit.
    read
        How to read the reference.
    progress
        Called with (done, in all) of each stage: cells, or epochs.

    Raises
    ------
    DataError
        Labels, donors or genes of the reference do not serve.
    """
    require("sklearn", "scanpy")
    if not reference.n_obs:
        msg = "The reference has 0 cells; give one with labelled cells. Check the filter that made it."
        raise DataError(msg)
    columns = [
        read_labels(reference.obs, name, separator=options.multilabel) for name in options.labels
    ]
    rows = np.flatnonzero(np.any([column.known for column in columns], axis=0))
    notes = _notes(columns)
    if len(rows) < reference.n_obs:
        reference = reference[rows]
        columns = [
            read_labels(reference.obs, name, separator=options.multilabel)
            for name in options.labels
        ]
    part, by_donor = _split(reference, columns, options)
    notes += _untested(columns, part, donors=by_donor)
    for note in notes:
        _log.warning(note)
    try:
        genes = ReferenceGenes.of(reference, model.vocabulary, read)
        scorer, scored = _fit_scorer(reference, model, columns, part, options, read, progress)
        profiles = Profiles.fit(
            reference[part == TRAIN],
            layer=read.layer,
            use_raw=read.use_raw,
            gene_names=read.gene_names,
            scale=read.scale,
            seed=options.seed,
        )
        pca = principal_scores(profiles, reference, read)
    except CellFMError as error:
        error.add_note("This is about the reference.")
        raise
    return Annotator(
        model=model,
        strength=options.strength,
        scorer=scorer,
        genes=genes,
        profiles=profiles,
        columns=tuple(
            _fit_column(column, scored.states, logits, pca, part, options)
            for column, logits in zip(columns, scored.logits, strict=True)
        ),
        reference=_account(reference, part, options, read, report=scored.report, by_donor=by_donor),
        notes=tuple(notes),
    )


def method_name(strength: Strength) -> str:
    """Return what CellFM is called in tables.

    Parameters
    ----------
    strength
        How it was fitted.
    """
    return f"CellFM {strength}"


def _fit_scorer(  # noqa: PLR0917 - what a fit needs
    reference: "AnnData",
    model: Pretrained,
    columns: Sequence[Labels],
    part: "NDArray[np.int8]",
    options: AnnotatorOptions,
    read: EmbedOptions,
    progress: Progress | None,
) -> tuple[Scorer, Scored]:
    if options.tuned:
        return _fit_tuned(reference, model, columns, part, options, read, progress)
    pool = options.pool or default_pool(model)
    states, report = frozen_states(reference, model, replace(read, pool=pool), progress=progress)
    heads: list[Linear | Votes] = []
    for column in columns:
        rows = np.flatnonzero((part == TRAIN) & column.known)
        if options.strength == "linear":
            heads.append(fit_probe(states, column, rows, seed=options.seed))
            continue
        if len(rows) > MOST_VOTERS:
            rng = np.random.default_rng(options.seed)
            rows = np.sort(rng.choice(rows, MOST_VOTERS, replace=False))
        heads.append(fit_votes(states, column, rows, seed=options.seed))
    scorer = FrozenScorer(model=model, pool=pool, heads=tuple(heads))
    logits = tuple(head.logits(states) for head in heads)
    return scorer, Scored(states=states, logits=logits, report=report)


def _fit_tuned(  # noqa: PLR0917 - what a fit needs
    reference: "AnnData",
    model: Pretrained,
    columns: Sequence[Labels],
    part: "NDArray[np.int8]",
    options: AnnotatorOptions,
    read: EmbedOptions,
    progress: Progress | None,
) -> tuple[Scorer, Scored]:
    multi = options.multilabel is not None
    cells, report = read_cells(reference, model, read)
    strength: Tuned = "lora" if options.strength == "lora" else "finetune"
    tuned = fit_classifier(
        model,
        cells,
        columns[0].code if multi else columns_of([column.code for column in columns]),
        part,
        n_classes=tuple(len(column.classes) for column in columns),
        strength=strength,
        head=options.head,
        rank=options.rank,
        multi_label=multi,
        config=replace(options.tune, seed=options.seed),
        progress=progress,
    )
    scored = Scored(states=tuned.states(cells), logits=tuple(tuned.logits(cells)), report=report)
    return TunedScorer(model=model, tuned=tuned), scored


def _fit_column(  # noqa: PLR0917 - the scores of two methods and what to do with them
    labels: Labels,
    states: "NDArray[np.floating]",
    logits: "NDArray[np.floating]",
    pca: "NDArray[np.floating]",
    part: "NDArray[np.int8]",
    options: AnnotatorOptions,
) -> ColumnModel:
    """Calibrate one column on its validation cells and measure it on its test cells."""
    import pandas as pd

    train, validation, test = (
        np.flatnonzero((part == of) & labels.known) for of in (TRAIN, VALIDATION, TEST)
    )
    linear = fit_probe(pca, labels, train, seed=options.seed)
    truth = Truth(
        flags=flags_of(labels)[test] == 1,
        known=np.ones(len(test), bool),
        novel=np.zeros(len(test), bool),
    )
    rows, tables, judges = [], {}, []
    methods = (
        (method_name(options.strength), states, logits),
        (PCA, pca, linear.logits(pca)),
    )
    for method, x, scores in methods:
        judge = Judge.fit(
            options.novelty,
            x,
            scores,
            labels,
            train=train,
            validation=validation,
            seed=options.seed,
        )
        judges.append(judge)
        calls = judge.calls(x[test], scores[test], labels, unknown=True)
        rows.append(metric_row(calls, truth, data=REFERENCE_TEST, method=method))
        if method != PCA:
            given = labels.strata[test]
            tables["confusion"] = confusion_table(given, calls.label, labels.classes)
            tables["calibration"] = calibration_table(calls, truth)
    tables["metrics"] = pd.DataFrame(rows, columns=["data", "method", *METRICS])
    return ColumnModel(
        labels=labels, judge=judges[0], pca=linear, pca_judge=judges[1], tables=tables
    )


def _split(
    reference: "AnnData", columns: Sequence[Labels], options: AnnotatorOptions
) -> "tuple[NDArray[np.int8], bool]":
    """Deal cells to the parts, and say whether by whole donors."""
    strata = columns[0].strata
    for column in columns[1:]:  # every combination keeps a training cell, and so does every label
        strata = np.char.add(np.char.add(strata, "\t"), column.strata)
    donor = None
    if options.donor_key is not None:
        donor = label_column(reference.obs, options.donor_key, what="reference")
    part = split_cells(
        strata, donor, validation=VALIDATION_SHARE, test=TEST_SHARE, seed=options.seed
    )
    for column in columns:
        for of, name in ((VALIDATION, "validation"), (TEST, "test")):
            if not (column.known & (part == of)).any():
                msg = (
                    f"The {int(column.known.sum())} cells with a label in obs[{column.name!r}] of the reference leave none for {name}; "
                    f"15 % of them are set aside for it, and of every label one stays for training. Use more labelled cells."
                )
                raise DataError(msg)
    by_donor = donor is not None and len(np.unique(donor)) >= LEAST_GROUPS
    return part, by_donor and donor is not None and whole_groups(part, donor)


def _notes(columns: Sequence[Labels]) -> list[str]:
    notes = []
    for column in columns:
        if column.n_missing:
            notes.append(
                f"{column.n_missing:,} of {len(column.known):,} reference cells have no label in {column.name!r} (empty, NaN or "
                "'unknown') and were left out for it."
            )
        single = [name for name, n in zip(column.classes, column.counts, strict=True) if n == 1]
        if single:
            notes.append(
                f"In {column.name!r} the labels {', '.join(map(repr, single))} have one cell each: it is trained on, and nothing says how "
                "well these labels are recognised."
            )
    return notes


def _untested(columns: Sequence[Labels], part: "NDArray[np.int8]", *, donors: bool) -> list[str]:
    notes = []
    for column in columns:
        tested = flags_of(column)[part == TEST].any(axis=0)
        names = [
            name
            for name, seen, n in zip(column.classes, tested, column.counts, strict=True)
            if not seen and n > 1
        ]
        if names:
            why = "in the donors set aside for it" if donors else "because they are rare"
            notes.append(
                f"In {column.name!r} the labels {', '.join(map(repr, names))} have no test cell {why}; the scores are about the others."
            )
    return notes


def _account(
    reference: "AnnData",
    part: "NDArray[np.int8]",
    options: AnnotatorOptions,
    read: EmbedOptions,
    *,
    report: GeneReport,
    by_donor: bool,
) -> dict[str, object]:
    used: dict[str, object] = {
        "n_cells": int(reference.n_obs),
        "n_train": int((part == TRAIN).sum()),
        "n_validation": int((part == VALIDATION).sum()),
        "n_test": int((part == TEST).sum()),
        "split_by": options.donor_key if by_donor else "cells within each label",
        "split_hash": split_hash(list(map(str, reference.obs_names)), part),
        "seed": options.seed,
        "novelty": options.novelty,
        "scale": read.scale,
        "n_genes": report.vocabulary_matched,
        "genes": report.to_text(),
    }
    if options.tuned:
        used |= {"head": options.head, "tune": asdict(options.tune)}
    return used
