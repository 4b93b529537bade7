"""The truth of a simulation in the tables of an AnnData object."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.cells import Cells
    from cellfm.corpus.simulate.config import SimulationConfig
    from cellfm.corpus.simulate.simulation import Simulation

EMPTY = "empty droplet"
"""Cell type and lineage of a droplet without a cell."""


def cell_table(simulation: "Simulation", cells: "Cells", start: int) -> "pd.DataFrame":
    """Facts of the cells in words."""
    import pandas as pd

    config, world, n = simulation.config, simulation.world, len(cells.type)
    none = (EMPTY,) if config.empty else ()
    lineages, types = (*world.lineages, *none), (*world.types, *none)
    lineage = np.where(cells.empty, len(world.lineages), world.lineage[cells.type])
    batch = simulation.batches.batch_of[cells.donor]
    columns: dict[str, pd.Categorical[str] | NDArray[np.generic]] = {
        "cell_type": _named(np.where(cells.empty, len(world.types), cells.type), types),
        "lineage": _named(lineage, lineages),
        "tissue": _named(np.zeros(n, dtype=np.int64), (config.tissue,)),
        "disease": _named(np.zeros(n, dtype=np.int64), (config.disease,)),
        "donor": _named(cells.donor, _donors(simulation.config)),
        "assay": _named(np.zeros(n, dtype=np.int64), (config.assay,)),
        "batch": _named(batch, _batches(simulation.config)),
        "depth": cells.total_depth,
    }
    if simulation.perturbations is not None:
        columns["perturbation"] = _named(cells.perturbation, simulation.perturbations.names)
        columns["escaped"] = cells.escaped
    if config.doublets:
        columns["doublet"] = cells.partner >= 0
        partner_type = np.where(cells.partner >= 0, cells.type[cells.partner], -1)
        columns["partner_type"] = _named(partner_type, world.types)
    if config.empty:
        columns["empty"] = cells.empty
    index = [f"{config.name}_cell{number}" for number in range(start, start + n)]
    return pd.DataFrame(columns, index=index)


def gene_table(simulation: "Simulation") -> "pd.DataFrame":
    """Facts of the genes."""
    import pandas as pd

    world = simulation.world
    columns = {
        "ensembl_id": list(world.ensembl_ids),
        "mitochondrial": world.mitochondrial,
        "mean_share": world.weight @ world.profile,
        "dispersion": world.dispersion,
    }
    return pd.DataFrame(columns, index=list(world.symbols))


def gene_truths(simulation: "Simulation") -> dict[str, "NDArray[np.float64]"]:
    """Truths of the genes, one row a program, type, batch, donor or perturbation."""
    truths = {
        "program_loading": simulation.world.loading.T,
        "type_profile": simulation.world.profile,
        "batch_effect": simulation.batches.batch_effect,
        "donor_effect": simulation.batches.donor_effect,
        "ambient_profile": simulation.batches.ambient,
    }
    if simulation.perturbations is not None:
        truths["perturbation_effect"] = simulation.perturbations.effects(simulation.world.loading).T
    return truths


def notes(simulation: "Simulation") -> dict[str, object]:
    """Names and numbers that belong to no cell and no gene."""
    world, batches = simulation.world, simulation.batches
    told: dict[str, object] = {
        "config": json.dumps(asdict(simulation.config)),
        "seed": simulation.seed,
        "programs": np.array(world.programs, dtype=object),
        "types": np.array(world.types, dtype=object),
        "lineage_of_type": np.array([world.lineages[i] for i in world.lineage], dtype=object),
        "type_activity": world.activity,
        "batches": np.array(_batches(simulation.config), dtype=object),
        "donors": np.array(_donors(simulation.config), dtype=object),
        "batch_of_donor": batches.batch_of,
        "composition": batches.composition,
        "depth_shift": batches.depth_shift,
        "ambient_share": batches.ambient_share,
    }
    if (made := simulation.perturbations) is not None:
        told |= {
            "perturbations": np.array(made.names, dtype=object),
            "perturbation_kinds": np.array(made.kinds, dtype=object),
            "perturbation_interaction": made.interaction,
            "regulators": np.array([world.symbols[i] for i in made.regulators], dtype=object),
            "regulator_graph": made.graph,
        }
        if made.gain is not None:
            types = range(len(world.types))
            effects = [made.effects(world.loading, cell_type=t) for t in types]
            told |= {
                "context_gain": made.gain,
                "context_effect": np.stack(effects).astype(np.float32),
            }
    return told


def _donors(config: "SimulationConfig") -> tuple[str, ...]:
    return tuple(f"{config.name}_donor{1 + i}" for i in range(config.n_donors))


def _batches(config: "SimulationConfig") -> tuple[str, ...]:
    return tuple(f"{config.name}_batch{1 + i}" for i in range(config.n_batches))


def _named(code: "NDArray[np.int64]", names: tuple[str, ...]) -> "pd.Categorical[str]":
    """Name numbers; −1 has no name."""
    import pandas as pd

    return pd.Categorical.from_codes(code, categories=pd.Index(names))
