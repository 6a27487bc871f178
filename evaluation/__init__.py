"""The measurements behind evaluate.py: judge, measures, variants of the method, tables, figures."""
