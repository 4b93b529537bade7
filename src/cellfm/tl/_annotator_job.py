"""What an annotator says of a query, written to it: columns of obs, provenance and tables."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.errors import ConfigError, DataError, OutputExistsError
from cellfm.tl._annotator import Annotator, ColumnModel, Prediction
from cellfm.tl._annotator_fit import method_name
from cellfm.tl._annotator_heads import Progress, flags_of
from cellfm.tl._annotator_result import PCA, AnnotatedColumn, AnnotationResult
from cellfm.tl._annotator_score import (
    METRICS,
    Calls,
    Truth,
    abstention_table,
    confusion_table,
    metric_row,
)
from cellfm.tl._confidence import softmax
from cellfm.tl._labels import UNKNOWN, Labels, Parents, coarse_labels, encode, label_column
from cellfm.tl._states import EmbedOptions, as_model, check_key
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

SUFFIXES = ("", "_probability", "_novelty", "_best", "_pca")
COARSE = "_coarse"
LEAST_CERTAIN = 0.5
"""A label that is less probable than this is never certain enough to be the finest one."""
QUERY = "query"
MANY_UNKNOWN = 0.5
"""Share of unknown cells from which something is probably wrong with the pair of reference and query."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What is to be written to a query."""

    key_added: str
    names: tuple[str, ...]
    unknown: bool
    parents: Parents | None
    truth: str | None

    def key(self, name: str) -> str:
        """Return the column for the labels of a label column."""
        return self.key_added if len(self.names) == 1 else f"{self.key_added}_{name}"

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """All columns that are written."""
        suffixes = (*SUFFIXES, COARSE) if self.parents else SUFFIXES
        return tuple(self.key(name) + suffix for name in self.names for suffix in suffixes)

    def check(self, adata: "AnnData", *, overwrite: bool) -> None:
        """Refuse a job that cannot end well, before any work is done.

        Raises
        ------
        OutputExistsError
            A column exists and `overwrite` is false.
        DataError
            There is no column with the truth.
        """
        for name in self.names:
            check_key(self.key(name))
        taken = [name for name in self.obs_keys if name in adata.obs.columns]
        if self.truth is not None:
            label_column(adata.obs, self.truth, what="query")
            if self.truth in self.obs_keys:
                msg = f"The column of the truth, {self.truth!r}, is one of those to be written. Choose another key_added=…."
                raise ConfigError(msg)
        if taken and not overwrite:
            msg = f"The query has obs[{', '.join(map(repr, taken))}] already. Choose another key_added=…, or say overwrite=True."
            raise OutputExistsError(msg)


def as_annotator(
    annotator: Annotator | str | Path, model: Pretrained | str | Path | None, *, device: str | None
) -> Annotator:
    """Return an annotator for these weights.

    Parameters
    ----------
    annotator
        One, or the folder of one.
    model
        Weights; None for those it was trained with.
    device
        Where to compute; of an annotator in memory it stays where it is.

    Raises
    ------
    WeightsError
        The weights are others than those it was trained with.
    """
    if not isinstance(annotator, Annotator):
        return Annotator.load(annotator, model, device=device)
    if model is not None:
        annotator.check_weights(as_model(model, device))
    return annotator


def as_parents(parents: Parents | Mapping[str, str] | str | Path | None) -> Parents | None:
    """Return a parent map.

    Parameters
    ----------
    parents
        One, pairs, or a file of them.
    """
    if parents is None or isinstance(parents, Parents):
        return parents
    if isinstance(parents, Mapping):
        return Parents.from_pairs([(str(child), str(parent)) for child, parent in parents.items()])
    return Parents.read(parents)


def run_job(
    adata: "AnnData",
    annotator: Annotator,
    job: Job,
    read: EmbedOptions,
    *,
    progress: Progress | None = None,
) -> AnnotationResult:
    """Label the cells of a query and write the results to it.

    Parameters
    ----------
    adata
        The query.
    annotator
        Trained.
    job
        What to write.
    read
        How to read the query.
    progress
        Called with (cells done, cells in all).
    """
    if job.parents is not None:
        _check_parents(job.parents, annotator.columns)
    found = annotator.predict(adata, read, unknown=job.unknown, progress=progress)
    columns = tuple(
        _result(adata, annotator, job, found, number=number)
        for number in range(len(annotator.columns))
    )
    notes = _query_notes(annotator, job, found)
    for note in notes:
        _log.warning(note)
    written = _columns(annotator, job, found)
    for key, values in written.items():
        adata.obs[key] = values
    if f"X_{job.key_added}" not in adata.obsm:
        adata.obsm[f"X_{job.key_added}"] = found.states
    adata.uns["cellfm"] = {
        **adata.uns.get("cellfm", {}),
        job.key_added: provenance(annotator, job, read, found, columns=columns),
    }
    return AnnotationResult(
        adata=adata,
        states=found.states,
        columns=columns,
        strength=annotator.strength,
        weights_hash=annotator.model.hash,
        gene_report=found.genes.text(found.report),
        reference_gene_report=str(annotator.reference["genes"]),
        notes=(*annotator.notes, *notes),
    )


