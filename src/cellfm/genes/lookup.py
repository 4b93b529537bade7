"""One gene name to one token: the order of the rules."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from cellfm.genes.species import is_other_species, strip_genome
from cellfm.genes.table import Gene, GeneTable
from cellfm.genes.vocabulary import Vocabulary

Rule = Literal["symbol", "case", "ensembl", "previous", "alias", "suffix"]
RULES: tuple[Rule, ...] = ("symbol", "case", "ensembl", "previous", "alias", "suffix")
Miss = Literal["unknown", "outside", "ambiguous"]

_ENSEMBL = re.compile(r"(ENSG\d{11})(?:\.\d+)?(?:_PAR_Y)?$")
# What a table writes for "no name"; two of them happen to be names of genes (XK and SCN11A).
_MISSING = frozenset({"", "NA", "NAN", "NONE", "<NA>"})
_SEVERAL = -1


class Found(NamedTuple):
    """Token and the rule that gave it, or 0 and why there is none."""

    token: int
    by: Rule | Miss


_UNKNOWN = Found(0, "unknown")
_OUTSIDE = Found(0, "outside")
_AMBIGUOUS = Found(0, "ambiguous")


class Lookup:
    """Names to tokens of one vocabulary, through the identity of the gene (its HGNC id).

    The first rule that knows a name decides: symbol of the vocabulary, Ensembl id, approved
    symbol, symbol of the vocabulary in another case, previous symbol, alias. So an approved
    symbol is never taken for the alias of another gene, even if only that one is in the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, table: GeneTable) -> None:
        self._symbols = vocabulary.symbols
        self._table = table
        self._exact = {symbol: token for token, symbol in enumerate(vocabulary.symbols, start=1)}
        self._folded = _index(symbol.upper() for symbol in vocabulary.symbols)
        self._by_ensembl = _index(vocabulary.ensembl_ids)
        self._by_hgnc = _index(vocabulary.hgnc_ids)
        # A list may hold a gene's earlier symbol beside the approved one, which then stands for it.
        for token, (symbol, hgnc_id) in enumerate(
            zip(vocabulary.symbols, vocabulary.hgnc_ids, strict=True), start=1
        ):
            gene = table.approved.get(symbol.upper())
            if gene is not None and gene.symbol == symbol and gene.hgnc_id == hgnc_id:
                self._by_hgnc[hgnc_id] = token

    def find(self, name: str) -> Found:
        """Token of a name without surrounding spaces."""
        bare = name if name in self._exact else strip_genome(name)
        if bare in self._exact:
            return Found(self._exact[bare], "symbol")
        key = bare.upper()
        if key in _MISSING or key.isdigit() or is_other_species(key):
            return _UNKNOWN
        ensembl = _ENSEMBL.match(key)
        if ensembl is not None:
            return self._find_ensembl(ensembl[1])
        gene = self._table.approved.get(key)
        if gene is not None:
            return self._found(gene, self._rule_of_approved(gene, key))
        if key in self._folded:
            return _found(self._folded[key], "case")
        return self._find_other_name(key)

    def _find_ensembl(self, ensembl_id: str) -> Found:
        genes = self._table.ensembl.get(ensembl_id, ())
        if len(genes) > 1:
            return self._several(genes)
        if genes and genes[0].hgnc_id in self._by_hgnc:
            return self._found(genes[0], "ensembl")
        # The vocabulary may know ids that the table does not (yet, or any more).
        if ensembl_id in self._by_ensembl:
            return _found(self._by_ensembl[ensembl_id], "ensembl")
        return _OUTSIDE if genes else _UNKNOWN

    def _find_other_name(self, key: str) -> Found:
        genes = self._table.candidates(key)
        if not genes:
            return _UNKNOWN
        if len(genes) > 1:
            return self._several(genes)
        return self._found(genes[0], "previous" if key in self._table.previous else "alias")

    def _rule_of_approved(self, gene: Gene, key: str) -> Rule:
        token = self._by_hgnc.get(gene.hgnc_id, 0)
        same = token > 0 and self._symbols[token - 1].upper() == key
        return "case" if same else "previous"

    def _found(self, gene: Gene, rule: Rule) -> Found:
        return _found(self._by_hgnc.get(gene.hgnc_id, 0), rule)

    def _several(self, genes: Iterable[Gene]) -> Found:
        """Ambiguous if it matters: when a gene of the vocabulary may be meant."""
        return _AMBIGUOUS if any(gene.hgnc_id in self._by_hgnc for gene in genes) else _OUTSIDE


def _index(keys: Iterable[str]) -> dict[str, int]:
    """Token of each key that is there once, a mark for the others; empty keys are left out."""
    tokens: dict[str, int] = {}
    for token, key in enumerate(keys, start=1):
        if key:
            tokens[key] = _SEVERAL if key in tokens else token
    return tokens


def _found(token: int, rule: Rule) -> Found:
    if token == _SEVERAL:
        return _AMBIGUOUS
    return Found(token, rule) if token else _OUTSIDE
