"""Gene names of any kind to tokens of a vocabulary, with a report of what was matched how."""

from cellfm.genes.report import GeneMatch, GeneReport
from cellfm.genes.resolve import resolve
from cellfm.genes.table import Gene, GeneTable
from cellfm.genes.vocabulary import Vocabulary

__all__ = ["Gene", "GeneMatch", "GeneReport", "GeneTable", "Vocabulary", "resolve"]
