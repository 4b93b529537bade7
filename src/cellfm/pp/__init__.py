"""Checks of the input before a model sees it."""

from cellfm.pp._check import FileCheck, check_counts, check_file, match_genes

__all__ = ["FileCheck", "check_counts", "check_file", "match_genes"]
