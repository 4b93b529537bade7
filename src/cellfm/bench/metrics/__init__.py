"""Metrics of the benchmark: arrays in, numbers out."""
