"""nif_jax.serving."""
