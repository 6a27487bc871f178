"""Speed and memory, trials of the training recipes, and other seeds. Run with `python -m`."""
