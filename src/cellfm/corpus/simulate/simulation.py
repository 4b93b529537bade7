"""A data set that can be asked for any of its cells."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from cellfm.corpus.simulate.batches import Batches, make_batches
from cellfm.corpus.simulate.cells import TILE, Cells, draw_cells
from cellfm.corpus.simulate.config import SimulationConfig
from cellfm.corpus.simulate.counts import draw_counts
from cellfm.corpus.simulate.perturbations import Perturbations, make_perturbations
from cellfm.corpus.simulate.streams import Stream, generator
from cellfm.corpus.simulate.truth import cell_table, gene_table, gene_truths, notes
from cellfm.corpus.simulate.world import SMALLEST, World, make_world, world_like
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.reference import Reference


def simulate(
    config: SimulationConfig | None = None,
    *,
    seed: int = 0,
    reference: "Reference | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> "AnnData":
    """Simulate counts with known truth.

    The formulas are in :mod:`cellfm.corpus.simulate`. The same seed, configuration and numpy give the same counts, and
    the first cells of a larger data set are those of a smaller one.

    Parameters
    ----------
    config
        What to simulate.
    seed
        Of batches, donors and cells; `config.world` is that of the biology.
    reference
        Statistics of a real count matrix to take genes, types, depths and variances from.
    progress
        Called with the number of cells made and to make.

    Returns
    -------
    Cells × genes, int32 counts in ``X``. The truth: ``obs`` (lineage, cell_type, donor, batch, depth and, where asked for,
    perturbation, escaped, doublet, partner_type, empty), ``obsm["program_activity"]``, ``var`` (mean_share, dispersion,
    mitochondrial), ``varm`` (program_loading, type_profile, batch_effect, donor_effect, ambient_profile and
    perturbation_effect, the expected log-fold changes) and ``uns["simulation"]`` (names of the columns of these, the
    configuration as JSON, compositions, depth shifts, ambient shares, the graph of the regulators and, where a perturbation
    acts unlike in unlike types, its gains and ``context_effect``, expected log-fold changes as types × genes × perturbations;
    those of ``varm`` are then at a gain of 1).

    Raises
    ------
    ConfigError
        Something that cannot be made was asked for.

    Examples
    --------
    >>> adata = simulate(SimulationConfig(n_cells=500, n_types=4), seed=1)
    >>> adata.shape
    (500, 2000)
    """
    simulation = Simulation.of(
        SimulationConfig() if config is None else config, seed=seed, reference=reference
    )
    return simulation.block(0, simulation.config.n_cells, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulation:
    """Everything but the cells, which are made when they are asked for.

    Attributes
    ----------
    config, seed
        What was asked for.
    world, batches, perturbations
        What the cells are made of.
    table
        Rows that are added up to the log rate of a cell: programs, types, donors, and ones for the log depth.
    """

    config: SimulationConfig
    seed: int
    world: World
    batches: Batches
    perturbations: Perturbations | None
    table: "NDArray[np.float32]"

    @staticmethod
    def of(
        config: SimulationConfig, *, seed: int = 0, reference: "Reference | None" = None
    ) -> "Simulation":
        """Draw the world, the batches and the perturbations; see :func:`simulate`."""
        if seed < 0:
            msg = f"seed is {seed}; it must be at least 0. Give a number in that range."
            raise ConfigError(msg)
        world = make_world(config) if reference is None else world_like(config, reference)
        batches = make_batches(config, world, seed=seed)
        perturbations = None
        if config.perturbations is not None:
            perturbations = make_perturbations(
                config.perturbations, world, seed=config.world, spread=config.program_spread
            )
        return Simulation(
            config=config,
            seed=seed,
            world=world,
            batches=batches,
            perturbations=perturbations,
            table=_table(world, batches),
        )

    def block(
        self, start: int, stop: int, *, progress: Callable[[int, int], None] | None = None
    ) -> "AnnData":
        """Return the cells ``start:stop`` with their truth.

        Parameters
        ----------
        start, stop
            Numbers of cells; those of a tile of 256 are made together.
        progress
            Called with the number of cells made and to make.
        """
        from anndata import AnnData

        if not 0 <= start < stop:
            msg = f"Cells {start} to {stop} were asked for; give the first one and the one after the last."
            raise ConfigError(msg)
        tiles = range(start // TILE, -(-stop // TILE))
        made, counts = [], []
        for tile in tiles:
            made.append(self.cells(tile))
            counts.append(self._counts(made[-1], tile))
            if progress is not None:
                progress(min((tile + 1) * TILE, stop) - start, stop - start)
        cells = _joined(made)
        kept = slice(start - tiles.start * TILE, stop - tiles.start * TILE)
        adata = AnnData(
            sparse.vstack(counts, format="csr")[kept],
            obs=cell_table(self, cells, tiles.start * TILE)[kept],
            var=gene_table(self),
        )
        adata.obsm["program_activity"] = self._activity(cells)[kept].astype(np.float32)
        for key, truth in gene_truths(self).items():
            adata.varm[key] = truth.T.astype(np.float32)
        adata.uns["simulation"] = notes(self)
        return adata

    def cells(self, tile: int) -> Cells:
        """Return what the cells of a tile are, without their counts."""
        n = 0 if self.perturbations is None else len(self.perturbations.names) - 1
        return draw_cells(
            self.config, self.world, self.batches, n_perturbations=n, seed=self.seed, tile=tile
        )

    def rates(self, cells: Cells) -> "NDArray[np.float32]":
        """λ of the cells of a tile, cells × genes.

        Parameters
        ----------
        cells
            A whole tile: the partners of doublets are looked up in it.
        """
        world, batches = self.world, self.batches
        shift, acting = self._shift(cells)
        design = np.concatenate(
            [
                cells.deviation + shift,
                np.eye(len(world.types))[cells.type],
                np.eye(len(batches.batch_of))[cells.donor],
                np.log(cells.depth)[:, None],
            ],
            axis=1,
        )
        rate: NDArray[np.float32] = design.astype(np.float32) @ self.table
        np.exp(rate, out=rate)
        if self.perturbations is not None:
            fold = np.float32(np.exp(self.perturbations.own))
            for row in acting:
                rate[row, list(self.perturbations.genes[cells.perturbation[row]])] *= fold
        paired = np.flatnonzero(cells.partner >= 0)
        rate[paired] += rate[cells.partner[paired]]
        rate[cells.empty] = 0.0
        share = np.where(cells.empty, 1.0, batches.ambient_share[batches.batch_of[cells.donor]])
        if share.any():
            amount = np.eye(self.config.n_batches)[batches.batch_of[cells.donor]]
            amount *= (share * cells.total_depth)[:, None]
            rate += amount.astype(np.float32) @ batches.ambient.astype(np.float32)
        return rate

    def _counts(self, cells: Cells, tile: int) -> sparse.csr_matrix:
        return draw_counts(
            self.rates(cells),
            self.world.dispersion,
            uniform=generator(self.seed, Stream.COUNTS, tile),
            direct=generator(self.seed, Stream.LARGE_COUNTS, tile),
        )

    def _shift(self, cells: Cells) -> tuple["NDArray[np.float64]", "NDArray[np.int64]"]:
        """Δ of each cell, and the cells on which a perturbation acts."""
        acting = (cells.perturbation > 0) & ~cells.escaped & ~cells.empty
        if self.perturbations is None:
            return np.zeros_like(cells.deviation), np.flatnonzero(acting)
        shift = self.perturbations.shifts(cells.type, np.where(acting, cells.perturbation, 0))
        return shift, np.flatnonzero(acting)

    def _activity(self, cells: Cells) -> "NDArray[np.float64]":
        """Add up the activities μ + d + Δ; empty droplets have none."""
        activity = self.world.activity[cells.type] + cells.deviation + self._shift(cells)[0]
        activity[cells.empty] = 0.0
        return activity


def _table(world: World, batches: Batches) -> "NDArray[np.float32]":
    """Rows that add up to a log rate."""
    types = np.log(np.maximum(world.profile, SMALLEST)) - 0.5 * world.spread()
    own = np.log1p(-batches.ambient_share)[:, None] + batches.batch_effect
    donors = batches.donor_effect + own[batches.batch_of]
    depth = np.ones((1, len(world.symbols)))
    rows = np.concatenate([world.loading.T, types, donors, depth])
    return rows.astype(np.float32)


def _joined(parts: list[Cells]) -> Cells:
    """Put the facts of tiles one after another."""
    names = [field.name for field in fields(Cells)]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    first = np.repeat(np.arange(len(parts)) * TILE, TILE)
    joined["partner"] = np.where(joined["partner"] >= 0, joined["partner"] + first, -1)
    return Cells(**joined)
