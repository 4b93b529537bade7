"""What became of the input's gene names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_EXAMPLES = 10
N_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneReport:
    """Account of a resolution; every input gene is matched, ambiguous or unmatched.

    Attributes
    ----------
    n_input
        Input genes.
    n_matched
        Those that have a token.
    by_rule
        Matched genes of each rule: ``symbol`` (as in the vocabulary), ``case`` (but for upper and
        lower case), ``ensembl``, ``previous`` (input or vocabulary has an earlier symbol),
        ``alias``, ``suffix`` (a numbered duplicate such as ``TBCE-1``).
    n_summed
        Input genes that share their token with another; their counts are summed.
    summed
        The input names of each such token, by vocabulary symbol.
    ambiguous
        Names left out because they can mean several genes.
    unmatched
        Names left out because they mean no gene of the vocabulary.
    vocabulary_matched
        Genes of the vocabulary that are in the input.
    vocabulary_size
        Genes of the vocabulary.
    coverage
        Fraction of the counts that fall on matched genes; None when the counts are not known.
    """

    n_input: int
    n_matched: int
    by_rule: Mapping[str, int]
    n_summed: int
    summed: Mapping[str, tuple[str, ...]]
    ambiguous: tuple[str, ...]
    unmatched: tuple[str, ...]
    vocabulary_matched: int
    vocabulary_size: int
    coverage: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return counts and the first examples, fit for JSON."""
        return {
            "n_input": self.n_input,
            "n_matched": self.n_matched,
            "by_rule": dict(self.by_rule),
            "n_summed": self.n_summed,
            "summed": {symbol: list(self.summed[symbol]) for symbol in _first(list(self.summed))},
            "n_ambiguous": len(self.ambiguous),
            "ambiguous": _first(self.ambiguous),
            "n_unmatched": len(self.unmatched),
            "unmatched": _first(self.unmatched),
            "vocabulary_matched": self.vocabulary_matched,
            "vocabulary_size": self.vocabulary_size,
            "coverage": self.coverage,
        }

    def to_text(self) -> str:
        """Return a few lines for people."""
        share = self.n_matched / self.n_input if self.n_input else 0.0
        counts = "" if self.coverage is None else f" with {self.coverage:.1%} of the counts"
        lines = [
            (
                f"{self.n_matched:,} of {self.n_input:,} input genes matched ({share:.1%}){counts}; "
                f"{self.vocabulary_matched:,} of {self.vocabulary_size:,} vocabulary genes present"
            )
        ]
        if self.by_rule:
            rules = ", ".join(f"{rule} {count:,}" for rule, count in self.by_rule.items())
            lines.append(f"  matched by: {rules}")
        if self.n_summed:
            shown = ", ".join(
                f"{symbol} = {' + '.join(names)}"
                for symbol, names in list(self.summed.items())[:N_SHOWN]
            )
            lines.append(f"  summed: {self.n_summed:,} (such as {shown})")
        for label, names in (("ambiguous", self.ambiguous), ("unmatched", self.unmatched)):
            if names:
                lines.append(f"  {label}: {len(names):,} (such as {', '.join(names[:N_SHOWN])})")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneMatch:
    """Token of each input gene, 0 for none, and the report."""

    token: NDArray[np.int32]
    report: GeneReport


def _first(names: Sequence[str]) -> list[str]:
    return list(names[:N_EXAMPLES])
