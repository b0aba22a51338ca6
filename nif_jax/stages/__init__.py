"""nif_jax.stages."""
