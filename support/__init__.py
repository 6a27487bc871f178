"""Plumbing that knows neither timesteps nor digits."""
