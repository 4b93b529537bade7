"""Responses: measured, predicted, scored, and turned into cells."""
