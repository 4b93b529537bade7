"""What is asked of a simulation."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from cellfm.errors import ConfigError

Direction = Literal["knock-down", "over-expression"]
Epistasis = Literal["drawn", "redundant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationConfig:
    """Perturbed genes and what they do.

    Attributes
    ----------
    n_singles
        Genes that are perturbed alone.
    n_doubles
        Pairs of these that are perturbed together.
    direction
        Knock-down lowers the gene and takes back what it does to its programs; over-expression does the opposite.
    effect
        Mean weight from a regulator to one of its programs, in units of the spread of an activity.
    efficiency
        Share of the gene's expression that a knock-down takes away.
    overexpression
        Factor on the gene's expression when it is over-expressed.
    interacting
        Share of the doubles that are not additive: half of these are synergistic, half buffering. Used when `epistasis` is
        ``"drawn"``.
    coupling
        Share of a regulator's weights that follows its own loadings in the programs, so that what it is co-expressed with
        in control cells foretells what it drives; 0 for weights that nothing foretells.
    epistasis
        ``"drawn"``: which doubles interact is left to chance. ``"redundant"``: η is −0.6 times the cosine of the weights of
        the two genes, so that genes that do the same buffer each other, opposite ones are synergistic, and those with other
        programs are additive; it can be learned from other doubles.
    context
        Standard deviation over cell types of the logarithm of the gain with which a regulator acts there; 0 for the same
        effect in all of them.
    control_fraction
        Share of cells without a perturbation.
    escape_fraction
        Share of the perturbed cells on which the perturbation does not act.
    """

    n_singles: int = 10
    n_doubles: int = 0
    direction: Direction = "knock-down"
    effect: float = 1.0
    efficiency: float = 0.8
    overexpression: float = 8.0
    interacting: float = 0.5
    coupling: float = 0.0
    epistasis: Epistasis = "drawn"
    context: float = 0.0
    control_fraction: float = 0.2
    escape_fraction: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "n_singles")
        _at_least(self, 0, "n_doubles")
        _at_least(self, 0.0, "effect", "context")
        _at_least(self, 1.0, "overexpression")
        shares = ("efficiency", "interacting", "coupling", "control_fraction", "escape_fraction")
        _fractions(self, *shares)
        if self.epistasis not in get_args(Epistasis):
            msg = f"epistasis is {self.epistasis!r}; it must be one of {', '.join(map(repr, get_args(Epistasis)))}. Choose one of these."
            raise ConfigError(msg)
        if self.efficiency == 1.0:
            msg = "efficiency is 1.0, of which the log-fold change is infinite; give a number below, such as 0.99."
            raise ConfigError(msg)
        n_pairs = self.n_singles * (self.n_singles - 1) // 2
        if self.n_doubles > n_pairs:
            msg = f"n_doubles is {self.n_doubles}, but {self.n_singles} genes make only {n_pairs} pairs. Raise n_singles."
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """Cells, genes and what makes them differ.

    Attributes
    ----------
    n_cells
        Cells to make, doublets and empty droplets included.
    n_genes
        Genes: the protein-coding ones first, the 13 mitochondrial ones always among them. A reference brings its own.
    world
        Seed of the biology: gene means, programs, types, regulators. Two simulations of the same world and other seeds
        are two datasets of the same organism; the first genes of a larger panel are the same as those of a smaller.
    name
        Prefix of the names of cells, batches and donors.
    tissue, disease, assay
        Written to ``obs`` as they are.
    n_lineages, n_types
        Types are dealt out to lineages in turn.
    lineage_effect, type_effect
        Spread of the log effects on the genes that tell lineages, and types of a lineage, apart.
    marker_fraction
        Share of such genes.
    n_programs
        Programs besides the mitochondrial one.
    program_effect
        Mean loading of a gene in a program it belongs to.
    program_spread
        Standard deviation of an activity within a type.
    activity_shift
        How far lineages and types move the means of the activities that they switch on, in units of that deviation.
    program_sharing
        Share of the variance of activities that is common to programs.
    mito_fraction
        Mean share of mitochondrial counts.
    n_batches, n_donors
        Donors are dealt out to batches in turn; there are at least as many donors as batches.
    batch_effect, donor_effect
        Spread of the log effects on genes.
    batch_depth
        Spread of the log depth between batches.
    ambient
        Mean share of ambient RNA; batches have from half to one and a half times of it.
    evenness
        Concentration of the Dirichlet distribution of the types' shares in the data set, 1 for all shares alike likely.
    depth
        Median of the total count of a cell.
    depth_spread
        Standard deviation of its logarithm within a batch.
    dispersion
        Median of φ.
    doublets, empty
        Shares of doublets and of empty droplets.
    empty_depth
        Median of the total count of an empty droplet.
    perturbations
        Perturbed genes; none by default.
    """

    n_cells: int = 2000
    n_genes: int = 2000
    world: int = 0
    name: str = "sim"
    tissue: str = "simulated tissue"
    disease: str = "normal"
    assay: str = "simulated 3' counts"
    n_lineages: int = 3
    n_types: int = 8
    lineage_effect: float = 0.6
    type_effect: float = 0.4
    marker_fraction: float = 0.08
    n_programs: int = 20
    program_effect: float = 0.5
    program_spread: float = 0.7
    activity_shift: float = 0.4
    program_sharing: float = 0.4
    mito_fraction: float = 0.06
    n_batches: int = 2
    n_donors: int = 4
    batch_effect: float = 0.15
    donor_effect: float = 0.08
    batch_depth: float = 0.2
    ambient: float = 0.03
    evenness: float = 3.0
    depth: float = 3000.0
    depth_spread: float = 0.4
    dispersion: float = 0.15
    doublets: float = 0.0
    empty: float = 0.0
    empty_depth: float = 60.0
    perturbations: PerturbationConfig | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "n_cells", "n_lineages", "n_programs", "n_batches")
        _at_least(self, MIN_GENES, "n_genes")
        _at_least(self, 0, "world")
        for name, least in (("n_types", "n_lineages"), ("n_donors", "n_batches")):
            if getattr(self, name) < getattr(self, least):
                msg = (
                    f"{name} is {getattr(self, name)} and {least} is {getattr(self, least)}, but each of the latter needs one of the "
                    f"former. Give more {name.removeprefix('n_')} (--{name.removeprefix('n_')}) or fewer {least.removeprefix('n_')} "
                    f"(--{least.removeprefix('n_')})."
                )
                raise ConfigError(msg)
        positive = ("depth", "empty_depth", "evenness", "dispersion")
        _at_least(self, 1e-6, *positive)
        spreads = [
            field.name for field in fields(self) if field.name.endswith(("_effect", "_spread"))
        ]
        _at_least(self, 0.0, *spreads, "batch_depth", "activity_shift")
        shares = ("marker_fraction", "program_sharing", "mito_fraction", "doublets", "empty")
        _fractions(self, *shares)
        if self.doublets + self.empty > 1.0:
            msg = f"doublets and empty are {self.doublets + self.empty:g} together; a droplet is at most one of them, so at most 1. Lower one of them."
            raise ConfigError(msg)
        if not 0.0 <= self.ambient <= 0.5:
            msg = f"ambient is {self.ambient}; it must be a share from 0 to 0.5. Give a number in that range."
            raise ConfigError(msg)


MIN_GENES = 50
"""Below it there are hardly genes besides the mitochondrial ones."""


def _at_least(config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not least <= value < float("inf"):
            msg = f"{name} is {value}; it must be a number of at least {least:g}. Give a number in that range."
            raise ConfigError(msg)


def _fractions(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            msg = f"{name} is {value}; it must be a share from 0 to 1. Give a number in that range."
            raise ConfigError(msg)
