"""What turns cells into states and class scores: probes on frozen states, or a tuned network; one interface over all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.counts import refuse_empty_rows
from cellfm.genes import GeneMatch, GeneReport
from cellfm.tl._classical import Linear, Neighbours
from cellfm.tl._embed import encode_rows, frozen_states, match_genes
from cellfm.tl._labels import Labels
from cellfm.tl._states import EmbedOptions, Pool, StateEncoder
from cellfm.tl._tune import TunedClassifier
from cellfm.weights.artifact import part_of
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Strength = Literal["knn", "linear", "lora", "finetune"]
STRENGTHS: tuple[Strength, ...] = ("knn", "linear", "lora", "finetune")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What is known of cells before any threshold."""

    states: "NDArray[np.float32]"
    """Cell × dim."""
    logits: "tuple[NDArray[np.float32], ...]"
    """Cell × class, for each label column; log-odds of each label where a cell can have several."""
    report: GeneReport


class Scorer(Protocol):
    """States and scores of cells."""

    def score(
        self,
        adata: "AnnData",
        options: EmbedOptions,
        *,
        match: GeneMatch | None = None,
        progress: Progress | None = None,
    ) -> Scored:
        """Read all cells.

        Parameters
        ----------
        adata
            Cells × genes.
        options
            How to read them.
        match
            Token of each column; None for all of the vocabulary.
        progress
            Called with (cells done, cells in all).
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be stored."""

    def description(self) -> dict[str, object]:
        """Return what `restore` needs beside the tensors, for JSON."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Votes:
    """Scores by the share of the nearest training cells that have a label."""

    neighbours: Neighbours
    flags: "NDArray[np.float32]"
    """Whether each training cell has each label, shape (training cell, class)."""
    exclusive: bool
    """Whether a cell has one label only."""

    def logits(self, x: "NDArray[np.floating]") -> "NDArray[np.float32]":
        """Return log shares, or log-odds where labels do not exclude each other; one vote is spread evenly beforehand.

        Parameters
        ----------
        x
            Cell × dim.
        """
        _, row = self.neighbours.search(x)
        k, n_classes = self.neighbours.k, self.flags.shape[1]
        votes = self.flags[row].sum(axis=1)
        if self.exclusive:
            return np.log((votes + 1 / n_classes) / (k + 1)).astype(np.float32)
        return np.log((votes + 0.5) / (k - votes + 0.5)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenScorer:
    """Probes on the states of a network that stays as it is."""

    model: Pretrained
    pool: Pool
    heads: tuple[Linear | Votes, ...]
    """One for each label column."""

    def score(
        self,
        adata: "AnnData",
        options: EmbedOptions,
        *,
        match: GeneMatch | None = None,
        progress: Progress | None = None,
    ) -> Scored:
        """See `Scorer.score`."""
        pooled = replace(options, pool=self.pool)
        if match is None:
            states, report = frozen_states(adata, self.model, pooled, progress=progress)
        else:
            source, _ = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
            encoder = StateEncoder(self.model, match, pooled, n_cells=source.n_rows)
            states = encode_rows(encoder, source, progress=progress)
            report = encoder.report
        logits = tuple(head.logits(states) for head in self.heads)
        return Scored(states=states, logits=logits, report=report)

    def tensors(self) -> dict[str, Tensor]:
        """See `Scorer.tensors`."""
        stored: dict[str, Tensor] = {}
        for number, head in enumerate(self.heads):
            arrays = linear_arrays(head) if isinstance(head, Linear) else _vote_arrays(head)
            stored |= {
                f"head.{number}.{name}": torch.from_numpy(array) for name, array in arrays.items()
            }
        return stored

    def description(self) -> dict[str, object]:
        """See `Scorer.description`."""
        return {"pool": self.pool, "heads": [_describe(head) for head in self.heads]}

    @classmethod
    def restore(
        cls, model: Pretrained, tensors: Mapping[str, Tensor], description: Mapping[str, object]
    ) -> "FrozenScorer":
        """Build it again around the same weights.

        Parameters
        ----------
        model
            The weights.
        tensors, description
            Of `tensors` and `description`.
        """
        heads = description["heads"]
        assert isinstance(heads, list)
        return cls(
            model=model,
            pool=description["pool"],  # type: ignore[arg-type] # as it was stored
            heads=tuple(
                _head(fields, part_of(tensors, f"head.{number}."))
                for number, fields in enumerate(heads)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedScorer:
    """A network that was tuned on the reference, with its heads."""

    model: Pretrained
    tuned: TunedClassifier

    def score(
        self,
        adata: "AnnData",
        options: EmbedOptions,
        *,
        match: GeneMatch | None = None,
        progress: Progress | None = None,
    ) -> Scored:
        """See `Scorer.score`."""
        cells, report = read_cells(adata, self.model, options, match=match)
        return Scored(
            states=self.tuned.states(cells),
            logits=tuple(self.tuned.logits(cells, progress=progress)),
            report=report,
        )

    def tensors(self) -> dict[str, Tensor]:
        """See `Scorer.tensors`."""
        return {f"tuned.{name}": tensor for name, tensor in self.tuned.tensors().items()}

    def description(self) -> dict[str, object]:
        """See `Scorer.description`."""
        return self.tuned.description()

    @classmethod
    def restore(
        cls, model: Pretrained, tensors: Mapping[str, Tensor], description: Mapping[str, object]
    ) -> "TunedScorer":
        """Build it again around the same weights.

        Parameters
        ----------
        model
            The weights.
        tensors, description
            Of `tensors` and `description`.
        """
        parts = part_of(tensors, "tuned.")
        return cls(model=model, tuned=TunedClassifier.restore(model, parts, description))


def read_cells(
    adata: "AnnData", model: Pretrained, options: EmbedOptions, *, match: GeneMatch | None = None
) -> tuple[InMemoryCells, GeneReport]:
    """Read all cells on the genes of a model.

    Parameters
    ----------
    adata
        Cells × genes.
    model
        With the vocabulary.
    options
        How to read them.
    match
        Token of each column; None for all of the vocabulary.

    Raises
    ------
    CountsError
        The values are not what the scale says, or a cell has no gene of the vocabulary.
    """
    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    if match is None:
        match = match_genes(var, model.vocabulary, options)
    cells = InMemoryCells.from_source(source, match.token, scale=options.scale)
    refuse_empty_rows(np.flatnonzero(cells.lengths == 0), n_rows=len(cells))
    return cells, match.report


def fit_votes(
    x: "NDArray[np.floating]", labels: Labels, rows: "NDArray[np.intp]", *, seed: int
) -> Votes:
    """Keep training cells, with all labels of each, for a vote.

    Parameters
    ----------
    x
        Cell × dim.
    labels
        Of the same cells.
    rows
        Cells to keep.
    seed
        Of the folds by which it is chosen whether to standardise.
    """
    from cellfm.tl._classical import fit_knn

    strata, code = np.unique(labels.strata[rows], return_inverse=True)
    return Votes(
        neighbours=fit_knn(x[rows], code, n_classes=len(strata), seed=seed),
        flags=flags_of(labels)[rows].astype(np.float32),
        exclusive=labels.separator is None,
    )


def fit_probe(
    x: "NDArray[np.floating]", labels: Labels, rows: "NDArray[np.intp]", *, seed: int
) -> Linear:
    """Fit logistic regression with balanced classes; for several labels a cell one for each label.

    Parameters
    ----------
    x
        Cell × dim.
    labels
        Of the same cells.
    rows
        Cells to fit on.
    seed
        Of the folds of the cross-validation.
    """
    from cellfm.tl._classical import fit_linear

    if labels.separator is None:
        code = labels.code[rows]
        return fit_linear(x[rows], code, n_classes=len(labels.classes), seed=seed)
    parts = [_one_label(x[rows], flag, seed=seed) for flag in labels.code[rows].T]
    # Each label has chosen its own scaling: together they read the features as they are.
    weights = [part.weight / part.scale for part in parts]
    biases = [part.bias - weight @ part.mean for part, weight in zip(parts, weights, strict=True)]
    return Linear(
        mean=np.zeros(x.shape[1], np.float32),
        scale=np.ones(x.shape[1], np.float32),
        weight=np.concatenate(weights).astype(np.float32),
        bias=np.concatenate(biases).astype(np.float32),
        strength=float(np.median([part.strength for part in parts])),
    )


def flags_of(labels: Labels) -> "NDArray[np.int64]":
    """Return whether each cell has each label, shape (cell, class); all 0 for cells without one.

    Parameters
    ----------
    labels
        One column.
    """
    if labels.separator is not None:
        return np.maximum(labels.code, 0)
    one = np.eye(len(labels.classes), dtype=np.int64)
    return np.where(labels.known[:, None], one[labels.code], 0)


def linear_arrays(head: Linear) -> "dict[str, NDArray[np.float32]]":
    """Return the arrays of a logistic regression by name.

    Parameters
    ----------
    head
        The regression.
    """
    return {
        name: np.ascontiguousarray(getattr(head, name), np.float32)
        for name in ("mean", "scale", "weight", "bias")
    }


def linear_of(tensors: Mapping[str, Tensor], *, strength: float) -> Linear:
    """Build a logistic regression of its stored arrays.

    Parameters
    ----------
    tensors
        By the names of `linear_arrays`.
    strength
        The one that was chosen.
    """
    mean, scale, weight, bias = (
        tensors[name].numpy() for name in ("mean", "scale", "weight", "bias")
    )
    return Linear(mean=mean, scale=scale, weight=weight, bias=bias, strength=strength)


def _one_label(x: "NDArray[np.floating]", flag: "NDArray[np.integer]", *, seed: int) -> Linear:
    """Fit one label against its absence: weight (1, dim), whose scores are log-odds."""
    from cellfm.tl._classical import NEVER, fit_linear

    if flag.min() == flag.max():  # of all training cells or of none
        mean, scale = x.mean(axis=0).astype(np.float32), np.ones(x.shape[1], np.float32)
        bias = np.array([NEVER if not flag[0] else -NEVER], np.float32)
        weight = np.zeros((1, x.shape[1]), np.float32)
        return Linear(mean=mean, scale=scale, weight=weight, bias=bias, strength=1.0)
    two = fit_linear(x, flag, n_classes=2, seed=seed)
    return replace(two, weight=np.diff(two.weight, axis=0), bias=np.diff(two.bias))


def _vote_arrays(head: Votes) -> "Mapping[str, NDArray[np.generic]]":
    near = head.neighbours
    return {
        "mean": near.mean,
        "scale": near.scale,
        "points": np.ascontiguousarray(near.points),
        "code": near.code,
        "flags": head.flags.astype(np.uint8),
    }


def _describe(head: Linear | Votes) -> dict[str, object]:
    if isinstance(head, Linear):
        return {"kind": "linear", "strength": head.strength}
    return {
        "kind": "votes",
        "k": head.neighbours.k,
        "n_classes": head.neighbours.n_classes,
        "standardised": head.neighbours.standardised,
        "exclusive": head.exclusive,
    }


def _head(fields: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Linear | Votes:
    if fields["kind"] == "linear":
        return linear_of(tensors, strength=float(str(fields["strength"])))
    neighbours = Neighbours(
        mean=tensors["mean"].numpy(),
        scale=tensors["scale"].numpy(),
        points=tensors["points"].numpy(),
        code=tensors["code"].numpy(),
        n_classes=int(str(fields["n_classes"])),
        k=int(str(fields["k"])),
        standardised=bool(fields["standardised"]),
    )
    flags = tensors["flags"].numpy().astype(np.float32)
    return Votes(neighbours=neighbours, flags=flags, exclusive=bool(fields["exclusive"]))


def columns_of(codes: Sequence["NDArray[np.int64]"]) -> "NDArray[np.int64]":
    """Return the codes of several columns side by side, shape (cell, column).

    Parameters
    ----------
    codes
        Of each column.
    """
    return np.stack(codes, axis=1)
