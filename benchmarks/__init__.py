"""Rivals and what they cost, and trials of the training recipes. Run with `python -m`."""
