"""Measuring samples: the judge, the measures, one table function, baselines and ablations."""
