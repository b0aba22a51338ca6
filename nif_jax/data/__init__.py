"""nif_jax.data."""
