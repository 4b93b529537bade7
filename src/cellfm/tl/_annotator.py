"""A trained annotator: probes or a tuned network with thresholds, and PCA + logistic regression beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.errors import CellFMError, WeightsError
from cellfm.genes import GeneReport
from cellfm.tl._annotator_genes import QueryGenes, ReferenceGenes, reference_genes
from cellfm.tl._annotator_heads import (
    FrozenScorer,
    Progress,
    Scorer,
    Strength,
    TunedScorer,
    linear_arrays,
    linear_of,
)
from cellfm.tl._annotator_judge import Judge
from cellfm.tl._annotator_score import Calls
from cellfm.tl._bound_weights import check_weights, describe_weights, weights_of
from cellfm.tl._classical import Linear, Profiles
from cellfm.tl._labels import Labels
from cellfm.tl._states import EmbedOptions
from cellfm.tl._stored_table import as_list, as_mapping, from_json, to_json
from cellfm.weights.artifact import DESCRIPTION, Artifact, load_artifact, part_of, save_artifact
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

KIND = "annotator"
PCA_ROWS = 8192  # cells whose variable genes are dense in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnModel:
    """What is fitted for one label column."""

    labels: Labels
    """Name, classes and separator; codes of the reference's cells only where it was just trained."""
    judge: Judge
    pca: Linear
    """Logistic regression on principal scores."""
    pca_judge: Judge
    tables: "Mapping[str, pd.DataFrame]"
    """``metrics``, ``confusion`` and ``calibration`` of the test part of the reference."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Labels of some cells in each column."""

    states: "NDArray[np.float32]"
    calls: tuple[Calls, ...]
    pca_calls: tuple[Calls, ...]
    logits: "tuple[NDArray[np.float32], ...]"
    """Over the temperature, cell × class."""
    report: GeneReport
    genes: QueryGenes
    """What of the cells was read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Annotator:
    """Labels cells as a reference does; made by `train_annotator`, bound to the weights it was trained with.

    Attributes
    ----------
    model
        The weights.
    strength
        ``"knn"``, ``"linear"``, ``"lora"`` or ``"finetune"``.
    scorer
        States and class scores of cells.
    genes
        Genes of the reference; of other cells these alone are read.
    profiles
        Variable genes and principal components of the training cells, for PCA + logistic regression.
    columns
        One for each label column.
    reference
        Where it comes from: number of cells of each part, hash of the split, seed, gene report.
    notes
        What was left out of the reference, and what could not be tested.
    """

    model: Pretrained
    strength: Strength
    scorer: Scorer
    genes: ReferenceGenes
    profiles: Profiles
    columns: tuple[ColumnModel, ...]
    reference: Mapping[str, object]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(column.labels.name for column in self.columns)

    @property
    def metrics(self) -> "pd.DataFrame":
        """Scores of the first label column on the test part of the reference, CellFM and PCA + logistic regression."""
        return self.columns[0].tables["metrics"]

    def predict(
        self,
        adata: "AnnData",
        options: EmbedOptions,
        *,
        unknown: bool = True,
        progress: Progress | None = None,
    ) -> Prediction:
        """Label cells by their genes that the reference has too; writes nothing.

        Parameters
        ----------
        adata
            Cells × genes.
        options
            How to read them.
        unknown
            Whether cells may get no label.
        progress
            Called with (cells done, cells in all).

        Raises
        ------
        GeneMatchError
            Too few genes are in the vocabulary, or none is in the reference.
        CountsError
            The values are not counts, or a cell has none on these genes.
        """
        genes = self.genes.of_query(adata, self.model.vocabulary, options)
        try:
            scored = self.scorer.score(adata, options, match=genes.match, progress=progress)
        except CellFMError as error:
            error.add_note(
                f"Cells are read on the {genes.n_reference:,} vocabulary genes of the reference alone."
            )
            raise
        pca = principal_scores(self.profiles, adata, options, kept=genes.kept)
        pairs = list(zip(self.columns, scored.logits, strict=True))
        return Prediction(
            states=scored.states,
            calls=tuple(
                column.judge.calls(scored.states, logits, column.labels, unknown=unknown)
                for column, logits in pairs
            ),
            pca_calls=tuple(
                column.pca_judge.calls(pca, column.pca.logits(pca), column.labels, unknown=unknown)
                for column in self.columns
            ),
            logits=tuple(logits / column.judge.temperature for column, logits in pairs),
            report=scored.report,
            genes=genes,
        )

    def check_weights(self, model: Pretrained) -> None:
        """Refuse weights the annotator was not trained with.

        Parameters
        ----------
        model
            The weights.

        Raises
        ------
        WeightsError
            They are others.
        """
        check_weights(model, describe_weights(self.model), who="This annotator", kind=KIND)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> str:
        """Write an artifact folder, complete or not at all, and return the SHA-256 of its tensors.

        It holds adapter and heads (or the whole network after a full fine-tune), not the weights of CellFM.

        Parameters
        ----------
        folder
            Folder to make.
        overwrite
            Replace an artifact that is there.

        Raises
        ------
        OutputExistsError
            The folder exists, and `overwrite` is false or it is no artifact.
        """
        tensors = dict(self.scorer.tensors())
        tensors["reference.token"] = torch.from_numpy(np.ascontiguousarray(self.genes.token))
        tensors |= {
            f"profiles.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for name, array in (
                ("mean", self.profiles.mean),
                ("components", self.profiles.components),
            )
        }
        for number, column in enumerate(self.columns):
            tensors |= {f"column.{number}.{key}": value for key, value in _tensors(column).items()}
        description = {
            **describe_weights(self.model),
            "strength": self.strength,
            "scorer": self.scorer.description(),
            "genes": list(self.profiles.genes),
            "genes_outside": sorted(self.genes.outside),
            "columns": [_describe(column) for column in self.columns],
            "reference": dict(self.reference),
            "notes": list(self.notes),
        }
        return save_artifact(folder, description, tensors, kind=KIND, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: Pretrained | str | Path | None = None,
        *,
        device: str | None = None,
    ) -> "Annotator":
        """Read an annotator.

        Parameters
        ----------
        folder
            Of `save`.
        model
            The weights it was trained with; None looks where they were then, and in the package.
        device
            Where to compute.

        Raises
        ------
        WeightsError
            The folder is no annotator or damaged, or the weights are others than those it was trained with.
        """
        artifact = load_artifact(folder, kind=KIND)
        weights = weights_of(model, artifact.description, device)
        check_weights(weights, artifact.description, who=str(folder), kind=KIND)
        try:
            return cls._of_artifact(artifact, weights)
        except KeyError as error:
            msg = f"The annotator {folder} has no {error.args[0]!r}; another version of cellfm wrote it. Train it again."
            raise WeightsError(msg) from error

    @classmethod
    def _of_artifact(cls, artifact: Artifact, weights: Pretrained) -> "Annotator":
        description = artifact.description
        strength: Strength = description["strength"]  # type: ignore[assignment] # as it was stored
        restore = FrozenScorer.restore if strength in ("knn", "linear") else TunedScorer.restore
        tensors = artifact.tensors
        profiles = part_of(tensors, "profiles.")
        outside = as_list(description["genes_outside"])
        return cls(
            model=weights,
            strength=strength,
            scorer=restore(weights, tensors, as_mapping(description["scorer"])),
            genes=reference_genes(part_of(tensors, "reference.")["token"].numpy(), outside),
            profiles=Profiles(
                genes=tuple(map(str, as_list(description["genes"]))),
                mean=profiles["mean"].numpy(),
                components=profiles["components"].numpy(),
            ),
            columns=tuple(
                _column(as_mapping(fields), part_of(tensors, f"column.{number}."))
                for number, fields in enumerate(as_list(description["columns"]))
            ),
            reference=as_mapping(description["reference"]),
            notes=tuple(map(str, as_list(description["notes"]))),
        )


def is_annotator(path: str | Path) -> bool:
    """Whether a path is an artifact folder rather than CellFM weights.

    Parameters
    ----------
    path
        Folder or name.
    """
    return (Path(path) / DESCRIPTION).is_file()


def principal_scores(
    profiles: Profiles,
    adata: "AnnData",
    options: EmbedOptions,
    *,
    kept: "NDArray[np.bool_] | None" = None,
) -> "NDArray[np.float32]":
    """Return principal scores of all cells, block by block, shape (cell, component).

    Parameters
    ----------
    profiles
        Variable genes and components.
    adata
        In memory or backed.
    options
        How to read them.
    kept
        Columns that are read; None for all.
    """
    import pandas as pd
    from anndata import AnnData

    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    names = gene_names_of(var, options.gene_names)
    columns = np.arange(len(names)) if kept is None else np.flatnonzero(kept)
    named = pd.DataFrame(
        {"gene": [str(names[column]) for column in columns]}, index=columns.astype(str)
    )
    parts = []
    for start in range(0, source.n_rows, PCA_ROWS):
        block = source.read(start, min(start + PCA_ROWS, source.n_rows))[:, columns]
        cells = AnnData(
            block, obs=pd.DataFrame(index=np.arange(block.shape[0]).astype(str)), var=named
        )
        parts.append(profiles.scores(cells, gene_names="gene", scale=options.scale))
    return np.concatenate(parts)


def _tensors(column: ColumnModel) -> dict[str, Tensor]:
    parts = {
        "judge": column.judge.tensors(),
        "pca_judge": column.pca_judge.tensors(),
        "pca": {name: torch.from_numpy(array) for name, array in linear_arrays(column.pca).items()},
    }
    return {
        f"{part}.{name}": tensor
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def _describe(column: ColumnModel) -> dict[str, object]:
    return {
        "name": column.labels.name,
        "classes": list(column.labels.classes),
        "separator": column.labels.separator,
        "judge": column.judge.description(),
        "pca_judge": column.pca_judge.description(),
        "pca_strength": column.pca.strength,
        "tables": {name: to_json(table) for name, table in column.tables.items()},
    }


def _column(fields: Mapping[str, object], tensors: Mapping[str, Tensor]) -> ColumnModel:
    classes = tuple(map(str, as_list(fields["classes"])))
    separator = fields["separator"]
    assert separator is None or isinstance(separator, str)
    judges = {}
    for name in ("judge", "pca_judge"):
        arrays = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.")
        }
        judges[name] = Judge.restore(as_mapping(fields[name]), arrays)
    return ColumnModel(
        labels=Labels(
            name=str(fields["name"]),
            classes=classes,
            code=np.zeros(0, np.int64),
            separator=separator,
            n_missing=0,
        ),
        pca=linear_of(part_of(tensors, "pca."), strength=float(str(fields["pca_strength"]))),
        tables={
            name: from_json(as_mapping(table))
            for name, table in as_mapping(fields["tables"]).items()
        },
        **judges,
    )
