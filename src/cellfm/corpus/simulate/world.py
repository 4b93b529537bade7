"""The biology: genes, programs and types, the same for every data set of a world."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.simulate.streams import Stream, generator
from cellfm.errors import ConfigError
from cellfm.genes.table import GeneTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.config import SimulationConfig
    from cellfm.corpus.simulate.reference import Reference

MITOCHONDRIAL = "MT-"
MEAN_SPREAD = 1.7
"""Standard deviation of the log gene means; 1.6 to 1.9 in the blood cells and cell lines that were looked at."""
MOST_SHARE, MOST_TIMES = 0.02, 10.0
"""A gene has at most this share of the counts, in small panels at most this multiple of an even share."""
MOST_LOADING = 1.2
"""Norm of the loadings of a gene: more would make its rate vary over orders of magnitude."""
MITO_SPREAD = 0.35
"""Standard deviation of the log mitochondrial share of cells."""
DISPERSION_SPREAD = 0.5
MAX_PROGRAMS, PROGRAM_SHARE = 3, 0.35
"""A gene is in a Binomial number of programs."""
N_FACTORS = 2
"""Factors that the programs of a type share."""
EXPLAINED = 0.7
"""Largest part of a reference gene's variance beyond Poisson that programs may explain."""
SMALLEST = 1e-12
"""Share in place of zero, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """Genes, programs and types.

    Attributes
    ----------
    symbols, ensembl_ids
        Names of the genes; an unknown id is empty.
    dispersion
        φ of each gene.
    loading
        W, genes × programs; the last program holds the mitochondrial genes.
    programs, types, lineages
        Their names.
    lineage
        Lineage of each type.
    weight
        Expected share of each type.
    profile
        P, types × genes; rows sum to 1.
    activity
        μ, types × programs.
    mixing
        B, types × programs × factors.
    depths
        Log depth at evenly spaced quantiles for each type, or none for the log-normal one.
    """

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str, ...]
    dispersion: "NDArray[np.float64]"
    loading: "NDArray[np.float64]"
    programs: tuple[str, ...]
    types: tuple[str, ...]
    lineages: tuple[str, ...]
    lineage: "NDArray[np.int64]"
    weight: "NDArray[np.float64]"
    profile: "NDArray[np.float64]"
    activity: "NDArray[np.float64]"
    mixing: "NDArray[np.float64]"
    depths: "NDArray[np.float64] | None" = None

    @property
    def mitochondrial(self) -> "NDArray[np.bool_]":
        """Whether each gene is a mitochondrial one."""
        return _mitochondrial(self.symbols)

    def spread(self) -> "NDArray[np.float64]":
        """v: variance of the log rate that programs make, types × genes."""
        return _spread(self.loading, self.mixing)


def make_world(config: "SimulationConfig") -> World:
    """Draw a world.

    Parameters
    ----------
    config
        `world` is its seed; the numbers of cells, batches and donors change nothing.

    Raises
    ------
    ConfigError
        There are not as many genes.
    """
    symbols, ensembl_ids = choose_genes(config.n_genes)
    mitochondrial = _mitochondrial(symbols)
    rng = generator(config.world, Stream.GENES)
    normal = rng.standard_normal((len(symbols), 2))
    dispersion = config.dispersion * np.exp(DISPERSION_SPREAD * normal[:, 1])
    loading = _loadings(config, mitochondrial)
    activity, mixing = _activities(config, config.n_types)
    effects = np.stack([_markers(config, t, len(symbols)) for t in range(config.n_types)])
    profile = np.exp(MEAN_SPREAD * normal[:, 0] + effects + activity @ loading.T)
    # The tail of the log-normal distribution would give single genes most of a cell.
    limit = max(MOST_SHARE, MOST_TIMES / len(symbols))
    profile = np.minimum(profile, limit * profile.sum(axis=1, keepdims=True))
    for part, share in (
        (mitochondrial, config.mito_fraction),
        (~mitochondrial, 1 - config.mito_fraction),
    ):
        profile[:, part] *= share / profile[:, part].sum(axis=1, keepdims=True)
    lineage = np.arange(config.n_types) % config.n_lineages
    return World(
        symbols=symbols,
        ensembl_ids=ensembl_ids,
        dispersion=dispersion,
        loading=loading,
        programs=_program_names(config),
        types=tuple(
            f"type {1 + t % config.n_lineages}.{1 + t // config.n_lineages}"
            for t in range(config.n_types)
        ),
        lineages=tuple(f"lineage {1 + i}" for i in range(config.n_lineages)),
        lineage=lineage,
        weight=np.full(config.n_types, 1.0 / config.n_types),
        profile=profile,
        activity=activity,
        mixing=mixing,
    )


def world_like(config: "SimulationConfig", reference: "Reference") -> World:
    """Make a world whose genes, types, depths and variances are those of a reference; programs are drawn.

    Parameters
    ----------
    config
        Its programs are used; what it says of genes, types and depths is not.
    reference
        What was estimated from a count matrix.
    """
    mitochondrial = _mitochondrial(reference.symbols)
    n_types = len(reference.types)
    activity, mixing = _activities(config, n_types)
    loading = _loadings(config, mitochondrial)
    variance = np.average(_spread(loading, mixing), axis=0, weights=reference.weight)
    # Var(exp(W d − v/2)) = exp(v) − 1 must leave room for φ in what was measured.
    largest = np.log1p(EXPLAINED * reference.dispersion)
    loading *= np.sqrt(np.minimum(1.0, largest / np.maximum(variance, SMALLEST)))[:, None]
    variance = np.average(_spread(loading, mixing), axis=0, weights=reference.weight)
    # (1 + φ_total) = exp(v) · (1 + φ): independent factors of the rate.
    dispersion = (1.0 + reference.dispersion) / np.exp(variance) - 1.0
    return World(
        symbols=reference.symbols,
        ensembl_ids=("",) * len(reference.symbols),
        dispersion=dispersion,
        loading=loading,
        programs=_program_names(config),
        types=reference.types,
        lineages=("reference",),
        lineage=np.zeros(n_types, dtype=np.int64),
        weight=reference.weight,
        profile=reference.profile,
        activity=activity,
        mixing=mixing,
        depths=reference.depths,
    )


def choose_genes(n_genes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return symbols and Ensembl ids: the mitochondrial genes, then protein-coding, then non-coding ones.

    Parameters
    ----------
    n_genes
        How many; the first are the same for every number.

    Raises
    ------
    ConfigError
        There are not so many.
    """
    rank = {"protein-coding gene": 0, "non-coding RNA": 1}
    genes = [gene for gene in GeneTable.load().genes if gene.locus_group in rank]
    # The sort is stable: within a rank the genes stay in the order of their HGNC number.
    genes.sort(
        key=lambda gene: (
            -1
            if gene.symbol.startswith(MITOCHONDRIAL) and not rank[gene.locus_group]
            else rank[gene.locus_group]
        )
    )
    if n_genes > len(genes):
        msg = f"n_genes is {n_genes:,}, but only {len(genes):,} genes are protein-coding or non-coding RNA. Ask for fewer."
        raise ConfigError(msg)
    chosen = genes[:n_genes]
    return tuple(gene.symbol for gene in chosen), tuple(gene.ensembl_id for gene in chosen)


