"""Genetic perturbation: data, training, prediction, reverse search."""
