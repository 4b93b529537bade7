"""A reference index on disk: standardised cell states in a faiss index, cells' names and labels, and what distances mean.

A folder: ``index.json`` describes it and holds the SHA-256 of the others; ``index.faiss`` has the vectors; ``cells.h5ad``
the names and columns of obs; ``constants.npz`` the standardisation and the distances among reference cells. No pickle.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cellfm.errors import ConfigError, DataError
from cellfm.optional import require
from cellfm.tl._states import Pool

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Metric = Literal["euclidean", "cosine"]
Structure = Literal["auto", "flat", "ivf", "ivf8", "hnsw"]

FORMAT, KIND = 1, "reference index"
DESCRIPTION, VECTORS, CELLS, CONSTANTS = "index.json", "index.faiss", "cells.h5ad", "constants.npz"
FILES = (VECTORS, CELLS, CONSTANTS)

MOST_FLAT = 20_000  # exact search of so many takes about a millisecond a query
MOST_HALF = 3_000_000  # above, 2 bytes a number are too much for a laptop
QUANTISER: Mapping["Structure", str] = {"ivf": "SQfp16", "ivf8": "SQ8"}
"""What lists hold of each number; figures in benchmarks/README.md."""
HNSW_LINKS, HNSW_BUILD_EFFORT, HNSW_EFFORT = 32, 80, 128
IVF_POINTS, IVF_TRAINING, IVF_PROBED = 39, 64, 1 / 64
"""Fewest points a list that faiss trains on without complaint, those we give it, and the share of lists looked at."""
ADDED = 16_384
"""Rows standardised and added at a time."""
N_CALIBRATION, MOST_NEIGHBOURS = 2_000, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDescription:
    """What an index is of and how it was made."""

    weights_hash: str
    vocabulary_hash: str
    weights: str
    """Where the weights were read from."""
    pool: Pool
    whitening_hash: str | None
    """Of pool whitened; the map may be fitted anew for the same weights."""
    n_cells: int
    dim: int
    metric: Metric
    structure: Structure
    n_lists: int
    """Of an IVF index, else 0."""
    labels: tuple[str, ...]
    """Columns whose labels are transferred."""
    batch_key: str | None
    leave_one_out: Mapping[str, Mapping[str, float]]
    """Accuracy and macro-F1 of each label's transfer to reference cells that were left out."""
    cellfm_version: str


class Neighbours(NamedTuple):
    """The nearest reference cells of each cell, nearest first; shape (cell, neighbour)."""

    row: "NDArray[np.int64]"
    """In the index; −1 for none."""
    distance: "NDArray[np.float32]"
    """Infinite where none was found."""

    def first(self, k: int) -> "Neighbours":
        """Return the k nearest."""
        return Neighbours(self.row[:, :k], self.distance[:, :k])

    def without(self, own: "NDArray[np.int64]") -> "Neighbours":
        """Drop each cell from its own neighbours; the farthest where an approximate search has not found it."""
        is_self = self.row == own[:, None]
        is_self[~is_self.any(1), -1] = True
        shape = (len(own), self.row.shape[1] - 1)
        return Neighbours(self.row[~is_self].reshape(shape), self.distance[~is_self].reshape(shape))


def faiss() -> Any:  # noqa: ANN401
    """Return the module; what types it has for mypy do not fit it."""
    require("faiss", extra="index")
    return import_module("faiss")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standard:
    """Constants that make every dimension of a state count alike; or centre only, where the scale means something already."""

    mean: "NDArray[np.float32]"
    scale: "NDArray[np.float32]"

    @classmethod
    def of(cls, states: "NDArray[np.float32]", *, scaled: bool = True) -> "Standard":
        """Mean and standard deviation of each dimension, computed by blocks; a constant dimension keeps scale 1.

        Whitened states are in units of noise: with `scaled` false they stay so. Divided by their spread, the least determined
        components would count as much as the best.
        """
        total, square = (np.zeros(states.shape[1]) for _ in range(2))
        for block in _blocks(states):
            total += block.sum(0, dtype=np.float64)
        mean = total / len(states)
        for block in _blocks(states):
            square += np.square(block - mean).sum(0)
        deviation = np.sqrt(square / len(states))
        flat = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
        scale = np.where(flat | (not scaled), 1.0, deviation)
        return cls(mean=mean.astype(np.float32), scale=scale.astype(np.float32))

    def vectors(self, states: "NDArray[np.float32]", metric: Metric) -> "NDArray[np.float32]":
        """Return what is put into the index and asked of it; of unit length for the cosine."""
        z = (states - self.mean) / self.scale
        if metric == "cosine":
            z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.float32(1e-12))
        return np.ascontiguousarray(z, np.float32)


def choose_structure(structure: Structure, n_cells: int) -> Structure:
    """Return the structure for so many cells when none was asked for: exact, then lists of half, then of quarter precision.

    Raises
    ------
    ConfigError
        There is no such structure.
    """
    if structure not in ("auto", "flat", "ivf", "ivf8", "hnsw"):
        msg = f"structure is {structure!r}; it must be one of 'auto', 'flat', 'ivf', 'ivf8', 'hnsw'. Choose one of these."
        raise ConfigError(msg)
    if structure != "auto":
        return structure
    return "flat" if n_cells <= MOST_FLAT else "ivf" if n_cells <= MOST_HALF else "ivf8"