def _mitochondrial(symbols: tuple[str, ...]) -> "NDArray[np.bool_]":
    return np.array([symbol.upper().startswith(MITOCHONDRIAL) for symbol in symbols])


def _program_names(config: "SimulationConfig") -> tuple[str, ...]:
    return (*(f"program {1 + k}" for k in range(config.n_programs)), "mitochondrial")


def _loadings(
    config: "SimulationConfig", mitochondrial: "NDArray[np.bool_]"
) -> "NDArray[np.float64]":
    """Gamma loadings of each gene in up to three programs; mitochondrial genes are in their own."""
    n_genes, n_most = len(mitochondrial), min(MAX_PROGRAMS, config.n_programs)
    # Drawn gene by gene, each kind of number from a generator of its own: a larger panel has the same first rows.
    membership, sizes = (generator(config.world, Stream.PROGRAMS, part) for part in range(2))
    number = membership.random((n_genes, config.n_programs + n_most))
    order = np.argsort(number[:, : config.n_programs], axis=1)[:, :n_most]
    member = number[:, config.n_programs :] < PROGRAM_SHARE
    size = config.program_effect * 0.5 * sizes.standard_gamma(2.0, (n_genes, n_most)) * member
    norm = np.linalg.norm(size, axis=1, keepdims=True)
    size *= np.minimum(1.0, MOST_LOADING / np.maximum(norm, SMALLEST))
    loading = np.zeros((n_genes, config.n_programs + 1))
    np.put_along_axis(loading, order, size, axis=1)
    loading[mitochondrial] = 0.0
    loading[mitochondrial, -1] = 1.0
    return loading


def _activities(
    config: "SimulationConfig", n_types: int
) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """Mean activities μ and mixing B of each type.

    ``B = spread · [√(1 − ρ) I, √ρ F]`` with unit rows of F: each activity has the variance ``spread²``, of which the
    part ρ is shared. A lineage switches on a third of the programs, a type another sixth.
    """
    n_programs, shared = config.n_programs, config.program_sharing
    activity = np.zeros((n_types, n_programs + 1))
    mixing = np.zeros((n_types, n_programs + 1, n_programs + 1 + N_FACTORS))
    for t in range(n_types):
        lineage = generator(config.world, Stream.LINEAGE_ACTIVITIES, t % config.n_lineages)
        own = generator(config.world, Stream.TYPE_ACTIVITIES, t)
        for rng, share in ((lineage, 1 / 3), (own, 1 / 6)):
            on = rng.random(n_programs) < share
            shift = config.activity_shift * config.program_spread
            activity[t, :-1] += on * shift * rng.standard_gamma(2.0, n_programs)
        common = own.standard_normal((n_programs, N_FACTORS))
        common /= np.linalg.norm(common, axis=1, keepdims=True)
        mixing[t, :-1, :n_programs] = np.sqrt(1 - shared) * np.eye(n_programs)
        mixing[t, :-1, -N_FACTORS:] = np.sqrt(shared) * common
        mixing[t] *= config.program_spread
        mixing[t, -1, n_programs] = MITO_SPREAD
    return activity, mixing


def _markers(config: "SimulationConfig", number: int, n_genes: int) -> "NDArray[np.float64]":
    """Log effects of a type on its markers, on top of those of its lineage."""
    effect = np.zeros(n_genes)
    lineage = number % config.n_lineages
    for stream, index, size in (
        (Stream.LINEAGE_MARKERS, lineage, config.lineage_effect),
        (Stream.TYPE_MARKERS, number, config.type_effect),
    ):
        which, sizes = (generator(config.world, stream, index, part) for part in range(2))
        marker = which.random(n_genes) < config.marker_fraction
        effect += marker * size * sizes.standard_normal(n_genes)
    return effect


def _spread(loading: "NDArray[np.float64]", mixing: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.stack([np.square(loading @ own).sum(axis=1) for own in mixing])
