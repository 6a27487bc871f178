"""What measures samples: judge, measures, rows of a table, methods (controls and rivals)."""
