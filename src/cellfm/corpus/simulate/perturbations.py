"""Perturbed genes, the programs they drive, and what that does to every gene."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.simulate.streams import Stream, generator
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.config import PerturbationConfig
    from cellfm.corpus.simulate.world import World

CONTROL = "control"
PROGRAMS_OF_REGULATOR = 3
"""Programs that a regulator drives."""
WELL_EXPRESSED = 0.3
"""Regulators are among this part of the genes, the highest expressed, so that a knock-down can be seen."""
SYNERGY = 0.6
"""Magnitude of η of an interacting double."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Perturbations:
    """All perturbations of a data set; number 0 is the control.

    Attributes
    ----------
    names
        ``control``, ``STAT1``, ``STAT1+JAK2``.
    genes
        Columns of the perturbed genes of each.
    kinds
        ``control``, ``single``, or of a double ``additive``, ``synergistic`` or ``buffering``.
    interaction
        η of each, 0 where nothing interacts.
    regulators
        Columns of the genes that drive programs.
    graph
        Signed weights, regulators × programs: what over-expression does to the activities.
    shift
        Δ of the activities, perturbations × programs.
    gain
        Factor on the weights of each regulator in each type, types × regulators; None where all are 1.
    shift_in
        Δ in each type, types × perturbations × programs; None where it is `shift` in all.
    own
        Log-fold change of a perturbed gene itself.
    """

    names: tuple[str, ...]
    genes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    interaction: "NDArray[np.float64]"
    regulators: "NDArray[np.int64]"
    graph: "NDArray[np.float64]"
    shift: "NDArray[np.float64]"
    gain: "NDArray[np.float64] | None"
    shift_in: "NDArray[np.float64] | None"
    own: float

    def shifts(
        self, cell_type: "NDArray[np.int64]", perturbation: "NDArray[np.int64]"
    ) -> "NDArray[np.float64]":
        """Return Δ of cells, cells × programs.

        Parameters
        ----------
        cell_type, perturbation
            Numbers of each cell.
        """
        if self.shift_in is None:
            return self.shift[perturbation]
        return self.shift_in[cell_type, perturbation]

    def effects(
        self, loading: "NDArray[np.float64]", cell_type: int | None = None
    ) -> "NDArray[np.float64]":
        """Return the expected log-fold changes ``W Δ + own``, genes × perturbations.

        Parameters
        ----------
        loading
            W, genes × programs.
        cell_type
            Type in which; None for those at a gain of 1.
        """
        shift = self.shift
        if cell_type is not None and self.shift_in is not None:
            shift = self.shift_in[cell_type]
        effect: NDArray[np.float64] = loading @ shift.T
        for number, genes in enumerate(self.genes):
            effect[list(genes), number] += self.own
        return effect


def make_perturbations(
    config: "PerturbationConfig", world: "World", *, seed: int, spread: float
) -> Perturbations:
    """Draw regulators and their graph; which genes regulate what belongs to the world.

    Parameters
    ----------
    config
        What is asked for.
    world
        Genes and programs.
    seed
        Of the world.
    spread
        Standard deviation of an activity, the unit of the effects.

    Raises
    ------
    ConfigError
        There are not so many well-expressed genes.
    """
    rng = generator(seed, Stream.REGULATORS)
    regulators = _regulators(config, world, rng)
    graph = _graph(config, world.loading[regulators], rng, spread=spread)
    rng = generator(seed, Stream.PERTURBATIONS)
    pairs = list(combinations(range(len(regulators)), 2))
    doubles = [pairs[i] for i in rng.permutation(len(pairs))[: config.n_doubles]]
    members = [(), *((i,) for i in range(len(regulators))), *doubles]
    interaction = _interaction(config, members, graph)
    gain, shift_in = None, None
    direction = 1.0 if config.direction == "over-expression" else -1.0
    if config.context > 0:
        normal = generator(seed, Stream.CONTEXTS).standard_normal(
            (len(world.types), len(regulators))
        )
        gain = np.exp(config.context * normal)
        shift_in = direction * np.stack(
            [_summed(each[:, None] * graph, members, interaction) for each in gain]
        )
    symbols = [world.symbols[i] for i in regulators]
    fold = config.overexpression if direction > 0 else 1.0 - config.efficiency
    return Perturbations(
        names=(CONTROL, *("+".join(symbols[i] for i in member) for member in members[1:])),
        genes=tuple(tuple(int(regulators[i]) for i in member) for member in members),
        kinds=tuple(map(_kind, members, interaction)),
        interaction=interaction,
        regulators=regulators,
        graph=graph,
        shift=direction * _summed(graph, members, interaction),
        gain=gain,
        shift_in=shift_in,
        own=float(np.log(fold)),
    )


