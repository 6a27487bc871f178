"""Flags, files, random streams, resumable training, and pictures; no diffusion code."""
