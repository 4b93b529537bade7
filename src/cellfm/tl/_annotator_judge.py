"""From class scores to labels, calibrated probabilities and unknowns, by thresholds set on validation cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cellfm.tl._annotator_heads import flags_of
from cellfm.tl._annotator_score import Calls, decide
from cellfm.tl._confidence import (
    Mahalanobis,
    Novelty,
    energy,
    fit_temperature,
    knn_distance,
    label_energy,
    novelty_threshold,
    probability_threshold,
)
from cellfm.tl._labels import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_POINTS = 2000
"""Training cells that are kept for the distance to the nearest ones; a random sample of more."""
N_NEIGHBOURS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoveltyScore:
    """How unlike the reference a cell is, by one of three scores."""

    kind: Novelty
    arrays: "Mapping[str, NDArray[np.float32]]"
    """``mahalanobis``: mean, whiten; ``knn``: mean, points; ``energy``: none."""

    @classmethod
    def fit(
        cls,
        kind: Novelty,
        states: "NDArray[np.floating]",
        labels: Labels,
        rows: "NDArray[np.intp]",
        *,
        seed: int,
    ) -> "NoveltyScore":
        """Take what the score needs of training cells.

        Parameters
        ----------
        kind
            Which score.
        states
            Cell × dim.
        labels
            Of the same cells.
        rows
            Training cells.
        seed
            Of the sample of training cells.
        """
        x = np.asarray(states[rows], np.float64)
        if kind == "energy":
            return cls(kind=kind, arrays={})
        if kind == "mahalanobis":
            fitted = Mahalanobis.fit(x, np.unique(labels.strata[rows], return_inverse=True)[1])
            return cls(kind=kind, arrays=_float32(mean=fitted.mean, whiten=fitted.whiten))
        n = min(len(x), MOST_POINTS)
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), n, replace=False))
        points = x[chosen] - x.mean(axis=0)
        return cls(kind=kind, arrays=_float32(mean=x.mean(axis=0), points=points))

    def score(
        self,
        states: "NDArray[np.floating]",
        logits: "NDArray[np.floating]",
        *,
        exclusive: bool,
    ) -> "NDArray[np.float64]":
        """Return the novelty of each cell, higher for stranger ones.

        Parameters
        ----------
        states
            Cell × dim.
        logits
            Cell × class.
        exclusive
            Whether a cell has one label only.
        """
        if self.kind == "energy":
            return energy(logits) if exclusive else label_energy(logits)
        arrays = self.arrays
        if self.kind == "mahalanobis":
            mean, whiten = (np.asarray(arrays[name], np.float64) for name in ("mean", "whiten"))
            return Mahalanobis(mean=mean, whiten=whiten).distance(states)
        # In the scale they have: dividing each dimension by its spread blows up those that are mostly noise.
        return knn_distance(arrays["points"], states - arrays["mean"], k=N_NEIGHBOURS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """Temperature, novelty score and thresholds of one label column under one method."""

    temperature: float
    probability_threshold: float
    novelty_threshold: float
    novelty: NoveltyScore

    @classmethod
    def fit(
        cls,
        kind: Novelty,
        states: "NDArray[np.floating]",
        logits: "NDArray[np.floating]",
        labels: Labels,
        *,
        train: "NDArray[np.intp]",
        validation: "NDArray[np.intp]",
        seed: int,
    ) -> "Judge":
        """Fit the novelty score on training cells, and temperature and thresholds on validation cells.

        Parameters
        ----------
        kind
            Which novelty score.
        states
            Cell × dim.
        logits
            Cell × class.
        labels
            Of the same cells.
        train, validation
            Rows of cells with a label.
        seed
            Of the sample of training cells.
        """
        exclusive = labels.separator is None
        novelty = NoveltyScore.fit(kind, states, labels, train, seed=seed)
        held = logits[validation]
        temperature = fit_temperature(held, labels.code[validation])
        flags, probability = decide(held, temperature, exclusive=exclusive)
        right = (flags == (flags_of(labels)[validation] == 1)).all(axis=1)
        strange = novelty.score(states[validation], held, exclusive=exclusive)
        return cls(
            temperature=temperature,
            probability_threshold=probability_threshold(probability, right),
            novelty_threshold=novelty_threshold(strange),
            novelty=novelty,
        )

    def calls(
        self,
        states: "NDArray[np.floating]",
        logits: "NDArray[np.floating]",
        labels: Labels,
        *,
        unknown: bool,
    ) -> Calls:
        """Label cells.

        Parameters
        ----------
        states
            Cell × dim.
        logits
            Cell × class.
        labels
            The column; its classes and separator are used.
        unknown
            Whether cells may get no label.
        """
        exclusive = labels.separator is None
        flags, probability = decide(logits, self.temperature, exclusive=exclusive)
        names = np.array(labels.classes, dtype=str)
        best = (
            names[flags.argmax(axis=1)]
            if exclusive
            else np.array([labels.joined(row) for row in flags], dtype=str).reshape(len(flags))
        )
        novelty = self.novelty.score(states, logits, exclusive=exclusive)
        return Calls(
            best=best,
            flags=flags,
            probability=probability,
            raw_probability=decide(logits, 1.0, exclusive=exclusive)[1],
            novelty=novelty,
            novel=(novelty > self.novelty_threshold) & unknown,
            uncertain=(probability < self.probability_threshold) & unknown,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be stored."""
        return {name: torch.from_numpy(array) for name, array in self.novelty.arrays.items()}

    def description(self) -> dict[str, object]:
        """Return what `restore` needs beside the tensors, for JSON."""
        return {
            "temperature": self.temperature,
            "probability_threshold": self.probability_threshold,
            "novelty_threshold": self.novelty_threshold,
            "novelty": self.novelty.kind,
        }

    @classmethod
    def restore(cls, description: Mapping[str, object], tensors: Mapping[str, Tensor]) -> "Judge":
        """Build it again.

        Parameters
        ----------
        description, tensors
            Of `description` and `tensors`.
        """
        numbers = {
            name: float(str(description[name]))
            for name in ("temperature", "probability_threshold", "novelty_threshold")
        }
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        kind: Novelty = description["novelty"]  # type: ignore[assignment] # as it was stored
        return cls(novelty=NoveltyScore(kind=kind, arrays=arrays), **numbers)


def _float32(**arrays: "NDArray[np.floating]") -> "dict[str, NDArray[np.float32]]":
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
