"""Flax modules, one idea of the papers a file."""
