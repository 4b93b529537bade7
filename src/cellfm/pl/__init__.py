"""Plots: AnnData or metrics in, matplotlib axes out."""

from cellfm.pl._corpus import corpus
from cellfm.pl._curve import learning_curve
from cellfm.pl._embedding import embedding

__all__ = ["corpus", "embedding", "learning_curve"]
