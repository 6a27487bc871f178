"""Plumbing: flags, errors, files, random streams, resuming, pictures."""
