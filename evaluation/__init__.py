"""What measures samples: judge, measures, rows of a table, variants of the method, rivals."""
