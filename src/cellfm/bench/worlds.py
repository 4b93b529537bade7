"""Simulated perturbation screens whose truth is known: worlds in which a method must be able to win, and one in which none may."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

    from cellfm.corpus.simulate import PerturbationConfig

N_GENES = 400
N_PROGRAMS = 8
SEED = 11


def additive() -> "AnnData":
    """60 knock-downs that follow their co-expression, and 24 pairs that are sums."""
    from cellfm.corpus.simulate import PerturbationConfig

    asked = PerturbationConfig(n_singles=60, n_doubles=24, coupling=0.8, interacting=0.0)
    return _screen(asked, n_cells=8000)


def epistatic() -> "AnnData":
    """36 such knock-downs, and 60 pairs that interact as their genes do the same or the opposite."""
    from cellfm.corpus.simulate import PerturbationConfig

    asked = PerturbationConfig(n_singles=36, n_doubles=60, coupling=0.8, epistasis="redundant")
    return _screen(asked, n_cells=9000)


def context() -> "AnnData":
    """30 knock-downs in three cell types, in each of another strength."""
    from cellfm.corpus.simulate import PerturbationConfig

    asked = PerturbationConfig(n_singles=30, coupling=0.8, context=0.7)
    return _screen(asked, n_cells=8000, n_types=3)


def null() -> "AnnData":
    """60 knock-downs that do nothing at all, not even to their own genes."""
    from cellfm.corpus.simulate import PerturbationConfig

    asked = PerturbationConfig(n_singles=60, effect=0.0, efficiency=0.0)
    return _screen(asked, n_cells=6000)


def _screen(asked: "PerturbationConfig", *, n_cells: int, n_types: int = 1) -> "AnnData":
    """One donor, one batch: what differs is what was done."""
    from cellfm.corpus.simulate import SimulationConfig, simulate

    config = SimulationConfig(
        n_cells=n_cells,
        n_genes=N_GENES,
        n_types=n_types,
        n_lineages=1,
        n_programs=N_PROGRAMS,
        n_batches=1,
        n_donors=1,
        evenness=30.0,
        perturbations=asked,
    )
    return simulate(config, seed=SEED)