def provenance(
    annotator: Annotator,
    job: Job,
    read: EmbedOptions,
    found: Prediction,
    *,
    columns: Sequence[AnnotatedColumn],
) -> dict[str, object]:
    """Return what is written to ``uns["cellfm"]``, storable in h5ad.

    Parameters
    ----------
    annotator, job, read
        What was done.
    found, columns
        What came out.
    """
    genes = {
        name: np.array(value, dtype=str) if isinstance(value, list) else value
        for name, value in found.report.to_dict().items()
        if name != "summed" and value is not None and value != []
    }
    reference = {
        name: str(value) if isinstance(value, Mapping) else value
        for name, value in annotator.reference.items()
        if value is not None
    }
    return {
        "weights_hash": annotator.model.hash,
        "weights": annotator.model.name,
        "vocabulary_hash": annotator.model.vocabulary.hash,
        "cellfm_version": __version__,
        "strength": annotator.strength,
        "labels": np.array(job.names, dtype=str),
        "unknown": job.unknown,
        "options": {"use_raw": read.use_raw, "scale": read.scale, "layer": read.layer or "X"},
        "reference": reference,
        "genes": genes | {"n_not_in_reference": found.genes.n_dropped},
        "metrics": {column.name.replace("/", "_"): _numbers(column) for column in columns},
    }


def _query_notes(annotator: Annotator, job: Job, found: Prediction) -> tuple[str, ...]:
    """Return what should make the user doubt the reference."""
    notes = []
    for column, calls in zip(annotator.columns, found.calls, strict=True):
        share = float((calls.novel | calls.uncertain).mean())
        if share > MANY_UNKNOWN:
            notes.append(
                f"{share:.0%} of the query cells are unknown in {column.labels.name!r} ({calls.novel.mean():.0%} by their novelty). Is the "
                f"reference of the same tissue, technology and species, and are both raw counts? {job.key(column.labels.name)}_best holds the best label of each cell all the same."
            )
    return tuple(notes)


def refuse_empty_query(adata: "AnnData") -> None:
    """Refuse a query without cells.

    Raises
    ------
    DataError
        It has none.
    """
    if not adata.n_obs:
        msg = "The query has 0 cells; at least one is needed. Check the filter that made it."
        raise DataError(msg)


def _check_parents(parents: Parents, columns: Sequence[ColumnModel]) -> None:
    for column in columns:
        if column.labels.separator is not None:
            msg = (
                f"Coarser labels (parents=…) need one label a cell, but obs[{column.labels.name!r}] of the reference has several, separated "
                f"by {column.labels.separator!r}. Leave one of the two out."
            )
            raise ConfigError(msg)
    if not any(_speaks_of(parents, column.labels) for column in columns):
        parents.check(columns[0].labels.classes)


def _speaks_of(parents: Parents, labels: Labels) -> bool:
    return any(name in parents.above for name in labels.classes)


def _columns(annotator: Annotator, job: Job, found: Prediction) -> dict[str, object]:
    """Return the columns of ``obs`` by name."""
    import pandas as pd

    written: dict[str, object] = {}
    for column, calls, pca, logits in zip(
        annotator.columns, found.calls, found.pca_calls, found.logits, strict=True
    ):
        key = job.key(column.labels.name)
        written[key] = pd.Categorical(calls.label)
        written[f"{key}_probability"] = calls.probability.astype(np.float32)
        written[f"{key}_novelty"] = calls.novelty.astype(np.float32)
        written[f"{key}_best"] = pd.Categorical(calls.best)
        written[f"{key}_pca"] = pd.Categorical(pca.best)
        if job.parents is not None:
            written[f"{key}{COARSE}"] = pd.Categorical(_coarse(column, calls, logits, job.parents))
    return written


def _coarse(
    column: ColumnModel, calls: Calls, logits: "NDArray[np.floating]", parents: Parents
) -> "NDArray[np.str_]":
    threshold = max(column.judge.probability_threshold, LEAST_CERTAIN)
    names = coarse_labels(softmax(logits), column.labels.classes, parents, threshold=threshold)
    return np.where(calls.novel, UNKNOWN, names)


def _result(
    adata: "AnnData", annotator: Annotator, job: Job, found: Prediction, *, number: int
) -> AnnotatedColumn:
    """Return the tables of one label column; the truth is about the first."""
    import pandas as pd

    column, calls, pca = annotator.columns[number], found.calls[number], found.pca_calls[number]
    labels, metrics = column.labels, column.tables["metrics"]
    confusion = confusion_pca = None
    if job.truth is not None and number == 0:
        entries = label_column(adata.obs, job.truth, what="query")
        truth = _truth(entries, labels)
        rows = [
            metric_row(calls, truth, data=QUERY, method=method_name(annotator.strength)),
            metric_row(pca, truth, data=QUERY, method=PCA),
        ]
        added = pd.DataFrame(rows, columns=["data", "method", *METRICS])
        metrics = pd.concat([metrics, added], ignore_index=True)
        confusion = confusion_table(entries, calls.label, labels.classes)
        confusion_pca = confusion_table(entries, pca.best, labels.classes)
    return AnnotatedColumn(
        name=labels.name,
        key=job.key(labels.name),
        classes=labels.classes,
        metrics=metrics,
        confusion=confusion,
        confusion_pca=confusion_pca,
        reference_confusion=column.tables["confusion"],
        abstentions=abstention_table(calls),
        calibration=column.tables["calibration"],
        novelty_threshold=column.judge.novelty_threshold,
        probability_threshold=column.judge.probability_threshold,
    )


def _truth(entries: "NDArray[np.str_]", labels: Labels) -> Truth:
    code = encode(entries, labels.classes, separator=labels.separator)
    known = (code if labels.separator is None else code[:, 0]) >= 0
    wide = replace(labels, code=code)
    return Truth(flags=flags_of(wide) == 1, known=known, novel=~known & (entries != ""))


def _numbers(column: AnnotatedColumn) -> "dict[str, dict[str, float]]":
    table: pd.DataFrame = column.metrics
    numbers = {}
    for row in table.to_dict("records"):
        values = {name: float(row[name]) for name in METRICS if row[name] == row[name]}
        numbers[f"{row['data']}: {row['method']}"] = values
    return numbers
