"""The genes of an input to the tokens of a vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellfm.errors import ConfigError, GeneMatchError
from cellfm.genes.lookup import RULES, Found, Lookup
from cellfm.genes.report import GeneMatch, GeneReport
from cellfm.genes.species import check_human, has_mouse_style
from cellfm.genes.table import GeneTable
from cellfm.genes.vocabulary import Vocabulary

# anndata's var_names_make_unique turns a second TBCE into TBCE-1, R's make.unique into TBCE.1.
_SUFFIXED = re.compile(r"(.+)([-.])([1-9]\d?)$", re.DOTALL)
N_SHOWN = 5


def resolve(
    names: Iterable[object],
    vocabulary: Vocabulary,
    *,
    totals: ArrayLike | None = None,
    min_matched: float = 0.3,
    table: GeneTable | None = None,
) -> GeneMatch:
    """Find the token of each input gene.

    Names may be symbols, previous symbols, aliases and Ensembl ids (with or without version), in
    any case and mixed. A name that can mean several genes is left out and reported.

    Parameters
    ----------
    names
        Names of the input genes; anything that is no string counts as unnamed.
    vocabulary
        Genes the network knows.
    totals
        Sum of the counts of each input gene, for the coverage in the report.
    min_matched
        Least fraction of input genes that must be in the vocabulary.
    table
        Gene table to look names up in; the one of the package by default.

    Returns
    -------
    Token of each input gene (0: none) and the report.
    """
    _check_fraction(min_matched)
    cleaned = [name.strip() if isinstance(name, str) else "" for name in names]
    _check_any(cleaned)
    check_human(cleaned)
    found = _find_all(cleaned, vocabulary, GeneTable.load() if table is None else table)
    outcomes = [found[name] for name in cleaned]
    token = np.fromiter((outcome.token for outcome in outcomes), np.int32, len(outcomes))
    report = _report(cleaned, outcomes, token, vocabulary, coverage=_coverage(token, totals))
    _check_matched(report, cleaned, vocabulary, min_matched)
    return GeneMatch(token=token, report=report)


def _find_all(
    names: Sequence[str], vocabulary: Vocabulary, table: GeneTable
) -> Mapping[str, Found]:
    """Outcome of each distinct name."""
    lookup = Lookup(vocabulary, table)
    every = frozenset(names)
    # Actb beside ACTB is the mouse's; its counts must not be added to the human gene's.
    mouse = frozenset(name for name in every if has_mouse_style(name) and name.upper() in every)
    found = {name: lookup.find(name) for name in every - mouse}
    keys = {name.upper(): found[name] for name in sorted(found)}
    for name in [name for name, outcome in found.items() if outcome.by == "unknown"]:
        base = _base_of_duplicate(name, keys)
        if base is not None and base not in mouse:
            found[name] = Found(keys[base.upper()].token, "suffix")
    return found | dict.fromkeys(mouse, Found(0, "unknown"))


def _base_of_duplicate(name: str, keys: Mapping[str, Found]) -> str | None:
    """Name that ``TBCE-2`` repeats, if it has a token and the duplicates counted before exist."""
    parts = _SUFFIXED.match(name)
    if parts is None:
        return None
    base, separator, number = parts[1], parts[2], int(parts[3])
    known = keys.get(base.upper())
    # CAND1.11 is a gene of its own, not the eleventh copy of CAND1: there is no CAND1.10.
    counted = number == 1 or f"{base}{separator}{number - 1}".upper() in keys
    return base if known is not None and known.token and counted else None


def _report(
    names: Sequence[str],
    outcomes: Sequence[Found],
    token: NDArray[np.int32],
    vocabulary: Vocabulary,
    *,
    coverage: float | None,
) -> GeneReport:
    by_token: dict[int, list[str]] = {}
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.token:
            by_token.setdefault(outcome.token, []).append(name)
    summed = {t: tuple(group) for t, group in by_token.items() if len(group) > 1}
    rules = Counter(outcome.by for outcome in outcomes)
    pairs = list(zip(names, outcomes, strict=True))
    return GeneReport(
        n_input=len(names),
        n_matched=int(np.count_nonzero(token)),
        by_rule={rule: rules[rule] for rule in RULES if rules[rule]},
        n_summed=sum(map(len, summed.values())),
        summed={vocabulary.symbols[t - 1]: group for t, group in summed.items()},
        ambiguous=tuple(name for name, outcome in pairs if outcome.by == "ambiguous"),
        unmatched=tuple(name for name, outcome in pairs if outcome.by in ("unknown", "outside")),
        vocabulary_matched=len(by_token),
        vocabulary_size=len(vocabulary),
        coverage=coverage,
    )


def _coverage(token: NDArray[np.int32], totals: ArrayLike | None) -> float | None:
    if totals is None:
        return None
    counts = np.asarray(totals, dtype=np.float64)
    if counts.shape != token.shape:
        msg = (
            f"totals has shape {counts.shape} for {len(token):,} input genes; give one sum of "
            "counts for each gene."
        )
        raise GeneMatchError(msg)
    whole = float(counts.sum())
    return float(counts[token > 0].sum()) / whole if whole else None


def _check_fraction(min_matched: float) -> None:
    if not 0.0 <= min_matched <= 1.0:
        msg = f"min_matched is {min_matched}; it is a fraction of the input genes, from 0 to 1. Give a number in that range."
        raise ConfigError(msg)


def _check_any(names: Sequence[str]) -> None:
    if not names:
        msg = "The input has no genes; at least one was expected. Check var_names."
        raise GeneMatchError(msg)


def _check_matched(
    report: GeneReport, names: Sequence[str], vocabulary: Vocabulary, min_matched: float
) -> None:
    share = report.n_matched / report.n_input
    if share >= min_matched:
        return
    msg = (
        f"Only {report.n_matched:,} of {report.n_input:,} input genes ({share:.1%}) are in the "
        f"vocabulary; at least {min_matched:.1%} are needed. The input starts with "
        f"{list(names[:N_SHOWN])}, the vocabulary of {len(vocabulary):,} genes with "
        f"{list(vocabulary.symbols[:N_SHOWN])}. {_hint(names)} If so few genes are right, lower "
        "min_matched."
    )
    raise GeneMatchError(msg)


def _hint(names: Sequence[str]) -> str:
    n_numbers = sum(name.isdigit() for name in names)
    if 2 * n_numbers > len(names):
        return (
            "Most names are numbers (a row index or Entrez ids), which are not read: pass the "
            "column of var that has symbols or Ensembl ids by gene_names=…."
        )
    return "If a column of var has symbols or Ensembl ids, name it by gene_names=…."
