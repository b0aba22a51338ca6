"""Requests for scores: names in, arrays out, without JAX."""
