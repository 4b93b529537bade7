r"""Simulated cells treated with drugs, of which what each drug does is known.

Cells are those of :mod:`cellfm.corpus.simulate`; the drugs are well-known ones of five chemical families, with their public structures.
What they are said to do here is invented: no real response is in these data. A drug *d* at dose *u* shifts the programs of a cell by

.. math:: Δ = e_d \frac{u^n}{u^n + c_d^n} \, (\sqrt{r} \, v_{class(d)} + \sqrt{1 − r} \, v_d)

with the efficacy e, the dose c of half the effect and n = 1.2 (Hill), and directions v of a few programs. Three worlds: ``"class"``, r = 0.8:
drugs of a family act alike, so that an unseen one is predictable from its structure; ``"own"``, r = 0: each drug acts, in its own way, and
nothing can be told from structure; ``"null"``: no drug does anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.corpus.simulate import PerturbationConfig, Simulation, SimulationConfig

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.corpus.simulate.perturbations import Perturbations

World = Literal["class", "own", "null"]
WORLDS: tuple[World, ...] = ("class", "own", "null")
SHARED: Mapping[World, float] = {"class": 0.8, "own": 0.0, "null": 0.0}
"""r."""
VEHICLE = "DMSO"
DOSES = (0.1, 1.0, 10.0)
"""µM."""
HILL = 1.2
PROGRAMS_OF_DRUG = 5
EFFECT = 2.0
"""Length of a direction at full effect, in standard deviations of an activity."""

FAMILIES: Mapping[str, Mapping[str, str]] = {
    "statin": {
        "lovastatin": "CCC(C)C(=O)OC1CC(C)C=C2C1C(CCC1CC(O)CC(=O)O1)C(C)C=C2",
        "simvastatin": "CCC(C)(C)C(=O)OC1CC(C)C=C2C1C(CCC1CC(O)CC(=O)O1)C(C)C=C2",
        "pravastatin": "CCC(C)C(=O)OC1CC(O)C=C2C1C(CCC(O)CC(O)CC(=O)O)C(C)C=C2",
        "fluvastatin": "CC(C)n1c(C=CC(O)CC(O)CC(=O)O)c(-c2ccc(F)cc2)c2ccccc21",
        "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O",
        "rosuvastatin": "CC(C)c1nc(N(C)S(C)(=O)=O)nc(-c2ccc(F)cc2)c1C=CC(O)CC(O)CC(=O)O",
    },
    "HDAC inhibitor": {
        "vorinostat": "O=C(CCCCCCC(=O)Nc1ccccc1)NO",
        "belinostat": "O=C(C=Cc1cccc(S(=O)(=O)Nc2ccccc2)c1)NO",
        "panobinostat": "Cc1[nH]c2ccccc2c1CCNCc1ccc(C=CC(=O)NO)cc1",
        "dacinostat": "O=C(C=Cc1ccc(CN(CCO)CCc2c[nH]c3ccccc23)cc1)NO",
        "pracinostat": "CCCCc1nc2cc(C=CC(=O)NO)ccc2n1CCN(CC)CC",
    },
    "EGFR inhibitor": {
        "gefitinib": "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
        "erlotinib": "COCCOc1cc2ncnc(Nc3cccc(C#C)c3)c2cc1OCCOC",
        "afatinib": "CN(C)CC=CC(=O)Nc1cc2c(Nc3ccc(F)c(Cl)c3)ncnc2cc1OC1CCOC1",
        "lapatinib": "CS(=O)(=O)CCNCc1ccc(-c2ccc3ncnc(Nc4ccc(OCc5cccc(F)c5)c(Cl)c4)c3c2)o1",
        "vandetanib": "COc1cc2c(Nc3ccc(Br)cc3F)ncnc2cc1OCC1CCN(C)CC1",
    },
    "glucocorticoid": {
        "dexamethasone": "CC1CC2C3CCC4=CC(=O)C=CC4(C)C3(F)C(O)CC2(C)C1(O)C(=O)CO",
        "prednisolone": "CC12CC(O)C3C(CCC4=CC(=O)C=CC43C)C1CCC2(O)C(=O)CO",
        "hydrocortisone": "CC12CCC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2(O)C(=O)CO",
        "budesonide": "CCCC1OC2CC3C4CCC5=CC(=O)C=CC5(C)C4C(O)CC3(C)C2(C(=O)CO)O1",
    },
    "anthracycline": {
        "doxorubicin": "COc1cccc2c1C(=O)c1c(O)c3c(c(O)c1C2=O)CC(O)(C(=O)CO)CC3OC1CC(N)C(O)C(C)O1",
        "daunorubicin": "COc1cccc2c1C(=O)c1c(O)c3c(c(O)c1C2=O)CC(O)(C(C)=O)CC3OC1CC(N)C(O)C(C)O1",
        "idarubicin": "CC(=O)C1(O)Cc2c(O)c3c(c(O)c2C(OC2CC(N)C(O)C(C)O2)C1)C(=O)c1ccccc1C3=O",
        "mitoxantrone": "O=C1c2c(O)ccc(O)c2C(=O)c2c(NCCNCCO)ccc(NCCNCCO)c21",
    },
}
"""Family → drug → SMILES without stereochemistry."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrugDataset(Dataset):
    """A dataset of treated cells.

    Attributes
    ----------
    drug, dose, smiles
        Columns of ``obs``; `dose` and `smiles` may be None. Contexts and the name of controls are those of every dataset.
    """

    drug: str = "drug"
    dose: str | None = "dose"
    smiles: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of ``obs`` that mean something, each once."""
        more = (self.drug, self.dose, self.smiles)
        return tuple(dict.fromkeys((*super().columns, *(key for key in more if key is not None))))  # fmt: skip


def simulated_drugs(
    world: World, *, n_cells: int = 12_000, n_genes: int = 600, seed: int = 11
) -> DrugDataset:
    """24 drugs of five families at three doses in three types of cells.

    Parameters
    ----------
    world
        What drugs do.
    n_cells, n_genes
        Size; a fifth of the cells are controls.
    seed
        Of drugs and cells.
    """
    told = {
        "class": "drugs of a family act alike",
        "own": "each drug acts in its own way",
        "null": "no drug does anything",
    }
    return DrugDataset(
        name=f"simulated-drugs-{world}",
        maker=lambda: make_treated(world, n_cells=n_cells, n_genes=n_genes, seed=seed),
        context="cell_type",
        smiles="smiles",
        licence="none needed",
        about=f"Simulated: 24 drugs, 3 doses, 3 types, {n_cells:,} cells × {n_genes:,} genes; {told[world]}.",
    )


def make_treated(
    world: World, *, n_cells: int = 12_000, n_genes: int = 600, seed: int = 11
) -> "AnnData":
    """Simulate treated cells.

    Parameters
    ----------
    world, n_cells, n_genes, seed
        As in `simulated_drugs`.

    Returns
    -------
    Cells × genes with ``obs`` drug, dose (µM, 0 for DMSO), smiles and cell_type, and the truth of the simulator, with
    ``varm["perturbation_effect"]`` the log-fold changes of each drug at each dose, named in ``uns["simulation"]["perturbations"]``.
    """
    import pandas as pd

    smiles = {drug: text for family in FAMILIES.values() for drug, text in family.items()}
    names = tuple(f"{drug}@{dose:g}" for drug in smiles for dose in DOSES)
    config = SimulationConfig(
        n_cells=n_cells, n_genes=n_genes, world=seed, n_types=3, n_lineages=3, n_batches=1, n_donors=1, depth=3000.0,
        evenness=50.0, perturbations=PerturbationConfig(n_singles=1, control_fraction=0.2),
    )  # fmt: skip
    simulation = Simulation.of(config, seed=seed)
    assert simulation.perturbations is not None
    shift = _shifts(world, simulation, seed)
    made = replace(simulation, perturbations=_renamed(simulation.perturbations, names, shift))
    adata = made.block(0, n_cells)
    treatment = adata.obs["perturbation"].astype(str)
    parts = treatment.str.split("@", expand=True)
    control = (treatment == VEHICLE).to_numpy()
    adata.obs["drug"] = pd.Categorical(parts[0].to_numpy())
    adata.obs["dose"] = np.where(control, "0", parts[1].fillna("0")).astype(float)
    adata.obs["smiles"] = pd.Categorical([smiles.get(drug, "") for drug in parts[0]])
    return adata


def _shifts(world: World, simulation: Simulation, seed: int) -> "NDArray[np.float64]":
    """Δ of the control and of each drug at each dose, shape (1 + treatment, program)."""
    rng = np.random.default_rng([seed, 77])
    n_programs = simulation.world.loading.shape[1]
    shared, rows = SHARED[world], [np.zeros(n_programs)]
    for family in FAMILIES.values():
        common = _direction(rng, n_programs)
        for _ in family:
            own = _direction(rng, n_programs)
            effect = 0.0 if world == "null" else rng.uniform(0.7, 1.3)
            half = 10.0 ** rng.uniform(-0.7, 0.7)
            for dose in DOSES:
                hill = dose**HILL / (dose**HILL + half**HILL)
                rows.append(effect * hill * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own))
    return np.stack(rows)


def _direction(rng: np.random.Generator, n_programs: int) -> "NDArray[np.float64]":
    """Draw a shift of a few programs, none of them the mitochondrial one."""
    direction = np.zeros(n_programs)
    chosen = rng.permutation(n_programs - 1)[:PROGRAMS_OF_DRUG]
    direction[chosen] = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(0.5, 1.5, len(chosen))
    return EFFECT * direction / np.linalg.norm(direction)


def _renamed(
    made: "Perturbations", names: tuple[str, ...], shift: "NDArray[np.float64]"
) -> "Perturbations":
    """Put drugs in the place of perturbed genes: they act on programs only."""
    return replace(
        made,
        names=(VEHICLE, *names),
        genes=((),) * (1 + len(names)),
        kinds=("control", *("drug" for _ in names)),
        interaction=np.zeros(1 + len(names)),
        shift=shift,
    )
