"""nif_jax.metrics."""
