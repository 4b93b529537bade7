"""A linear map of cell states under which technical noise is the same in every direction; kept beside the weights."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import WeightsError
from cellfm.weights.protobuf_write import array_pieces
from cellfm.weights.tensors import Tensor32, open_tensors, stored_tensors, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITENING = "whitening.safetensors"
"""Optional file of a weights folder."""
FORMAT = "1"
RIDGE = 1e-3
"""Share of the mean noise variance that is added to every direction's: a direction without noise is not blown up."""
LEAST_RATIO = 2.0
"""Components are kept whose variance over cells is at least so many times the noise's."""

_SHAPES = {"mean": 1, "matrix": 2, "ratio": 1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitening:
    r"""States in units of technical noise, best determined component first (minimum noise fraction, Green et al. 1988).

    .. math:: z = (h - \mu) M, \qquad M^\top \Sigma_n M = I, \qquad M^\top \Sigma M = \mathrm{diag}(\rho_1 \ge \rho_2 \ge \dots)

    with :math:`\Sigma` the covariance of states h over cells and :math:`\Sigma_n` that of their noise, found without labels: the counts
    of a cell are split at random in two halves, whose states differ by noise and read depth alone.

    Attributes
    ----------
    mean
        μ, shape (dim,).
    matrix
        M, shape (dim, component).
    ratio
        ρ, variance over cells in units of noise, shape (component,), falling.
    weights_hash
        Of the weights it was fitted for.
    """

    mean: "NDArray[np.float32]"
    matrix: "NDArray[np.float32]"
    ratio: "NDArray[np.float32]"
    weights_hash: str

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.matrix.shape[1]

    @property
    def hash(self) -> str:
        """SHA-256 of the map."""
        return hashlib.sha256(self.mean.tobytes() + self.matrix.tobytes()).hexdigest()

    @classmethod
    def fit(
        cls,
        states: "NDArray[np.floating]",
        first: "NDArray[np.floating]",
        second: "NDArray[np.floating]",
        *,
        weights_hash: str,
    ) -> "Whitening":
        """Find the map from states and from those of two halves of the same cells' counts.

        Parameters
        ----------
        states
            Shape (cell, dim).
        first, second
            States of the halves, shape (cell, dim).
        weights_hash
            Of the weights.
        """
        x = states.astype(np.float64)
        difference = first.astype(np.float64) - second.astype(np.float64)
        variance, axes = np.linalg.eigh(difference.T @ difference / (2 * len(difference)))
        # A network whose states do not vary at all keeps every direction as it is.
        floor = max(RIDGE * variance.mean(), np.finfo(np.float64).tiny)
        to_noise = axes / np.sqrt(variance.clip(min=0) + floor)
        ratio, turn = np.linalg.eigh(np.cov((x - x.mean(axis=0)) @ to_noise, rowvar=False))
        order = np.argsort(-ratio)
        n_kept = max(int((ratio >= LEAST_RATIO).sum()), 2)
        kept = order[:n_kept]
        matrix = to_noise @ turn[:, kept]
        # The sign of an eigenvector is arbitrary; the largest entry is made positive, so that runs agree.
        matrix *= np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(n_kept)])
        return cls(
            mean=x.mean(axis=0).astype(np.float32),
            matrix=matrix.astype(np.float32),
            ratio=ratio[kept].astype(np.float32),
            weights_hash=weights_hash,
        )

    def __call__(self, states: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Map states, shape (cell, dim), to components, shape (cell, component).

        Each cell by itself: a product of matrices would round the last digit by the number of cells.
        """
        return np.einsum("cd,dk->ck", states - self.mean, self.matrix, optimize=False)


def write_whitening(folder: Path, whitening: Whitening) -> None:
    """Put a whitening into a weights folder, in place of an earlier one.

    Parameters
    ----------
    folder
        Weights folder.
    whitening
        What to write.
    """
    tensors = [_stored(name, getattr(whitening, name)) for name in _SHAPES]
    metadata = {"format": FORMAT, "weights": whitening.weights_hash}
    write_tensors(folder / WHITENING, tensors, metadata=metadata)


def read_whitening(folder: Path, *, weights_hash: str, dim: int) -> Whitening | None:
    """Read the whitening of a weights folder.

    Parameters
    ----------
    folder
        Weights folder.
    weights_hash, dim
        Of its weights.

    Returns
    -------
    None for a folder without one.

    Raises
    ------
    WeightsError
        The file is damaged, of another format, or belongs to other weights.
    """
    path = folder / WHITENING
    if not path.is_file():
        return None
    with open_tensors(path, framework="numpy") as file:
        names = set(file.keys())
        arrays = {name: file.get_tensor(name) for name in _SHAPES if name in names}
    metadata = stored_tensors(path)[1]
    if metadata.get("format") != FORMAT or metadata.get("weights") != weights_hash:
        msg = (
            f"{path} has format {metadata.get('format')!r} and belongs to weights {metadata.get('weights', 'unknown')[:12]}, not to format {FORMAT!r} "
            f"and {weights_hash[:12]}. Remove it, or make it again: cellfm weights whiten {folder} CELLS.h5ad."
        )
        raise WeightsError(msg)
    shapes = {name: array.shape for name, array in arrays.items()}
    n = shapes.get("ratio", (0,))[0]
    expected = {"mean": (dim,), "matrix": (dim, n), "ratio": (n,)}
    if shapes != expected or not all(np.isfinite(array).all() for array in arrays.values()):
        msg = f"{path} holds {shapes}; expected finite {expected}. Remove it, or make it again: cellfm weights whiten {folder} CELLS.h5ad."
        raise WeightsError(msg)
    return Whitening(**arrays, weights_hash=weights_hash)


def _stored(name: str, array: "NDArray[np.float32]") -> Tensor32:
    def pieces() -> Iterable[memoryview]:
        return array_pieces(array)

    return Tensor32(name=name, shape=array.shape, pieces=pieces)
