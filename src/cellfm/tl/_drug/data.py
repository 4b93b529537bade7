"""What a data set of treated cells must be: vehicle controls, drugs, doses, contexts, counts; checked before anything is fitted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cellfm.corpus.conditions import CONTROLS
from cellfm.corpus.split import TEST, TRAIN, VALIDATION
from cellfm.errors import ConfigError, DataError
from cellfm.genes import GeneMatch, Vocabulary
from cellfm.tl._labels import label_column
from cellfm.tl._perturb.data import N_SHOWN, PerturbOptions, levels_of, read_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

VEHICLES = CONTROLS | {"dmso", "vehicle", "untreated", "mock", "none", "pbs"}
"""What control cells are called, in lower case."""
HoldOut = Literal["drug", "scaffold", "dose", "context"]
LEAST_UNITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugOptions:
    """Where an AnnData says what each cell was treated with.

    Attributes
    ----------
    drug
        Column of ``obs`` with the drug, or the name of the controls.
    dose
        Column with the dose as a number above 0, in one unit for all; None where every drug has one dose.
    control
        What controls are called, besides the usual names (dmso, vehicle, control, …).
    context, batch
        Columns with the cell type or line, and with the replicate; None for none.
    min_cells
        Treatments with fewer cells are left out.
    layer, use_raw, gene_names, min_matched
        As in `embed`. Counts are needed.
    """

    drug: str = "drug"
    dose: str | None = "dose"
    control: str | None = None
    context: str | None = None
    batch: str | None = None
    min_cells: int = 10
    layer: str | None = None
    use_raw: bool = False
    gene_names: str | None = None
    min_matched: float = 0.3


@dataclass(frozen=True, slots=True, order=True)
class Treatment:
    """A drug at a dose in a context."""

    drug: str
    dose: float
    context: str

    @property
    def name(self) -> str:
        """``drug@dose in context``."""
        return f"{self.drug}@{self.dose:g} in {self.context}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugData:
    """Checked cells.

    Attributes
    ----------
    counts
        Cell × gene.
    genes
        Names of the input.
    match
        Their tokens.
    treatments
        In order.
    code
        Treatment of each cell, −1 for a control.
    contexts, batches
        Names; one alone without a column.
    context, batch
        Of each cell.
    cells
        Their names.
    rows
        Their rows in the input.
    notes
        What was left out.
    """

    counts: "csr_matrix"
    genes: tuple[str, ...]
    match: GeneMatch
    treatments: tuple[Treatment, ...]
    code: "NDArray[np.int64]"
    contexts: tuple[str, ...]
    context: "NDArray[np.int64]"
    batches: tuple[str, ...]
    batch: "NDArray[np.int64]"
    cells: "NDArray[np.str_]"
    rows: "NDArray[np.int64]"
    notes: tuple[str, ...] = ()

    @property
    def drugs(self) -> tuple[str, ...]:
        """Names of the drugs, each once."""
        return tuple(sorted({each.drug for each in self.treatments}))

    def take(self, rows: "NDArray[np.integer] | NDArray[np.bool_]") -> "DrugData":
        """Return some of the cells; treatments and contexts keep their numbers.

        Parameters
        ----------
        rows
            Numbers or flags of cells.
        """
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        per_cell = ("code", "context", "batch", "cells", "rows")
        taken = {name: getattr(self, name)[index] for name in per_cell}
        return replace(self, counts=self.counts[index], **taken)

    def only(self, treatments: "NDArray[np.bool_]", controls: "NDArray[np.bool_]") -> "DrugData":
        """Return the cells of some treatments, renumbered, and some control cells.

        Parameters
        ----------
        treatments
            Which, shape (treatment,).
        controls
            Which cells, of those that are controls, shape (cell,).
        """
        treated = self.code >= 0
        taken = self.take(np.where(treated, treatments[self.code], controls))
        number = np.append(np.cumsum(treatments) - 1, -1)
        kept = tuple(t for t, use in zip(self.treatments, treatments, strict=True) if use)
        return replace(taken, treatments=kept, code=number[taken.code])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreatmentSplit:
    """What is done with each treatment.

    Attributes
    ----------
    by
        What is held out whole.
    part
        0 training, 1 validation, 2 test, shape (treatment,).
    held_out
        Names of the drugs, scaffolds, dose levels or contexts of the test part.
    hash
        SHA-256 of the names with their parts.
    """

    by: HoldOut
    part: "NDArray[np.int8]"
    held_out: tuple[str, ...]
    hash: str


def read_drugs(adata: "AnnData", vocabulary: Vocabulary, options: DrugOptions) -> DrugData:
    """Read and check treated cells.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    vocabulary
        Of the model.
    options
        Columns and counts.

    Raises
    ------
    DataError
        A column is missing, a dose is no number above 0, there are no or too few controls, or no treatment has enough cells.
    CountsError
        The values are no counts.
    GeneMatchError
        Too few genes are known.
    """
    drug = label_column(adata.obs, options.drug, what="data")
    names = VEHICLES | ({options.control.strip().lower()} if options.control else set())
    control = np.array([name.strip().lower() in names for name in drug.tolist()])
    _check_controls(drug, control, options)
    dose = _doses(adata, drug, control, options)
    contexts, context = levels_of(adata, options.context, np.arange(len(drug)))
    kept, notes = _kept(drug, control, context, contexts=contexts, options=options)
    treatments, code, more = _treatments(
        drug, dose, control, where=(contexts, context), kept=kept, options=options
    )
    rows = np.flatnonzero(kept & ((code >= 0) | control))
    reading = PerturbOptions(layer=options.layer, use_raw=options.use_raw, gene_names=options.gene_names, min_matched=options.min_matched)  # fmt: skip
    counts, genes, match = read_counts(adata, rows, vocabulary, reading)
    batches, batch = levels_of(adata, options.batch, rows)
    return DrugData(
        counts=counts,
        genes=genes,
        match=match,
        treatments=treatments,
        code=code[rows],
        contexts=contexts,
        context=context[rows],
        batches=batches,
        batch=batch,
        cells=np.asarray(adata.obs_names[rows].astype(str), dtype=str),
        rows=rows,
        notes=(*notes, *more),
    )


def fold_treatments(
    treatments: Sequence[Treatment],
    by: HoldOut,
    *,
    scaffolds: "dict[str, str] | None" = None,
    n_folds: int = 5,
    seed: int = 0,
) -> list[TreatmentSplit]:
    """Return splits whose test parts cover each drug, scaffold, dose level or context once; the fold after the tested one validates.

    A dose level is the rank of a dose among those of its drug, so that drugs need not share doses.

    Parameters
    ----------
    treatments
        Each once.
    by
        What is held out whole.
    scaffolds
        Scaffold of each drug; needed for ``"scaffold"``.
    n_folds
        Number of splits, at most one for each unit.
    seed
        Of the choice.

    Raises
    ------
    ConfigError
        `by` is unknown, scaffolds are missing, or there are fewer than three folds.
    DataError
        There are fewer than three units: one to fit on, one to choose on, one to judge on.
    """
    unit = _units(treatments, by, scaffolds)
    units = sorted(set(unit))
    if n_folds < LEAST_UNITS:
        msg = f"n_folds is {n_folds}; at least {LEAST_UNITS} are needed: one to test, one to choose on, the rest to fit on. Give more of them."
        raise ConfigError(msg)
    if len(units) < LEAST_UNITS:
        msg = (
            f"Treatments are to be held out by {by}, and there are {len(units)} ({', '.join(units)}); at least {LEAST_UNITS} are needed to "
            "train, choose and judge on different ones. Hold out something else, or lower min_cells."
        )
        raise DataError(msg)
    n_folds = min(n_folds, len(units))
    order = np.random.default_rng(seed).permutation(len(units))
    fold = {units[place]: number % n_folds for number, place in enumerate(order)}
    of = np.array([fold[name] for name in unit])
    splits = []
    for tested in range(n_folds):
        part = np.full(len(of), TRAIN, np.int8)
        part[of == (tested + 1) % n_folds] = VALIDATION
        part[of == tested] = TEST
        lines = sorted(f"{t.name}\t{p}\n" for t, p in zip(treatments, part, strict=True))
        held = tuple(name for name in units if fold[name] == tested)
        digest = hashlib.sha256(f"{by}\n{''.join(lines)}".encode()).hexdigest()
        splits.append(TreatmentSplit(by=by, part=part, held_out=held, hash=digest))
    return splits


def units_of(
    treatments: Sequence[Treatment], by: HoldOut, scaffolds: "dict[str, str] | None" = None
) -> "NDArray[np.int64]":
    """Return the number of the drug, scaffold, dose level or context of each treatment.

    Parameters
    ----------
    treatments, by, scaffolds
        As in `fold_treatments`.
    """
    return np.unique(_units(treatments, by, scaffolds), return_inverse=True)[1].astype(np.int64)


def _units(
    treatments: Sequence[Treatment], by: HoldOut, scaffolds: "dict[str, str] | None"
) -> list[str]:
    if by not in get_args(HoldOut):
        msg = f"by is {by!r}; treatments are held out by one of {', '.join(map(repr, get_args(HoldOut)))}. Choose one of these."
        raise ConfigError(msg)
    if by == "scaffold":
        lacking = sorted({t.drug for t in treatments} - set(scaffolds or {}))
        if scaffolds is None or lacking:
            msg = f"Scaffolds are made of SMILES, and {len(lacking)} drugs have none ({', '.join(lacking[:N_SHOWN])}). Give smiles=…, or hold out by 'drug'."
            raise ConfigError(msg)
        return [scaffolds[t.drug] for t in treatments]
    if by == "dose":
        doses: dict[str, list[float]] = {}
        for t in treatments:
            doses.setdefault(t.drug, []).append(t.dose)
        rank = {drug: sorted(set(each)) for drug, each in doses.items()}
        return [f"dose level {1 + rank[t.drug].index(t.dose)}" for t in treatments]
    return [t.drug if by == "drug" else t.context for t in treatments]


def _check_controls(
    drug: "NDArray[np.str_]", control: "NDArray[np.bool_]", options: DrugOptions
) -> None:
    if not control.any():
        names = sorted(set(drug.tolist()) - {""})
        shown = ", ".join(map(repr, names[:N_SHOWN])) + (", …" if len(names) > N_SHOWN else "")
        msg = (
            f"No cell of obs[{options.drug!r}] is a control; its entries are {shown}. Responses are measured against untreated cells: say "
            "what they are called (control=…, --control), or choose another column."
        )
        raise DataError(msg)
    if control.sum() < options.min_cells:
        msg = f"There are {int(control.sum())} control cells; at least {options.min_cells} are needed. Give more, or lower min_cells."
        raise DataError(msg)


def _doses(
    adata: "AnnData", drug: "NDArray[np.str_]", control: "NDArray[np.bool_]", options: DrugOptions
) -> "NDArray[np.float64]":
    """Return the dose of each treated cell, 1 without a column, 0 for controls."""
    if options.dose is None:
        return np.where(control, 0.0, 1.0)
    text = label_column(adata.obs, options.dose, what="data")
    treated = ~control & (drug != "")
    dose = np.zeros(len(text))
    for entry in sorted(set(text[treated].tolist())):
        try:
            value = float(entry)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            row = int(np.flatnonzero(treated & (text == entry))[0])
            msg = (
                f"obs[{options.dose!r}] of cell {adata.obs_names[row]} ({drug[row]}) is {entry!r}; expected a number above 0, in one unit for all "
                "drugs. Correct the entry, name vehicle cells as controls in the drug column, or say that there are no doses (dose=None)."
            )
            raise DataError(msg)
        dose[treated & (text == entry)] = value
    return dose


def _kept(
    drug: "NDArray[np.str_]",
    control: "NDArray[np.bool_]",
    context: "NDArray[np.int64]",
    *,
    contexts: tuple[str, ...],
    options: DrugOptions,
) -> "tuple[NDArray[np.bool_], list[str]]":
    """Leave out cells without a drug, and contexts without controls."""
    kept, notes = drug != "", []
    if not kept.all():
        notes.append(f"{int((~kept).sum()):,} cells without a drug")
    number = np.bincount(context[control], minlength=len(contexts))
    lacking = np.flatnonzero(number < options.min_cells)
    if len(lacking) == len(contexts):
        msg = f"No context of obs[{options.context!r}] has {options.min_cells} control cells; the most are {number.max()}. Lower min_cells, or leave context out."
        raise DataError(msg)
    if len(lacking):
        shown = ", ".join(contexts[i] for i in lacking[:N_SHOWN])
        notes.append(f"{len(lacking)} contexts with fewer than {options.min_cells} control cells left out: {shown}")  # fmt: skip
        kept &= ~np.isin(context, lacking)
    return kept, notes


def _treatments(
    drug: "NDArray[np.str_]",
    dose: "NDArray[np.float64]",
    control: "NDArray[np.bool_]",
    *,
    where: "tuple[tuple[str, ...], NDArray[np.int64]]",
    kept: "NDArray[np.bool_]",
    options: DrugOptions,
) -> "tuple[tuple[Treatment, ...], NDArray[np.int64], list[str]]":
    """Give numbers to the treatments that have enough cells."""
    contexts, context = where
    rows = np.flatnonzero(kept & ~control)
    each = [Treatment(str(drug[i]), float(dose[i]), contexts[context[i]]) for i in rows]
    n_cells: dict[Treatment, int] = {}
    for one in each:
        n_cells[one] = n_cells.get(one, 0) + 1
    enough = sorted(one for one, number in n_cells.items() if number >= options.min_cells)
    if not enough:
        most = max(n_cells.values(), default=0)
        msg = f"No treatment (drug, dose and context) has {options.min_cells} cells; the most are {most}. Lower min_cells, or leave dose or context out."
        raise DataError(msg)
    place = {one: number for number, one in enumerate(enough)}
    code = np.full(len(drug), -1, np.int64)
    code[rows] = [place.get(one, -1) for one in each]
    few = len(n_cells) - len(enough)
    notes = [f"{few} treatments with fewer than {options.min_cells} cells left out"] if few else []
    return tuple(enough), code, notes