def _graph(
    config: "PerturbationConfig",
    loading: "NDArray[np.float64]",
    rng: np.random.Generator,
    *,
    spread: float,
) -> "NDArray[np.float64]":
    """Weights ``(1 − c) u + c ‖u‖ w / ‖w‖`` with u drawn and w the regulator's own loadings; u where it has none."""
    n_programs = loading.shape[1] - 1  # nothing drives the mitochondrial one
    graph = np.zeros(loading.shape)
    for row in graph:
        chosen = rng.permutation(n_programs)[:PROGRAMS_OF_REGULATOR]
        size = config.effect * spread * rng.uniform(0.5, 1.5, len(chosen))
        row[chosen] = size * rng.choice([-1.0, 1.0], len(chosen))
    if config.coupling > 0:
        length = np.linalg.norm(loading, axis=1, keepdims=True)
        size = np.linalg.norm(graph, axis=1, keepdims=True)
        own = size * loading / np.where(length > 0, length, 1.0)
        mixed = (1.0 - config.coupling) * graph + config.coupling * own
        graph = np.where(length > 0, mixed, graph)
    return graph


def _interaction(
    config: "PerturbationConfig", members: list[tuple[int, ...]], graph: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """η of each perturbation, 0 but for doubles."""
    interaction = np.zeros(len(members))
    first = 1 + len(graph)
    if config.epistasis == "redundant":
        for number, (one, other) in enumerate(members[first:], start=first):
            length = np.linalg.norm(graph[one]) * np.linalg.norm(graph[other])
            if length > 0:
                interaction[number] = -SYNERGY * (graph[one] @ graph[other]) / length
        return interaction
    n_interacting = round(config.interacting * (len(members) - first))
    signs = np.where(np.arange(n_interacting) % 2, -1.0, 1.0)
    interaction[first : first + n_interacting] = SYNERGY * signs
    return interaction


def _summed(
    graph: "NDArray[np.float64]",
    members: list[tuple[int, ...]],
    interaction: "NDArray[np.float64]",
) -> "NDArray[np.float64]":
    """Add up the weights of the members of each perturbation, times ``1 + η``."""
    summed = np.stack([graph[list(member)].sum(axis=0) for member in members])
    return summed * (1.0 + interaction)[:, None]


def _regulators(
    config: "PerturbationConfig", world: "World", rng: np.random.Generator
) -> "NDArray[np.int64]":
    """Choose among the well-expressed nuclear genes."""
    mean = world.weight @ world.profile
    nuclear = np.flatnonzero(~world.mitochondrial)
    n_well = int(WELL_EXPRESSED * len(nuclear))
    well = nuclear[np.argsort(-mean[nuclear], kind="stable")[:n_well]]
    if config.n_singles > len(well):
        msg = f"n_singles is {config.n_singles}, but only {len(well)} genes are expressed well enough. Ask for fewer, or for more genes."
        raise ConfigError(msg)
    return rng.permutation(well)[: config.n_singles]


def _kind(member: tuple[int, ...], interaction: float) -> str:
    if len(member) < 2:
        return "single" if member else CONTROL
    return "additive" if not interaction else "synergistic" if interaction > 0 else "buffering"
