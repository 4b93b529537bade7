"""Plots: AnnData, tables or metrics in, matplotlib axes or a page out."""

from cellfm.pl._annotation import annotation_report
from cellfm.pl._calibration import calibration
from cellfm.pl._confusion import confusion
from cellfm.pl._corpus import corpus
from cellfm.pl._curve import learning_curve
from cellfm.pl._embedding import embedding
from cellfm.pl._genes import genes
from cellfm.pl._network import network
from cellfm.pl._perturbation import perturbation_deltas, perturbation_report
from cellfm.pl._programs import programs
from cellfm.pl._screen import screen
from cellfm.pl._specific import specific_genes

__all__ = [
    "annotation_report",
    "calibration",
    "confusion",
    "corpus",
    "embedding",
    "genes",
    "learning_curve",
    "network",
    "perturbation_deltas",
    "perturbation_report",
    "programs",
    "screen",
    "specific_genes",
]
