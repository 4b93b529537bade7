"""Names of genetic perturbations, and which of them are fitted on, chosen on and judged."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cellfm.corpus.mask import check_fraction
from cellfm.corpus.split import TEST, TRAIN, VALIDATION
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTROL = "ctrl"
"""Name of the condition in which nothing is perturbed."""
CONTROLS = frozenset(
    {"ctrl", "control", "controls", "nt", "ntc", "non-targeting", "nontargeting", "non_targeting",
     "safe-targeting", "unperturbed"}
)  # fmt: skip
"""What controls are called, in lower case."""
SEPARATOR = "+"
Protocol = Literal["singles", "doubles"]
Group = Literal["seen", "unseen_single", "combo_seen0", "combo_seen1", "combo_seen2"]
"""What of a condition the training part knows, named as in GEARS."""
LEAST_CONDITIONS = 4
"""Fewer cannot give two to fit on and one each to choose and judge on."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """A set of perturbed genes; the empty one is the control.

    Attributes
    ----------
    genes
        Symbols in alphabetical order.
    """

    genes: tuple[str, ...] = ()

    @staticmethod
    def of(genes: Iterable[str]) -> "Condition":
        """Put genes in order."""
        return Condition(tuple(sorted(set(genes))))

    @property
    def name(self) -> str:
        """``ctrl``, ``A`` or ``A+B``."""
        return SEPARATOR.join(self.genes) or CONTROL

    @property
    def singles(self) -> "tuple[Condition, ...]":
        """Its genes, each alone."""
        return tuple(Condition((gene,)) for gene in self.genes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """What is done with each condition.

    Attributes
    ----------
    part
        0 training, 1 validation, 2 test, shape (condition,).
    group
        What the training part knows of it.
    hash
        SHA-256 of the names with their parts.
    """

    part: "NDArray[np.int8]"
    group: tuple[Group, ...]
    hash: str


def parse_condition(text: str, *, controls: Iterable[str] = ()) -> Condition:
    """Read ``ctrl``, ``STAT1``, ``STAT1+ctrl`` or ``JAK2+STAT1``.

    Parameters
    ----------
    text
        Entry of a table.
    controls
        What controls are called besides :data:`CONTROLS`, in any case.

    Raises
    ------
    DataError
        A part of the name is empty, or there are more than two genes.
    """
    none = CONTROLS | {name.strip().lower() for name in controls}
    if text.strip().lower() in none:
        return Condition()
    parts = [part.strip() for part in text.split(SEPARATOR)]
    genes = [part for part in parts if part.lower() not in none]
    if not all(genes):
        msg = f"The perturbation {text!r} has an empty part; expected ctrl, GENE or GENE1+GENE2. Correct the entry."
        raise DataError(msg)
    if len(set(genes)) > 2:
        msg = f"The perturbation {text!r} has {len(set(genes))} genes; one or two are expected, as in GENE1+GENE2. Leave such cells out."
        raise DataError(msg)
    return Condition.of(genes)


def split_conditions(
    conditions: Sequence[Condition],
    *,
    protocol: Protocol = "singles",
    test: float = 0.2,
    validation: float = 0.15,
    seed: int = 0,
) -> Split:
    """Deal conditions to training, validation and test.

    Under ``"singles"`` perturbed *genes* are held out: every condition with a gene of the test part is tested, so that its singles
    are unseen and its doubles have seen one or none of their genes. Under ``"doubles"`` all singles are trained on and pairs are held out.

    Parameters
    ----------
    conditions
        Without the control, each once.
    protocol
        What is held out.
    test, validation
        Share of the genes, or of the pairs.
    seed
        Of the choice.

    Raises
    ------
    ConfigError
        The protocol is unknown, the shares are no fractions or leave nothing to train on.
    DataError
        There are too few conditions, or no doubles to hold out.
    """
    for name, share in (("validation", validation), ("test", test)):
        check_fraction(name, share)
    if validation + test >= 1:
        msg = f"validation={validation} and test={test} leave nothing to train on; their sum must be below 1. Lower one of them."
        raise ConfigError(msg)
    units = _units(conditions, protocol)
    order = np.random.default_rng(seed).permutation(len(units))
    n_test = max(1, round(test * len(units)))
    n_validation = max(1, round(validation * len(units)))
    parts = np.full(len(units), TRAIN, np.int8)
    parts[order[:n_test]] = TEST
    parts[order[n_test : n_test + n_validation]] = VALIDATION
    return _split(conditions, units, parts, protocol)


def fold_conditions(
    conditions: Sequence[Condition], *, n_folds: int = 5, protocol: Protocol = "singles", seed: int = 0
) -> list[Split]:  # fmt: skip
    """Return splits whose test parts cover each gene, or each pair, once; the fold after the tested one is for validation.

    Parameters
    ----------
    conditions
        Without the control, each once.
    n_folds
        Number of splits, at most one for each gene or pair.
    protocol
        As in `split_conditions`.
    seed
        Of the choice.

    Raises
    ------
    ConfigError
        There are fewer than three folds.
    DataError
        There are too few conditions, or no doubles to hold out.
    """
    units = _units(conditions, protocol)
    if n_folds < 3:
        msg = f"n_folds is {n_folds}; at least 3 are needed: one to test, one to choose on, the rest to fit on. Give more of them."
        raise ConfigError(msg)
    n_folds = min(n_folds, len(units))
    fold = np.empty(len(units), np.int64)
    fold[np.random.default_rng(seed).permutation(len(units))] = np.arange(len(units)) % n_folds
    splits = []
    for tested in range(n_folds):
        parts = np.full(len(units), TRAIN, np.int8)
        parts[fold == (tested + 1) % n_folds] = VALIDATION
        parts[fold == tested] = TEST
        splits.append(_split(conditions, units, parts, protocol))
    return splits


def first_tested(splits: Sequence[Split]) -> "list[NDArray[np.int64]]":
    """Return the conditions to take from each fold so that none is taken twice.

    A double is in the test part of the folds of both its genes; it belongs to the first of them.

    Parameters
    ----------
    splits
        From `fold_conditions`.
    """
    taken = np.zeros(len(splits[0].part), bool)
    chosen = []
    for split in splits:
        chosen.append(np.flatnonzero((split.part == TEST) & ~taken))
        taken[chosen[-1]] = True
    return chosen


def _units(conditions: Sequence[Condition], protocol: Protocol) -> list[str]:
    """Names of what is dealt: genes, or pairs."""
    if protocol not in get_args(Protocol):
        msg = f"protocol is {protocol!r}; it must be one of {', '.join(map(repr, get_args(Protocol)))}. Choose one of these."
        raise ConfigError(msg)
    doubles = sorted(each.name for each in conditions if len(each.genes) == 2)
    units = (
        doubles
        if protocol == "doubles"
        else sorted({gene for each in conditions for gene in each.genes})
    )
    if len(units) < LEAST_CONDITIONS:
        what = "doubles" if protocol == "doubles" else "perturbed genes"
        msg = (
            f"There are {len(units)} {what}; at least {LEAST_CONDITIONS} are needed to train, choose and judge on different ones. "
            "Lower min_cells, or give data with more."
        )
        raise DataError(msg)
    return units


def _split(
    conditions: Sequence[Condition], units: list[str], parts: "NDArray[np.int8]", protocol: Protocol
) -> Split:
    of_unit = dict(zip(units, parts.tolist(), strict=True))
    part = np.array([_part(each, of_unit, protocol) for each in conditions], np.int8)
    seen = {each.genes[0] for each, of in zip(conditions, part, strict=True)
            if of == TRAIN and len(each.genes) == 1}  # fmt: skip
    lines = sorted(f"{each.name}\t{of}\n" for each, of in zip(conditions, part, strict=True))
    return Split(
        part=part,
        group=tuple(
            _group(each, seen, held=of != TRAIN) for each, of in zip(conditions, part, strict=True)
        ),
        hash=hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def _part(condition: Condition, of_unit: dict[str, int], protocol: Protocol) -> int:
    """Hold a condition out with any of its genes; test counts for more than validation."""
    if protocol == "doubles":
        return of_unit.get(condition.name, TRAIN)
    return max(of_unit[gene] for gene in condition.genes)


def _group(condition: Condition, seen: set[str], *, held: bool) -> Group:
    if not held:
        return "seen"
    if len(condition.genes) == 1:
        return "unseen_single"
    n_seen = sum(gene in seen for gene in condition.genes)
    return ("combo_seen0", "combo_seen1", "combo_seen2")[n_seen]