def list_count(n_cells: int) -> int:
    """Return how many lists an IVF index has: about 4 √n, a power of two, with enough cells each to be trained."""
    wanted = 2 ** round(np.log2(4 * np.sqrt(max(n_cells, 1))))
    return int(max(1, min(wanted, n_cells // IVF_POINTS, 65_536)))


def make_vectors(
    states: "NDArray[np.float32]",
    standard: Standard,
    *,
    metric: Metric,
    structure: Structure,
    seed: int = 0,
) -> Any:  # noqa: ANN401 - faiss has no types
    """Make the faiss index of all states, added block by block.

    IVF (Jégou et al. 2011) holds two bytes, or one, for each number of the difference to the centre of the list; HNSW (Malkov & Yashunin 2020) the
    vectors as they are.
    The graph depends on the number of threads in the last neighbours; with one it is always the same.

    Parameters
    ----------
    states
        Shape (cell, dim); may be mapped from disk.
    standard, metric
        How to make vectors of them.
    structure
        flat, ivf, ivf8 or hnsw.
    seed
        Of the choice of cells an IVF index is trained on.
    """
    n_cells, dim = states.shape
    if structure == "flat":
        index = faiss().IndexFlatL2(dim)
    elif structure == "hnsw":
        index = faiss().IndexHNSWFlat(dim, HNSW_LINKS)
        index.hnsw.efConstruction = HNSW_BUILD_EFFORT
    else:
        n_lists = list_count(n_cells)
        index = faiss().index_factory(dim, f"IVF{n_lists},{QUANTISER[structure]}")
        rng = np.random.default_rng(seed)
        chosen = rng.choice(n_cells, min(n_cells, IVF_TRAINING * n_lists), replace=False)
        index.train(standard.vectors(states[np.sort(chosen)], metric))
    for block in _blocks(states):
        index.add(standard.vectors(block, metric))
    return index


def default_effort(structure: Structure, n_lists: int) -> int:
    """Candidates kept while an HNSW graph is walked, or lists looked at; nothing for exact search."""
    if structure == "hnsw":
        return HNSW_EFFORT
    return max(1, min(n_lists, max(16, round(n_lists * IVF_PROBED))))


def nearest(
    index: Any,  # noqa: ANN401 - faiss has no types
    vectors: "NDArray[np.float32]",
    k: int,
    *,
    about: "IndexDescription",
    effort: int | None = None,
    allowed: "NDArray[np.bool_] | None" = None,
) -> Neighbours:
    """Return the k nearest, with their Euclidean distance, or 1 − cosine: of unit vectors half the squared distance.

    Parameters
    ----------
    index
        From `make_vectors`.
    vectors
        Shape (query, dim).
    k
        How many.
    about
        What the index is.
    effort
        ``efSearch`` of HNSW, ``nprobe`` of IVF; None for `default_effort`.
    allowed
        Cells that may be found; None for all.
    """
    effort = default_effort(about.structure, about.n_lists) if effort is None else effort
    kinds: Mapping[Structure, tuple[Any, dict[str, Any]]] = {
        "flat": (faiss().SearchParameters, {}),
        "hnsw": (faiss().SearchParametersHNSW, {"efSearch": max(effort, k)}),
        "ivf": (faiss().SearchParametersIVF, {"nprobe": effort}),
        "ivf8": (faiss().SearchParametersIVF, {"nprobe": effort}),
    }
    make, options = kinds[about.structure]
    if allowed is not None:
        options["sel"] = faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    squared, row = index.search(vectors, k, params=make(**options))
    squared = np.where(row < 0, np.inf, np.maximum(squared, np.float32(0.0)))
    distance = np.sqrt(squared) if about.metric == "euclidean" else squared / 2
    return Neighbours(row, distance.astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceIndex:
    """An index: finds neighbours of states and says how usual their distance is."""

    description: IndexDescription
    vectors: Any
    """The faiss index."""
    obs: "pd.DataFrame"
    """Names and columns of its cells."""
    standard: Standard
    calibration: "NDArray[np.float32]"
    """Distances of reference cells to their nearest other ones, shape (cell, neighbour)."""
    folder: Path
    """Where it is; used in messages."""

    def neighbours(
        self, states: "NDArray[np.float32]", k: int, *, effort: int | None = None
    ) -> Neighbours:
        """Return the k nearest reference cells of each state.

        Raises
        ------
        ConfigError
            `k` or `effort` is out of range.
        """
        return self._found(self.standard.vectors(states, self.description.metric), k, effort)

    def neighbours_of_members(
        self, rows: "NDArray[np.int64]", k: int, *, effort: int | None = None
    ) -> Neighbours:
        """Return the k nearest other cells of some reference cells.

        Raises
        ------
        ConfigError
            `k` or `effort` is out of range.
        """
        if self.description.structure in QUANTISER:
            self.vectors.make_direct_map()
        own = np.stack([self.vectors.reconstruct(int(row)) for row in rows])
        return self._found(own, min(k + 1, self.description.n_cells), effort).without(rows)

    def _found(self, vectors: "NDArray[np.float32]", k: int, effort: int | None) -> Neighbours:
        about = self.description
        if not 1 <= k <= about.n_cells:
            msg = f"The number of neighbours is {k}; it must be between 1 and the {about.n_cells:,} cells of {self.folder}. Give a number in that range."
            raise ConfigError(msg)
        if effort is not None and effort < 1:
            msg = f"effort is {effort}; it must be at least 1, or None for {default_effort(about.structure, about.n_lists)}. Give a number in that range."
            raise ConfigError(msg)
        return nearest(self.vectors, vectors, k, about=about, effort=effort)

    def percentile(self, distance: "NDArray[np.float32]", k: int) -> "NDArray[np.float32]":
        """Percentage of reference cells whose mean distance to k other ones is at most this; NaN stays NaN.

        At 100 a cell is farther than all reference cells that were looked at.
        """
        usual = np.sort(self.calibration[:, :k].mean(1))
        share = np.searchsorted(usual, distance, side="right") / max(len(usual), 1)
        return np.where(np.isnan(distance), np.nan, 100.0 * share).astype(np.float32)


def write_index(folder: Path, index: ReferenceIndex) -> None:
    """Write the files of an index into an empty folder; the description last.

    Parameters
    ----------
    folder
        Where, such as the new folder of :func:`cellfm.weights.atomic.replacing_folder`.
    index
        What to write.
    """
    from anndata import AnnData

    faiss().write_index(index.vectors, str(folder / VECTORS))
    AnnData(obs=index.obs).write_h5ad(folder / CELLS)
    np.savez(
        folder / CONSTANTS,
        mean=index.standard.mean,
        scale=index.standard.scale,
        calibration=index.calibration,
    )
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in FILES
    }
    text = {"format": FORMAT, "kind": KIND, **asdict(index.description), "files": files}
    (folder / DESCRIPTION).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def read_index(folder: Path | str) -> ReferenceIndex:
    """Open an index; every file is compared with its SHA-256 before anything parses it.

    Parameters
    ----------
    folder
        From `build_reference`.

    Raises
    ------
    DataError
        It is no index, of a newer format, or damaged.
    MissingDependencyError
        faiss is not installed.
    """
    require("faiss", extra="index")
    from anndata import read_h5ad

    folder = Path(folder)
    description = _read_description(folder)
    try:
        vectors = faiss().read_index(str(folder / VECTORS))
        obs = read_h5ad(folder / CELLS).obs
        with np.load(folder / CONSTANTS, allow_pickle=False) as saved:
            standard = Standard(mean=saved["mean"], scale=saved["scale"])
            calibration = saved["calibration"]
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        msg = f"The index {folder} cannot be read ({error}). Build it again."
        raise DataError(msg) from error
    shape = (vectors.ntotal, vectors.d, len(obs), len(standard.mean))
    if shape != (description.n_cells, description.dim, description.n_cells, description.dim):
        msg = (
            f"The files of {folder} do not belong together: {shape[0]:,} vectors of {shape[1]} numbers and {shape[2]:,} names, but "
            f"{DESCRIPTION} says {description.n_cells:,} cells of {description.dim}. Build it again."
        )
        raise DataError(msg)
    return ReferenceIndex(
        description=description,
        vectors=vectors,
        obs=obs,
        standard=standard,
        calibration=calibration,
        folder=folder,
    )


def _read_description(folder: Path) -> IndexDescription:
    path = folder / DESCRIPTION
    if not path.is_file():
        msg = f"{folder} is no reference index: there is no {DESCRIPTION} in it. Make one by 'cellfm map build' or tl.build_reference."
        raise DataError(msg)
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        if text["kind"] != KIND or text["format"] != FORMAT:
            msg = (
                f"{path} says kind {text['kind']!r}, format {text['format']!r}; expected {KIND!r}, format {FORMAT}. "
                "Give another folder, or install the version of cellfm that made it."
            )
            raise DataError(msg)
        _check_files(folder, text["files"])
        values = {field.name: text[field.name] for field in fields(IndexDescription)}
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        if isinstance(error, DataError):
            raise
        msg = f"{path} is damaged ({type(error).__name__}: {error}). Build the index again."
        raise DataError(msg) from error
    return IndexDescription(**values | {"labels": tuple(values["labels"])})


def _check_files(folder: Path, files: Mapping[str, Mapping[str, object]]) -> None:
    for name in FILES:
        path, expected = folder / name, files[name]["sha256"]
        found = _sha256(path) if path.is_file() else "no such file"
        if found != expected:
            msg = f"{path} is damaged: its SHA-256 is {found}, but {DESCRIPTION} says {expected}. Copy or build the index again."
            raise DataError(msg)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _blocks(states: "NDArray[np.float32]") -> "Iterator[NDArray[np.float32]]":
    for start in range(0, len(states), ADDED):
        yield np.asarray(states[start : start + ADDED])
