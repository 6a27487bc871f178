"""Evaluation of samples: the judge, metrics, tables, baselines, and ablations."""
