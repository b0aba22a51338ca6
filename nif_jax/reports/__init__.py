"""nif_jax.reports."""
