"""What donors and batches of one data set do to genes, depth and composition."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.simulate.streams import Stream, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.config import SimulationConfig
    from cellfm.corpus.simulate.world import World

DONOR_CONCENTRATION = 50.0
"""Concentration of the types' shares of a donor around those of the data set."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batches:
    """Donors and batches.

    Attributes
    ----------
    batch_of
        Batch of each donor.
    composition
        Share of each type, donors × types.
    batch_effect, donor_effect
        β and γ, batches × genes and donors × genes.
    depth_shift
        Added to the log depth of each batch.
    ambient_share, ambient
        α of each batch, and A, batches × genes.
    """

    batch_of: "NDArray[np.int64]"
    composition: "NDArray[np.float64]"
    batch_effect: "NDArray[np.float64]"
    donor_effect: "NDArray[np.float64]"
    depth_shift: "NDArray[np.float64]"
    ambient_share: "NDArray[np.float64]"
    ambient: "NDArray[np.float64]"


def make_batches(config: "SimulationConfig", world: "World", *, seed: int) -> Batches:
    """Draw donors and batches of a data set.

    Parameters
    ----------
    config
        Their numbers and the sizes of their effects.
    world
        Genes and types.
    seed
        Of the data set.
    """
    batch_of = np.arange(config.n_donors) % config.n_batches
    composition = _composition(config, world, seed)
    n_genes = len(world.symbols)
    batch_effect = _effects(seed, Stream.BATCHES, (config.n_batches, n_genes), config.batch_effect)
    donor_effect = _effects(seed, Stream.DONORS, (config.n_donors, n_genes), config.donor_effect)
    # All batches in one stream, after the genes of each: one number more for the depth, one for the ambient share.
    own = generator(seed, Stream.BATCHES, config.n_batches)
    mean = np.stack([composition[batch_of == b].mean(axis=0) for b in range(config.n_batches)])
    ambient = mean @ world.profile * np.exp(batch_effect)
    return Batches(
        batch_of=batch_of,
        composition=composition,
        batch_effect=batch_effect,
        donor_effect=donor_effect,
        depth_shift=config.batch_depth * own.standard_normal(config.n_batches),
        ambient_share=config.ambient * own.uniform(0.5, 1.5, config.n_batches),
        ambient=ambient / ambient.sum(axis=1, keepdims=True),
    )


def _composition(config: "SimulationConfig", world: "World", seed: int) -> "NDArray[np.float64]":
    """Shares of the types; a reference's own are kept for all donors."""
    if world.depths is not None:
        return np.tile(world.weight, (config.n_donors, 1))
    rng = generator(seed, Stream.COMPOSITION)
    shares = rng.dirichlet(np.full(len(world.types), config.evenness))
    # A share of exactly 0 has no Dirichlet distribution around it.
    return rng.dirichlet(DONOR_CONCENTRATION * np.maximum(shares, 1e-6), config.n_donors)


def _effects(
    seed: int, stream: Stream, shape: tuple[int, int], size: float
) -> "NDArray[np.float64]":
    """Draw normal log effects whose exponential has the mean 1."""
    normal = np.stack(
        [generator(seed, stream, i).standard_normal(shape[1]) for i in range(shape[0])]
    )
    return size * normal - 0.5 * size**2
