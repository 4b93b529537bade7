"""Frozen states and fitted profiles: what many methods need, computed once."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from cellfm.corpus.split import TEST
from cellfm.tl._classical import Profiles
from cellfm.tl._embed import frozen_states
from cellfm.tl._states import EmbedOptions, Pool
from cellfm.weights.atomic import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.bench.task import Case
    from cellfm.weights.folder import Pretrained

Kept = TypeVar("Kept")


class States:
    """States by (weights, dataset, cells, pooling), kept in memory and in a folder.

    Attributes
    ----------
    seconds
        What computing the arrays given out since the last :meth:`restart` took when they were computed: a method is charged
        for them whether or not it was the first to ask.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds = folder, 0.0
        self._arrays: dict[str, tuple[NDArray[np.float32], float]] = {}
        self._kept: dict[str, tuple[object, float]] = {}
        self._spent = 0.0
        self._charged: set[str] = set()

    def restart(self) -> None:
        """Begin to count the seconds anew."""
        self.seconds = self._spent = 0.0
        self._charged.clear()

    @property
    def borrowed(self) -> float:
        """Seconds that were spent earlier on what was given out since the last restart."""
        return self.seconds - self._spent

    def frozen(
        self, case: "Case", model: "Pretrained", *, pool: Pool = "cls"
    ) -> "NDArray[np.float32]":
        """Frozen states of all cells of a case or view, shape (cell, dim).

        Parameters
        ----------
        case
            Its cells.
        model
            Weights; identified by their hash.
        pool
            As in :func:`cellfm.tl.embed`.
        """
        whitening = "" if model.whitening is None else model.whitening.hash
        key = _key(model.hash, case.dataset.hash, case.rows, pool, whitening)
        if key not in self._arrays and (path := self.folder / f"{key}.npz").is_file():
            with np.load(path, allow_pickle=False) as file:
                self._arrays[key] = file["states"], float(file["seconds"])
        elif key not in self._arrays:
            self._arrays[key] = self._compute(key, case, model, pool)
        states, seconds = self._arrays[key]
        self._charge(key, seconds)
        return states

    def profiles(self, case: "Case") -> Profiles:
        """Variable genes and PCA-50 of the training cells of a view, with or without a label.

        Parameters
        ----------
        case
            A view.
        """
        fit = case.part != TEST
        make = partial(Profiles.fit, case.adata[fit], scale=case.dataset.scale, seed=0)
        return self.remember(("profiles", case.dataset.hash, case.rows[fit]), make)

    def log_values(self, case: "Case") -> "NDArray[np.float32]":
        """Log values of the variable genes of the training cells, for all cells of a view."""
        profiles = self.profiles(case)
        make = partial(profiles.log_values, case.adata, scale=case.dataset.scale)
        key = ("log values", case.dataset.hash, case.rows, case.rows[case.part != TEST])
        return self.remember(key, make)

    def remember(self, key: "Sequence[str | NDArray[np.int64]]", make: Callable[[], Kept]) -> Kept:
        """Return what `make` makes, made once for a key.

        Parameters
        ----------
        key
            What it is a function of.
        make
            Makes it.
        """
        name = _key(*key)
        if name not in self._kept:
            began, spent = time.perf_counter(), self._spent
            made = make()
            took = time.perf_counter() - began
            self._kept[name] = made, took
            self._spent = spent + took
        kept, took = self._kept[name]
        self._charge(name, took)
        return cast("Kept", kept)

    def _charge(self, key: str, seconds: float) -> None:
        """Count what something took, once, however many views ask for it."""
        if key not in self._charged:
            self.seconds += seconds
            self._charged.add(key)

    def _compute(
        self, key: str, case: "Case", model: "Pretrained", pool: Pool
    ) -> "tuple[NDArray[np.float32], float]":
        began = time.perf_counter()
        options = EmbedOptions(scale=case.dataset.scale, pool=pool, empty="nan")
        states = np.nan_to_num(frozen_states(case.adata, model, options)[0], nan=0.0)
        seconds = time.perf_counter() - began
        self._spent += seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{key}.npz") as path, path.open("wb") as file:
            np.savez(file, states=states, seconds=np.float64(seconds))
        return states, seconds


def _key(*parts: "str | NDArray[np.int64]") -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
        digest.update(b"\0")
    return digest.hexdigest()[:32]
