"""What an annotation hands back: labels on the cells, and how far they can be trusted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

PCA = "PCA-50 + LR"
"""Name of the classical method whose numbers stand beside CellFM's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotatedColumn:
    """One label column of the reference, carried over to the query.

    Attributes
    ----------
    name
        Column of the reference.
    key
        Column of the query with the labels; `key` + ``_probability``, ``_novelty``, ``_best``, ``_pca`` and ``_coarse`` stand beside it.
    classes
        Labels that can be given.
    metrics
        A row for each pair of data and method. Columns: ``data`` ("reference test" or "query"), ``method`` ("CellFM …" or
        "PCA-50 + LR"), ``n_cells``, ``accuracy`` and ``macro_f1`` (labels before abstaining), ``ece_before`` and ``ece``
        (expected calibration error without and with the temperature), ``unknown`` (share of cells that got no label),
        ``accuracy_kept`` (of the others), ``auroc_unknown`` (novelty, cells of types the reference lacks against the rest; NaN without such cells).
    confusion
        Query cells by true label (rows) and label (columns, "unknown" last); None if the truth is not known.
    confusion_pca
        The same for PCA-50 + LR, which never abstains.
    reference_confusion
        The same as `confusion` for the test part of the reference.
    abstentions
        Query cells by the label before abstaining: columns ``label``, ``n_cells``, ``novel`` (novelty above its threshold),
        ``uncertain`` (only the probability below its threshold), ``unknown`` (either), ``share_unknown``.
    calibration
        Reliability on the test part of the reference: columns ``n_cells``, ``probability`` (mean in the bin), ``accuracy``.
    novelty_threshold, probability_threshold
        Above and below which a cell is unknown.
    """

    name: str
    key: str
    classes: tuple[str, ...]
    metrics: "pd.DataFrame"
    confusion: "pd.DataFrame | None"
    confusion_pca: "pd.DataFrame | None"
    reference_confusion: "pd.DataFrame"
    abstentions: "pd.DataFrame"
    calibration: "pd.DataFrame"
    novelty_threshold: float
    probability_threshold: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotationResult:
    """An annotated query.

    Attributes
    ----------
    adata
        The query; labels are in ``obs``, cell states in ``obsm``, provenance in ``uns["cellfm"][key]``.
    states
        CellFM states of the query's cells, float32 (cell, dim): those the labels were given by.
    columns
        One entry for each label column, in the order asked for.
    strength
        ``"knn"``, ``"linear"``, ``"lora"`` or ``"finetune"``.
    weights_hash
        SHA-256 of the weights.
    gene_report, reference_gene_report
        What became of the genes of query and reference, as text.
    notes
        What the user should know: cells left out, classes too small to test.
    """

    adata: "AnnData"
    states: "NDArray[np.float32]"
    columns: tuple[AnnotatedColumn, ...]
    strength: str
    weights_hash: str
    gene_report: str
    reference_gene_report: str
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Column of ``obs`` with the labels of the first label column."""
        return self.columns[0].key

    @property
    def confusion(self) -> "pd.DataFrame | None":
        """Of the first label column."""
        return self.columns[0].confusion

    @property
    def metrics(self) -> "pd.DataFrame":
        """Of the first label column."""
        return self.columns[0].metrics

    @property
    def abstentions(self) -> "pd.DataFrame":
        """Of the first label column."""
        return self.columns[0].abstentions
