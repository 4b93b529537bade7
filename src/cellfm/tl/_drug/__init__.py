"""Drugs: data, structures, prediction, transport."""
