r"""Maps of single cells: where a drug at a dose takes each control cell, in a latent space, and back to genes.

A cell's latent is the principal components of its log expression, or of its frozen CellFM state, or both side by side. The map is the
gradient of a convex potential (:mod:`cellfm.nn.transport`), fitted to control and treated cells of the same context; what it changes in the
latent is turned into a change of log expression by a ridge regression of log expression on the latent, fitted on the training cells:

.. math:: \hat x_i = x_i + D^⊤ (T(z_i) − z_i)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cellfm.nn.transport import ConvexPotential, Sample, fit_potentials, initialise_potential
from cellfm.tl._response.log_counts import log_values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]

LatentKind = Literal["expression", "states", "both"]
KINDS: tuple[LatentKind, ...] = ("expression", "states", "both")
MOST_COMPONENTS = 50
RIDGE = 1e-3
"""Penalty of the decoder, relative to the mean variance of the latent."""
HIDDEN = (64, 64)
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latent:
    """A latent space and the way back.

    Attributes
    ----------
    kind
        What it is made of.
    centre
        Means of the features, shape (feature,).
    basis
        Shape (feature, component), scaled so that components have variance 1 on average.
    decoder
        What a latent unit adds to log expression, shape (component, gene).
    """

    kind: LatentKind
    centre: "Floats"
    basis: "Floats"
    decoder: "Floats"

    @staticmethod
    def fit(
        kind: LatentKind,
        values: "Floats",
        states: "NDArray[np.float32]",
        *,
        n_components: int = 20,
    ) -> "Latent":
        """Fit components and decoder on training cells.

        Parameters
        ----------
        kind
            What it is made of.
        values
            Log expression, shape (cell, gene).
        states
            Frozen states, shape (cell, dim).
        n_components
            Components, at most 50; with both kinds, half of each.
        """
        n = min(n_components, MOST_COMPONENTS, len(values) - 1)
        features = _features(kind, values, states)
        centre = features.mean(axis=0)
        if kind == "both":
            genes = values.shape[1]
            first = _components(features[:, :genes] - centre[:genes], n - n // 2)
            second = _components(features[:, genes:] - centre[genes:], n // 2)
            basis = np.zeros((features.shape[1], first.shape[1] + second.shape[1]))
            basis[:genes, : first.shape[1]] = first
            basis[genes:, first.shape[1] :] = second
        else:
            basis = _components(features - centre, n)
        z = (features - centre) @ basis
        gram = z.T @ z / len(z)
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        decoder = np.linalg.solve(gram, z.T @ (values - values.mean(axis=0)) / len(z))
        return Latent(kind=kind, centre=centre, basis=basis, decoder=decoder)

    def encode(self, values: "Floats", states: "NDArray[np.float32]") -> "Floats":
        """Return the latents of cells, shape (cell, component).

        Parameters
        ----------
        values, states
            Of the cells.
        """
        encoded: Floats = (_features(self.kind, values, states) - self.centre) @ self.basis
        return encoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellPairs:
    """Cells that maps are fitted to.

    Attributes
    ----------
    source
        Latents of control cells, shape (cell, component).
    source_context
        Their contexts.
    target
        Latents of treated cells.
    target_context
        Theirs; each has a control cell.
    condition
        What the map of each treated cell depends on, such as its log dose, shape (treated, condition).
    """

    source: "Floats"
    source_context: "NDArray[np.int64]"
    target: "Floats"
    target_context: "NDArray[np.int64]"
    condition: "Floats"

    def batches(self, seed: int) -> Iterator[Sample]:
        """Yield treated cells, and for each a control cell of its context, in the units of the potentials.

        Parameters
        ----------
        seed
            Of the draws.
        """
        rng = np.random.default_rng(seed)
        rows = [
            np.flatnonzero(self.source_context == c)
            for c in range(int(self.source_context.max()) + 1)
        ]
        while True:
            drawn = rng.integers(len(self.target), size=BATCH)
            mates = [rows[c][rng.integers(len(rows[c]))] for c in self.target_context[drawn]]
            c = torch.from_numpy(self.condition[drawn]).float()
            x, y = (torch.from_numpy(each).float() for each in (self.source[mates], self.target[drawn]))  # fmt: skip
            yield x, c, y, c


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellMap:
    """A fitted map of latents.

    Attributes
    ----------
    potential
        g, whose gradient is the map of a latent less `shift`.
    shift
        Mean difference of treated and control cells: the potential begins from there, as optimal maps differ by a translation when the target does.
    condition_centre, condition_scale
        Of the conditions trained on.
    value
        The value of the min-max problem at the end, mean of the last tenth of steps.
    """

    potential: ConvexPotential
    shift: "Floats"
    condition_centre: "Floats"
    condition_scale: "Floats"
    value: float

    @staticmethod
    def fit(pairs: CellPairs, *, n_steps: int = 300, seed: int = 0) -> "CellMap":
        """Solve the min-max problem.

        Parameters
        ----------
        pairs
            Cells.
        n_steps
            Steps of the outer potential, each with two of the inner one.
        seed
            Of weights and draws.
        """
        shift = _mean_difference(pairs)
        centre, scale = pairs.condition.mean(axis=0), pairs.condition.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        moved = CellPairs(
            source=pairs.source,
            source_context=pairs.source_context,
            target=pairs.target - shift,
            target_context=pairs.target_context,
            condition=(pairs.condition - centre) / scale,
        )
        dim, width = pairs.source.shape[1], pairs.condition.shape[1]
        rng = torch.Generator().manual_seed(seed)
        f, g = (initialise_potential(ConvexPotential(dim, width, HIDDEN), rng) for _ in range(2))
        values = fit_potentials(f, g, moved.batches(seed), n_steps=n_steps)
        tail = values[-max(1, n_steps // 10) :]
        return CellMap(
            potential=g, shift=shift, condition_centre=centre, condition_scale=scale, value=float(np.mean(tail)),
        )  # fmt: skip

    def __call__(self, latent: "Floats", condition: "Floats") -> "Floats":
        """Return where cells go, shape (cell, component).

        Parameters
        ----------
        latent
            Control cells, shape (cell, component).
        condition
            Of all of them, shape (condition,).
        """
        scaled = (condition - self.condition_centre) / self.condition_scale
        c = torch.from_numpy(np.tile(scaled, (len(latent), 1))).float()
        moved = self.potential.gradient(torch.from_numpy(latent).float(), c).detach()
        return np.asarray(moved.double().numpy() + self.shift)


def gaussian_map(source: "Floats", target: "Floats", latent: "Floats") -> "Floats":
    """Move cells by the optimal map between the Gaussians of two samples, of POT (Flamary et al., JMLR 2021).

    Parameters
    ----------
    source, target
        Latents of control and treated cells.
    latent
        Cells to move.

    Raises
    ------
    MissingDependencyError
        POT is missing.
    """
    from cellfm.optional import require

    require("ot", extra="chem")
    import ot

    matrix, shift = ot.gaussian.empirical_bures_wasserstein_mapping(source, target, reg=1e-3)
    return np.asarray(latent @ matrix + shift, np.float64)


def dense_values(counts: "csr_matrix") -> "Floats":
    """Return log1p of counts per 10⁴, dense, shape (cell, gene).

    Parameters
    ----------
    counts
        Cells × genes.
    """
    return np.asarray(log_values(counts).toarray(), np.float64)


def potential_tensors(maps: "Sequence[CellMap]") -> dict[str, torch.Tensor]:
    """Return what maps are made of, by name, to store them.

    Parameters
    ----------
    maps
        In order.
    """
    tensors: dict[str, torch.Tensor] = {}
    for number, each in enumerate(maps):
        for name, value in each.potential.state_dict().items():
            tensors[f"map.{number}.{name}"] = value
        for name in ("shift", "condition_centre", "condition_scale"):
            tensors[f"map.{number}/{name}"] = torch.from_numpy(np.asarray(getattr(each, name)))
    return tensors


def stored_map(tensors: "dict[str, torch.Tensor]", number: int, *, value: float) -> CellMap:
    """Return a map of stored tensors.

    Parameters
    ----------
    tensors
        Of `potential_tensors`.
    number
        Which map.
    value
        Of its problem.
    """
    own = {name.removeprefix(f"map.{number}."): each for name, each in tensors.items()
           if name.startswith(f"map.{number}.")}  # fmt: skip
    rest = {name: tensors[f"map.{number}/{name}"].numpy() for name in ("shift", "condition_centre", "condition_scale")}  # fmt: skip
    potential = ConvexPotential(len(rest["shift"]), len(rest["condition_centre"]), HIDDEN)
    potential.load_state_dict(own)
    return CellMap(potential=potential, value=value, **rest)


def _features(kind: LatentKind, values: "Floats", states: "NDArray[np.float32]") -> "Floats":
    if kind == "expression":
        return values
    wide = states.astype(np.float64)
    return wide if kind == "states" else np.concatenate([values, wide], axis=1)


def _components(centred: "Floats", n: int) -> "Floats":
    """Leading eigenvectors of the covariance, scaled so that the scores have variance 1 on average."""
    from scipy.linalg import eigh

    width = centred.shape[1]
    covariance = centred.T @ centred / len(centred)
    size, vectors = eigh(covariance, subset_by_index=(max(width - n, 0), width - 1))
    basis: Floats = vectors[:, ::-1] / np.sqrt(max(float(size.mean()), 1e-12))
    return basis


def _mean_difference(pairs: CellPairs) -> "Floats":
    n = int(pairs.source_context.max()) + 1
    means = np.stack([
        pairs.source[pairs.source_context == c].mean(axis=0)
        if (pairs.source_context == c).any() else np.zeros(pairs.source.shape[1]) for c in range(n)
    ])  # fmt: skip
    return np.asarray((pairs.target - means[pairs.target_context]).mean(axis=0), np.float64)
