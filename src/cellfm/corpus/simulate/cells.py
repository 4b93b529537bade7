"""What each cell is: type, donor, batch, depth, activities, perturbation, droplet."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.simulate.streams import Stream, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.batches import Batches
    from cellfm.corpus.simulate.config import SimulationConfig
    from cellfm.corpus.simulate.world import World

TILE = 256
"""Cells that share generators: the unit of all randomness, whatever is asked for at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """Facts of the cells of a tile, or of several.

    Attributes
    ----------
    type, donor
        Their numbers.
    depth
        Expected total count of the cell's own RNA on the genes; in an empty droplet, of ambient RNA.
    deviation
        d, cells × programs: activities minus the mean of the type, before the perturbation.
    perturbation
        Its number, 0 for the control.
    escaped
        Whether the perturbation does not act.
    partner
        Position in the tile of the other cell of a doublet, −1 for single cells.
    empty
        Whether the droplet has no cell.
    """

    type: "NDArray[np.int64]"
    donor: "NDArray[np.int64]"
    depth: "NDArray[np.float64]"
    deviation: "NDArray[np.float64]"
    perturbation: "NDArray[np.int64]"
    escaped: "NDArray[np.bool_]"
    partner: "NDArray[np.int64]"
    empty: "NDArray[np.bool_]"

    @property
    def total_depth(self) -> "NDArray[np.float64]":
        """Expected total count of what is in the droplet, without what ambient RNA adds to cells."""
        paired = self.partner >= 0
        return self.depth + np.where(paired, self.depth[self.partner], 0.0)


def draw_cells(
    config: "SimulationConfig",
    world: "World",
    batches: "Batches",
    *,
    n_perturbations: int,
    seed: int,
    tile: int,
) -> Cells:
    """Draw the cells of a tile.

    Parameters
    ----------
    config
        Depth, droplets and shares.
    world, batches
        What the cells are drawn of.
    n_perturbations
        Perturbations without the control.
    seed
        Of the data set.
    tile
        Number of the tile.
    """
    rng = generator(seed, Stream.CELLS, tile)
    donor = rng.integers(len(batches.batch_of), size=TILE)
    edges = np.cumsum(batches.composition, axis=1)[:, :-1]
    cell_type = (rng.random(TILE)[:, None] >= edges[donor]).sum(axis=1)
    batch = batches.batch_of[donor]
    log_depth = _log_depths(config, world, cell_type, rng) + batches.depth_shift[batch]
    factor = rng.standard_normal((TILE, world.mixing.shape[2]))
    deviation = np.zeros((TILE, world.mixing.shape[1]))
    for number in range(len(world.types)):
        rows = cell_type == number
        deviation[rows] = factor[rows] @ world.mixing[number].T
    perturbation, escaped = np.zeros(TILE, dtype=np.int64), np.zeros(TILE, dtype=np.bool_)
    if config.perturbations is not None:
        asked = config.perturbations
        perturbed = rng.random(TILE) >= asked.control_fraction
        perturbation = np.where(perturbed, 1 + rng.integers(n_perturbations, size=TILE), 0)
        escaped = perturbed & (rng.random(TILE) < asked.escape_fraction)
    partner, empty, empty_depth = _droplets(config, batch, seed=seed, tile=tile)
    return Cells(
        type=cell_type,
        donor=donor,
        depth=np.where(empty, empty_depth, np.exp(log_depth)),
        deviation=deviation,
        perturbation=perturbation,
        escaped=escaped,
        partner=partner,
        empty=empty,
    )


def _log_depths(
    config: "SimulationConfig",
    world: "World",
    cell_type: "NDArray[np.int64]",
    rng: np.random.Generator,
) -> "NDArray[np.float64]":
    """Log-normal depths, or those of the reference's cells of the type."""
    if world.depths is None:
        return np.log(config.depth) + config.depth_spread * rng.standard_normal(TILE)
    position = rng.random(TILE) * (world.depths.shape[1] - 1)
    lower = position.astype(np.int64)
    low, high = world.depths[cell_type, lower], world.depths[cell_type, lower + 1]
    return low + (position - lower) * (high - low)


def _droplets(
    config: "SimulationConfig", batch: "NDArray[np.int64]", *, seed: int, tile: int
) -> tuple["NDArray[np.int64]", "NDArray[np.bool_]", "NDArray[np.float64]"]:
    """Partners of doublets, cells of their batch; empty droplets; and what depth each would have if it were one."""
    rng = generator(seed, Stream.DROPLETS, tile)
    kind = rng.random(TILE)
    empty, doublet = kind < config.empty, kind >= 1.0 - config.doublets
    depth = config.empty_depth * np.exp(config.depth_spread * rng.standard_normal(TILE))
    order = rng.permutation(TILE)
    partner = np.full(TILE, -1)
    for number in np.unique(batch):
        # Each cell's partner is the next of its batch in a random order.
        own = order[(batch[order] == number) & ~empty[order]]
        partner[own] = np.roll(own, 1)
    partner[~doublet | empty] = -1
    return partner, empty, depth
